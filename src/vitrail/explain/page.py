"""Explained images as one HTML page, as PNG files and as JSON: each map with its scale and its evidence. No scripts, no
other files, every name escaped."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from vitrail.explain import render
from vitrail.explain.catalog import METHODS
from vitrail.explain.cells import Baseline
from vitrail.explain.evidence import Evidence, Score
from vitrail.explain.explanation import Explained, Found, Request
from vitrail.explain.faithfulness import spearman
from vitrail.explain.render import Mode
from vitrail.report import percent, printable, write_bytes, write_text

MEASURES: dict[str, str] = {
    "deletion_drop": "deletion, left out",
    "deletion_mean": "deletion, mean colour",
    "deletion_blur": "deletion, blurred",
    "insertion_drop": "insertion, put in",
    "insertion_mean": "insertion, mean colour",
    "insertion_blur": "insertion, blurred",
    "saco": "SaCo",
    "sanity": "random weights",
}
VERDICTS = {"better": "better", "inside": "as random", "worse": "worse"}  # than random maps
SANITY = {"inside": "unlike", "worse": "alike"}

FAINT = 0.25  # of the scale that a map shares with others
Scale = tuple[float, float, str]  # low, high, colour table


def scales(explained: Sequence[Explained], own: bool = False) -> dict[tuple[int, str], Scale]:
    """The scale of each (image, method): one of a method for all images, from zero; `own`: of each map alone."""
    found: dict[tuple[int, str], Scale] = {}
    for method in dict.fromkeys(m.method for e in explained for m in e.maps):
        maps = {i: m.values for i, e in enumerate(explained) for m in e.maps if m.method == method}
        low, high = render.shared_scale(maps.values(), signed=METHODS[method].signed)
        for i, values in maps.items():
            ends = render.own_scale(values) if own else (low, high)
            found[i, method] = (*ends, "viridis" if own else render.table_for(low))
    return found


def picture(explained: Explained, values: Tensor, scale: Scale, mode: Mode) -> Tensor:
    """The map over the image, at least 224 pixels along the shorter side."""
    low, high, table = scale
    shown = render.overlay(explained.pixels, values, patch=explained.cell, low=low, high=high, mode=mode, table=table)
    return render.enlarge(shown)


def write(
    folder: Path, explained: Sequence[Explained], request: Request, *, model: str, mode: Mode, own: bool = False
) -> list[str]:
    """Write index.html, explain.json and one PNG a map; the names of what was written. Raises StorageError."""
    ranges = scales(explained, own)
    names = _names(explained)
    written = []
    shown: dict[tuple[int, str], Tensor] = {}
    for i, one in enumerate(explained):
        for found in one.maps:
            shown[i, found.method] = picture(one, found.values, ranges[i, found.method], mode)
            written.append(f"{names[i]}-{found.method}.png")
            write_bytes(folder / written[-1], render.png(shown[i, found.method]))
    write_text(folder / "explain.json", json.dumps(as_json(explained, request, ranges, model), indent=1) + "\n")
    write_text(folder / "index.html", page(explained, request, ranges, shown, model=model, mode=mode, own=own))
    return [*written, "explain.json", "index.html"]


def as_json(
    explained: Sequence[Explained], request: Request, ranges: Mapping[tuple[int, str], Scale], model: str
) -> dict[str, Any]:
    """All numbers of the page, and the maps themselves."""
    images = []
    for i, one in enumerate(explained):
        images.append(
            {
                "image": one.name,
                "predictions": [guess.model_dump() for guess in one.predictions],
                "class": {"index": one.label, "label": one.label_name, "probability": one.probability},
                "cell": list(one.cell),
                "maps": {m.method: _map_json(m, ranges[i, m.method]) for m in one.maps},
                "agreement": agreement(one),
            }
        )
    asked = {
        "methods": list(request.methods),
        "class": request.label,
        "layer": request.layer,
        "head": request.head,
        "random_maps": request.random,
        "seed": request.seed,
        "precision": request.precision,
    }
    return {"vitrail": metadata.version("vitrail"), "model": model, "request": asked, "images": images}


def _map_json(found: Found, scale: Scale) -> dict[str, Any]:
    row = METHODS[found.method]
    table: dict[str, Any] = {
        "unit": row.unit,
        "scale": {"low": scale[0], "high": scale[1], "colours": scale[2]},
        "values": found.values.tolist(),
        "notes": list(found.notes),
        "seconds": round(found.seconds, 4),
    }
    if found.evidence is not None:
        table["evidence"] = {
            name: {
                "value": score.value,
                "better": score.better,
                "verdict": score.verdict,
                "random": {"mean": score.mean, "low": score.low, "high": score.high, "values": list(score.random)},
            }
            for name, score in found.evidence.scores.items()
        }
        table["curves"] = {
            baseline: {"shares": path.shares, "deletion": path.deletion, "insertion": path.insertion}
            for baseline, path in found.evidence.paths.items()
        }
    return table


def agreement(one: Explained) -> dict[str, dict[str, float]]:
    """Rank correlation of each two maps of an image."""
    flat = {m.method: m.values.flatten()[None].double() for m in one.maps}
    return {a: {b: float(spearman(x, y)[0]) for b, y in flat.items()} for a, x in flat.items()}


def page(
    explained: Sequence[Explained],
    request: Request,
    ranges: Mapping[tuple[int, str], Scale],
    shown: Mapping[tuple[int, str], Tensor],
    *,
    model: str,
    mode: Mode,
    own: bool,
) -> str:
    """The page, self-contained."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, printable=printable, score=score)
    here = files("vitrail.explain")
    sections = []
    for i, one in enumerate(explained):
        strips = _extent(one)
        cards = [
            {
                "method": m.method.replace("_", " "),
                "row": METHODS[m.method],
                "picture": render.data_address(shown[i, m.method]),
                "alt": spoken(m),
                "bar": _bar(ranges[i, m.method], METHODS[m.method].unit, mode),
                "notes": [*m.notes, *_faint(m, ranges[i, m.method])],
                "seconds": m.seconds,
                "scores": _rows(m.evidence, strips),
                "curve": _curve(m.evidence),
            }
            for m in one.maps
        ]
        table = agreement(one) if len(one.maps) > 1 else {}
        sections.append(
            {
                "one": one,
                "photo": render.data_address(render.enlarge(one.pixels)),
                "cards": cards,
                "agreement": {a.replace("_", " "): list(row.values()) for a, row in table.items()},
            }
        )
    return environment.from_string(here.joinpath("explain.html.j2").read_text(encoding="utf-8")).render(
        style=Markup(here.joinpath("explain.css").read_text(encoding="utf-8")),
        model=model,
        mode=mode,
        own=own,
        request=request,
        sections=sections,
        several=_summary(explained),
    )


