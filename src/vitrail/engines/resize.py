"""The resize and crop of `data/preprocess.py` as arithmetic that any runtime computes, for images of any size.

torch resizes an axis at a time, first the columns, as a weighted sum of pixels whose weights are whole numbers over a
power of two, and rounds to grey levels after each axis. The same weights are computed here from the sizes inside the
graph, where each axis is a matrix product: of `TILE` outputs at a time with the pixels that they read, so that a large
photo does not pay for the zeros of the whole matrix. Distances between pixels are whole numbers until the last step.

Compared with `fit` on a decoded image, pixels are equal or one level apart, two in rare ones
(tests/unit/engines/test_resize.py, docs/export.md); a side of a model that is not square may be resized to one pixel
more or less where `covering_size` is at half a pixel, about one image size in 15,000.

Axes: N images, T tiles, t outputs of a tile, L pixels that a tile reads.
"""

import math
from typing import TypeAlias

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from vitrail.config import Preprocess
from vitrail.data.preprocess import LONGEST, window
from vitrail.errors import ConfigError
from vitrail.inference import Engine
from vitrail.types import Logits

TILE = 32  # outputs of one product; of 12 megapixels, 8 to 32 took as long and all at once a third more
_BIG = 2**30  # above any side
_PRECISION = 23  # powers of two that torch tries for its 16-bit weights

_Side: TypeAlias = Int[Tensor, " 1"]  # a size that the graph computes with
_Length: TypeAlias = int | torch.SymInt  # and one of a shape, a symbol while it is captured
_Shrunk: TypeAlias = tuple[_Length, _Length]  # at least an old side over the new one


