"""Runs side by side: scores with intervals, paired differences on the same images, what was set differently."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError
from vitrail.evaluate.comparison_report import Comparison, Difference, RunFacts, Scores, Setting
from vitrail.evaluate.runs import Run, number, read_run
from vitrail.ops.paired import difference_interval, mcnemar
from vitrail.report import Report, printable


def compare(folders: Sequence[str | Path]) -> tuple[Comparison, tuple[Run, ...]]:
    """Compare the runs in these folders, finished or not; and the runs as read, for their curves.

    Raises DataError where a folder is no run or is damaged, ConfigError where none or one of them twice is named.
    """
    if not folders:
        raise ConfigError("name at least one run folder")
    places = [Path(folder).resolve() for folder in folders]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ConfigError(f"a run can be compared with others only, but {str(folders[i])!r} is named twice")
    runs = tuple(read_run(folder) for folder in folders)
    marks = [mark(i) for i in range(len(runs))]
    names = _names(places)
    facts = tuple(_facts(run, m, name) for run, m, name in zip(runs, marks, names, strict=True))
    fingerprints = {f.scores.fingerprint for f in facts if f.scores}
    differences, unpaired = _differences(runs, marks)
    differing, shared = _settings(runs, marks)
    comparison = Comparison(
        runs=facts,
        same_images=len(fingerprints) == 1,
        differences=differences,
        unpaired=unpaired,
        settings=differing,
        shared=shared,
    )
    return comparison, runs


def mark(place: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    letters = ""
    while place >= 0:
        letters = chr(ord("A") + place % 26) + letters
        place = place // 26 - 1
    return letters


def _names(places: Sequence[Path]) -> list[str]:
    """The folders' names; with as many of the folders above as tell namesakes apart."""
    names = []
    for place in places:
        length = 1
        while sum(other.parts[-length:] == place.parts[-length:] for other in places) > 1:
            length += 1
        names.append(printable("/".join(place.parts[-length:])))
    return names


def _facts(run: Run, letter: str, name: str) -> RunFacts:
    watched = ("val_top1", "val_map")  # a run has one of them
    scored = [value for row in run.history for key in watched if (value := number(row, key)) is not None]
    epoch = [value for row in run.history if (value := number(row, "epoch")) is not None]
    started = run.record.get("started")
    report = run.report
    return RunFacts(
        mark=letter,
        name=name,
        finished=bool(run.record.get("finished")) and report is not None,
        step=run.step,
        epoch=epoch[-1] if epoch else None,
        epochs=number(run.record["recipe"], "epochs"),
        seconds=run.seconds,
        started=started if isinstance(started, str) else None,
        parameters=report.model.parameters if report else None,
        scores=Scores(
            top1=report.top1 if isinstance(report, Report) else report.exact,
            top1_interval=report.top1_interval if isinstance(report, Report) else report.exact_interval,
            mean_average_precision=None if isinstance(report, Report) else report.mean_average_precision,
            nll=report.nll,
            ece=report.ece,
            macro_f1=report.macro_f1,
            images=report.images,
            split=report.data.split,
            data=report.data.name,
            fingerprint=report.data.fingerprint,
        )
        if report
        else None,
        last_top1=scored[-1] if scored and 0 <= scored[-1] <= 1 else None,
        origin=_origin(run),
    )


def _origin(run: Run) -> dict[str, str]:
    """Where the numbers of a run come from, in words."""
    data, versions = _part(run.record, "data"), _part(run.record, "versions")
    splits = ", ".join(f"{count:,} {name}" for name, count in _part(data, "splits").items() if isinstance(count, int))
    rows = {
        "folder": str(run.folder),
        "started": run.record.get("started"),
        "data": data.get("name"),
        "images": splits,
        "data fingerprint": data.get("fingerprint"),
        "from": run.record.get("started_from") or "random weights",
        "software": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "trained on": f"{run.record.get('device', '')}, {run.record.get('precision', '')}".strip(", "),
    }
    if run.report:
        rows["processor"] = run.report.machine.processor
        rows["weights sha256"] = run.report.model.sha256
    return {name: printable(str(value)) for name, value in rows.items() if value}


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = table.get(name)
    return part if isinstance(part, Mapping) else {}


def _differences(runs: Sequence[Run], marks: Sequence[str]) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Each run against the first that has answers; and the marks of finished runs that cannot be paired with it."""
    done = [(run, m) for run, m in zip(runs, marks, strict=True) if run.report is not None]
    first = next((pair for pair in done if pair[0].results is not None), None)
    if len(done) < 2 or first is None:
        return (), tuple(m for _, m in done) if len(done) > 1 else ()
    found, unpaired = [], []
    for run, letter in done:
        if run is first[0]:
            continue
        difference = _difference(run, letter, *first)
        if difference is None:
            unpaired.append(letter)
        else:
            found.append(difference)
    return tuple(found), tuple(unpaired)


def _difference(run: Run, letter: str, other: Run, other_letter: str) -> Difference | None:
    """None where the two were not asked about the same images in the same order."""
    a, b = run.results, other.results
    if a is None or b is None or run.report is None or other.report is None:
        return None
    same = run.report.data.fingerprint == other.report.data.fingerprint
    if not same or not a or [(r.image, r.label) for r in a] != [(r.image, r.label) for r in b]:
        return None
    only_a = sum(x.right and not y.right for x, y in zip(a, b, strict=True))
    only_b = sum(y.right and not x.right for x, y in zip(a, b, strict=True))
    return Difference(
        run=letter,
        than=other_letter,
        images=len(a),
        only_run=only_a,
        only_than=only_b,
        difference=(only_a - only_b) / len(a),
        interval=difference_interval(only_a, only_b, len(a)),
        p=mcnemar(only_a, only_b),
    )


def _settings(runs: Sequence[Run], marks: Sequence[str]) -> tuple[tuple[Setting, ...], tuple[Setting, ...]]:
    """(those that differ, those that do not). What another version did not record is no difference by itself."""
    tables = {m: _flat({**run.record["recipe"], **_identity(run)}) for run, m in zip(runs, marks, strict=True)}
    differing: list[Setting] = []
    shared: list[Setting] = []
    for field in dict.fromkeys(field for flat in tables.values() for field in flat):
        values = {m: flat[field] for m, flat in tables.items() if field in flat}
        differs = len({json.dumps(value) for value in values.values()}) > 1
        (differing if differs else shared).append(Setting(field=field, values=values))
    return tuple(differing), tuple(shared)


def _identity(run: Run) -> dict[str, Any]:
    """What decides a result beside the recipe."""
    data = _part(run.record, "data")
    return {
        "started_from": run.record.get("started_from") or "random weights",
        "data.name": data.get("name"),
        "data.fingerprint": str(data.get("fingerprint"))[:12],
        "computed in": run.record.get("precision"),
        "computed on": run.record.get("device"),
        **{f"{name}, version": version for name, version in _part(run.record, "versions").items()},
    }


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested tables as dotted fields."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        path = f"{above}{printable(str(name))}"
        flat |= _flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat
