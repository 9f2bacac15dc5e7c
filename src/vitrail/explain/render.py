"""Maps as pictures: pure pixels, no plotting library. Values become colours on a scale that is given, never on the
map's own range unless that is asked for, so that two pictures with one colour bar can be compared.

A patch has one number and is drawn as one flat rectangle: smoothing would show detail that the map does not have.
Axes: S any axes, H W pixels, rows cols patches.
"""

import base64
import io
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, UInt8
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from vitrail.errors import UnknownName
from vitrail.types import Pixels

Table: TypeAlias = Literal["viridis", "cividis", "grey", "blue_orange"]
Mode: TypeAlias = Literal["heatmap", "reveal"]

# Colours at equal steps, sRGB. viridis: van der Walt & Smith 2015; cividis: Nunez, Anderton & Renslow 2018 (published
# sequential tables, both free to use, ten points of each). grey: the brightness of `reveal`.
# blue_orange: vitrail's own, grey at 0, as dark at one end as
# at the other.
_POINTS: dict[str, str] = {
    "viridis": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "cividis": "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
    "grey": "333333 ffffff",
    "blue_orange": "0f4489 336fb6 739fd2 b4cbe6 eeeeee eec79c d58f4d ab5a12 703700",
}
TABLES: tuple[str, ...] = tuple(_POINTS)
OPACITY = 0.65  # of the colours over a grey image
DIM = 0.2  # brightness that is left of a patch at the low end of the scale; `grey` begins with it


@lru_cache(maxsize=8)
def lut(table: str = "viridis") -> UInt8[Tensor, "256 3"]:
    """The 256 colours of a table, low to high. Raises UnknownName."""
    if table not in _POINTS:
        raise UnknownName("colour table", table, TABLES)
    points = torch.tensor([list(bytes.fromhex(p)) for p in _POINTS[table].split()], dtype=torch.float64)
    place = torch.linspace(0, len(points) - 1, 256, dtype=torch.float64)
    left = place.long().clamp(max=len(points) - 2)
    t = (place - left)[:, None]
    padded = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = (padded[left + i] for i in range(4))  # Catmull-Rom: through every point, no corners
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.round().clamp(0, 255).to(torch.uint8)


def colour(
    values: Float[Tensor, "*S"], low: int | float, high: int | float, table: str = "viridis"
) -> UInt8[Tensor, "*S 3"]:
    """The colour of each value on the scale low..high; values beyond an end have its colour.

    ValueError for NaN or infinite values, and for a scale without extent.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("only finite values have a colour")
    return lut(table)[(_share(values, low, high) * 255).round().long()]


def shared_scale(maps: Iterable[Float[Tensor, "*S"]], signed: bool | None = None) -> tuple[float, float]:
    """(low, high) for all maps together: from 0 to the largest value, or, where `signed` (by default: where a value is
    negative), as far below 0 as above. (0, 1) where all is zero."""
    many = list(maps)
    lowest = min((float(m.min()) for m in many), default=0.0)
    largest = max((float(m.abs().max()) for m in many), default=0.0) or 1.0
    return (-largest, largest) if (lowest < 0 if signed is None else signed) else (0.0, largest)


def own_scale(values: Float[Tensor, "*S"]) -> tuple[float, float]:
    """(low, high) of one map alone: its smallest and largest value. A flat map looks as structured as any other on it;
    for display where that is asked for."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1.0)


def table_for(low: int | float) -> str:
    """The table of a scale: diverging where it goes below zero, sequential else."""
    return "blue_orange" if low < 0 else "viridis"


def overlay(
    image: Pixels,
    values: Float[Tensor, "rows cols"],
    *,
    patch: tuple[int, int],
    low: int | float,
    high: int | float,
    mode: Mode = "heatmap",
    table: str = "viridis",
) -> Pixels:
    """The map over the image (3 H W). `patch`: pixels that a patch covers along (rows, cols).

    heatmap: colours over the image in grey. reveal: the image itself, each patch as bright as its value, dark at `low`
    or, on a scale with negative values, at 0 and below. Pixels beyond the last whole patch, which the model does not
    see, stay grey in the one and dark in the other.
    """
    size = (image.shape[1], image.shape[2])
    whole, seen = _spread(values, patch, size)
    if mode == "reveal":
        share = _share(whole, max(low, 0.0) if low < 0 < high else low, high) * seen
        return (image * (DIM + (1 - DIM) * share)).round().to(torch.uint8)
    if mode != "heatmap":
        raise UnknownName("mode", mode, ("heatmap", "reveal"))
    weights = torch.tensor([0.2126, 0.7152, 0.0722], device=image.device).view(3, 1, 1)
    grey = (image * weights).sum(dim=0)
    over = colour(whole, low, high, table).permute(2, 0, 1) * OPACITY + grey * (1 - OPACITY)
    return torch.where(seen, over, grey).round().to(torch.uint8)


