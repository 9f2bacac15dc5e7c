"""From an encoded image to the model's input: the one path of evaluation, prediction, export and serving.

The arithmetic is torchvision's v2 (Resize, CenterCrop, ToDtype, Normalize) bit for bit, without torchvision: resizing
runs on uint8, so a model sees the same pixels wherever it runs. Order and rounding follow timm's evaluation transform.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from vitrail.config import Preprocess
from vitrail.data.decode import DecodePolicy, Size, decode_shrunk, largest_divisor
from vitrail.types import Pixels

Fitted: TypeAlias = UInt8[Tensor, "3 rows cols"]  # one RGB image after its size has changed

LONGEST = 64  # an image longer than this many times its shorter side is cut to its middle before it is resized
_MARGIN = 2  # a JPEG may be decoded smaller while it keeps so many times the sides that it is resized to


def preprocess(pixels: Pixels, config: Preprocess) -> Float[Tensor, "3 rows cols"]:
    """One image as the model wants it: `fit` to config.size (rows, cols), then `to_model`."""
    return to_model(fit(pixels, config), config)


def fit_encoded(data: bytes, config: Preprocess, policy: DecodePolicy | None = None) -> Fitted:
    """An encoded image decoded, resized and cropped to config.size (rows, cols), uint8. Raises ImageError."""
    image = decode_shrunk(data, lambda size: jpeg_divisor(size, config), policy or DecodePolicy())
    if image.divisor == 1:
        return fit(image.pixels, config)
    target = resized(image.size, config)
    exact = image.size[0] / image.divisor, image.size[1] / image.divisor  # the last pixel may be a part of one
    as_stored = image.pixels.flip(image.against) if image.against else image.pixels
    fitted = _resize_inexact(as_stored, exact, target, config.interpolation)
    return _centre(fitted.flip(image.against) if image.against else fitted, config)


def jpeg_divisor(size: Size, config: Preprocess) -> int:
    """By what the sides of a JPEG of `size` are divided as it is decoded: 1, 2, 4 or 8.

    The largest that leaves twice the sides it is then resized to, so that the resize still averages over pixels: at
    224 px and crop 0.9, photos of 992 px and more on the shorter side come smaller. 1 where config.jpeg asks for the
    full size, and where the resize would not average.
    """
    averages = config.antialias and config.interpolation in ("bilinear", "bicubic")
    if config.jpeg == "full" or not averages or max(size) > LONGEST * min(size):
        return 1
    rows, cols = resized(size, config)
    return largest_divisor(size, (_MARGIN * rows, _MARGIN * cols))


def fit(pixels: Pixels, config: Preprocess) -> Fitted:
    """Resize and crop one image to config.size (rows, cols), still uint8.

    Resized to floor(size / crop), then its centre is cropped (timm, transforms_imagenet_eval): `squash` resizes both
    sides straight to that, `shortest` keeps the shape of the image, which then covers it (timm's crop_mode "center").
    """
    if config.resize == "shortest":
        pixels = middle(pixels)
    return _centre(resize(pixels, resized(_size(pixels), config), config.interpolation, config.antialias), config)


def resized(size: Size, config: Preprocess) -> Size:
    """(rows, cols) that an image of `size` is resized to before its centre is cropped."""
    rows, cols = config.size
    cover = math.floor(rows / config.crop), math.floor(cols / config.crop)
    return covering_size(size, cover) if config.resize == "shortest" else cover


def to_model(pixels: UInt8[Tensor, "*B 3 H W"], config: Preprocess) -> Float[Tensor, "*B 3 H W"]:
    """(pixels / 255 - mean) / std, per channel, in float32."""
    mean = torch.tensor(config.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=pixels.device).view(3, 1, 1)
    values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_(1 / 255).sub_(mean).div_(std)


def covering_size(size: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
    """(rows, cols) of an image of `size` resized, shape kept, so that it just covers `cover`.

    For a square cover the longer side is truncated, as torchvision's Resize does; otherwise both sides are rounded, as
    timm's ResizeKeepRatio does.
    """
    rows, cols = size
    if cover[0] == cover[1]:
        short = cover[0]
        return (short, int(short * cols / rows)) if rows <= cols else (int(short * rows / cols), short)
    ratio = min(rows / cover[0], cols / cover[1])
    return max(1, round(rows / ratio)), max(1, round(cols / ratio))


def resize(pixels: Pixels, size: tuple[int, int], interpolation: str, antialias: bool = True) -> Fitted:
    """One uint8 image resized to (rows, cols); "nearest" never antialiases."""
    if _size(pixels) == size:
        return pixels
    if interpolation == "area":
        rows, cols = (_areas(old, new, pixels.device) for old, new in zip(_size(pixels), size, strict=True))
        return (rows @ pixels.float() @ cols.T).clamp_(0, 255).round_().to(torch.uint8)
    image = _as_batch(pixels)
    if interpolation == "nearest":
        return functional.interpolate(image, size=size, mode="nearest")[0]
    if image.device.type == "cpu":
        return functional.interpolate(image, size=size, mode=interpolation, align_corners=False, antialias=antialias)[0]
    image = image.float()  # other devices resize floats only; their last bit differs
    image = functional.interpolate(image, size=size, mode=interpolation, align_corners=False, antialias=antialias)
    return image.clamp_(0, 255).round_().to(torch.uint8)[0]


def _resize_inexact(pixels: Pixels, exact: tuple[float, float], size: Size, interpolation: str) -> Fitted:
    """`resize` of pixels whose (rows, cols) are `exact`, rounded up: resized as if they were, the image would shrink by
    the difference, half a pixel of the result at its far end."""
    scales = [new / old for new, old in zip(size, exact, strict=True)]
    rows, cols = size
    if [math.floor(side * scale) for side, scale in zip(_size(pixels), scales, strict=True)] != [rows, cols]:
        return resize(pixels, size, interpolation)  # exact after all, and the product rounded down
    image = functional.interpolate(_as_batch(pixels), scale_factor=scales, mode=interpolation, antialias=True)
    return image[0]


def _as_batch(pixels: Pixels) -> UInt8[Tensor, "1 3 rows cols"]:
    """One image as a batch. Decoded pixels are stored rows, columns, channels: a batch stride that says so lets the
    kernel keep that order and saves repacking (torchvision restrides likewise, see pytorch issue 68430)."""
    image = pixels[None]
    if image.is_contiguous(memory_format=torch.channels_last) and image.numel() != image.stride(0):
        return image.as_strided(image.shape, (image.numel(), *image.stride()[1:]))
    return image


def _centre(pixels: Pixels, config: Preprocess) -> Fitted:
    return centre_crop(pixels, config.size, config.odd_margin == "down")


def _areas(old: int, new: int, device: torch.device) -> Float[Tensor, "new old"]:
    """Shares of the old pixels in each new one, which is the mean over its part of the side (TensorFlow's `area`)."""
    edges = torch.arange(new + 1, dtype=torch.float64, device=device) * (old / new)
    pixel = torch.arange(old, dtype=torch.float64, device=device)
    covered = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (covered.clamp(min=0) * (new / old)).float()


def centre_crop(pixels: Pixels, size: tuple[int, int], floor: bool = False) -> Fitted:
    """The middle (rows, cols) of an image; an image smaller than that is padded with black on all sides first.

    Half a pixel of the margin is rounded to even, as torchvision does, or down.
    """
    (rows, cols), (height, width) = size, _size(pixels)
    top, left = (_start(side, kept, floor) for side, kept in ((height, rows), (width, cols)))
    if height < rows or width < cols:
        down, across = max(rows - height, 0), max(cols - width, 0)
        pixels = functional.pad(pixels, (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2))
        top, left = max(top, 0), max(left, 0)
    return pixels[:, top : top + rows, left : left + cols]


def middle(pixels: Pixels) -> Fitted:
    """Bound the work on a sliver: resized to cover the model's input, a 1 x 100,000 image would take gigabytes.

    The centre crop keeps far less than what is left here, so no pixel that it shows is lost.
    """
    return centre_crop(pixels, _middle_size(_size(pixels)))


@dataclass(frozen=True)
class Window:
    """What `fit` does to the shape of an image. `box` is the part that is kept, in pixels of the original, and goes
    beyond its edges where black is added."""

    resized: tuple[int, int]  # (rows, cols) before the crop
    box: tuple[float, float, float, float]  # top, left, bottom, right


def window(size: tuple[int, int], config: Preprocess) -> Window:
    """The Window of an image of `size` (rows, cols)."""
    squash, floor = config.resize == "squash", config.odd_margin == "down"
    cover = math.floor(config.size[0] / config.crop), math.floor(config.size[1] / config.crop)
    whole = size if squash else _middle_size(size)
    resized = cover if squash else covering_size(whole, cover)
    corners: list[float] = []
    for axis in (0, 1):
        start = _start(resized[axis], config.size[axis], floor)
        before, scale = (size[axis] - whole[axis]) / 2, whole[axis] / resized[axis]
        corners += [before + start * scale, before + (start + config.size[axis]) * scale]
    return Window(resized, (corners[0], corners[2], corners[1], corners[3]))


def _start(side: int, kept: int, floor: bool) -> int:
    """Where the crop of `kept` pixels begins on a side; negative where pixels are added instead."""
    spare = side - kept
    if spare < 0:
        return -(-spare // 2)
    return spare // 2 if floor else round(spare / 2)


def _middle_size(size: tuple[int, int]) -> tuple[int, int]:
    longest = LONGEST * min(size)
    rows, cols = (side if side <= longest else longest + (side - longest) % 2 for side in size)
    return rows, cols  # an even number goes: the centre stays


def _size(pixels: Tensor) -> tuple[int, int]:
    return cast(tuple[int, int], tuple(pixels.shape[-2:]))
