"""mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) on a batch.

Each image is mixed with its neighbour in the batch, whose order is random already.
"""

import math
import random

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vitrail.config import AugmentConfig
from vitrail.types import Batch, Images, Labels, SoftLabels


def mix(batch: Batch, config: AugmentConfig, classes: int, seed: int) -> Batch:
    """The batch after mixup or CutMix, with soft labels over the classes; the same batch where neither is drawn.

    With both on, each batch takes one of them with even odds. The share of an image's own content is drawn from
    Beta(a, a), once a batch; with mixup_major that of mixup is at least a half (big_vision/utils.py, get_mixup). A pure
    function of its arguments.
    """
    if not (config.mixup or config.cutmix) or len(batch.images) < 2:
        return batch
    rng = random.Random(seed)
    if rng.random() >= config.mix_probability:
        return batch
    cut = rng.random() < 0.5 if config.mixup and config.cutmix else bool(config.cutmix)
    alpha = config.cutmix if cut else config.mixup
    share = rng.betavariate(alpha, alpha)
    if cut:
        rows, cols = batch.images.shape[-2:]
        images, share = cutmix(batch.images, cut_box(rows, cols, share, rng.random(), rng.random()))
    else:
        share = max(share, 1 - share) if config.mixup_major else share
        images = mixup(batch.images, share)
    return Batch(images, mixed_labels(batch.labels, classes, share), batch.index)


def mixup(images: Images, share: float) -> Images:
    """share * image + (1 - share) * its neighbour."""
    return images.mul(share).add_(images.roll(1, 0), alpha=1 - share)


def cut_box(rows: int, cols: int, share: float, down: float, across: float) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the part that is replaced: 1 - share of the area around the centre (down, across).

    The centre is given as shares of the sides; what would lie outside the image is cut off (CutMix, section 3.1).
    """
    side = math.sqrt(1 - share)
    height, width = int(rows * side), int(cols * side)
    top, left = int(down * rows) - height // 2, int(across * cols) - width // 2
    return max(top, 0), max(left, 0), min(top + height, rows), min(left + width, cols)


def cutmix(images: Images, box: tuple[int, int, int, int]) -> tuple[Images, float]:
    """(images whose box comes from their neighbour, the share of an image that is still its own)."""
    top, left, bottom, right = box
    rows, cols = images.shape[-2:]
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (rows * cols)


def mixed_labels(labels: Labels | SoftLabels, classes: int, share: float) -> SoftLabels:
    """share of each image's own label and 1 - share of its neighbour's."""
    own = _soft(labels, classes)
    return own.mul(share).add_(own.roll(1, 0), alpha=1 - share)


def _soft(labels: Tensor, classes: int) -> Float[Tensor, "B K"]:
    if labels.is_floating_point():
        return labels
    return functional.one_hot(labels, classes).to(torch.float32)
