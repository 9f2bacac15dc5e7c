"""The patch grid: images to patches and back, patches to pixels, position embeddings to another grid."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.config import PositionRule


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
    timm: bicubic with antialiasing (timm/layers/pos_embed.py); transformers: bicubic without;
    torchvision: bicubic, corners on corners (models/vision_transformer.py); dinov2: bicubic by a scale factor that has
    0.1 added to the new side (dinov2/models/vision_transformer.py, its registers' models without the 0.1 are `timm`'s);
    flexivit: linear, antialiased, edges on edges, as jax.image.resize (big_vision, models/proj/flexi/vit.py).
    """
    if old == new:
        return positions
    head, rows = positions[:, :prefix], positions[:, prefix:]
    if rows.shape[1] != old[0] * old[1]:
        raise ValueError(f"{rows.shape[1]} positions are not a grid of {old[0]} x {old[1]}")
    image = rows.unflatten(1, old).permute(0, 3, 1, 2)  # 1 D rows cols
    if rule == "paper":
        image = F.interpolate(image, new, mode="bilinear", align_corners=True)
    elif rule == "flexivit":
        image = F.interpolate(image, new, mode="bilinear", align_corners=False, antialias=True)
    elif rule == "torchvision":
        image = F.interpolate(image, new, mode="bicubic", align_corners=True)
    elif rule == "dinov2":
        factor = (new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1]
        image = F.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        image = F.interpolate(image, new, mode="bicubic", align_corners=False, antialias=rule == "timm")
    return torch.cat([head, image.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resample_patch_kernel(kernel: Float[Tensor, "D C R S"], new: tuple[int, int]) -> Float[Tensor, "D C U V"]:
    """A patch embedding for patches of another size, by the pseudo-inverse of the resize (FlexiViT, section 3.4): the
    embedding of a patch that is resized up stays exactly the same. The resize is bilinear without antialiasing, as in
    its code (big_vision, models/proj/flexi/vit.py), which matters where patches shrink."""
    old = (kernel.shape[2], kernel.shape[3])
    if old == new:
        return kernel
    basis = torch.eye(old[0] * old[1], dtype=torch.float64).unflatten(1, old)[:, None]  # one pixel each
    resize = F.interpolate(basis, new, mode="bilinear", align_corners=False).flatten(1)  # old pixels x new pixels
    inverse = torch.linalg.pinv(resize)  # new pixels x old pixels
    return (kernel.double().flatten(2) @ inverse.T).unflatten(2, new).to(kernel)


def average_channels(kernel: Float[Tensor, "D C R S"], channels: int) -> Float[Tensor, "D E R S"]:
    """A patch embedding for another number of input channels: each new channel gets the mean over the old ones, scaled
    by old / new, so that equal channels embed as before."""
    if kernel.shape[1] == channels:
        return kernel
    return kernel.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
