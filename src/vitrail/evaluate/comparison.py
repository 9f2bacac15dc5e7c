"""Runs side by side: scores with intervals, paired differences on the same images, what was set differently."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field, JsonValue

from vitrail.config import Config, Probability
from vitrail.errors import ConfigError
from vitrail.evaluate.runs import Run, number, read_run
from vitrail.ops.paired import difference_interval, mcnemar
from vitrail.report import Count, duration, percent, printable, table

NOISE = 0.05  # p-value from which a difference is said to be possible by chance
NOT_RECORDED = "–"


class Scores(Config):
    """What the evaluation of a finished run found; see Report."""

    top1: Probability
    top1_interval: tuple[Probability, Probability]
    nll: float
    ece: Probability
    macro_f1: Probability | None
    images: Count
    split: str
    data: str
    fingerprint: str  # of the images that were counted


class RunFacts(Config):
    """One run. `mark` is how the comparison calls it: A, B, ... in the order given."""

    mark: str
    name: str
    finished: bool
    step: Count
    epoch: float | None
    epochs: float | None  # asked for
    seconds: float | None
    started: str | None
    parameters: Count | None
    scores: Scores | None  # None while unfinished
    last_top1: Probability | None  # newest held-out score that was logged on the way
    origin: dict[str, str]  # what it ran on and from, in words


class Difference(Config):
    """Two runs on the same images: how much more often `run` is right than `than`."""

    run: str
    than: str
    images: Count
    only_run: Count  # images that only `run` names right
    only_than: Count
    difference: float  # of top-1, -1..1
    interval: tuple[float, float]  # Tango's score interval, 95 %
    p: Probability  # McNemar's exact test

    def sentence(self) -> str:
        """The difference in plain words."""
        low, high = (signed(v) for v in self.interval)
        verdict = "may be chance" if self.p >= NOISE else "is more than chance explains"
        points, p = signed(self.difference), p_value(self.p)
        return (
            f"{self.run} against {self.than}: {points} points (95 % interval {low} to {high}), p = {p}; "
            f"of {self.images:,} images {self.only_run:,} are right in {self.run} alone and {self.only_than:,} in "
            f"{self.than} alone; this {verdict}."
        )


class Setting(Config):
    """One field of the recipe, or of what else decides the result: mark -> value, for the runs that recorded it."""

    field: str
    values: dict[str, JsonValue]

    def text(self, run: str) -> str:
        """The value of one run as text."""
        return plain(self.values[run]) if run in self.values else NOT_RECORDED


class Comparison(Config):
    """Runs side by side; see compare."""

    version: Literal[1] = 1
    runs: tuple[RunFacts, ...] = Field(min_length=1)
    same_images: bool  # every finished run was measured on the same ones
    differences: tuple[Difference, ...]  # each run against the first that has answers for the same images
    unpaired: tuple[str, ...]  # marks of finished runs without such answers
    settings: tuple[Setting, ...]  # those that differ
    shared: tuple[Setting, ...]  # those that do not

    def json(self) -> str:  # type: ignore[override]  # the house's name; pydantic deprecated its own
        """The comparison as JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @property
    def finished(self) -> list[RunFacts]:
        """Runs that have been measured at their end."""
        return [run for run in self.runs if run.scores is not None]

    @property
    def only_seeds_differ(self) -> bool:
        """Whether the runs are one recipe under several seeds."""
        return len(self.runs) > 1 and [s.field for s in self.settings] == ["seed"]

    def verdict(self) -> str:
        """One or two sentences in plain words."""
        done = self.finished
        if not done:
            return "No run is finished yet; the scores below were logged while training."
        ranked = sorted(done, key=lambda run: -_scores(run).top1)
        best, scores = ranked[0], _scores(ranked[0])
        if len(ranked) == 1:
            low, high = scores.top1_interval
            who = best.mark if len(self.runs) > 1 else "It"
            return (
                f"{who} names the right class of {percent(scores.top1)} of {scores.images:,} held-out images of "
                f"{scores.data} (95 % interval {100 * low:.1f}–{100 * high:.1f})."
            )
        if not self.same_images:
            return "The runs were measured on different images, so their scores say little about which is better."
        tops = [_scores(run).top1 for run in ranked]
        if self.only_seeds_differ and len(done) == len(self.runs):
            spread = f", standard deviation {100 * stdev(tops):.2f} points" if len(tops) > 2 else ""
            return (
                f"One recipe under {len(tops)} seeds: top-1 {percent(tops[-1])} to {percent(tops[0])}, mean "
                f"{100 * fmean(tops):.2f} %{spread}, on {scores.images:,} held-out images of {scores.data}."
            )
        level = [run.mark for run in ranked if _scores(run).top1 == tops[0]]
        right = f"{percent(tops[0])} of {scores.images:,} held-out images of {scores.data}"
        if len(level) > 1:
            behind = [f", ahead of {percent(_scores(run).top1)} in {run.mark}" for run in ranked[len(level) :]][:1]
            return f"{', '.join(level[:-1])} and {level[-1]} are right equally often: {right}{''.join(behind)}."
        return f"{best.mark} is right most often: {right}, against {percent(tops[1])} in {ranked[1].mark}."

    def markdown(self) -> str:
        """Tables that read well in a terminal of 80 columns and as Markdown."""
        parts = [self.verdict(), table(["", "run", "top-1", "95 %", "NLL", "epochs", "time"], self._rows())]
        parts += [d.sentence() for d in self.differences]
        if self.unpaired:
            parts.append(f"Not compared image by image: {', '.join(self.unpaired)}. {WHY_UNPAIRED}")
        if len(self.runs) > 1 and self.settings:
            head = ["what differs", *(run.mark for run in self.runs)]
            rows = [[s.field, *(s.text(run.mark) for run in self.runs)] for s in self.settings]
            parts.append(table(head, rows))
        elif len(self.runs) > 1:
            parts.append("No setting differs.")
        return "\n\n".join(parts) + "\n"

    def _rows(self) -> list[list[str]]:
        rows = []
        for run in self.runs:
            if run.scores:
                low, high = run.scores.top1_interval
                shown = [percent(run.scores.top1), f"{100 * low:.1f}–{100 * high:.1f}", f"{run.scores.nll:.4f}"]
            else:
                shown = ["" if run.last_top1 is None else percent(run.last_top1), "unfinished", ""]
            name = run.name if len(run.name) <= 18 else run.name[:17] + "…"
            rows.append(
                [run.mark, name, *shown, epochs(run), NOT_RECORDED if run.seconds is None else duration(run.seconds)]
            )
        return rows


WHY_UNPAIRED = (
    "They were measured on other images, or by a version that kept no predictions.csv; "
    "their intervals are all that can be compared."
)


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


def plain(value: object) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return " × ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else printable(str(value))


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with two digits, never 0."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def epochs(run: RunFacts) -> str:
    """How many were done; of how many, where the run is unfinished."""
    if run.epoch is None:
        return NOT_RECORDED
    if run.finished or run.epochs is None:
        return f"{run.epoch:.1f}".removesuffix(".0")
    return f"{run.epoch:.1f} of {run.epochs:g}"


def _scores(run: RunFacts) -> Scores:
    if run.scores is None:
        raise AssertionError("asked only of finished runs")
    return run.scores


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
    scored = [value for row in run.history if (value := number(row, "val_top1")) is not None]
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
            top1=report.top1,
            top1_interval=report.top1_interval,
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