def _share(values: Float[Tensor, "*S"], low: int | float, high: int | float) -> Float[Tensor, "*S"]:
    if not high > low:
        raise ValueError(f"a scale goes from low to high: {low} to {high}")
    return ((values.double() - low) / (high - low)).clamp(0, 1)


def _spread(
    values: Float[Tensor, "rows cols"], patch: tuple[int, int], size: tuple[int, int]
) -> tuple[Float[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Each patch's value at its pixels, and the pixels that have a patch."""
    known = values.repeat_interleave(patch[0], 0).repeat_interleave(patch[1], 1)[: size[0], : size[1]]
    whole = values.min().expand(size).clone()
    seen = torch.zeros(size, dtype=torch.bool)
    whole[: known.shape[0], : known.shape[1]] = known
    seen[: known.shape[0], : known.shape[1]] = True
    return whole, seen


def enlarge(pixels: Pixels, side: int = 224) -> UInt8[Tensor, "3 U V"]:
    """A small image with every pixel as a square, its shorter side at least `side` pixels."""
    times = max(1, math.ceil(side / min(pixels.shape[1:])))
    return pixels.repeat_interleave(times, 1).repeat_interleave(times, 2)


def png(pixels: Pixels) -> bytes:
    """The image as a PNG file: the same bytes for the same pixels, nothing else in it."""
    out = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(out, "PNG", optimize=True)
    return out.getvalue()


def data_address(pixels: Pixels) -> str:
    """The image as a data: address of a page."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def ticks(low: int | float, high: int | float, most: int = 5) -> tuple[float, ...]:
    """Round values from low to high, at most `most` of them; at least one."""
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10, 20) if _count(low, high, s * power) <= most)
    first = math.ceil(low / step - 1e-9)
    return tuple(round(i * step, 12) + 0.0 for i in range(first, first + _count(low, high, step)))


def _count(low: int | float, high: int | float, step: float) -> int:
    return math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1


def tick_text(value: int | float) -> str:
    """A tick as it is written: 0.05, -2, 1.5e-04."""
    if value == 0:
        return "0"
    text = f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2g}"
    return text.replace("-", "\u2212", 1) if value < 0 else text


def colour_bar(low: int | float, high: int | float, table: str, unit: str, width: int = 240) -> Markup:
    """The scale as an SVG of `width` x 37 user units: the colours, round values below them, the unit beside. Texts take
    the page's colour and font; a screen reader reads the ends and the unit."""
    step = width / 64
    cells = "".join(
        f'<rect x="{i * step:.2f}" y="0" width="{step + 0.3:.2f}" height="10" fill="#{bytes(c.tolist()).hex()}"/>'
        for i, c in enumerate(lut(table)[torch.linspace(0, 255, 64).round().long()])
    )
    marks = ""
    for value in ticks(low, high):
        x = (value - low) / (high - low) * width
        side = "start" if x < 16 else "end" if x > width - 16 else "middle"
        marks += f'<path d="M{x:.2f} 10v4" stroke="currentColor"/>'
        marks += f'<text x="{x:.2f}" y="24" text-anchor="{side}">{tick_text(value)}</text>'
    says = f"{tick_text(low)} to {tick_text(high)}, {unit}"
    return Markup(
        f'<svg class="bar" viewBox="0 0 {width} 37" width="{width}" height="37" role="img" aria-label="{escape(says)}" '
        f'font-size="10" fill="currentColor">{cells}{marks}'
        f'<text x="{width / 2:.0f}" y="34.5" text-anchor="middle" font-size="9">{escape(unit)}</text></svg>'
    )
