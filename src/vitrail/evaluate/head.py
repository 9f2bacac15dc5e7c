"""A linear head solved for on fixed features: logistic regression to convergence, or ridge regression in closed form.

Labels are class indices, or rows of zeros and ones where an image may have several classes: then each class is a
yes-or-no question of its own, and cross entropy is that of the sigmoids, summed over the classes.

Both work in float64 on features scaled to mean 0 and deviation 1; the scaling is folded into what they return, so the
head acts on the features as they are. The penalty is chosen on the given images alone, by a rule without chance.

Axes: N images, D features, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.errors import DataError, WeightsError

Method = Literal["logistic", "ridge"]
Wide = Float[Tensor, "N D"]
Known = Int[Tensor, " N"] | Float[Tensor, "N K"]

LOGISTIC_PENALTIES = tuple(10 ** (-i / 2) for i in range(13))  # 1 to 1e-6, of the mean loss
ROUGH, FINE = 1e-4, 1e-6  # largest slope at which a fit ends: to choose the penalty, and at last
RIDGE_PENALTIES = tuple(10 ** (-i / 4) for i in range(-8, 25))  # 100 to 1e-6, times N, of the summed squares
UNCHOSEN = 0.1  # logistic penalty where no class has an image to spare
FOLD = 5  # one image of so many of a class is held out to choose the penalty
NEVER = 100.0  # nats by which a class without images stays below all others


@dataclass(frozen=True)
class Head:
    """A solved head: logits = features @ weight.T + bias. `penalty` is per image, on the scaled features."""

    weight: Float[Tensor, "K D"]  # float32
    bias: Float[Tensor, " K"]
    method: Method
    penalty: float


def fit_head(features: Wide, labels: Known, classes: int, method: Method) -> Head:
    """The linear head that `method` gives on `features`.

    `logistic` minimises the mean cross entropy plus penalty / 2 times the squared weights, the bias being free, by
    L-BFGS. The penalty is the one of 1, 10^-0.5, ..., 1e-6 with the least loss on every fifth image of each class, the
    rest being fitted; from strong to weak, until the loss has risen twice in a row. Then all images are fitted with it.
    `ridge` regresses on 1 for the image's class and -1 for the others, in closed form. Its penalty has the least
    squared error of leave-one-out predictions (PRESS, Allen 1974), which a linear smoother gives without refitting.
    Outputs are then scaled by the one factor under which the leave-one-out predictions have the least cross entropy, so
    that they can be read as logits; no decision changes by it.
    A class without images is never predicted, and one of several that every image has always. Raises DataError without
    images, WeightsError where a feature is not finite.
    """
    if not len(features):
        raise DataError("a head needs images to be fitted to, found none")
    if not bool(features.isfinite().all()):
        raise WeightsError("the features of some images are not finite, so no head can be fitted to them")
    x = features.detach().double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation > 1e-12 * deviation.max().clamp_min(1e-300), deviation, 1.0)  # constant features
    present, own = _present(labels.to(x.device))
    fit = _logistic if method == "logistic" else _ridge
    solution = fit((x - mean) / deviation, own, len(present))
    weight = x.new_zeros(classes, x.shape[1])
    bias = x.new_full((classes,), (float(solution.bias.min()) if len(present) else 0.0) - NEVER)
    if labels.ndim == 2:
        bias = torch.where(labels.to(x).amin(dim=0) > 0, NEVER, bias)
    weight[present], bias[present] = solution.weight / deviation, solution.bias
    bias = bias - weight @ mean
    return Head(weight.float().cpu(), bias.float().cpu(), method, solution.penalty)


def _present(labels: Known) -> tuple[Int[Tensor, " C"], Int[Tensor, " N"] | Float[Tensor, "N C"]]:
    """(the classes that can be learned, labels among them): those with images; where images may have several, those
    that some images have and others do not."""
    if labels.ndim == 1:
        present: tuple[Tensor, Tensor] = torch.unique(labels, return_inverse=True)
        return present
    count = labels.sum(dim=0)
    classes = ((count > 0) & (count < len(labels))).nonzero().flatten()
    return classes, labels[:, classes].double()


def cross_entropy(logits: Float[Tensor, "N K"], labels: Known) -> Float[Tensor, ""]:
    """Mean over the images, in nats."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1).mean()


@dataclass(frozen=True)
class _Solution:
    """A head for scaled features, in float64."""

    weight: Float[Tensor, "K D"]
    bias: Float[Tensor, " K"]
    penalty: float


def spared(labels: Known) -> Bool[Tensor, " N"]:
    """Every fifth image of each class, the last of a class of two to four; none of a class of one. Every fifth of all
    where images may have several."""
    if labels.ndim == 2:
        return torch.arange(len(labels), device=labels.device) % FOLD == FOLD - 1
    place = torch.zeros_like(labels)
    count = torch.zeros_like(labels)
    for label in torch.unique(labels):
        mine = labels == label
        place[mine] = torch.arange(int(mine.sum()), device=labels.device)
        count[mine] = mine.sum()
    return torch.where(count < FOLD, (place == count - 1) & (count > 1), place % FOLD == FOLD - 1)


