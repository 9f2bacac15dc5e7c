"""Charts: round ticks, points where they belong, labels that do not cover each other."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from vitrail.evaluate.charts import Interval, Line, axis, interval_chart, line_chart, reliability_chart, thin
from vitrail.report import Calibration


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 10.0], (0, 2, 4, 6, 8, 10)),
        ([0.0, 2.3], (0, 0.5, 1.0, 1.5, 2.0, 2.5)),
        ([0.82, 0.95], (0.8, 0.85, 0.9, 0.95)),
        ([0.0, 0.001], (0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001)),
        ([3.0, 3.0], (1, 2, 3, 4, 5)),
        ([0.0, 0.0], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_an_axis_ends_on_round_ticks_around_its_values(values: list[float], ticks: tuple[float, ...]) -> None:
    found = axis(values, 0.0, 100.0)
    assert found.ticks == pytest.approx(ticks)
    assert found.low <= min(values) <= max(values) <= found.high
    assert (found.at(found.low), found.at(found.high)) == (0, 100)


def test_a_long_curve_is_thinned_to_means_of_its_neighbours() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    few = thin(points, 100)
    assert len(few) == 100
    assert few[0] == (4.5, 0.5)
    assert thin(points[:100], 100) == points[:100]
    assert thin([]) == []


def texts(svg: str) -> list[tuple[str, float, str]]:
    """(class, y, content) of the texts."""
    found = ElementTree.fromstring(svg).iter("text")
    return [(t.get("class", ""), float(t.get("y", "nan")), t.text or "") for t in found]


def test_a_line_chart() -> None:
    falling = Line("a", [(0.0, 2.0), (5.0, 1.0), (10.0, 0.0)])
    svg = line_chart([falling], end=10.0, x_title="epoch", label='loss "falls" & rests', zero=True)
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'loss "falls" & rests'
    curve = root.find("polyline")
    assert curve is not None
    points = [tuple(map(float, p.split(","))) for p in (curve.get("points") or "").split()]
    assert points[1] == pytest.approx(((points[0][0] + points[2][0]) / 2, (points[0][1] + points[2][1]) / 2))
    assert points[0][1] < points[2][1]  # down on the page is lower
    assert "epoch" in [t for _, _, t in texts(svg)]


def test_the_last_values_of_two_curves_stay_legible_where_they_meet() -> None:
    lines = [Line("a", [(0.0, 2.0), (1.0, 0.50)]), Line("b", [(0.0, 1.0), (1.0, 0.51)])]
    values = {t: y for kind, y, t in texts(line_chart(lines, end=1.0, x_title="step", label="")) if "value" in kind}
    assert set(values) == {"0.5", "0.51"}
    assert values["0.5"] - values["0.51"] >= 12


def test_shares_are_shown_in_percent_and_never_above_a_hundred() -> None:
    svg = line_chart([Line("a", [(0.0, 0.81), (1.0, 0.99)])], end=1.0, x_title="epoch", label="", shares=True)
    ticks = [float(t) for kind, _, t in texts(svg) if kind == "end"]
    assert max(ticks) == 100
    assert [t for kind, _, t in texts(svg) if "value" in kind] == ["99.0"]


def test_the_horizontal_axis_ends_with_the_data() -> None:
    svg = line_chart([Line("a", [(0.0, 1.0), (7.3, 2.0)])], end=7.3, x_title="epoch", label="")
    assert [t for kind, _, t in texts(svg) if kind == "mid"] == ["0", "2", "4", "6", "epoch"]
    across = [float(p.split(",")[0]) for p in re.findall(r'points="([^"]*)"', svg)[0].split()]
    assert across == [40, 272]


def test_a_run_that_ends_a_step_short_of_five_epochs_ends_at_five() -> None:
    svg = line_chart([Line("a", [(0.0, 1.0), (4.99, 2.0)])], end=4.99, x_title="epoch", label="")
    assert [t for kind, _, t in texts(svg) if kind == "mid"] == ["0", "1", "2", "3", "4", "5", "epoch"]


def test_a_reliability_diagram() -> None:
    bins = [
        Calibration(low=0.0, high=0.5, count=0, confidence=None, accuracy=None),
        Calibration(low=0.5, high=0.75, count=4, confidence=0.6, accuracy=0.25),
        Calibration(low=0.75, high=1.0, count=90, confidence=0.9, accuracy=0.9),
    ]
    root = ElementTree.fromstring(reliability_chart(bins, "reliability"))
    few, many = root.findall("circle")
    assert (few.get("class"), many.get("class")) == ("point few", "point")
    assert float(few.get("r") or 0) < float(many.get("r") or 0)
    gaps = [g for g in root.findall("line") if "gap" in (g.get("class") or "")]
    lengths = [abs(float(g.get("y1") or 0) - float(g.get("y2") or 0)) for g in gaps]
    assert lengths == pytest.approx([0.35 * 250, 0])
    assert len(root.findall("rect")) == 2  # the empty bin has no bar


def test_many_labels_stay_in_order_apart_and_inside() -> None:
    lines = [Line(f"h{i}", [(0.0, 0.5), (1.0, 0.99 - i / 1000)], mark=chr(65 + i)) for i in range(9)]
    svg = line_chart(lines, end=1.0, x_title="step", label="", shares=True)
    places = [(t.split()[0], y - 4) for kind, y, t in texts(svg) if "value" in kind]
    assert [name for name, _ in sorted(places, key=lambda p: p[1])] == list("ABCDEFGHI")
    heights = sorted(y for _, y in places)
    assert all(b - a >= 12 - 1e-3 for a, b in pairwise(heights))
    assert heights[0] >= 10 - 1e-3 and heights[-1] <= 166 + 1e-3


def test_intervals_on_one_axis_with_a_reference() -> None:
    rows = [Interval("h0", "B", -0.01, 0.02, 0.05), Interval("h1", "C", 0.01, 0.03, 0.04)]
    root = ElementTree.fromstring(interval_chart(rows, x_title="points", label="differences", reference=0.0))
    spans = [s for s in root.findall("line") if "span" in (s.get("class") or "")]
    dots = root.findall("circle")
    (zero,) = [s for s in root.findall("line") if s.get("class") == "ideal"]
    x = float(zero.get("x1") or "nan")
    assert float(spans[0].get("x1") or "nan") < x < float(spans[1].get("x1") or "nan")
    share = (float(dots[0].get("cx") or 0) - x) / (float(dots[1].get("cx") or 0) - x)
    assert share == pytest.approx(2 / 3, rel=1e-4)
    assert [t.text for t in root.findall("text") if "value" in (t.get("class") or "")] == ["B", "C"]
