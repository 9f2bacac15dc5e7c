"""A Report as one HTML page: no scripts, no other files, every name escaped, the same bytes for the same report."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vitrail.data.decode import decode
from vitrail.data.sources import Dataset, Source
from vitrail.errors import DataError
from vitrail.evaluate.charts import Line, line_chart, reliability_chart, thin
from vitrail.evaluate.multilabel_report import LabelMistake, MultilabelReport
from vitrail.evaluate.runs import by_step, number, points
from vitrail.report import Mistake, Report, percent, printable, sentence

PICTURES = 12  # mistakes shown as pictures
SIDE = 240  # pixels of a thumbnail's longer side, twice its size on the page
MATRIX = 20  # classes up to which the confusion matrix is shown whole
WEIGHTS = {None: "", True: "averaged over the last steps (EMA)", False: "those of the last step"}  # what was measured
M = TypeVar("M", Mistake, LabelMistake)
SCORES: dict[type, str] = {Report: "val_top1", MultilabelReport: "val_map"}  # in the rows of metrics.jsonl
ROWS = 20  # of a table before the rest is folded away


def render(
    report: Report | MultilabelReport,
    *,
    history: Sequence[Mapping[str, Any]] = (),
    mistakes: Sequence[Mistake] | Sequence[LabelMistake] | None = None,
    title: str = "Evaluation",
) -> str:
    """The report as one self-contained HTML page.

    `history`: rows of a run's metrics.jsonl (`step`, and where known `epoch`, `loss`, `lr`, `val_top1` or `val_map`,
    `val_nll`); its curves are left out where it is empty. `mistakes`: those to show, with thumbnails (see
    `picture_mistakes`); without them the report's own, which have none. So a page can be made again from a saved report
    and nothing else.
    """
    here = files("vitrail.evaluate")

    def text(name: str) -> str:
        return here.joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(text)
    )
    environment.filters.update(percent=_percent, sentence=sentence, tight=_tight)
    steps = by_step(history)
    template = environment.get_template("page.html.j2" if isinstance(report, Report) else "multilabel.html.j2")
    return template.render(
        title=printable(title),
        style=Markup(text("style.css")),
        report=report,
        curves=_curves(steps, report.measure, SCORES[type(report)]),
        history_rows=_history_rows(steps, SCORES[type(report)]),
        rows=ROWS,
        bins=[b for b in report.reliability if b.count],
        mistakes=list(report.mistakes if mistakes is None else mistakes)[:PICTURES],
        provenance=_provenance(report),
        **(_of_one(report) if isinstance(report, Report) else _of_several(report)),
    )


def _of_one(report: Report) -> dict[str, Any]:
    """What the page of a model that gives an image one class shows beside."""
    matrix = _matrix(report)
    label = f"Reliability diagram, expected calibration error {percent(report.ece)}"
    return {
        "guess_nll": math.log(max(report.model.classes, 1)),
        "matrix": matrix,
        "confusions": _confusions(report, 6 if matrix else ROWS),
        "classes": [c for _, c in report.hardest(len(report.classes))],
        "reliability": reliability_chart(report.reliability, label) if report.reliability else None,
        "wrong": report.images - report.top1_count,
    }


def _of_several(report: MultilabelReport) -> dict[str, Any]:
    """The same where an image may have several classes."""
    label = f"Reliability diagram over all answers, expected calibration error {percent(report.ece)}"
    axes = ("probability it gives, %", "how often the class is there, %")
    return {
        "classes": report.hardest(),
        "reliability": reliability_chart(report.reliability, label, axes) if report.reliability else None,
        "wrong": report.images - report.exact_count,
    }


def picture_mistakes(
    report: Report | MultilabelReport, data: Dataset | Source, most: int = PICTURES
) -> list[Mistake] | list[LabelMistake]:
    """The report's worst mistakes with a small picture each. Raises DataError where `data` is not what it counted."""
    if isinstance(data, Dataset):
        data = data.whole if report.data.split == "all" else data.split(report.data.split)
    if data.fingerprint != report.data.fingerprint:
        raise DataError(f"the pictures must come from the data of the report ({report.data.name}), found other images")
    if isinstance(report, Report):
        return [_pictured(m, data) for m in report.mistakes[:most] if m.index is not None]
    return [_pictured(m, data) for m in report.mistakes[:most] if m.index is not None]


def _pictured(mistake: M, data: Source) -> M:
    return mistake.model_copy(update={"thumbnail": thumbnail(data.read(mistake.index or 0).data)})


def thumbnail(data: bytes, side: int = SIDE) -> str:
    """A data: address of the picture, its longer side at most `side` pixels; nothing of the file but pixels is kept.

    Raises ImageError where the bytes cannot be decoded.
    """
    picture = Image.fromarray(decode(data).permute(1, 2, 0).contiguous().numpy())
    small = max(picture.size) <= 64  # JPEG would blur an icon, and PNG of one is small
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if small:
        picture.save(out, "PNG", optimize=True)
    else:
        picture.save(out, "JPEG", quality=80, optimize=True)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(out.getvalue()).decode()}"


def _percent(share: float | None) -> str:
    return _tight(percent(share))


def _tight(text: str) -> str:
    """With the narrow space that print sets before a unit, at which no line breaks."""
    return text.replace(" %", "\u202f%")


