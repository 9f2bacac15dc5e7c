"""The training loss, one number an image: the loop decides how images are summed.

Axes: B images, K classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.types import Labels, Logits, SoftLabels


def cross_entropy(logits: Logits, labels: Labels | SoftLabels, smoothing: float = 0.0) -> Float[Tensor, " B"]:
    """Softmax cross entropy of each image, in nats.

    `labels` are class indices, or rows of class probabilities after mixup or cutmix. Label smoothing moves the share
    `smoothing` of each row to the uniform distribution over all K classes (Szegedy et al. 2016, section 7).
    Logits in half precision are widened first: their log-sum-exp would lose the third digit.
    """
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
