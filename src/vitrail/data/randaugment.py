"""RandAugment as AugReg and Simple ViT were trained with it: sixteen operations on uint8 images.

Source: big_vision/pp/archive/autoaugment.py (distort_image_with_randaugment, level_to_arg), which needs TensorFlow 1
names and tensorflow_addons. Each layer draws one of the sixteen operations evenly and with replacement and always
applies it: a probability is drawn there too, and never used. m below is magnitude / 10; 10, 15 and 20 were published.

What `tf` reproduces because published runs had it, and `tf_mended` does instead. Mended, an operation with an argument
does nothing at magnitude 0 and more with every step, and a length is a share of the side.

- Posterize keeps int(4 m) bits, so more at a higher magnitude: all at 20 (and above, where TensorFlow refuses), the top
  bit at 0 (TensorFlow shifts an 8-bit number by 7 at most). Mended: 8 - int(4 m) bits, at least one.
- Solarize inverts from int(256 m) up, which wraps in 8 bits: 0, 10 and 20 invert everything, 15 inverts from 128.
  Mended: from 256 - int(256 m) up.
- Color, Contrast, Brightness, Sharpness go by a factor of 1.8 m + 0.1, which is 0.1 at magnitude 0, not 1. Mended:
  1 + or - 0.9 m, at least 0.1.
- Contrast blends with rows * cols / 256 (196 at 224 px, tensorflow/tpu issue 825). Mended: with the mean grey.
- TranslateX and TranslateY move by 100 m pixels, whatever the size. Mended: by 100 m / 224 of the side.
- Cutout paints a square of 2 int(40 m) pixels. Mended: the same over 224 of each side.

The wrap of Solarize is NumPy's before 1.24, in which 256 became an 8-bit 0; NumPy 2 refuses it. Rotation, shear and
translation take the nearest pixel (tensorflow_addons' default) and fill with 128, in both. Operations not named are the
same in both. The last bit may differ from TensorFlow's where it rounds float32 sums in another order.
"""

import math
import random
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.types import Pixels

FILL = 128  # what comes in where an image ends
SIDE = 224  # pixels a side at which lengths were published
_GREY = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale


def rand_augment(pixels: Pixels, layers: int, magnitude: int, seed: int, mended: bool = False) -> Pixels:
    """`layers` operations, one after the other, at one magnitude (0 to 30); a pure function of its arguments."""
    rng = random.Random(seed)
    for _ in range(layers):
        operation = OPERATIONS[rng.choice(tuple(OPERATIONS))]
        pixels = operation(pixels, magnitude / 10, rng, mended)
    return pixels


def autocontrast(pixels: Pixels) -> Pixels:
    """Each channel stretched to 0..255; a channel of one value stays."""
    values = pixels.float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    scale = 255.0 / (high - low)
    stretched = (values * scale - low * scale).clamp_(0, 255)
    return torch.where(high > low, stretched, values).to(torch.uint8)


def equalize(pixels: Pixels) -> Pixels:
    """The histogram of each channel flattened, as Pillow does it."""
    return torch.stack([_equalized(channel) for channel in pixels])


