"""Training: recipes, the loop, runs that continue bit for bit."""

from vitrail.train.run import RunResult, train

__all__ = ["RunResult", "train"]
