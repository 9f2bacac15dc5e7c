"""The page's charts as SVG: shapes and numbers only, words stand beside them. Every number has its path."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from vitrail.explain.illustrate.numbers import Numbers

WIDTH, HEIGHT = 720.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 14.0, 30.0


def lens_chart(numbers: Numbers, labels: Sequence[int], depth: int, grey: int, classes: int) -> Markup:
    """Probability over depth in powers of ten, a line for each class, from a tenth of a blind guess; grey behind the
    first `grey` depths."""
    lens = numbers.tensors["lens"]
    low = math.floor(math.log10(0.1 / classes) + 1e-9)
    across, up, floor = (WIDTH - LEFT - RIGHT) / depth, HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM

    def rise(share: float) -> float:
        return floor - up * (1 - max(math.log10(max(share, 1e-300)), low) / low)

    parts = [f'<rect class="early" x="{LEFT:g}" y="{TOP:g}" width="{across * grey:.1f}" height="{up:g}"/>']
    for power in range(low, 1):
        y = rise(10.0**power)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 7:g}" y="{y + 4:.1f}">{100 * 10.0**power:g}\u202f%</text>')
    parts.append(f'<path class="guess" d="M{LEFT:g} {rise(1 / classes):.1f}H{WIDTH - RIGHT:g}"/>')
    every = -(-depth // 12)
    for place in range(0, depth + 1, every):
        shown = numbers.svg(f"blocks.number[{place}]", "i")
        parts.append(f'<text class="mid" x="{LEFT + across * place:.1f}" y="{HEIGHT - 8:g}">{shown}</text>')
    for rank, label in reversed(list(enumerate(labels))):
        points = [(LEFT + across * i, rise(float(p))) for i, p in enumerate(lens[:, label])]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{rank}" points="{line}"/>')
        parts += [f'<circle class="dot c{rank}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points]
    return _svg(WIDTH, HEIGHT, "".join(parts), "chart")


def key_mark(rank: int) -> Markup:
    """The line of a class in the chart's legend."""
    return Markup(
        f'<svg class="key" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">'
        f'<path class="line c{rank}" d="M1 6H27"/><circle class="dot c{rank}" cx="14" cy="6" r="3"/></svg>'
    )


def fall_bar(start: float, end: float, low: float, high: float) -> Markup:
    """One step of the sum, from where the last one ended, on the scale low..high."""
    span = (high - low) or 1.0
    zero, a, b = ((x - low) / span * 300 for x in (0.0, start, end))
    kind = "up" if end >= start else "down"
    left, width = min(a, b), max(abs(b - a), 0.8)
    return _svg(
        300.0,
        14.0,
        f'<path class="zero" d="M{zero:.1f} 0V14"/><path class="from" d="M{a:.1f} 0V14"/>'
        f'<rect class="{kind}" x="{left:.1f}" y="2" width="{width:.1f}" height="10"/>',
        "tread",
        stretch=True,
    )


def share_bar(share: float) -> Markup:
    """A share of one as a bar."""
    return _svg(
        200.0,
        12.0,
        f'<rect class="rest" width="200" height="12"/><rect class="part" width="{200 * share:.1f}" height="12"/>',
        "share",
        stretch=True,
    )


def band_chart(value: float, low: float, high: float) -> Markup:
    """A number from 0 to 1 beside the band of random maps."""
    return _svg(
        200.0,
        18.0,
        f'<path class="grid" d="M0 9H200"/>'
        f'<rect class="band" x="{200 * low:.1f}" y="2" width="{max(200 * (high - low), 1):.1f}" height="14"/>'
        f'<circle class="dot c0" cx="{min(max(200 * value, 4), 196):.1f}" cy="9" r="4"/>',
        "band-chart",
    )


def curve_chart(
    removed: Sequence[float], curve: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Markup:
    """Probability over the share of patches that have gone, with the band of random maps."""
    width, height = 200.0, 64.0

    def place(x: float, y: float) -> str:
        return f"{x * width:.1f},{(1 - y) * (height - 4) + 2:.1f}"

    there = [place(x, y) for x, y in zip(removed, high, strict=True)]
    back = [place(x, y) for x, y in zip(removed, low, strict=True)][::-1]
    line = [place(x, y) for x, y in zip(removed, curve, strict=True)]
    return _svg(
        width,
        height,
        f'<path class="grid" d="M0 2H{width:g}M0 {height - 2:g}H{width:g}"/>'
        f'<polygon class="band" points="{" ".join(there + back)}"/>'
        f'<polyline class="line c0" points="{" ".join(line)}"/>',
        "curve",
    )


def root_bar(colours: Sequence[str], marks: Sequence[tuple[int | float, Markup]], name: str = "bar") -> Markup:
    """A colour bar with marks at shares of its length."""
    width = 240.0
    step = width / len(colours)
    cells = "".join(
        f'<rect x="{i * step:.2f}" width="{step + 0.3:.2f}" height="10" fill="{c}"/>' for i, c in enumerate(colours)
    )
    texts = ""
    for place, words in marks:
        side = "start" if place < 0.04 else "end" if place > 0.96 else "mid"
        texts += f'<path class="mark" d="M{min(max(place * width, 0.5), width - 0.5):.1f} 10v4"/>'
        texts += f'<text class="{side}" x="{place * width:.1f}" y="26">{words}</text>'
    return _svg(width, 30.0, cells + texts, name)


def _svg(width: float, height: float, inside: str, name: str, *, stretch: bool = False) -> Markup:
    ratio = ' preserveAspectRatio="none"' if stretch else ""
    return Markup(f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" aria-hidden="true"{ratio}>{inside}</svg>')
