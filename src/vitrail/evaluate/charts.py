"""The report's charts as SVG.

Written by hand rather than by matplotlib: two kinds of charts need little code, take their colours and fonts from the
page's style (so dark mode and print work without replacing anything), are the same bytes on every machine, and leave
evaluation without an optional package. All they hold of the user's are numbers; every text is escaped all the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vitrail.report import Calibration, percent

WIDTH, HEIGHT = 320.0, 200.0  # user units; close to CSS pixels in the page's columns
LEFT, RIGHT, TOP, BOTTOM = (
    40.0,
    48.0,
    10.0,
    34.0,
)  # room for tick labels, the last value, nothing, ticks and the axis title
POINTS = 100  # of a line; more could not be told apart
FEW = 10  # images of a bin whose accuracy says little


@dataclass(frozen=True)
class Line:
    """One curve: its class in the style sheet, (x, y) in the order of x, and what is written beside its end: the last
    y, unless `value` is False, after a mark of one or two letters, where curves are told apart by one."""

    kind: str
    points: Sequence[tuple[float, float]]
    value: bool = True
    mark: str = ""


@dataclass(frozen=True)
class Axis:
    """Maps values low..high to positions start..end; `ticks` are round values inside."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Position of the value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(values: Sequence[float], start: float, end: float, *, most: int = 5, floor: float | None = None) -> Axis:
    """An axis that holds the values, ends on round ticks, and has at most `most` + 1 of them."""
    low, high = min(values), max(values)
    low = low if floor is None else min(floor, low)
    if high <= low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _round_up((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of equal runs of neighbours, which also calms the noise of single steps."""
    run = math.ceil(len(points) / most) or 1
    groups = [points[i : i + run] for i in range(0, len(points), run)]
    return [(math.fsum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups]


def line_chart(
    lines: Sequence[Line], *, end: float, x_title: str, label: str, shares: bool = False, zero: bool = False
) -> Markup:
    """Curves over x from 0 to `end`. `shares`: y is 0..1, shown in percent; `zero`: the y axis starts at 0."""
    ys = [y for line in lines for _, y in line.points]
    # The x axis ends with the data: empty room on the right would read as training still to come.
    # A run of 5 epochs in whole batches may end at 4.99, which is 5.
    ticks = tuple(t for t in axis([0.0, end], 0.0, 1.0).ticks if t <= 1.02 * end)
    across = Axis(0.0, max(end, ticks[-1]), LEFT, WIDTH - RIGHT, ticks)
    up = axis(ys, HEIGHT - BOTTOM, TOP, most=4, floor=0.0 if zero else None)
    if shares and up.high > 1:
        up = Axis(up.low, 1.0, up.start, up.end, tuple(t for t in up.ticks if t <= 1))
    parts = [_grid(across, up, x_title, shares)]
    heights = _apart([up.at(line.points[-1][1]) for line in lines], TOP, HEIGHT - BOTTOM)
    for line, height in zip(lines, heights, strict=True):
        path = " ".join(f"{across.at(x):.6g},{up.at(y):.6g}" for x, y in line.points)
        x, y = line.points[-1]
        parts += [
            f'<polyline class="curve {line.kind}" points="{path}"/>',
            f'<circle class="dot {line.kind}" cx="{across.at(x):.6g}" cy="{up.at(y):.6g}" r="2.6"/>',
            _text(f"value {line.kind}", WIDTH - RIGHT + 7, height + 4, _end_text(line, y, shares)),
        ]
    return _svg(WIDTH, HEIGHT, label, parts)


def rate_chart(
    losses: Sequence[tuple[float, float]], smoothed: Sequence[tuple[float, float]], *, mark: float | None, label: str
) -> Markup:
    """Two curves of (learning rate, loss) over a logarithmic axis, with a line at the rate `mark`."""
    decades = [math.log10(x) for x, _ in losses]
    low, high = math.floor(min(decades) + 1e-9), math.ceil(max(decades) - 1e-9)
    ticks = tuple(float(t) for t in range(low, max(high, low + 1) + 1))
    across = Axis(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT, ticks)
    up = axis([y for _, y in (*losses, *smoothed)], HEIGHT - BOTTOM, TOP, most=4, floor=0.0)
    bottom = HEIGHT - BOTTOM
    parts = [_line("grid", LEFT, up.at(t), WIDTH - RIGHT, up.at(t)) for t in up.ticks]
    parts += [_text("end", LEFT - 7, up.at(t) + 4, f"{t:.3g}") for t in up.ticks]
    parts += [_text("mid", across.at(t), bottom + 15, f"1e{t:.0f}") for t in across.ticks]
    parts.append(_line("base", LEFT, bottom, WIDTH - RIGHT, bottom))
    parts.append(_text("mid", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "learning rate"))
    if mark is not None:
        place = across.at(min(max(math.log10(mark), low), across.high))
        parts += [_line("ideal", place, TOP, place, bottom), _text("value mid", place, TOP - 2, f"{mark:g}")]
    for kind, points in (("b", losses), ("a", smoothed)):
        path = " ".join(f"{across.at(math.log10(x)):.6g},{up.at(y):.6g}" for x, y in points)
        parts.append(f'<polyline class="curve {kind}" points="{path}"/>')
    return _svg(WIDTH, HEIGHT, label, parts)


def reliability_chart(
    bins: Sequence[Calibration], label: str, axes: tuple[str, str] = ("how sure it is, %", "how often it is right, %")
) -> Markup:
    """Accuracy over confidence: a dot for each bin, its gap to the diagonal as a stem, its number of images below.
    `axes`: what the two are called."""
    side, strip = 250.0, 44.0
    fifths = tuple(i / 5 for i in range(6))
    across, up = Axis(0.0, 1.0, LEFT, LEFT + side, fifths), Axis(0.0, 1.0, TOP + side, TOP, fifths)
    bottom = TOP + side + 16 + strip
    held = [b for b in bins if b.count]
    most = max((b.count for b in held), default=1)
    parts = [_line("grid", LEFT, up.at(t), LEFT + side, up.at(t)) for t in up.ticks]
    parts += [_text("end", LEFT - 7, up.at(t) + 4, f"{100 * t:.0f}") for t in up.ticks]
    parts.append(_line("ideal", across.at(0.0), up.at(0.0), across.at(1.0), up.at(1.0)))
    for b in held:
        sure, right = b.confidence or 0.0, b.accuracy or 0.0
        x, size, few = across.at(sure), 2.5 + 5.5 * math.sqrt(b.count / most), " few" if b.count < FEW else ""
        parts.append(_line(f"gap{few}", x, up.at(right), x, up.at(sure)))
        parts.append(f'<circle class="point{few}" cx="{x:.6g}" cy="{up.at(right):.6g}" r="{size:.1f}"/>')
    for b in held:
        tall, left, width = max(1.0, strip * b.count / most), across.at(b.low) + 1, side * (b.high - b.low) - 2
        parts.append(
            f'<rect class="bar" x="{left:.2f}" y="{bottom - tall:.2f}" width="{width:.2f}" height="{tall:.2f}"/>'
        )
    parts.append(_line("base", LEFT, bottom, LEFT + side, bottom))
    parts.append(_text("end", LEFT - 7, bottom - strip + 8, f"{most:,}"))
    parts += [_text("mid", across.at(t), bottom + 15, f"{100 * t:.0f}") for t in across.ticks]
    parts.append(_text("mid", LEFT + side / 2, bottom + 31, axes[0]))
    upright = f"translate(11 {TOP + side / 2:.6g}) rotate(-90)"
    parts.append(f'<g transform="{upright}">{_text("mid", 0.0, 0.0, axes[1])}</g>')
    return _svg(LEFT + side + 16, bottom + 38, label, parts)


@dataclass(frozen=True)
class Interval:
    """A value between the ends of its interval; `kind` and `mark` as those of a Line."""

    kind: str
    mark: str
    low: float
    value: float
    high: float


def interval_chart(
    rows: Sequence[Interval], *, x_title: str, label: str, reference: float | None = None, unit: float = 100.0
) -> Markup:
    """Intervals one under the other on one axis, in units of 1 / `unit` (percent). `reference` gets a dashed line."""
    ends = [unit * v for row in rows for v in (row.low, row.high)] + ([] if reference is None else [unit * reference])
    bottom, right = TOP + 24.0 * len(rows), WIDTH - 16.0
    across = axis(ends, 30.0, right)
    parts = [_line("grid", across.at(t), TOP, across.at(t), bottom) for t in across.ticks]
    if reference is not None:
        parts.append(_line("ideal", across.at(unit * reference), TOP, across.at(unit * reference), bottom))
    for place, row in enumerate(rows):
        y = TOP + 24.0 * place + 12.0
        low, value, high = (across.at(unit * v) for v in (row.low, row.value, row.high))
        parts += [
            _text(f"value {row.kind}", 4.0, y + 4, row.mark),
            _line(f"span {row.kind}", low, y, high, y),
            f'<circle class="dot {row.kind}" cx="{value:.6g}" cy="{y:.6g}" r="4.2"/>',
        ]
    parts.append(_line("base", 30.0, bottom, right, bottom))
    parts += [_text("mid", across.at(t), bottom + 15, f"{t:.4g}".replace("-", "\u2212")) for t in across.ticks]
    parts.append(_text("mid", (30.0 + right) / 2, bottom + 30, x_title))
    return _svg(WIDTH, bottom + 34, label, parts)


def _grid(across: Axis, up: Axis, x_title: str, shares: bool) -> str:
    left, right, bottom = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for t in up.ticks:
        parts.append(_line("grid", left, up.at(t), right, up.at(t)))
        parts.append(_text("end", left - 7, up.at(t) + 4, f"{100 * t:.3g}" if shares else f"{t:.3g}"))
    parts += [_text("mid", across.at(t), bottom + 15, f"{t:.4g}") for t in across.ticks]
    parts.append(_line("base", left, bottom, right, bottom))
    parts.append(_text("mid", (left + right) / 2, HEIGHT - 4, x_title))
    return "".join(parts)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.6g}" y1="{y1:.6g}" x2="{x2:.6g}" y2="{y2:.6g}"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.6g}" y="{y:.6g}">{escape(text)}</text>'


def _apart(places: Sequence[float], low: float, high: float, least: float = 12.0) -> list[float]:
    """The places moved as little as needed so that labels there do not cover each other, within low..high.

    Labels that meet become a block around their mean place (isotonic regression by pooling neighbours). Where even all
    of low..high is too small they come closer than `least`.
    """
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    least = min(least, (high - low) / max(1, len(places) - 1))
    blocks: list[tuple[float, int]] = []  # mean place with the labels above taken out, labels
    for rank, i in enumerate(order):
        mean, count = places[i] - rank * least, 1
        while blocks and blocks[-1][0] > mean:
            above, more = blocks.pop()
            mean, count = (above * more + mean * count) / (more + count), more + count
        blocks.append((mean, count))
    most = high - (len(places) - 1) * least
    flat = [min(max(mean, low), most) for mean, count in blocks for _ in range(count)]
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = flat[rank] + rank * least
    return moved


def _round_up(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def _end_text(line: Line, y: float, shares: bool) -> str:
    return " ".join(filter(None, (line.mark, _value(y, shares) if line.value else "")))


def _value(y: float, shares: bool) -> str:
    return percent(y).removesuffix(" %") if shares else f"{y:.3g}"


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    return Markup(  # numbers and our own words only, see above
        f'<svg viewBox="0 0 {width:.6g} {height:.6g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
