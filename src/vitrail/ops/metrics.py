"""Scores of a classifier as pure functions: (logits or probabilities, labels) -> numbers.

Everything is computed in float64 on the CPU, and means are exact sums (`math.fsum`), so a score depends neither on the
order of the images nor on how they were cut into batches. A function named after one number (`nll`) returns the mean
over the images; its plural (`losses`) returns the value of every image, for evaluations that cannot keep all logits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.types import Labels, Logits

PerImage = Float[Tensor, " B"]


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (low, high]. The two means are None where no image does."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class ClassCounts:
    """One class: images it has, times it was predicted, how many of those were right, and the shares that follow.

    A share is None where it is undefined: recall of a class without images, precision of a class never predicted,
    F1 of a class with neither.
    """

    support: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None


def mean(values: Tensor) -> float:
    """Exact mean of the values, whatever their order. Raises ValueError where there are none."""
    if not values.numel():
        raise ValueError("a mean over no images is undefined")
    return math.fsum(values.detach().cpu().double().flatten().tolist()) / values.numel()


def probabilities(logits: Logits) -> Float[Tensor, "B K"]:
    """Softmax in float64 on the CPU."""
    return logits.detach().cpu().double().softmax(dim=1)


def ranks(logits: Float[Tensor, "B K"], labels: Labels) -> Int[Tensor, " B"]:
    """Place of the true class among all classes, from 0. Of equal logits the lower index comes first, as in argmax.

    Works on probabilities as well. So `ranks == 0` exactly where `logits.argmax(1) == labels`.
    """
    scores, labels = logits.detach().cpu(), labels.cpu()
    own = scores.gather(1, labels[:, None].long())  # B 1
    before = torch.arange(scores.shape[1]) < labels[:, None]  # B K
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def topk(logits: Float[Tensor, "B K"], labels: Labels, k: int) -> float:
    """Share of the images whose true class is among the k highest; ties go to the lower index (see `ranks`)."""
    return mean(ranks(logits, labels) < k)


def losses(logits: Logits, labels: Labels) -> PerImage:
    """Negative log-likelihood of each image's true class, in nats."""
    logs = logits.detach().cpu().double().log_softmax(dim=1)
    # 0 - x rather than -x: a certain and right prediction costs 0, not -0.
    return 0.0 - logs.gather(1, labels.cpu()[:, None].long()).squeeze(1)


def nll(logits: Logits, labels: Labels) -> float:
    """Mean negative log-likelihood of the true class, in nats; guessing evenly costs ln K."""
    return mean(losses(logits, labels))


def squared_errors(probabilities: Float[Tensor, "B K"], labels: Labels) -> PerImage:
    """Squared distance of each image's probabilities from its one-hot label, summed over the classes: 0 to 2."""
    wanted = torch.nn.functional.one_hot(labels.cpu().long(), probabilities.shape[1])
    return (probabilities.detach().cpu().double() - wanted).square().sum(dim=1)


def brier(probabilities: Float[Tensor, "B K"], labels: Labels) -> float:
    """Brier score as first defined (Brier 1950, equation 2): the mean of `squared_errors`, 0 (best) to 2."""
    return mean(squared_errors(probabilities, labels))


def reliability(confidence: PerImage, correct: Bool[Tensor, " B"], bins: int = 15) -> tuple[Bin, ...]:
    """Confidence against accuracy in `bins` equal-width intervals (i/bins, (i+1)/bins]; 0 belongs to the first.

    `confidence` is the probability of the predicted class. The points of a reliability diagram (Guo et al. 2017).
    """
    sure, right = confidence.detach().cpu().double(), correct.cpu()
    edges = [i / bins for i in range(bins + 1)]
    place = torch.bucketize(sure, torch.tensor(edges[1:-1], dtype=torch.float64))
    rows = []
    for i in range(bins):
        here = place == i
        count = int(here.sum())
        means = (mean(sure[here]), mean(right[here])) if count else (None, None)
        rows.append(Bin(edges[i], edges[i + 1], count, *means))
    return tuple(rows)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the gap between confidence and accuracy of each bin, weighted by its images."""
    total = sum(b.count for b in bins)
    if not total:
        raise ValueError("a mean over no images is undefined")
    return math.fsum(
        b.count * abs(b.confidence - b.accuracy)
        for b in bins
        if b.confidence is not None and b.accuracy is not None
    ) / total  # fmt: skip


def ece(probabilities: Float[Tensor, "B K"], labels: Labels, bins: int = 15) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017, equation 3), 0 (best) to 1."""
    confidence, predicted = probabilities.max(dim=1)
    return calibration_error(reliability(confidence, predicted.cpu() == labels.cpu(), bins))


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927); (0, 1) where nothing was counted.

    Unlike the normal approximation it stays inside 0..1 and has a width at 0 of n and n of n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n: {successes} of {n}")
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # The ends are exact in mathematics where all or none succeed; rounding would leave 1e-17 there.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def confusion(predicted: Labels, labels: Labels, classes: int) -> Int[Tensor, "K K"]:
    """Counts of images by (true class, predicted class)."""
    places = labels.cpu().long() * classes + predicted.cpu().long()
    return torch.bincount(places, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion: Int[Tensor, "K K"]) -> tuple[ClassCounts, ...]:
    """Precision, recall and F1 of every class of a confusion matrix."""
    columns = zip(confusion.sum(1).tolist(), confusion.sum(0).tolist(), confusion.diagonal().tolist(), strict=True)
    return tuple(
        ClassCounts(
            support=support,
            predicted=predicted,
            correct=correct,
            precision=correct / predicted if predicted else None,
            recall=correct / support if support else None,
            f1=2 * correct / (support + predicted) if support + predicted else None,
        )
        for support, predicted, correct in columns
    )


def macro(scores: Sequence[ClassCounts]) -> tuple[float | None, float | None, float | None]:
    """(precision, recall, F1) averaged over the classes that have images, each class weighing the same.

    Macro recall is the balanced accuracy. A class never predicted has no precision and is left out of that mean only;
    its F1 is 0 and counts. None where no class has the number.
    """
    held = [s for s in scores if s.support]

    def average(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return math.fsum(known) / len(known) if known else None

    return average([s.precision for s in held]), average([s.recall for s in held]), average([s.f1 for s in held])
