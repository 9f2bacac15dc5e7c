"""Training transforms of one image: crop, flip, rotate, shift, RandAugment, 3-Augment, jitter, erase. Pure functions
of their arguments.

Crop, flip, rotation and shift are drawn first and applied together: an image is interpolated once, not four times. Only
where the crop is larger than the target is it resized beforehand, with antialiasing. Coordinates are (rows, cols).
"""

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vitrail.config import AugmentConfig
from vitrail.data.preprocess import Fitted, covering_size, middle, resize
from vitrail.data.randaugment import rand_augment
from vitrail.data.three_augment import color_jitter, three_augment
from vitrail.errors import MissingExtra
from vitrail.types import Pixels

_TRIES = 10  # random boxes that may stick out before the fallback is taken, as torchvision does
_GREY = 128  # what RandAugment and erasing fill with
_ERASED_AREA = (0.02, 1 / 3)  # random erasing (Zhong et al. 2017, arXiv 1708.04896), section 4.1
_ERASED_RATIO = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Box:
    """A part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def check_extras(config: AugmentConfig) -> None:
    """Raises MissingExtra where the config needs a package that is not installed: before the run, not in a worker."""
    if config.randaugment_layers and config.randaugment == "torchvision":
        _rand_augment_transform(config.randaugment_layers, config.randaugment_magnitude)


def augment(
    pixels: Pixels, size: tuple[int, int], config: AugmentConfig, seed: int, interpolation: str = "bicubic"
) -> Fitted:
    """One image cropped and resized to (rows, cols) = size and varied as the config says; uint8 in and out.

    Rotation and shift leave black corners. Needs torchvision for its RandAugment only (MissingExtra).
    """
    rng = random.Random(seed)
    if config.crop == "simple":
        pixels, box = simple_crop(pixels, size, config, rng, interpolation)
    else:
        box = random_box((pixels.shape[1], pixels.shape[2]), size, config, rng)
    flip = rng.random() < config.flip
    if config.rotate or config.shift:
        angle = rng.uniform(-config.rotate, config.rotate)
        down, across = (rng.uniform(-config.shift, config.shift) for _ in range(2))
        pixels = warp(pixels, box, size, flip, angle, (down, across), interpolation)
    else:
        pixels = resize(_cut(pixels, box), size, interpolation)
        pixels = pixels.flip(2) if flip else pixels
    if config.randaugment_layers:
        pixels = _rand_augment(pixels, config, rng.getrandbits(63))
    if config.three_augment:
        pixels = three_augment(pixels, rng)
    if config.color_jitter:
        pixels = color_jitter(pixels, config.color_jitter, rng)
    if rng.random() < config.erase:
        pixels = erase(pixels, rng)
    return pixels


def random_box(image: tuple[int, int], size: tuple[int, int], config: AugmentConfig, rng: random.Random) -> Box:
    """The part of the image that is kept: crop_scale of its area, crop_ratio times the width-to-height of the target.

    Where no box fits in ten tries, the largest centred one of an allowed shape (torchvision's RandomResizedCrop).
    """
    rows, cols = image
    shape = size[1] / size[0]
    low, high = (ratio * shape for ratio in config.crop_ratio)
    if config.crop_scale[0] < 1:
        for _ in range(_TRIES):
            area = rows * cols * rng.uniform(*config.crop_scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < height <= rows and 0 < width <= cols:
                return Box(rng.randint(0, rows - height), rng.randint(0, cols - width), height, width)
    height = min(rows, max(1, round(cols / low)))
    width = min(cols, max(1, round(rows * high)))
    return Box((rows - height) // 2, (cols - width) // 2, height, width)


def simple_crop(
    pixels: Pixels, size: tuple[int, int], config: AugmentConfig, rng: random.Random, interpolation: str
) -> tuple[Fitted, Box]:
    """(the image fitted, where in it the crop lies): the image keeps its shape and covers crop_enlarge times the
    target, gets crop_padding mirrored pixels on each side, and the crop is any place of the target's size in that.

    DeiT III's Simple Random Crop (facebookresearch/deit, augment.py: enlarge 1, padding 4) and, with enlarge 448 / 384
    and no padding, the crop that big_vision fine-tunes on CIFAR with (pp/ops_image.py, resize_small and random_crop).
    """
    pixels = middle(pixels)
    cover = round(size[0] * config.crop_enlarge), round(size[1] * config.crop_enlarge)
    pixels = resize(pixels, covering_size((pixels.shape[1], pixels.shape[2]), cover), interpolation)
    pixels = mirror_pad(pixels, config.crop_padding)
    rows, cols = pixels.shape[1:]
    return pixels, Box(rng.randint(0, rows - size[0]), rng.randint(0, cols - size[1]), *size)


def mirror_pad(pixels: Pixels, padding: int) -> Fitted:
    """`padding` pixels more on each side, mirrored about the outermost ones, which are not repeated; in an image that
    is smaller than the padding, mirrored again."""
    for axis in (1, 2):
        last = pixels.shape[axis] - 1
        at = torch.arange(-padding, last + 1 + padding).abs() % max(2 * last, 1)
        pixels = pixels.index_select(axis, torch.minimum(at, 2 * last - at).clamp_(min=0)) if padding else pixels
    return pixels


def warp(
    pixels: Pixels,
    box: Box,
    size: tuple[int, int],
    flip: bool,
    angle: float,
    shift: tuple[float, float],
    interpolation: str,
) -> Fitted:
    """The box resized to `size`, mirrored, turned by `angle` degrees (counter-clockwise) and shifted (down, across).

    Shifts are shares of the target's sides. Black comes in where the image ends.
    """
    if box.height > size[0] or box.width > size[1]:
        pixels = resize(_cut(pixels, box), size, interpolation)
        box = Box(0, 0, *size)
    matrix = torch.tensor(_inverse((pixels.shape[1], pixels.shape[2]), box, size, flip, angle, shift))
    grid = (_points(*size) @ matrix).view(1, *size, 2)
    image = functional.grid_sample(
        pixels[None].float(), grid, mode=interpolation, padding_mode="zeros", align_corners=False
    )
    return image[0].round_().clamp_(0, 255).to(torch.uint8)


def erase(pixels: Pixels, rng: random.Random) -> Pixels:
    """A rectangle of 2 to 33 % of the area, filled with grey."""
    rows, cols = pixels.shape[1:]
    for _ in range(_TRIES):
        area = rows * cols * rng.uniform(*_ERASED_AREA)
        ratio = math.exp(rng.uniform(*map(math.log, _ERASED_RATIO)))
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height < rows and 0 < width < cols:
            top, left = rng.randint(0, rows - height), rng.randint(0, cols - width)
            pixels = pixels.clone()
            pixels[:, top : top + height, left : left + width] = _GREY
            return pixels
    return pixels


def _cut(pixels: Tensor, box: Box) -> Tensor:
    return pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]


def _inverse(
    source: tuple[int, int],
    box: Box,
    size: tuple[int, int],
    flip: bool,
    angle: float,
    shift: tuple[float, float],
) -> list[list[float]]:
    """3 x 2 matrix from target points (x, y, 1) to source points (x, y), both -1..1 across the image (grid_sample).

    A target point is unshifted, turned back about the centre in square pixels, mirrored, then placed in the box.
    """
    rows, cols = source
    height, width = size
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    down, across = 2 * shift[0], 2 * shift[1]  # the sides are 2 long
    x = [cos, -sin * height / width, -cos * across + sin * height / width * down]
    y = [sin * width / height, cos, -sin * width / height * across - cos * down]
    stretch_x, stretch_y = box.width / cols * (-1 if flip else 1), box.height / rows
    centre_x, centre_y = (2 * box.left + box.width) / cols - 1, (2 * box.top + box.height) / rows - 1
    return [
        [stretch_x * x[0], stretch_y * y[0]],
        [stretch_x * x[1], stretch_y * y[1]],
        [stretch_x * x[2] + centre_x, stretch_y * y[2] + centre_y],
    ]


@lru_cache(maxsize=8)
def _points(rows: int, cols: int) -> Float[Tensor, "HW 3"]:
    """(x, y, 1) of every pixel's centre, row by row; -1..1 across the image."""
    y, x = torch.meshgrid(
        (torch.arange(rows) * 2 + 1) / rows - 1, (torch.arange(cols) * 2 + 1) / cols - 1, indexing="ij"
    )
    return torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)


def _rand_augment(pixels: Pixels, config: AugmentConfig, seed: int) -> Pixels:
    """The RandAugment that the config names. torchvision's draws from torch's global generator, which is seeded for it
    and then put back."""
    if config.randaugment != "torchvision":
        layers, magnitude = config.randaugment_layers, config.randaugment_magnitude
        return rand_augment(pixels, layers, magnitude, seed, mended=config.randaugment == "tf_mended")
    transform = _rand_augment_transform(config.randaugment_layers, config.randaugment_magnitude)
    generator = torch.default_generator  # not torch.manual_seed, which would seed every GPU as well
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        varied: Tensor = transform(pixels)
    finally:
        generator.set_state(state)
    return varied


@lru_cache(maxsize=8)
def _rand_augment_transform(layers: int, magnitude: int) -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise MissingExtra("torchvision", "train", "RandAugment") from error
    return v2.RandAugment(
        num_ops=layers,
        magnitude=magnitude,
        num_magnitude_bins=31,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=[_GREY] * 3,
    )
