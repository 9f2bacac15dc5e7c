"""One pass over a data set, every image counted once -> Report; and the Report as one HTML page."""

from vitrail.evaluate.classification import evaluate, evaluate_each
from vitrail.evaluate.page import picture_mistakes, render
from vitrail.evaluate.part import open_as_trained

__all__ = ["evaluate", "evaluate_each", "open_as_trained", "picture_mistakes", "render"]