def _bar(scale: Scale, unit: str, mode: Mode) -> Markup:
    low, high, table = scale
    if mode == "reveal":
        low, table = max(low, 0.0) if low < 0 < high else low, "grey"
    return render.colour_bar(low, high, table, unit)


def _faint(found: Found, scale: Scale) -> list[str]:
    """A sentence where other images stretch the scale so far that this map hardly shows."""
    largest, whole = float(found.values.abs().max()), max(abs(scale[0]), abs(scale[1]))
    if 0 < largest < FAINT * whole:
        return [f"no value beyond {100 * largest / whole:.0f} % of the scale, which is that of all images"]
    return []


def spoken(found: Found) -> str:
    """What a map shows, in words: where it is largest."""
    values = found.values
    place = int(values.argmax())
    row, col = divmod(place, values.shape[1])
    return (
        f"{found.method.replace('_', ' ')}, {values.shape[0]} by {values.shape[1]} cells: largest at row {row + 1}, "
        f"column {col + 1}, {number(float(values.max()))}; smallest {number(float(values.min()))}"
    )


def number(value: float) -> str:
    """Three digits, with a real minus."""
    text = f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.2g}"
    return text.replace("-", "\u2212", 1) if value < 0 else text


def score(value: float) -> str:
    """Three places behind the point, for numbers that stand below each other."""
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\u2212")


def _names(explained: Sequence[Explained]) -> list[str]:
    """File names for the images: their own without what a file system, or a page, may stumble over; each once."""
    names: list[str] = []
    for one in explained:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(one.name).stem).strip("._")[:80] or "image"
        tries = (stem, *(f"{stem}-{n}" for n in range(2, len(explained) + 2)))
        names.append(next(t for t in tries if t not in names))
    return names


