"""The head solved for on frozen features, before the first step (Recipe.head_solver)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from vitrail.config import Recipe
from vitrail.data.stores import Source, Subset
from vitrail.errors import ConfigError
from vitrail.evaluate.features import check_readable, features
from vitrail.evaluate.head import Head, Method, fit_head
from vitrail.models.build import Network
from vitrail.train.loop import COMPUTED, Precision

LEAST = 10  # images of a class that a choice of some keeps, where it has them


@dataclass(frozen=True)
class Solved:
    """What the solver did."""

    method: Literal["logistic", "ridge"]
    penalty: float
    images: int
    width: int  # features an image
    broken: dict[str, str]  # id -> reason, of images that could not be read


def solve_head(
    model: Network,
    recipe: Recipe,
    source: Source,
    precision: Precision,
    notify: Callable[[int, int], None] | None = None,
) -> Solved:
    """Fit the head of `model` to its own features of the training images (`head_images` of them where the recipe says
    so), unaugmented, and write it into the model. The features are computed in the run's precision.

    Nothing else changes. `notify(done, total)` is called after each batch; what it raises leaves the model untouched.
    Raises ConfigError where the head has no bias, DataError where too many images are unreadable.
    """
    if recipe.head_solver == "none":
        raise ValueError("the recipe solves for no head")
    optim = recipe.optim
    if recipe.data.sampler == "balanced" or optim.class_weights == "balanced" or optim.logit_adjustment:
        raise ConfigError(
            "a head is solved for with every image weighing the same: set head_solver=none, or leave data.sampler, "
            "optim.class_weights and optim.logit_adjustment as they are"
        )
    method: Method = recipe.head_solver
    if any(head.bias is None for head in heads(model)):
        raise ConfigError("head_solver needs a head with a bias, and this model's has none: set head_solver=none")
    half = None if precision == "float32" else COMPUTED[precision]
    chosen = source if recipe.head_images is None else some_of_each_class(source, recipe.head_images)
    found = features(model, recipe.preprocess, chosen, workers=recipe.data.workers, half=half, notify=notify)
    if chosen is source:  # the share of broken ones among a few says little; training reads them all
        check_readable(found, recipe.data.max_broken)
    head = fit_head(found.values, found.labels, len(source.classes), method)
    write_head(model, head)
    return Solved(method, head.penalty, len(found), found.values.shape[1], dict(found.unreadable))


def some_of_each_class(source: Source, images: int) -> Source:
    """About `images` of the source: the same share of each class, evenly spread over it, but at least LEAST of each.
    All where an image may have several classes: a choice could miss some."""
    labels = source.labels
    if labels.ndim == 2 or images >= len(source):
        return source
    chosen = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        count = min(len(mine), max(LEAST, round(images * len(mine) / len(source))))
        chosen.append(mine[np.arange(count) * len(mine) // count])
    return Subset(source, np.sort(np.concatenate(chosen)))


def heads(model: Network) -> list[nn.Linear]:
    """The linear heads whose mean the logits are: one, or two in DeiT's distilled models."""
    both = (model.head, getattr(model, "distillation_head", None))
    return [head for head in both if head is not None]


@torch.no_grad()
def write_head(model: Network, head: Head) -> None:
    """Write a solved head into the model. Two heads, whose mean counts, get one half of the features each."""
    targets = heads(model)
    for target, weight in zip(targets, head.weight.chunk(len(targets), dim=1), strict=True):
        target.weight.copy_(len(targets) * weight)
        target.bias.copy_(head.bias)
