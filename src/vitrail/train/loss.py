"""The training losses, one number an image: the loop decides how images are summed.

Axes: B images, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import OptimConfig
from vitrail.types import Batch, Labels, Logits, SoftLabels

Objective = Callable[[nn.Module, Batch], Tensor]  # (model, micro-batch) -> the loss of each image (b)


def cross_entropy(
    logits: Logits, labels: Labels | SoftLabels, smoothing: float = 0.0, weights: Float[Tensor, " K"] | None = None
) -> Float[Tensor, " B"]:
    """Softmax cross entropy of each image, in nats; with `weights`, the term of class k times weights[k].

    `labels` are class indices, or rows of class probabilities after mixup or cutmix. Label smoothing moves the share
    `smoothing` of each row to the uniform distribution over all K classes (Szegedy et al. 2016, section 7).
    Logits in half precision are widened first: their log-sum-exp would lose the third digit.
    """
    logits = _wide(logits)
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    if weights is not None:
        weights = weights.to(logits)
    return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="none")


def sigmoid_cross_entropy(
    logits: Logits, labels: Labels | SoftLabels, smoothing: float = 0.0, weights: Float[Tensor, " K"] | None = None
) -> Float[Tensor, " B"]:
    """One yes-or-no question a class: binary cross entropy of each image summed over the K classes, in nats
    (big_vision, sigmoid_xent). Over K, it is the mean of DeiT III, which counts every mixed class as a whole one.

    `labels` are class indices, rows of class probabilities, or rows of zeros and ones where an image has any number of
    classes. Label smoothing moves the share `smoothing` of each row evenly to all K classes, which for one class is
    timm's rule. With `weights`, an image weighs the mean weight of its classes, and 1 where it has none.
    """
    logits = _wide(logits)
    rows = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
    rows = rows.to(logits.dtype)
    mass = rows.sum(dim=1, keepdim=True)
    targets = rows if smoothing == 0.0 else rows * (1.0 - smoothing) + mass * (smoothing / logits.shape[1])
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
    if weights is None:
        return losses
    weighed = (rows * weights.to(rows)).sum(dim=1, keepdim=True) / mass
    return losses * torch.where(mass > 0, weighed, 1.0).squeeze(1)


def balanced_weights(counts: Sequence[int]) -> Float[Tensor, " K"]:
    """Weight of each class so that all weigh the same and an image weighs 1 on average: images / (K * its count)
    (King and Zeng 2001; what scikit-learn calls balanced). Float64."""
    of_class = torch.tensor(counts, dtype=torch.float64)
    return of_class.sum() / (len(counts) * of_class)


def log_shares(counts: Sequence[int]) -> Float[Tensor, " K"]:
    """Log of each class's share of the images. Float64."""
    of_class = torch.tensor(counts, dtype=torch.float64)
    return (of_class / of_class.sum()).log()


@dataclass(frozen=True)
class LabelLoss:
    """The loss that a recipe names, between a model's logits and the labels of a batch. An Objective.

    `offsets` are added to the logits while training only: tau * log share of a class (Menon et al. 2021, arXiv
    2007.07314, equation 10), so that the plain logits answer as if all classes were equally frequent.
    """

    config: OptimConfig
    weights: Tensor | None = None  # K
    offsets: Tensor | None = None  # K

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.of(model(batch.images), batch.labels)

    def of(self, logits: Logits, labels: Labels | SoftLabels) -> Float[Tensor, " B"]:
        """The loss of each image, in nats."""
        smoothing = self.config.label_smoothing
        if self.config.loss != "softmax":
            losses = sigmoid_cross_entropy(logits, labels, smoothing, self.weights)
            return losses / logits.shape[1] if self.config.loss == "bce" else losses
        if self.offsets is not None:
            logits = _wide(logits)
            logits = logits + self.offsets.to(logits.dtype)
        return cross_entropy(logits, labels, smoothing, self.weights)


def needs_counts(config: OptimConfig) -> bool:
    """Whether the loss depends on how many training images each class has."""
    return config.class_weights == "balanced" or config.logit_adjustment > 0


def make_loss(
    config: OptimConfig, counts: Sequence[int] | None = None, device: torch.device | str = "cpu"
) -> LabelLoss:
    """The recipe's loss on `device`. `counts`: training images of each class, all above zero, where `needs_counts`."""
    if not needs_counts(config):
        return LabelLoss(config)
    if counts is None or min(counts) < 1:
        raise ValueError(f"this loss needs the number of training images of each class, at least one: {counts}")
    weights = balanced_weights(counts).to(device) if config.class_weights == "balanced" else None
    offsets = (config.logit_adjustment * log_shares(counts)).to(device) if config.logit_adjustment else None
    return LabelLoss(config, weights, offsets)


def _wide(logits: Logits) -> Logits:
    """Half precision as single."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