def invert(pixels: Pixels) -> Pixels:
    """255 - x."""
    return 255 - pixels


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Turned about the centre of the image, counter-clockwise."""
    rows, cols = pixels.shape[1:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = ((cols - 1) - (cos * (cols - 1) - sin * (rows - 1))) / 2
    down = ((rows - 1) - (sin * (cols - 1) + cos * (rows - 1))) / 2
    return project(pixels, (cos, -sin, across), (sin, cos, down))


def shear(pixels: Pixels, across: float, down: float) -> Pixels:
    """Pixel (y, x) comes from (y + down * x, x + across * y): the corner (0, 0) stays."""
    return project(pixels, (1.0, across, 0.0), (down, 1.0, 0.0))


def translate(pixels: Pixels, across: float, down: float) -> Pixels:
    """Pixel (y, x) comes from (y + down, x + across)."""
    return project(pixels, (1.0, 0.0, across), (0.0, 1.0, down))


def posterize(pixels: Pixels, bits: int) -> Pixels:
    """The `bits` highest bits of each value, the others 0; none are kept as one, more than eight as eight."""
    shift = min(max(8 - bits, 0), 7)
    return (pixels >> shift) << shift


def solarize(pixels: Pixels, threshold: int) -> Pixels:
    """255 - x where x >= threshold."""
    return torch.where(pixels.int() < threshold, pixels, 255 - pixels)  # torch wraps 256 as NumPy did


def solarize_add(pixels: Pixels, addition: int, threshold: int = 128) -> Pixels:
    """x + addition, at most 255, where x < threshold."""
    return torch.where(pixels < threshold, (pixels.int() + addition).clamp(0, 255).to(torch.uint8), pixels)


def color(pixels: Pixels, factor: float) -> Pixels:
    """From the grey image (0) over the image (1) to more colour."""
    return blend(_grey(pixels).expand(3, -1, -1), pixels, factor)


def contrast(pixels: Pixels, factor: float, mean: bool = False) -> Pixels:
    """From one grey (0) over the image (1) to more contrast. The grey is rows * cols / 256, at most 255: the published
    code divides the sum of a histogram's counts by its bins; with `mean`, the mean grey, which it was to be."""
    rows, cols = pixels.shape[1:]
    level = math.floor(_grey(pixels).float().mean().item() + 0.5) if mean else min(rows * cols // 256, 255)
    return blend(torch.full_like(pixels, level), pixels, factor)


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """From black (0) over the image (1) to brighter."""
    return blend(torch.zeros_like(pixels), pixels, factor)


def sharpness(pixels: Pixels, factor: float) -> Pixels:
    """From the smoothed image (0) over the image (1) to sharper; the outermost pixels stay."""
    smooth = pixels.clone()
    if min(pixels.shape[1:]) > 2:
        kernel = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
        inner = F.conv2d(pixels[:, None].float(), kernel[None, None])[:, 0]
        smooth[:, 1:-1, 1:-1] = inner.clamp_(0, 255).to(torch.uint8)
    return blend(smooth, pixels, factor)


def cutout(pixels: Pixels, half: tuple[int, int], centre: tuple[int, int]) -> Pixels:
    """A box of 2 half (rows, cols) about the pixel `centre`, filled with 128, cut off at the border."""
    top, left = (max(c - h, 0) for c, h in zip(centre, half, strict=True))
    bottom, right = (max(c + h, 0) for c, h in zip(centre, half, strict=True))
    cut = pixels.clone()
    cut[:, top:bottom, left:right] = FILL
    return cut


def blend(low: Pixels, high: Pixels, factor: float) -> Pixels:
    """low + factor * (high - low), kept in 0..255, its fraction dropped."""
    if factor == 1.0:
        return high
    low = low.float()
    return (low + factor * (high.float() - low)).clamp_(0, 255).to(torch.uint8)


def project(pixels: Pixels, x_from: tuple[float, float, float], y_from: tuple[float, float, float]) -> Pixels:
    """Pixel (y, x) becomes the nearest to (a x + b y + c) of `y_from` and `x_from`, and 128 outside the image.

    Halves are rounded away from zero (std::round in TensorFlow's image_ops.h).
    """
    rows, cols = pixels.shape[1:]
    x, y = _grid(rows, cols)
    from_x, from_y = (_round(a * x + b * y + c) for a, b, c in (x_from, y_from))
    inside = (from_x >= 0) & (from_x < cols) & (from_y >= 0) & (from_y < rows)
    at = (from_y * cols + from_x).where(inside, 0).long()
    return pixels.flatten(1)[:, at].where(inside, FILL).unflatten(1, (rows, cols))


@lru_cache(maxsize=8)
def _grid(rows: int, cols: int) -> tuple[Float[Tensor, " HW"], Float[Tensor, " HW"]]:
    """x and y of every pixel, row by row."""
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(cols).float(), indexing="ij")
    return x.flatten(), y.flatten()