def _logistic(x: Wide, labels: Known, classes: int) -> _Solution:
    values, left = _left_singular(x)
    along = left * values.sqrt()  # N R: the features in their principal axes, where the penalty is the same
    held = spared(labels)
    penalty, start = UNCHOSEN, None
    if bool(held.any()):
        kept, best, risen, latest = ~held, math.inf, 0, None
        for candidate in LOGISTIC_PENALTIES:
            latest = _minimise(along[kept], labels[kept], classes, candidate, latest, ROUGH)
            loss = float(cross_entropy(along[held] @ latest[:, :-1].T + latest[:, -1], labels[held]))
            risen = 0 if loss < best else risen + 1
            if loss < best:
                penalty, best, start = candidate, loss, latest
            if risen == 2:
                break
    found = _minimise(along, labels, classes, penalty, start, FINE)
    weight = found[:, :-1] / values.sqrt() @ (left.T @ x)  # K D
    return _Solution(weight, found[:, -1], penalty)


def _minimise(
    along: Float[Tensor, "N R"],
    labels: Known,
    classes: int,
    penalty: float,
    start: Tensor | None,
    slope: float,
) -> Float[Tensor, "K R+1"]:
    """Weights, and the bias as their last column, of the penalised logistic regression on features in principal axes.

    The search goes over weights times the square root of the loss's curvature along each axis (p (1 - p) of it at even
    guesses, and the penalty), which makes all directions alike: far fewer steps, the same solution.
    """
    guess = 1 / classes if labels.ndim == 1 else 1 / 2
    even = guess * (1 - guess) if guess < 1 else 1.0
    curvature = (even * along.square().mean(0) + penalty).sqrt()  # R
    unit = torch.cat([curvature, curvature.new_full((1,), math.sqrt(even))])
    scaled = F.pad(along, (0, 1), value=1.0) / unit
    pull = penalty / curvature.square()
    found = along.new_zeros(classes, len(unit)) if start is None else start * unit
    found = found.detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=1000,
        tolerance_grad=slope,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(scaled @ found.T, labels) + (pull * found[:, :-1].square()).sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return found.detach() / unit


def _ridge(x: Wide, labels: Known, classes: int) -> _Solution:
    rows = F.one_hot(labels, classes) if labels.ndim == 1 else labels
    targets = 2.0 * rows.to(x) - 1.0  # N K
    middle = targets.mean(0)
    values, left = _left_singular(x)  # R; N R
    along = left.T @ (targets - middle)  # R K
    best, penalty, outside = math.inf, 1.0, targets
    for candidate in RIDGE_PENALTIES:
        shrink = values / (values + candidate * len(x))
        leverage = 1 / len(x) + left.square() @ shrink  # N
        residual = (targets - middle - left @ (shrink[:, None] * along)) / (1 - leverage).clamp_min(1e-12)[:, None]
        error = float(residual.square().mean())
        if error < best:
            best, penalty, outside = error, candidate, targets - residual
    weight = x.T @ left @ (along / (values + penalty * len(x))[:, None])  # D K
    factor = _scale(outside, labels)
    return _Solution(factor * weight.T, factor * middle, penalty)


def _left_singular(x: Wide) -> tuple[Float[Tensor, " R"], Float[Tensor, "N R"]]:
    """Squared singular values and left singular vectors of the features, by way of the smaller Gram matrix."""
    tall = x.shape[0] >= x.shape[1]
    values, vectors = torch.linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = values > 1e-12 * values.max().clamp_min(1e-300)
    values, vectors = values[kept], vectors[:, kept]
    return values, x @ vectors / values.sqrt() if tall else vectors


def _scale(outputs: Float[Tensor, "N K"], labels: Known) -> float:
    """The factor, 1e-3 to 1e3, by which outputs have the least cross entropy; bisection of its slope, which rises."""
    single = labels.ndim == 1
    own = outputs.gather(1, labels[:, None]).mean() if single else (outputs * labels).sum(1).mean()

    def slope(log_factor: float) -> float:
        scaled = math.exp(log_factor) * outputs
        shares = scaled.softmax(1) if single else scaled.sigmoid()
        return float((shares * outputs).sum(1).mean() - own)

    return math.exp(_bisect(slope, math.log(1e-3), math.log(1e3)))


def _bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses zero between `low` and `high`, or the end that is closer to it."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def head_logits(head: Head, features: Wide) -> Float[Tensor, "N K"]:
    """Logits of features under a solved head, in float32 as the model computes them."""
    return F.linear(features.float().cpu(), head.weight, head.bias)
