"""vitrail: Vision Transformers on your own photos, every step shown.

    classifier = vitrail.load("runs/flowers")
    classifier.predict(["rose.jpg"])
    vitrail.train("photos/", weights="vitrail/some-model", out="runs/flowers")
    vitrail.evaluate(classifier, "photos/")

Names are imported on first use, so that `vitrail --help` does not wait for torch.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.engines.catalog import load
    from vitrail.evaluate import evaluate
    from vitrail.inference import Classifier
    from vitrail.jobs.predictor import Predictor
    from vitrail.models.trace import trace
    from vitrail.models.vit import ViT
    from vitrail.train import train

__version__ = "0.1.0"
__all__ = ["Classifier", "Predictor", "ViT", "evaluate", "load", "trace", "train"]

_HOMES = {
    "Classifier": "vitrail.inference",
    "load": "vitrail.engines.catalog",
    "Predictor": "vitrail.jobs.predictor",
    "evaluate": "vitrail.evaluate",
    "train": "vitrail.train",
    "ViT": "vitrail.models.vit",
    "trace": "vitrail.models.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitrail' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps `vitrail.train` and `vitrail.evaluate` verbs: they have the names of the rooms they live in, and an import
    of a room would put the room in the verb's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