def _extent(one: Explained) -> dict[str, tuple[float, float]]:
    """Of each measure, the smallest and largest value on this image, so that its strips share an axis."""
    found: dict[str, tuple[float, float]] = {}
    for name in MEASURES:
        values = [
            v
            for m in one.maps
            if m.evidence is not None and name in m.evidence.scores
            for v in (m.evidence.scores[name].value, m.evidence.scores[name].low, m.evidence.scores[name].high)
        ]
        if values:
            found[name] = (min(values), max(values))
    return found


def _rows(known: Evidence | None, extent: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    if known is None:
        return []
    return [
        {
            "name": says,
            "score": known.scores[name],
            "strip": strip(known.scores[name], *extent[name]),
            "verdict": (SANITY if name == "sanity" else VERDICTS)[known.scores[name].verdict],
        }
        for name, says in MEASURES.items()
        if name in known.scores
    ]


def strip(score: Score, low: float, high: float) -> Markup:
    """The value as a dot over the band of the random maps, on the axis low..high; better is to the right, or for the
    sanity check nearer to the middle."""
    if score.better == "near zero":
        reach = max(abs(low), abs(high)) or 1.0
        low, high = -reach, reach
    span = (high - low) or 1.0

    def at(value: float) -> float:
        share = (value - low) / span
        return 4 + 72 * (1 - share if score.better == "low" else share)

    left, right = sorted((at(score.low), at(score.high)))
    return Markup(
        f'<svg class="strip" viewBox="0 0 80 14" width="80" height="14" aria-hidden="true">'
        f'<path class="line" d="M4 7h72"/><rect class="band" x="{left:.1f}" y="2" width="{max(right - left, 1):.1f}" '
        f'height="10"/><path class="line" d="M{at(score.mean):.1f} 2v10"/>'
        f'<circle class="{score.verdict}" cx="{at(score.value):.1f}" cy="7" r="3.5"/></svg>'
    )


def _curve(known: Evidence | None) -> dict[str, Any] | None:
    """Deletion and insertion of the first baseline as one chart, with the range of the random maps behind."""
    if known is None or not known.paths:
        return None
    baseline: Baseline = next(iter(known.paths))
    path, others = known.paths[baseline], known.random_paths[baseline]
    top = max([*path.deletion, *path.insertion, *(v for o in others for v in (*o.deletion, *o.insertion))]) or 1.0

    def xy(x: float, y: float) -> str:
        return f"{8 + 224 * x:.1f},{70 - 54 * y / top:.1f}"

    parts = []
    for kind in ("deletion", "insertion"):
        lows = [min(getattr(o, kind)[i] for o in others) for i in range(len(path.shares))]
        highs = [max(getattr(o, kind)[i] for o in others) for i in range(len(path.shares))]
        around = [*zip(path.shares, lows, strict=True), *reversed([*zip(path.shares, highs, strict=True)])]
        parts.append(f'<polygon class="band {kind}" points="{" ".join(xy(*p) for p in around)}"/>')
    for kind in ("deletion", "insertion"):
        line = " ".join(xy(*p) for p in zip(path.shares, getattr(path, kind), strict=True))
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
    says = (
        f"probability while patches go: {percent(path.deletion[0])} to {percent(path.deletion[-1])}; while they come: "
        f"{percent(path.insertion[0])} to {percent(path.insertion[-1])}"
    )
    svg = (
        f'<svg class="curve" viewBox="0 0 240 84" role="img" aria-label="{says}">'
        f'<path class="line" d="M8 70h224M8 8v62"/>'
        f'{"".join(parts)}<text x="8" y="82">0</text><text x="232" y="82" text-anchor="end">all patches</text>'
        f'<text x="11" y="11">{percent(top)}</text></svg>'
    )
    return {"svg": Markup(svg), "baseline": {"drop": "left out", "mean": "mean colour", "blur": "blurred"}[baseline]}


def _summary(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """Means over the images, a row a method; nothing for one image, or without evidence."""
    rows = []
    for method in dict.fromkeys(m.method for e in explained for m in e.maps):
        known = [m.evidence for e in explained for m in e.maps if m.method == method and m.evidence is not None]
        if len(known) < 2:
            return []
        scores = {
            name: (_mean([k.scores[name].value for k in known]), _mean([k.scores[name].mean for k in known]))
            for name in MEASURES
            if name in known[0].scores
        }
        rows.append({"method": method.replace("_", " "), "scores": scores, "names": [MEASURES[n] for n in scores]})
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