def _curves(history: Sequence[Mapping[str, Any]], measure: str, key: str) -> list[dict[str, Any]]:
    """Title, legend and picture of each training curve that has at least two points. `key` holds the `measure`."""
    x = "epoch" if any(number(row, "epoch") is not None for row in history) else "step"
    end = max((number(row, x) or 0.0 for row in history), default=0.0)
    curves: list[dict[str, Any]] = []
    if end <= 0:
        return curves
    loss, nll = thin(points(history, x, "loss")), thin(points(history, x, "val_nll"))
    scores, rate = thin(points(history, x, key)), thin(points(history, x, "lr"))
    names = {"a": "training", "b": "held-out"}
    lines = [Line(kind, points) for kind, points in (("a", loss), ("b", nll)) if len(points) > 1]
    if lines:
        label = "; ".join(f"{names[n.kind]} loss from {n.points[0][1]:.3g} to {n.points[-1][1]:.3g}" for n in lines)
        svg = line_chart(lines, end=end, x_title=x, label=label, zero=True)
        curves.append({"title": "Loss, nats", "legend": [(n.kind, names[n.kind]) for n in lines], "svg": svg})
    if len(scores) > 1:
        label = f"held-out {measure} from {percent(scores[0][1])} to {percent(scores[-1][1])}"
        svg = line_chart([Line("a", scores)], end=end, x_title=x, label=label, shares=True)
        curves.append({"title": f"Held-out {measure}, %", "legend": [], "svg": svg})
    if len(rate) > 1:
        highest = max(y for _, y in rate)
        # In units of its power of ten: ticks such as 0.00025 are hard to read.
        power = min(0, math.floor(math.log10(1.01 * highest))) if highest > 0 else 0
        scaled = [(step, y / 10.0**power) for step, y in rate]
        label = f"learning rate, at most {highest:.3g}, at last {rate[-1][1]:.3g}"
        svg = line_chart([Line("c", scaled, value=False)], end=end, x_title=x, label=label, zero=True)
        unit = Markup(", × 10<sup>{}</sup>").format(str(power).replace("-", "\u2212")) if power else ""
        curves.append({"title": Markup("Learning rate") + unit, "legend": [], "svg": svg})
    return curves


def _history_rows(history: Sequence[Mapping[str, Any]], key: str, most: int = 40) -> list[list[str]]:
    """The rows behind the curves as text: those with a held-out score, or evenly chosen ones where there is none."""
    keys = ("step", "epoch", "loss", "lr", key, "val_nll")
    chosen = [row for row in history if number(row, key) is not None] or list(history)
    every = math.ceil(len(chosen) / most) or 1
    chosen = chosen[::-1][::every][::-1]  # counted from the end: the last row is always there
    table = []
    for row in chosen:
        values = [number(row, key) for key in keys]
        texts = ["–" if v is None else f"{v:.4g}" for v in values]
        texts[0] = "–" if values[0] is None else f"{values[0]:.0f}"
        texts[4] = _percent(values[4])
        table.append(texts)
    return table


def _matrix(report: Report) -> dict[str, Any] | None:
    """The confusion matrix with the shade of each cell, or None where there are too many classes to show it whole."""
    if len(report.classes) > MATRIX:
        return None
    counts = {(t, p): n for t, p, n in report.confusion}
    rows = []
    for t, true in enumerate(report.classes):
        if not true.support:
            continue
        cells = []
        for p in range(len(report.classes)):
            n = counts.get((t, p), 0)
            # Few mistakes must still be seen beside many hits, hence the root for them.
            share = n / true.support
            shade = share if t == p else math.sqrt(share)
            cells.append({"n": n, "right": t == p, "shade": f"{100 * shade:.0f}", "dark": shade > 0.6})
        rows.append({"name": true.name, "cells": cells, "support": true.support})
    columns = [c.name for c in report.classes]
    # Names that fit over a narrow column stay level; others are set upright where the columns must be narrow.
    kind = "short" if max(map(len, columns)) <= 4 else "many" if len(columns) > 6 else ""
    return {"columns": columns, "rows": rows, "kind": kind}


def _confusions(report: Report, most: int) -> list[dict[str, Any]]:
    """The most frequent mistakes."""
    return [
        {
            "true": report.classes[t].name,
            "predicted": report.classes[p].name,
            "n": n,
            "support": report.classes[t].support,
            "share": n / report.classes[t].support,
        }
        for t, p, n in report.confusions()[:most]
    ]


def _provenance(report: Report | MultilabelReport) -> list[tuple[str, str]]:
    """(what, value) of everything needed to find these numbers again."""
    data, model, machine = report.data, report.model, report.machine
    config = ", ".join(f"{k} {_plain(v)}" for k, v in model.config.items())
    rows = [
        ("data", data.name),
        ("split", data.split),
        ("images", f"{report.images:,} counted, each once; {len(report.unreadable)} unreadable"),
        ("data fingerprint", data.fingerprint),
        ("model", model.source or ""),
        ("architecture", config),
        ("images as the model sees them", model.shown()),
        ("parameters", f"{model.parameters:,}"),
        ("weights sha256", model.sha256),
        ("weights measured", WEIGHTS[model.averaged]),
        ("training seed", "" if model.seed is None else f"{model.seed}"),
        ("software", f"vitrail {machine.vitrail}, torch {machine.torch}, Python {machine.python}"),
        ("computed on", f"{machine.processor} ({machine.device}), {machine.precision}"),
    ]
    return [row for row in rows if row[1]]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "×".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
