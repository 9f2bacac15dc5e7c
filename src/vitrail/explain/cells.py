"""What a map has a number for: the patches of a Vision Transformer; of a ResNet, which has none, cells of the image.
And what the model answers where some of them are taken away.

Axes: B images, N copies of them, P cells (patches), K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vitrail.errors import ConfigError
from vitrail.models.build import Network
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels, Logits

Maps: TypeAlias = Float[Tensor, "B rows cols"]
Method: TypeAlias = Callable[[Any, Images, Labels], Maps]  # of a Network; some of a Vision Transformer only
Baseline: TypeAlias = Literal["drop", "mean", "blur"]
BASELINES: tuple[Baseline, ...] = ("drop", "mean", "blur")

CELLS = 14  # along each side of a ResNet's image, as many as ViT-B/16 has patches
BLUR = 0.1  # standard deviation, share of the shorter side
CHUNK = 16  # images at once: more are no faster on a processor, and hold more memory


def grid(model: Network) -> tuple[int, int]:
    """(rows, cols) of the model's maps."""
    if isinstance(model, ViT):
        return model.config.grid
    (height, width), (rows, cols) = cell_pixels(model), model.config.image_size
    return -(-rows // height), -(-cols // width)


def cell_pixels(model: Network) -> tuple[int, int]:
    """Pixels that a cell covers along (rows, cols)."""
    if isinstance(model, ViT):
        return model.config.patch_pixels
    rows, cols = model.config.image_size
    return -(-rows // CELLS), -(-cols // CELLS)


def on_grid(model: Network, values: Float[Tensor, "B P"]) -> Maps:
    """One number a cell, in the shape of the image."""
    return values.unflatten(1, grid(model))


def per_cell(model: Network, pixels: Float[Tensor, "B H W"]) -> Maps:
    """The sum over the pixels of each cell; pixels beyond the last whole patch are left out."""
    (rows, cols), (height, width) = grid(model), cell_pixels(model)
    cut = pixels[:, : rows * height, : cols * width]
    cut = functional.pad(cut, (0, cols * width - cut.shape[2], 0, rows * height - cut.shape[1]))
    return cut.unflatten(1, (rows, height)).unflatten(3, (cols, width)).sum(dim=(2, 4))


@contextmanager
def still(model: Network) -> Iterator[None]:
    """Dropout and stochastic depth off, no gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def baselines(model: Network) -> tuple[Baseline, ...]:
    """The ways in which the model can be shown a part of the image: only tokens can be left out."""
    return BASELINES if isinstance(model, ViT) else BASELINES[1:]


def answers(model: Network, images: Images) -> Logits:
    """Logits, a few images at a time."""
    with still(model):
        return _full(torch.cat([model(part) for part in images.split(CHUNK)]))


def without(
    model: Network, images: Images, kept: Bool[Tensor, "N P"], stand_in: Images | None = None
) -> Float[Tensor, "N K"]:
    """Logits where image n shows only the cells that `kept[n]` holds. `images`: one for each row, or one for all.

    Without `stand_in` the other patches are not in the sequence, so the network sees no grey squares, which it has
    never been shown; every row must hold as many. With it (as many as `images`), their pixels are the stand-in's;
    pixels beyond the last whole patch stay. ConfigError for a ResNet without a stand-in.
    """
    if stand_in is not None:
        return _covered(model, images, kept, stand_in)
    if not isinstance(model, ViT):
        raise ConfigError("a ResNet has no tokens to leave out: cover pixels instead (mean, blur)")
    counts = kept.sum(dim=1)
    if len(set(counts.tolist())) != 1 or not int(counts[0]):
        raise ValueError("each row keeps as many patches, and one at least")
    prefix = model.config.prefix
    places = kept.nonzero()[:, 1].view(len(kept), -1)  # row by row, in order
    first = torch.arange(prefix, device=places.device).expand(len(kept), -1)
    rows = torch.cat([first, prefix + places], dim=1)
    with still(model):
        x, turn = model.embed(images), model.rotation(images)
        found = []
        for start in range(0, len(kept), CHUNK):
            part = rows[start : start + CHUNK]
            tokens = x.expand(len(kept), -1, -1)[start : start + CHUNK]
            tokens = tokens.gather(1, part[..., None].expand(-1, -1, x.shape[2]))
            turned = None if turn is None else (turn[0][part][:, None], turn[1][part][:, None])
            found.append(model.classify(model.run(tokens, turned)))
        return _full(torch.cat(found))


def _full(logits: Logits) -> Logits:
    """At least float32: bfloat16's probabilities have two digits."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _covered(model: Network, images: Images, kept: Bool[Tensor, "N P"], stand_in: Images) -> Float[Tensor, "N K"]:
    (height, width), (rows, cols) = cell_pixels(model), (images.shape[2], images.shape[3])
    found = []
    many = (len(kept), *images.shape[1:])
    with still(model):
        for start in range(0, len(kept), CHUNK):
            part = slice(start, start + CHUNK)
            mask = on_grid(model, kept[part].float()).bool()
            mask = mask.repeat_interleave(height, 1).repeat_interleave(width, 2)[:, :rows, :cols]
            mask = functional.pad(mask, (0, cols - mask.shape[2], 0, rows - mask.shape[1]), value=True)[:, None]
            found.append(model(torch.where(mask, images.expand(many)[part], stand_in.expand(many)[part])))
    return _full(torch.cat(found))


def stand_in_for(images: Images, baseline: Baseline) -> Images | None:
    """What covers the cells that are taken away: the image's mean colour, or the image blurred; nothing for `drop`."""
    if baseline == "drop":
        return None
    if baseline == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    sigma = BLUR * min(images.shape[2:])
    reach = min(int(3 * sigma), min(images.shape[2:]) - 1)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(images) / sigma) ** 2)
    line = (line / line.sum()).expand(images.shape[1], 1, -1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="reflect")
    across = functional.conv2d(padded, line[:, :, None], groups=images.shape[1])
    return functional.conv2d(across, line[..., None], groups=images.shape[1])
