"""A Comparison as one HTML page: no scripts, no other files, every name escaped."""

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitrail.evaluate.charts import Interval, Line, interval_chart, line_chart, thin
from vitrail.evaluate.comparison_report import (
    NOISE,
    NOT_RECORDED,
    WHY_UNPAIRED,
    Comparison,
    Difference,
    RunFacts,
    epochs,
    p_value,
    signed,
)
from vitrail.evaluate.runs import Run, points
from vitrail.report import duration, percent

HUES, STROKES = 6, 3  # colours and dash patterns of the style sheet; together eighteen runs look different
QUANTITIES = (  # key of metrics.jsonl, title, whether it is a share, whether its axis begins at 0
    ("val_top1", "Held-out top-1, %", True, False),
    ("val_map", "Held-out mean average precision, %", True, False),
    ("val_nll", "Held-out loss, nats", False, True),
    ("loss", "Training loss, nats", False, True),
    ("lr", "Learning rate", False, True),
)
CHANGE_THE_LOSS = ("augment.", "distill.", "data.sampler", "optim.loss", "optim.label_smoothing", "optim.class_weights")


def render_comparison(comparison: Comparison, runs: Sequence[Run]) -> str:
    """The comparison as one self-contained HTML page; `runs` are those it was made of, for their curves.

    Charts over epochs, steps and time are all in it; radio buttons choose by style alone.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=_percent, tight=_tight, signed=signed, p_value=p_value, epochs=epochs, time=_time
    )
    here = files("vitrail.evaluate")
    style = [here.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "comparison.css")]
    template = environment.from_string(here.joinpath("comparison.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=comparison.runs[0].name if len(comparison.runs) == 1 else f"{len(comparison.runs)} runs",
        style=Markup("\n".join(style)),
        comparison=comparison,
        kinds={run.mark: kind(i) for i, run in enumerate(comparison.runs)},
        noise=NOISE,
        missing=NOT_RECORDED,
        why_unpaired=WHY_UNPAIRED,
        scores=_scores_chart(comparison),
        differences=_differences_chart(comparison),
        axes=[a for a in (_axis(name, comparison.runs, runs) for name in ("epoch", "step", "time")) if a["charts"]],
        other_losses=[s.field for s in comparison.settings if s.field.startswith(CHANGE_THE_LOSS)],
    )


def kind(place: int) -> str:
    """Classes in the style sheet of the run at that place: a colour, then also a dash pattern."""
    return f"h{place % HUES} d{place // HUES % STROKES}"


def _axis(name: str, facts: Sequence[RunFacts], runs: Sequence[Run]) -> dict[str, Any]:
    """The charts of every quantity over epochs, steps or time."""
    longest = max((run.seconds or 0.0 for run in runs), default=0.0)
    key, unit, title = name, 1.0, name
    if name == "time":
        key, title, unit = next(
            ("seconds", f"{what} of training", size)
            for what, size, above in (("hours", 3600.0, 3 * 3600), ("minutes", 60.0, 180), ("seconds", 1.0, -1))
            if longest > above
        )
    charts = []
    for quantity, caption, shares, zero in QUANTITIES:
        curves = []
        for place, (run, fact) in enumerate(zip(runs, facts, strict=True)):
            curve = [(x / unit, y) for x, y in thin(points(run.history, key, quantity))]
            if len(curve) > 1:
                curves.append((place, fact.mark, curve))
        if curves and (end := max(curve[-1][0] for _, _, curve in curves)) > 0:
            charts.append(_chart(curves, quantity, caption, shares, zero, end, title))
    return {"id": name, "title": {"epoch": "epochs", "step": "steps", "time": "time"}[name], "charts": charts}


def _chart(
    curves: Sequence[tuple[int, str, list[tuple[float, float]]]],
    quantity: str,
    caption: str,
    shares: bool,
    zero: bool,
    end: float,
    x_title: str,
) -> dict[str, Any]:
    power = 0
    if quantity == "lr":  # in units of its power of ten: ticks such as 0.00025 are hard to read
        highest = max(y for _, _, curve in curves for _, y in curve)
        power = min(0, math.floor(math.log10(1.01 * highest))) if highest > 0 else 0
    lines = [
        Line(kind(place), [(x, y / 10.0**power) for x, y in curve], value=quantity != "lr", mark=letter)
        for place, letter, curve in curves
    ]
    ends = "; ".join(
        f"{letter} from {percent(c[0][1]) if shares else f'{c[0][1]:.3g}'} "
        f"to {percent(c[-1][1]) if shares else f'{c[-1][1]:.3g}'}"
        for _, letter, c in curves
    )
    svg = line_chart(lines, end=end, x_title=x_title, label=f"{caption}: {ends}", shares=shares, zero=zero)
    return {"title": caption, "power": power, "svg": svg}


def _scores_chart(comparison: Comparison) -> Markup | None:
    kinds = {run.mark: kind(i) for i, run in enumerate(comparison.runs)}
    rows = [
        Interval(kinds[run.mark], run.mark, run.scores.top1_interval[0], run.scores.top1, run.scores.top1_interval[1])
        for run in comparison.runs
        if run.scores
    ]
    measure = comparison.measure
    label = f"{measure.capitalize()} with 95 % intervals: " + "; ".join(f"{r.mark} {percent(r.value)}" for r in rows)
    return interval_chart(rows, x_title=f"{measure}, %", label=label) if len(rows) > 1 else None


def _differences_chart(comparison: Comparison) -> Markup | None:
    kinds = {run.mark: kind(i) for i, run in enumerate(comparison.runs)}
    rows = [Interval(kinds[d.run], d.run, d.interval[0], d.difference, d.interval[1]) for d in comparison.differences]
    if not rows:
        return None
    than = comparison.differences[0].than
    label = f"Difference from {than} with 95 % intervals: " + "; ".join(_words(d) for d in comparison.differences)
    title = (
        f"points more {comparison.measure} than {than}"
        if comparison.multilabel
        else f"points of top-1 more than {than}"
    )
    return interval_chart(rows, x_title=title, label=label, reference=0.0)


def _words(d: Difference) -> str:
    return f"{d.run} {signed(d.difference)} points"


def _percent(share: float | None) -> str:
    return _tight(percent(share))


def _tight(text: str) -> str:
    """With the narrow space that print sets before a unit, at which no line breaks."""
    return text.replace(" %", "\u202f%")


def _time(seconds: float | None) -> str:
    return NOT_RECORDED if seconds is None else duration(seconds)
