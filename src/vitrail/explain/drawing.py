"""A figure as a list of shapes, drawn twice from the one list: as SVG, and as pixels for a PNG.

Written by hand rather than by a plotting library: the figures need lines, dots, texts and pictures only, and so both
files are the same bytes on every machine. Units are those of the SVG; the PNG has `SCALE` pixels a unit. (x, y) is
right and down from the upper left corner, as in SVG; pictures are (3 H W).
"""

import io
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from markupsafe import escape
from PIL import Image, ImageDraw, ImageFont

from vitrail.explain.render import data_address
from vitrail.types import Pixels

SCALE = 2  # pixels of the PNG a unit
SMOOTH = 2  # pixels drawn for each of them along a side, so that edges are soft
INK, PALE, PAPER = "#1f2328", "#6b7280", "#ffffff"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
WIDER = 1.15  # what a viewer has in place of the SVG's first font may be wider than the PNG's
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """From one point to another."""

    x1: int | float
    y1: int | float
    x2: int | float
    y2: int | float
    colour: str = INK
    width: int | float = 1.0
    dashes: int | float = 0.0  # length of a dash and of the gap behind it; 0: none


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    x: int | float
    y: int | float
    radius: int | float
    colour: str


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline. `up`: turned a quarter to the left around (x, y)."""

    x: int | float
    y: int | float
    text: str
    size: int | float = 11.0
    anchor: Anchor = "start"
    colour: str = INK
    bold: bool = False
    up: bool = False


@dataclass(frozen=True)
class Picture:
    """Pixels in a rectangle; each stays a square where the picture is enlarged."""

    x: int | float
    y: int | float
    width: int | float
    height: int | float
    pixels: Pixels
    says: str  # for those who cannot see it


Shape: TypeAlias = Line | Dot | Text | Picture


@dataclass(frozen=True)
class Drawing:
    """Shapes on white paper, the first at the back. `says`: the whole in one sentence, for screen readers."""

    width: int | float
    height: int | float
    says: str
    shapes: tuple[Shape, ...]

    def moved(self, right: int | float, down: int | float) -> tuple[Shape, ...]:
        """The shapes, for a larger drawing."""
        return tuple(_moved(shape, right, down) for shape in self.shapes)


def svg(drawing: Drawing) -> str:
    """The drawing as an SVG file that needs no other."""
    body = "\n".join(_element(shape) for shape in drawing.shapes)
    width, height = f"{drawing.width:g}", f"{drawing.height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(drawing.says)}" font-family="{FONT}">\n'
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>\n{body}\n</svg>\n'
    )


def png_bytes(drawing: Drawing) -> bytes:
    """The drawing as a PNG file."""
    times = SCALE * SMOOTH
    canvas = Image.new("RGB", (round(drawing.width * times), round(drawing.height * times)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for shape in drawing.shapes:
        if isinstance(shape, Line):
            _draw_line(pen, shape, times)
        elif isinstance(shape, Dot):
            x, y, r = shape.x * times, shape.y * times, shape.radius * times
            pen.ellipse((x - r, y - r, x + r, y + r), fill=shape.colour)
        elif isinstance(shape, Text):
            _draw_text(canvas, pen, shape, times)
        else:
            _paste(canvas, shape, times)
    small = canvas.resize((canvas.width // SMOOTH, canvas.height // SMOOTH), Image.Resampling.BOX)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def wrapped(text: str, width: int | float, size: int | float = 11.0) -> list[str]:
    """The text in lines of at most `width` units, broken between words."""
    font = _font(size * 4)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) * WIDER <= width * 4:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def paragraph(
    text: str, x: int | float, y: int | float, width: int | float, size: int | float = 11.0, colour: str = PALE
) -> list[Shape]:
    """The text in lines under each other, the first with its baseline at y."""
    return [Text(x, y + 1.4 * size * i, line, size, colour=colour) for i, line in enumerate(wrapped(text, width, size))]


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        dashes = f' stroke-dasharray="{shape.dashes:g}"' if shape.dashes else ""
        return (
            f'<line x1="{shape.x1:.6g}" y1="{shape.y1:.6g}" x2="{shape.x2:.6g}" y2="{shape.y2:.6g}" '
            f'stroke="{shape.colour}" stroke-width="{shape.width:g}"{dashes}/>'
        )
    if isinstance(shape, Dot):
        return f'<circle cx="{shape.x:.6g}" cy="{shape.y:.6g}" r="{shape.radius:g}" fill="{shape.colour}"/>'
    if isinstance(shape, Text):
        turned = f' transform="rotate(-90 {shape.x:.6g} {shape.y:.6g})"' if shape.up else ""
        bold = ' font-weight="600"' if shape.bold else ""
        return (
            f'<text x="{shape.x:.6g}" y="{shape.y:.6g}" font-size="{shape.size:g}" text-anchor="{shape.anchor}" '
            f'fill="{shape.colour}"{bold}{turned}>{escape(shape.text)}</text>'
        )
    way = ' style="image-rendering:pixelated"' if _enlarged(shape) else ""
    return (
        f'<image x="{shape.x:.6g}" y="{shape.y:.6g}" width="{shape.width:.6g}" height="{shape.height:.6g}" '
        f'preserveAspectRatio="none"{way} href="{data_address(shape.pixels)}">'
        f"<title>{escape(shape.says)}</title></image>"
    )


def _draw_line(pen: ImageDraw.ImageDraw, line: Line, times: int) -> None:
    ends = torch.tensor([[line.x1, line.y1], [line.x2, line.y2]], dtype=torch.float64) * times
    length = float((ends[1] - ends[0]).norm())
    dash = line.dashes * times or length
    width = max(1, round(line.width * times))
    start = 0.0
    while start < length:
        points = [ends[0] + (ends[1] - ends[0]) * (at / length) for at in (start, min(start + dash, length))]
        pen.line([(float(p[0]), float(p[1])) for p in points], fill=line.colour, width=width)
        start += 2 * dash


def _draw_text(canvas: Image.Image, pen: ImageDraw.ImageDraw, text: Text, times: int) -> None:
    font, place = _font(text.size * times), (text.x * times, text.y * times)
    words = text.text.replace("\u2212", "-")  # Pillow's font has no minus
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
    thick = 0.03 * text.size * times if text.bold else 0
    if not text.up:
        pen.text(place, words, text.colour, font, anchor=anchor, stroke_width=thick)
        return
    left, top, right, bottom = font.getbbox(words, anchor=anchor, stroke_width=thick)
    side = [int(left) - 1, int(top) - 1, int(right) + 2, int(bottom) + 2]
    ink = Image.new("L", (side[2] - side[0], side[3] - side[1]), 0)
    ImageDraw.Draw(ink).text((-side[0], -side[1]), words, 255, font, anchor=anchor, stroke_width=thick)
    turned = ink.rotate(90, expand=True)  # (dx, dy) becomes (dy, -dx)
    at = (round(place[0] + side[1]), round(place[1] - side[2]))
    canvas.paste(Image.new("RGB", turned.size, text.colour), at, turned)


def _paste(canvas: Image.Image, picture: Picture, times: int) -> None:
    size = (round(picture.width * times), round(picture.height * times))
    image = Image.fromarray(picture.pixels.permute(1, 2, 0).contiguous().numpy())
    way = Image.Resampling.NEAREST if _enlarged(picture) else Image.Resampling.BOX
    canvas.paste(image.resize(size, way), (round(picture.x * times), round(picture.y * times)))


def _enlarged(picture: Picture) -> bool:
    """Whether each of its pixels is to be seen as a square; a larger picture is averaged."""
    return picture.width >= picture.pixels.shape[2]


def _font(size: int | float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # of any Pillow that is built with FreeType, as its wheels are
    return font


def _moved(shape: Shape, right: int | float, down: int | float) -> Shape:
    if isinstance(shape, Line):
        ends = (shape.x1 + right, shape.y1 + down, shape.x2 + right, shape.y2 + down)
        return Line(*ends, shape.colour, shape.width, shape.dashes)
    return replace(shape, x=shape.x + right, y=shape.y + down)
