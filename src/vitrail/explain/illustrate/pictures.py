"""The page's pictures as they are before anything is chosen. The script draws the same ones from the same numbers.

Colours are those of explain/render.py. Three scales, each fixed for the whole page and none taken from a single map:
attention and evidence by how many times an even share they are (the colour goes with the root, so that 0, 1, 4 and 9
times are equal steps), signed numbers by a limit on both sides of zero.
"""

import base64
import io
import math

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.explain.illustrate.coded import ATTENTION_UNIT, SIMILARITY_UNIT, as_carried
from vitrail.explain.render import colour, data_address, overlay
from vitrail.types import Pixels

STEPS = 4  # roots of the marks of the scale of attention
EVIDENCE_STEPS = 3  # and of that of evidence
LONGEST = 900  # pixels of the photo's longer side
OPACITY = 0.8  # of the colours over the image in grey
COLUMNS = 64  # numbers a line of a vector's picture
MOST_TILES = 600  # patches up to which the tiles of all similarities are drawn


def top_share(tokens: int) -> int:
    """The root of the largest multiple of an even share that the attention scale tells apart; a whole row is the most
    that there is."""
    return max(1, min(STEPS, math.isqrt(tokens)))


def photo(pixels: Pixels) -> str:
    """The decoded photo as a JPEG no larger than a page shows it, or as a PNG where it is small."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if max(picture.size) <= 64:
        return data_address(pixels)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return _file(picture, "JPEG", quality=82)


def attention_map(row: Float[Tensor, " T"], config: ViTConfig) -> str:
    """One query's row of attention, a pixel a token: the patches in their places, the prefix tokens left of them."""
    return _with_prefix(colour(_level(row, config), 0.0, 1.0), config)


def _level(row: Float[Tensor, " T"], config: ViTConfig) -> Float[Tensor, " T"]:
    """Attention on the scale of even shares, from 0 to 1."""
    share = as_carried(row, ATTENTION_UNIT) * config.tokens
    return (share.sqrt() / top_share(config.tokens)).clamp(max=1)


