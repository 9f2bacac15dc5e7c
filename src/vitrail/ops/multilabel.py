"""Scores where an image may have any number of classes: pure functions of (logits, truth), each class a yes-or-no
question of its own.

Float64 on the CPU, as in metrics.py. Axes: B images, K classes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.types import Logits

Truth = Bool[Tensor, "B K"]
RESAMPLES = 200  # of the images, for the interval of the mean average precision


def average_precision(logits: Logits, truth: Truth, weights: Float[Tensor, " B"] | None = None) -> Float[Tensor, " K"]:
    """Average precision of each class: the mean, over its images, of the precision among all images ranked as high or
    higher; NaN for a class without images. Chance gives the class's share of the images.

    Equal logits are one place in the ranking, so ties gain nothing (scikit-learn's definition; no interpolation).
    `weights`: how often each image counts.
    """
    ranking = rank(logits, truth)
    counted = torch.ones(len(truth), dtype=torch.float64) if weights is None else weights.double().cpu()
    return _average_precision(ranking, counted)


@dataclass(frozen=True)
class Ranking:
    """The images of each class from the highest logit to the lowest. `end` is the last place of the same logit."""

    order: Int[Tensor, "B K"]
    end: Int[Tensor, "B K"]
    hit: Bool[Tensor, "B K"]


def rank(logits: Logits, truth: Truth) -> Ranking:
    """Rank the images for every class."""
    scores, order = logits.detach().cpu().sort(dim=0, descending=True, stable=True)
    places = torch.arange(len(scores))[:, None].expand_as(order)
    last = torch.ones_like(order, dtype=torch.bool)
    last[:-1] = scores[:-1] != scores[1:]
    ends = torch.where(last, places, len(scores) - 1)
    end = ends.flip(0).cummin(dim=0).values.flip(0)
    return Ranking(order, end, truth.cpu().gather(0, order))


def _average_precision(ranking: Ranking, weights: Float[Tensor, " B"]) -> Float[Tensor, " K"]:
    counted = weights[ranking.order]  # B K
    hits = counted * ranking.hit
    found, seen = hits.cumsum(0).gather(0, ranking.end), counted.cumsum(0).gather(0, ranking.end)
    precision = torch.where(seen > 0, found / seen.clamp_min(1e-300), 0.0)
    return (hits * precision).sum(0) / hits.sum(0)


def mean_average_precision(logits: Logits, truth: Truth) -> float | None:
    """Mean of the average precision over the classes that have images; None where none has."""
    return _mean_known(average_precision(logits, truth))


def bootstrap_interval(logits: Logits, truth: Truth, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of the mean average precision over images drawn anew with replacement, from fixed seeds."""
    ranking, generator = rank(logits, truth), torch.Generator().manual_seed(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(truth), (len(truth),), generator=generator)
        counted = torch.bincount(drawn, minlength=len(truth)).double()
        if (value := _mean_known(_average_precision(ranking, counted))) is not None:
            means.append(value)
    if not means:
        return None
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(means, dtype=torch.float64).quantile(tail).tolist()
    return min(low, 1.0), min(high, 1.0)


def set_losses(logits: Logits, truth: Truth) -> Float[Tensor, " B"]:
    """Negative log-likelihood, in nats, of the whole set of an image's classes, each answered on its own: the binary
    cross entropy summed over the classes."""
    x = logits.detach().cpu().double()
    return torch.nn.functional.binary_cross_entropy_with_logits(x, truth.cpu().double(), reduction="none").sum(1)


def named(logits: Logits, threshold: float) -> Truth:
    """Whether each class is named: its probability, the sigmoid of its logit, is at least `threshold`."""
    return logits.detach().cpu().double().sigmoid() >= threshold


@dataclass(frozen=True)
class Counts:
    """Of one class, or of all answers: images that have it, were given it, and both; and the shares that follow, None
    where they are undefined."""

    support: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float | None:
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.correct / self.support if self.support else None

    @property
    def f1(self) -> float | None:
        both = self.support + self.predicted
        return 2 * self.correct / both if both else None


def count(given: Truth, truth: Truth) -> tuple[Counts, ...]:
    """Counts of each class."""
    columns = (truth.sum(0), given.sum(0), (truth & given).sum(0))
    return tuple(Counts(*numbers) for numbers in zip(*(c.tolist() for c in columns), strict=True))


def _mean_known(values: Float[Tensor, " K"]) -> float | None:
    known = values[~values.isnan()].tolist()
    return math.fsum(known) / len(known) if known else None
