"""The patch grid: images to patches and back, patches to pixels, position embeddings to another grid."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PositionRule: TypeAlias = Literal["paper", "timm", "transformers"]


def patchify(images: Float[Tensor, "B C H W"], patch: tuple[int, int]) -> Float[Tensor, "B P CN"]:
    """Non-overlapping patches in row-major order, each flattened as (channel, row, col)."""
    rows, cols = patch
    x = images.unfold(2, rows, rows).unfold(3, cols, cols)  # B C gh gw ph pw
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpatchify(
    patches: Float[Tensor, "B P CN"], grid: tuple[int, int], patch: tuple[int, int]
) -> Float[Tensor, "B C H W"]:
    """The inverse of `patchify` for a grid of (rows, cols) patches."""
    x = patches.unflatten(1, grid).unflatten(3, (-1, *patch))  # B gh gw C ph pw
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def resample_positions(
    positions: Float[Tensor, "1 T D"],
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    prefix: int = 1,
    rule: PositionRule = "paper",
) -> Float[Tensor, "1 S D"]:
    """Position embeddings of an `old` (rows, cols) grid for a `new` one; the first `prefix` rows stay as they are.

    paper: linear, corners on corners, equal to scipy.ndimage.zoom of order 1 (vit_jax/checkpoint.py);
    timm: bicubic with antialiasing (timm/layers/pos_embed.py); transformers: bicubic without.
    """
    if old == new:
        return positions
    head, rows = positions[:, :prefix], positions[:, prefix:]
    if rows.shape[1] != old[0] * old[1]:
        raise ValueError(f"{rows.shape[1]} positions are not a grid of {old[0]} x {old[1]}")
    image = rows.unflatten(1, old).permute(0, 3, 1, 2)  # 1 D rows cols
    if rule == "paper":
        image = F.interpolate(image, new, mode="bilinear", align_corners=True)
    else:
        image = F.interpolate(image, new, mode="bicubic", align_corners=False, antialias=rule == "timm")
    return torch.cat([head, image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
