"""Figures 6 and 7 of the ViT paper as drawings, from the numbers of figures.py."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vitrail.explain.drawing import (
    PALE,
    Dot,
    Drawing,
    Line,
    Picture,
    Shape,
    Text,
    paragraph,
    png_bytes,
    svg,
)
from vitrail.explain.figures import Distances, Figures, FilterNumbers, Made, Rollouts, Similarity
from vitrail.explain.render import colour, lut, tick_text, ticks
from vitrail.report import write_bytes
from vitrail.types import Pixels

MARGIN, TITLES = 24.0, 46.0  # around a figure; height of a panel's two title lines
HEIGHT = 336.0  # of the panels of figure 7 below their titles
FOOT = 30.0
TALL = 7  # filters in a column, as many columns as it takes
CELL, GAP = 44.0, 4.0  # of a filter
PHOTO, PAIRS = 132.0, 3  # longer side of an image in figure 6; pairs in a row
NARROWEST = 420.0  # width of figure 6 that its words need
NAMED_HEADS = 16  # most heads that get a legend
DARK = 0.04  # brightness that is left where nothing is taken, figure 6


def write_figures(made: Made, folder: Path) -> list[Path]:
    """figure-6 (where there are images) and figure-7 as .svg and .png, and figures.json, in `folder`, which is made.
    Raises StorageError."""
    files = {"figures.json": made.numbers.json().encode()}
    for name, drawing in (("figure-6", figure_6(made)), ("figure-7", figure_7(made.numbers))):
        if drawing is not None:
            files |= {f"{name}.svg": svg(drawing).encode(), f"{name}.png": png_bytes(drawing)}
    paths = []
    for file in sorted(files):
        paths.append(folder / file)
        write_bytes(paths[-1], files[file])
    return paths


def figure_6(made: Made) -> Drawing | None:
    """Images beside what the head takes from them (attention rollout); None where there is none.

    As in the paper the map is interpolated between the patches' centres and multiplied into the image. Unlike there one
    scale holds for all images, so an image that is dark all over is one that the model looks at evenly.
    """
    found = made.numbers.rollouts
    if found is None or not found.images:
        return None
    rows, cols = made.pictures[0].shape[1:]
    height, width = (PHOTO * side / max(rows, cols) for side in (rows, cols))
    pair, columns = 2 * width + 6, min(PAIRS, len(found.images))
    across, down = pair + 22, height + 12
    shapes: list[Shape] = []
    for column in range(columns):
        x = MARGIN + column * across
        for at, title in ((x + width / 2, "Input"), (x + width * 1.5 + 6, "Attention")):
            shapes.append(Text(at, MARGIN + 12, title, 12.5, "middle", bold=True))
    for place, (shown, picture) in enumerate(zip(found.images, made.pictures, strict=True)):
        x, y = MARGIN + place % columns * across, MARGIN + 22 + place // columns * down
        lit = _lit(picture, torch.tensor(shown.rollout), found)
        shapes.append(Picture(x, y, width, height, picture, f"image {place + 1}"))
        shapes.append(
            Picture(x + width + 6, y, width, height, lit, f"image {place + 1}, as bright as it is attended to")
        )
    bottom = MARGIN + 22 + math.ceil(len(found.images) / columns) * down + 6
    whole = max(columns * across - 22, NARROWEST)
    shapes += _brightness(MARGIN + whole - 180, bottom, found)
    words = (
        f"Attention rollout to the image, all heads and blocks. One scale for all images. {_model_words(made.numbers)}"
    )
    beside = whole > 600
    note = paragraph(words, MARGIN, bottom + (9 if beside else 52), whole - 210 if beside else whole, 10)
    return Drawing(
        whole + 2 * MARGIN,
        bottom + (0 if beside else 44) + max(38, 14 * len(note) + 8),
        f"{len(found.images)} images, each beside itself with every patch as bright as the model attends to it",
        (*shapes, *note),
    )


def figure_7(numbers: Figures) -> Drawing:
    """Filters, position similarity and attention distance side by side; a sentence where one does not apply."""
    left_out = numbers.left_out
    panels = [
        _filters(numbers.filters) if numbers.filters else _sentence("Embedding filters", left_out["filters"]),
        _similarity(numbers.similarity)
        if numbers.similarity
        else _sentence("Position embedding similarity", left_out["similarity"]),
        _distances(numbers.distances)
        if numbers.distances
        else _sentence("Mean attention distance", left_out["distances"]),
    ]
    shapes: list[Shape] = []
    x = MARGIN
    for panel in panels:
        shapes += panel.moved(x, MARGIN)
        x += panel.width + 34
    width = x - 34 + MARGIN
    height = MARGIN + max(panel.height for panel in panels) + FOOT
    shapes.append(Text(MARGIN, height - 12, _model_words(numbers), 10, colour=PALE))
    return Drawing(width, height, ". ".join(panel.says for panel in panels), tuple(shapes))


def _filters(found: FilterNumbers) -> Drawing:
    components = torch.tensor(found.components, dtype=torch.float64)  # N C h w
    columns = math.ceil(len(components) / TALL)
    rows = min(TALL, len(components))
    longer = max(components.shape[2:])
    high, wide = (CELL * side / longer for side in components.shape[2:])
    shapes: list[Shape] = []
    for place, component in enumerate(components):
        at, y = divmod(place, columns)[::-1]
        shade = (0.5 + 0.5 * component / component.abs().max()).expand(3, -1, -1)
        pixels = (shade * 255).round().to(torch.uint8)
        says = f"component {place + 1}, {100 * found.shares[place]:.2g} % of the variance"
        shapes.append(Picture(at * (wide + GAP), TITLES + y * (high + GAP), wide, high, pixels, says))
    held = f"{100 * sum(found.shares):.1f} % of the variance"
    kind = "RGB embedding filters" if components.shape[1] == 3 else "Embedding filters"
    titles = _titles(kind, f"first {len(components)} of {found.directions} principal components", held)
    width = max(columns * (wide + GAP) - GAP, 172.0)
    return Drawing(width, TITLES + rows * (high + GAP) - GAP, f"{kind}: {held}", (*titles, *shapes))


def _similarity(found: Similarity) -> Drawing:
    tiles = torch.tensor(found.tiles, dtype=torch.float64)  # R C rows cols
    down, across = tiles.shape[:2]
    rows, cols = found.grid
    space = max(1, round(min(rows, cols) / 8))
    pixels = torch.full((3, down * (rows + space) - space, across * (cols + space) - space), 255, dtype=torch.uint8)
    colours = colour(tiles, -1.0, 1.0)  # R C rows cols 3
    for i in range(down):
        for j in range(across):
            y, x = i * (rows + space), j * (cols + space)
            pixels[:, y : y + rows, x : x + cols] = colours[i, j].permute(2, 0, 1)
    unit = HEIGHT / max(pixels.shape[1:])
    unit = math.floor(unit * 2) / 2 or unit  # whole pixels of the PNG, so that all are equally large
    height, width = (side * unit for side in pixels.shape[1:])
    left, top = 34.0, TITLES
    shapes: list[Shape] = [Picture(left, top, width, height, pixels, "tiles of cosine similarity, row by row")]
    for count, size, upright in ((down, rows, True), (across, cols, False)):
        every = math.ceil(count / 7)
        for i in range(0, count, every):
            at = (i * (size + space) + size / 2) * unit
            number = str(i * found.step + 1)
            shapes.append(
                Text(left - 6, top + at + 3.5, number, 10, "end")
                if upright
                else Text(left + at, top + height + 14, number, 10, "middle")
            )
    shapes.append(Text(9, top + height / 2, "Input patch row", 11, "middle", up=True))
    shapes.append(Text(left + width / 2, top + height + 31, "Input patch column", 11, "middle"))
    shapes += _bar(left + width + 14, top, height)
    which = "each tile: one patch to all patches" + (f", of one in {found.step} each way" if found.step > 1 else "")
    titles = _titles("Position embedding similarity", which)
    says = f"Cosine similarity of the position embeddings of {rows} x {cols} patches"
    return Drawing(left + width + 62, top + height + 34, says, (*titles, *shapes))


def _bar(x: float, y: float, height: float) -> list[Shape]:
    """The scale of the similarity, -1 to 1 upwards."""
    column = lut().flip(0)  # 256 3
    shapes: list[Shape] = [Picture(x, y, 12, height, column.T[:, :, None].contiguous(), "colours from -1 to 1")]
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        at = y + (1 - value) / 2 * height
        shapes += [
            Line(x + 12, at, x + 15, at),
            Text(x + 18, min(max(at + 3.5, y + 7), y + height), tick_text(value), 9),
        ]
    shapes.append(Text(x + 46, y + height / 2, "Cosine similarity", 11, "middle", up=True))
    return shapes


def _distances(found: Distances) -> Drawing:
    depth, heads = len(found.mean), len(found.mean[0])
    left, top, width, height = 44.0, TITLES, 290.0, HEIGHT
    peak = max(max(max(row) for row in found.mean), found.even)
    high = peak * 1.05 or 1.0  # a model of one patch looks nowhere else
    marks = ticks(0.0, high, 8)
    shapes: list[Shape] = []
    for value in marks:
        y = top + height * (1 - value / high)
        shapes += [Line(left, y, left + width, y, "#e5e7eb"), Text(left - 6, y + 3.5, tick_text(value), 10, "end")]
    step = width / depth
    for block in range(0, depth, math.ceil(depth / 12)):
        shapes.append(Text(left + (block + 0.5) * step, top + height + 14, str(block + 1), 10, "middle"))
    even = top + height * (1 - found.even / high)
    shapes.append(Line(left, even, left + width, even, PALE, 1.0, 4.0))
    shapes += [Line(left, top, left, top + height), Line(left, top + height, left + width, top + height)]
    colours = _head_colours(heads)
    for block, row in enumerate(found.mean):
        shapes += [
            Dot(left + (block + 0.5) * step, top + height * (1 - value / high), 3.2, colours[head])
            for head, value in enumerate(row)
        ]
    shapes.append(Text(9, top + height / 2, "Mean attention distance (pixels)", 11, "middle", up=True))
    shapes.append(Text(left + width / 2, top + height + 31, "Network depth (block)", 11, "middle"))
    shapes += _legend(left + width + 10, top + 8, colours if heads <= NAMED_HEADS else [])
    images = "1 image" if found.images == 1 else f"{found.images} images"
    titles = _titles("Mean attention distance", f"mean over {images}; a dot is a head")
    first, last = (sum(row) / heads for row in (found.mean[0], found.mean[-1]))
    says = f"Mean attention distance by block: {first:.0f} pixels in the first, {last:.0f} in the last"
    return Drawing(left + width + 98, top + height + 34, says, (*titles, *shapes))


def _legend(x: float, y: float, colours: Sequence[str]) -> list[Shape]:
    """Which dot is which head, and what the dashed line is."""
    shapes: list[Shape] = []
    for head, colour_of_head in enumerate(colours):
        at = y + 16 * head
        shapes += [Dot(x + 5, at - 3.5, 3.2, colour_of_head), Text(x + 17, at, f"Head {head + 1}", 10)]
    at = y + 16 * len(colours)
    return [*shapes, Line(x, at - 3.5, x + 12, at - 3.5, PALE, 1.0, 4.0), Text(x + 17, at, "Even attention", 10)]


def _head_colours(heads: int) -> list[str]:
    places = torch.linspace(0, 235, heads).round().long() if heads > 1 else torch.tensor([96])
    return [f"#{bytes(c.tolist()).hex()}" for c in lut()[places]]


def _sentence(title: str, reason: str) -> Drawing:
    """A panel that holds a sentence in place of a picture."""
    lines = paragraph(f"Not drawn: {reason}.", 0, TITLES + 14, 190, 11)
    return Drawing(190, HEIGHT + TITLES, f"{title} is not drawn: {reason}", (*_titles(title), *lines))


def _titles(title: str, *more: str) -> list[Shape]:
    below: Sequence[Shape] = [Text(0, 26 + 13 * i, text, 10, colour=PALE) for i, text in enumerate(more)]
    return [Text(0, 11, title, 13, bold=True), *below]


def _lit(picture: Pixels, values: Float[Tensor, "rows cols"], found: Rollouts) -> Pixels:
    """The image, each pixel as bright as its patch is attended to."""
    share = ((values - found.low) / (found.top - found.low)).clamp(0, 1)[None, None]
    size = (picture.shape[1], picture.shape[2])
    whole = functional.interpolate(share, size, mode="bilinear")[0]
    return (picture * (DARK + (1 - DARK) * whole)).round().to(torch.uint8)


def _brightness(x: float, y: float, found: Rollouts) -> list[Shape]:
    """The scale of figure 6: how bright is how much attention."""
    width = 180.0
    ramp = (255 * (DARK + (1 - DARK) * torch.linspace(0, 1, 180))).round().to(torch.uint8)
    shapes: list[Shape] = [Picture(x, y, width, 10, ramp.expand(3, 1, -1).contiguous(), "from dark to bright")]
    low, high = found.low / found.even, found.top / found.even
    for value in ticks(low, high):
        at = x + (value - low) / (high - low) * width
        shapes += [Line(at, y + 10, at, y + 13), Text(at, y + 23, tick_text(value), 9, "middle")]
    shapes.append(Text(x + width, y + 35, "times the share of even attention", 9, "end", PALE))
    return shapes


def _model_words(numbers: Figures) -> str:
    """Which model, in words."""
    c = numbers.model.config
    sizes = [c["patch_size"], c["image_size"]]
    patch, image = (f"{s[0]} x {s[1]}" for s in sizes if isinstance(s, list))
    unit = "cells of the stem's features" if c.get("stem") else "px"
    of = f"width {c['width']}, patches of {patch} {unit}, images of {image} px."
    heads = "1 head" if c["heads"] == 1 else f"{c['heads']} heads"
    return f"ViT: {c['depth']} blocks of {heads}, {of}"