def _with_prefix(colours: UInt8[Tensor, "T 3"], config: ViTConfig) -> str:
    (rows, cols), prefix = config.grid, config.prefix
    beside = prefix_columns(config)
    canvas = torch.zeros(rows, cols + beside, 4, dtype=torch.uint8)
    canvas[:, beside:, :3], canvas[:, beside:, 3] = colours[prefix:].unflatten(0, (rows, cols)), 255
    for token in range(prefix):
        canvas[token % rows, token // rows, :3], canvas[token % rows, token // rows, 3] = colours[token], 255
    return _file(Image.fromarray(canvas.numpy(), "RGBA"), "PNG", optimize=True)


def prefix_columns(config: ViTConfig) -> int:
    """Columns left of a map: the prefix tokens, one under the other, and a gap."""
    return -(-config.prefix // config.grid[0]) + 1 if config.prefix else 0


def revealed(pixels: UInt8[Tensor, "3 H W"], row: Float[Tensor, " T"], config: ViTConfig) -> str:
    """The image, each patch as bright as the attention it gets."""
    values = _level(row, config)[config.prefix :].unflatten(0, config.grid)
    return _picture(overlay(pixels, values, patch=config.patch_pixels, low=0.0, high=1.0, mode="reveal"))


def evidence(pixels: UInt8[Tensor, "3 H W"], shares: Float[Tensor, "rows cols"], config: ViTConfig) -> str:
    """A map of evidence over the image in grey, by how many times an even share each patch has."""
    level = (shares.abs().sqrt() / EVIDENCE_STEPS).clamp(max=1) * shares.sign()
    low, table = (-1.0, "blue_orange") if signed(shares) else (0.0, "viridis")
    colours = colour(level, low, 1.0, table).permute(2, 0, 1)
    (height, width), weights = config.patch_pixels, torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)
    blended = (pixels * weights).sum(dim=0).expand(3, -1, -1).clone()
    over = colours.repeat_interleave(height, 1).repeat_interleave(width, 2)
    part = blended[:, : over.shape[1], : over.shape[2]]
    blended[:, : over.shape[1], : over.shape[2]] = OPACITY * over + (1 - OPACITY) * part
    return _picture(blended.round().to(torch.uint8))


def signed(values: Tensor) -> bool:
    """Whether a map tells for from against."""
    return bool((values < 0).any())


def diverging(values: Float[Tensor, "rows cols"], limit: float) -> str:
    """Signed numbers, a pixel each, on a scale from -limit to limit."""
    return data_address(colour(values.double(), -limit, limit, "blue_orange").permute(2, 0, 1))


def vector(values: Float[Tensor, " N"], limit: float) -> str:
    """A vector in lines of COLUMNS numbers; transparent behind its end."""
    columns = min(COLUMNS, len(values))
    lines = -(-len(values) // columns)
    canvas = torch.zeros(lines * columns, 4, dtype=torch.uint8)
    canvas[: len(values), :3] = colour(values.double(), -limit, limit, "blue_orange")
    canvas[: len(values), 3] = 255
    return _file(Image.fromarray(canvas.unflatten(0, (lines, columns)).numpy(), "RGBA"), "PNG", optimize=True)


def filter_tile(weights: Float[Tensor, "C rows cols"], limit: float) -> str:
    """A filter over three colours as a picture; grey is zero."""
    return data_address(((weights / limit).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8))


def folded(values: Tensor) -> Float[Tensor, "rows cols"]:
    """All numbers in reading order in a square, zeros behind their end."""
    flat = values.flatten()
    side = math.isqrt(max(len(flat) - 1, 0)) + 1
    return torch.cat([flat, flat.new_zeros(side * -(-len(flat) // side) - len(flat))]).unflatten(0, (-1, side))


def patch_of(pixels: UInt8[Tensor, "3 H W"], place: int, config: ViTConfig) -> UInt8[Tensor, "3 U V"]:
    """The pixels that a patch stands for."""
    (height, width), (row, col) = config.patch_pixels, divmod(place, config.grid[1])
    return pixels[:, row * height : (row + 1) * height, col * width : (col + 1) * width]


def planes(pixels: Pixels) -> list[str]:
    """Red, green and blue alone."""
    return [data_address(pixels * torch.eye(3, dtype=torch.uint8)[c].view(3, 1, 1)) for c in range(3)]


def tiles(similarity: Float[Tensor, "P P"], grid: tuple[int, int]) -> str | None:
    """One map of similarities a patch, each at its patch's place; None where they are too many for a picture."""
    rows, cols = grid
    if rows * cols > MOST_TILES:
        return None
    canvas = torch.zeros(rows * (rows + 1) - 1, cols * (cols + 1) - 1, 4, dtype=torch.uint8)
    colours = colour(as_carried(similarity, SIMILARITY_UNIT), -1.0, 1.0, "blue_orange").unflatten(1, grid)
    for place in range(rows * cols):
        top, left = place // cols * (rows + 1), place % cols * (cols + 1)
        canvas[top : top + rows, left : left + cols, :3] = colours[place]
        canvas[top : top + rows, left : left + cols, 3] = 255
    return _file(Image.fromarray(canvas.numpy(), "RGBA").quantize(256), "PNG", optimize=True)


def _picture(pixels: Pixels) -> str:
    """As a PNG where it is small, else as a JPEG: what is shown over a photo need not be exact."""
    if max(pixels.shape) <= 64:
        return data_address(pixels)
    return _file(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), "JPEG", quality=88)


def _file(picture: Image.Image, kind: str, *, quality: int = 0, optimize: bool = True) -> str:
    out = io.BytesIO()
    if kind == "JPEG":
        picture.save(out, kind, quality=quality, optimize=optimize, subsampling=0)
    else:
        picture.save(out, kind, optimize=optimize)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