class Resize(nn.Module):
    """From uint8 images of one size, any size (N rows cols 3), to what `fit` makes of them (N 3 H W, uint8).

    Products of a side and the side that it is resized to must stay below 2**31. ConfigError where `check_inside`
    raises it: which pixels are nearest hangs on the last bit of a division.
    """

    powers: Tensor  # that a weight is a whole number over
    steps: Tensor  # 1 / powers

    def __init__(self, config: Preprocess) -> None:
        super().__init__()
        check_inside(config)
        self.register_buffer("powers", 2.0 ** torch.arange(_PRECISION))
        self.register_buffer("steps", 0.5 ** torch.arange(_PRECISION))
        self.config = config
        self.cover = math.floor(config.size[0] / config.crop), math.floor(config.size[1] / config.crop)
        self.area = config.interpolation == "area"
        self.averages = config.antialias or self.area
        self.reach = {"area": 1, "bilinear": 1, "bicubic": 2}[config.interpolation]  # pixels, where nothing shrinks

    def forward(self, images: UInt8[Tensor, "N rows cols 3"]) -> UInt8[Tensor, "N 3 H W"]:
        count, height, width, _ = images.shape
        rows, cols = self.config.size
        high, wide = whole = _side(height), _side(width)
        if self.config.resize == "shortest":
            longest = LONGEST * torch.minimum(high, wide)
            high, wide = _cut(high, longest), _cut(wide, longest)
        new_high, new_wide = self.resized(high, wide)
        shrunk = self._shrunk(height, width)
        rows_read, down = self._axis(high, new_high, rows, shrunk[0])
        cols_read, across = self._axis(wide, new_wide, cols, shrunk[1])
        # Rows that the crop does not show are not resized.
        first = self._first(high, new_high, self._start(new_high, rows))
        seen = first + torch.arange(self._span(rows, shrunk[0]))
        x = images.index_select(1, torch.minimum(seen, high - 1) + (whole[0] - high) // 2).permute(0, 3, 1, 2)
        x = x.index_select(3, (torch.minimum(cols_read, wide - 1) + (whole[1] - wide) // 2).flatten())
        x = x.reshape(count * 3 * seen.shape[0], -1, across.shape[2]).transpose(0, 1)  # T N3band L
        y = self._rounded(torch.bmm(x.float(), across.transpose(1, 2)))  # T N3band t
        y = y.transpose(0, 1).reshape(count * 3, seen.shape[0], -1)[..., :cols]
        y = y.transpose(0, 1).reshape(seen.shape[0], count * 3 * cols)
        y = y.index_select(0, torch.clamp(rows_read - first, max=seen.shape[0] - 1).flatten())
        y = y.reshape(-1, down.shape[2], count * 3 * cols)
        z = torch.bmm(down, y)  # T t N3W
        z = torch.round(z) if self.area else self._rounded(z)
        z = z.clamp(0, 255).reshape(-1, count, 3, cols)[:rows]
        return z.permute(1, 2, 0, 3).to(torch.uint8)

    def resized(self, high: _Side, wide: _Side) -> tuple[_Side, _Side]:
        """`resized` of preprocess.py, in whole numbers."""
        rows, cols = self.cover
        if self.config.resize == "squash":
            return _side(rows), _side(cols)
        if rows == cols:
            return torch.clamp(rows * high // wide, min=rows), torch.clamp(rows * wide // high, min=rows)
        return (
            torch.clamp(_to_even(cols * high, wide), min=rows),
            torch.clamp(_to_even(rows * wide, high), min=cols),
        )

    def _shrunk(self, height: _Length, width: _Length) -> tuple[_Shrunk, _Shrunk]:
        """By how much each side shrinks, at most."""
        if self.config.resize == "squash":
            return (height, self.cover[0]), (width, self.cover[1])
        smaller = height + width - _larger(height, width)
        below = max(1, min(self.cover) - 1)  # less one, as the longer side is rounded
        return (smaller, below), (smaller, below)

    def _span(self, outputs: int, shrunk: _Shrunk) -> _Length:
        """Pixels that cover what so many neighbouring outputs read."""
        old, new = shrunk
        steps = outputs - 1 + (2 * self.reach if self.averages else 0)
        return (steps * old) // new + 2 * self.reach + 4

    def _start(self, new: _Side, kept: int) -> _Side:
        spare = new - kept
        return spare // 2 if self.config.odd_margin == "down" else _to_even(spare, 2)

    def _first(self, old: _Side, new: _Side, out: Int[Tensor, "*T 1"]) -> Int[Tensor, "*T 1"]:
        """The first pixel that an output reads, or one before it."""
        support = old + new if self.area else 2 * self.reach * (torch.maximum(old, new) if self.averages else new)
        return torch.clamp((2 * out + 1) * old - support, min=0) // (2 * new)

    def _axis(
        self, old: _Side, new: _Side, kept: int, shrunk: _Shrunk
    ) -> tuple[Int[Tensor, "T 1 L"], Float[Tensor, "T t L"]]:
        """The pixels that each tile of the kept outputs reads, which may end beyond the image, and their weights."""
        tile = min(TILE, kept)
        tiles = -(-kept // tile)
        out = torch.minimum(self._start(new, kept) + torch.arange(tiles * tile), new - 1).reshape(tiles, tile, 1)
        steps = torch.arange(self._span(tile, shrunk)).reshape(1, 1, -1)
        pixels = self._first(old, new, out[:, :1]) + steps
        weights = self._weights(old, new, out, pixels)
        if not self.area:
            # The largest weight decides how fine all are: mostly one of the outermost output, whether kept or not.
            outermost = self._weights(old, new, torch.zeros_like(out[:1, :1]), steps)
            largest = torch.maximum(weights.max(), outermost.max())
            power = torch.where(largest * self.powers < 2.0**15 - 0.5, self.powers, 1.0).max()
            step = torch.where(self.powers == power, self.steps, 0.0).max()
            whole = torch.floor(weights.abs() * power + 0.5)
            weights = torch.where(weights < 0, -whole, whole) * step
        return pixels, weights

    def _weights(
        self, old: _Side, new: _Side, out: Int[Tensor, "T t 1"], pixels: Int[Tensor, "T 1 L"]
    ) -> Float[Tensor, "T t L"]:
        """What each output takes of each pixel; 0 of those beyond the image."""
        gap = (2 * pixels + 1 - old) * new - (2 * out + 1 - new) * old  # between their centres, in pixels times 2 new
        inside = pixels < old
        if self.area:  # the part of the pixel that the output covers
            covered = torch.minimum(torch.clamp(old + new - gap.abs(), min=0), 2 * torch.minimum(old, new))
            return torch.where(inside, covered.float(), 0.0) * _inverse((2 * old).float())
        unit = _inverse((2 * (torch.maximum(old, new) if self.averages else new)).float())
        if self.reach == 1:
            weights = (1 - gap.float().abs() * unit).clamp(min=0)
        elif self.averages:
            weights = _cubic(gap, unit, -0.5)
        else:  # beyond the edge the outermost pixel goes on
            weights = _cubic(gap, unit, -0.75)
            for step in (2 * new, 4 * new):
                weights = weights + torch.where(pixels == 0, _cubic(gap - step, unit, -0.75), 0.0)
                weights = weights + torch.where(pixels == old - 1, _cubic(gap + step, unit, -0.75), 0.0)
        weights = torch.where(inside, weights, 0.0)
        return weights * _inverse(weights.sum(dim=-1, keepdim=True))

    def _rounded(self, sums: Tensor) -> Tensor:
        return sums if self.area else torch.floor(sums + 0.5).clamp(0, 255)


class Framed:
    """An engine whose graph resizes, for images that `fit` has prepared: each is put into a black frame of the size
    that the graph would resize to, which it then leaves as it is and crops away."""

    def __init__(self, engine: Engine, config: Preprocess) -> None:
        self.engine, self.name = engine, engine.name
        cover = math.floor(config.size[0] / config.crop), math.floor(config.size[1] / config.crop)
        top, left, bottom, right = (int(side) for side in window(cover, config).box)
        self.frame = left, cover[1] - right, top, cover[0] - bottom

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        return self.engine(functional.pad(pixels, self.frame).permute(0, 2, 3, 1))


def check_inside(config: Preprocess) -> None:
    """ConfigError where a graph cannot resize as `config` says."""
    if config.interpolation == "nearest":
        raise ConfigError("a resize by nearest pixels cannot be inside the graph: runtimes round its divisions apart")


def _cubic(gap: Int[Tensor, "T t L"], unit: Float[Tensor, " 1"], a: float) -> Float[Tensor, "T t L"]:
    """Keys' cubic convolution (1981) at gap * unit."""
    x = gap.float().abs() * unit
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _inverse(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 / values, of positive ones, without a division: OpenVINO replaces each by a power, and computes that in
    bfloat16 whatever `resize_first` marks. One step of Newton's after an approximation."""
    near = torch.exp(-torch.log(values))
    return near * (2 - values * near)


def _side(length: _Length) -> _Side:
    return torch.full((1,), length, dtype=torch.int64)


def _cut(side: _Side, longest: _Side) -> _Side:
    """`_middle_size` of preprocess.py: an even number of pixels goes, so that the centre stays."""
    both = side + longest
    return torch.minimum(side, longest + (both - both // 2 * 2))


def _to_even(above: _Side, below: _Side | int) -> _Side:
    """above / below rounded, halves to even."""
    twice = 2 * above + below
    up = twice // (2 * below)
    half_way = (twice - up * 2 * below == 0).to(torch.int64)
    return up - half_way * (up - up // 2 * 2)


def _larger(a: _Length, b: _Length) -> _Length:
    """Of two sizes of shapes, without a comparison, on which a graph cannot wait, or a negative division, which
    runtimes round apart."""
    return a + (b - a) * ((b - a + _BIG) // _BIG)