def _round(values: Tensor) -> Tensor:
    values = values.double()  # in float32 the sum below would round 0.49999997 up
    return (values + values.sign() * 0.5).trunc()


def _grey(pixels: Tensor) -> Tensor:
    """tf.image.rgb_to_grayscale (1 H W): to 0..1, weighted, and back by 255.5, the fraction dropped."""
    red, green, blue = pixels.float() * (1 / 255)
    grey = red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]
    return (grey * 255.5).to(torch.uint8)[None]


def _equalized(channel: Tensor) -> Tensor:
    counts = torch.bincount(channel.flatten().long(), minlength=256)
    step = (channel.numel() - int(counts[counts > 0][-1])) // 255
    if step == 0:
        return channel
    table = (counts.cumsum(0) - counts + step // 2) // step  # of the values below
    return table.clamp(0, 255).to(torch.uint8)[channel.long()]


def _sign(rng: random.Random) -> int:
    return rng.choice((1, -1))


def _strength(m: float, rng: random.Random, mended: bool) -> float:
    """The factor of the four operations that blend."""
    return max(1 + _sign(rng) * 0.9 * m, 0.1) if mended else 1.8 * m + 0.1


def _threshold(m: float, mended: bool) -> int:
    return max(256 - int(256 * m), 0) if mended else int(256 * m) % 256


def _move(pixels: Tensor, m: float, rng: random.Random, mended: bool, axis: int) -> Tensor:
    pixels_moved = _sign(rng) * 100.0 * m * (pixels.shape[axis] / SIDE if mended else 1)
    return translate(pixels, *((pixels_moved, 0.0) if axis == 2 else (0.0, pixels_moved)))


def _cutout(pixels: Tensor, m: float, rng: random.Random, mended: bool) -> Tensor:
    rows, cols = pixels.shape[1:]
    half = (int(40 * m * rows / SIDE), int(40 * m * cols / SIDE)) if mended else (int(40 * m), int(40 * m))
    return cutout(pixels, half, (rng.randrange(rows), rng.randrange(cols)))


Operation = Callable[[Tensor, float, random.Random, bool], Tensor]  # (pixels, m, rng, mended) -> pixels
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda x, m, rng, mended: autocontrast(x),
    "Equalize": lambda x, m, rng, mended: equalize(x),
    "Invert": lambda x, m, rng, mended: invert(x),
    "Rotate": lambda x, m, rng, mended: rotate(x, _sign(rng) * 30.0 * m),
    "Posterize": lambda x, m, rng, mended: posterize(x, max(8 - int(4 * m), 1) if mended else int(4 * m)),
    "Solarize": lambda x, m, rng, mended: solarize(x, _threshold(m, mended)),
    "SolarizeAdd": lambda x, m, rng, mended: solarize_add(x, int(110 * m)),
    "Color": lambda x, m, rng, mended: color(x, _strength(m, rng, mended)),
    "Contrast": lambda x, m, rng, mended: contrast(x, _strength(m, rng, mended), mean=mended),
    "Brightness": lambda x, m, rng, mended: brightness(x, _strength(m, rng, mended)),
    "Sharpness": lambda x, m, rng, mended: sharpness(x, _strength(m, rng, mended)),
    "ShearX": lambda x, m, rng, mended: shear(x, _sign(rng) * 0.3 * m, 0.0),
    "ShearY": lambda x, m, rng, mended: shear(x, 0.0, _sign(rng) * 0.3 * m),
    "TranslateX": lambda x, m, rng, mended: _move(x, m, rng, mended, axis=2),
    "TranslateY": lambda x, m, rng, mended: _move(x, m, rng, mended, axis=1),
    "Cutout": _cutout,
}
