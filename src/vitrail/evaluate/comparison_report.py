"""What a comparison of runs holds, as JSON and as text."""

import json
from statistics import fmean, stdev
from typing import Literal

from pydantic import Field, JsonValue

from vitrail.config import Config, Probability
from vitrail.report import Count, duration, percent, printable, table

NOISE = 0.05  # p-value from which a difference is said to be possible by chance
NOT_RECORDED = "–"


class Scores(Config):
    """What the evaluation of a finished run found; see Report, and MultilabelReport where images may have several
    classes: then `top1` is the share of the images that were given exactly theirs."""

    top1: Probability
    top1_interval: tuple[Probability, Probability]
    nll: float
    ece: Probability
    macro_f1: Probability | None
    images: Count
    split: str
    data: str
    fingerprint: str  # of the images that were counted
    mean_average_precision: Probability | None = None  # where images may have several classes


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
    difference: float  # of the share that is named right, -1..1
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
    """Runs side by side; see comparison.compare."""

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

    @property
    def multilabel(self) -> bool:
        """Whether images may have several classes, in all finished runs."""
        return bool(self.finished) and all(_scores(run).mean_average_precision is not None for run in self.finished)

    @property
    def measure(self) -> str:
        """What counts as right."""
        return "exactly right" if self.multilabel else "top-1"

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
            what = "names exactly the classes" if self.multilabel else "names the right class"
            return (
                f"{who} {what} of {percent(scores.top1)} of {scores.images:,} held-out images of "
                f"{scores.data} (95 % interval {100 * low:.1f}–{100 * high:.1f})."
            )
        if not self.same_images:
            return "The runs were measured on different images, so their scores say little about which is better."
        tops = [_scores(run).top1 for run in ranked]
        if self.only_seeds_differ and len(done) == len(self.runs):
            spread = f", standard deviation {100 * stdev(tops):.2f} points" if len(tops) > 2 else ""
            return (
                f"One recipe under {len(tops)} seeds: {self.measure} {percent(tops[-1])} to {percent(tops[0])}, mean "
                f"{100 * fmean(tops):.2f} %{spread}, on {scores.images:,} held-out images of {scores.data}."
            )
        level = [run.mark for run in ranked if _scores(run).top1 == tops[0]]
        right = f"{percent(tops[0])} of {scores.images:,} held-out images of {scores.data}"
        if len(level) > 1:
            behind = [f", ahead of {percent(_scores(run).top1)} in {run.mark}" for run in ranked[len(level) :]][:1]
            return f"{', '.join(level[:-1])} and {level[-1]} are right equally often: {right}{''.join(behind)}."
        exactly, pair = "exactly " if self.multilabel else "", {best.mark, ranked[1].mark}
        chance = any({d.run, d.than} == pair and d.p >= NOISE for d in self.differences)
        second = f"{percent(tops[1])} in {ranked[1].mark}{', which may be chance' if chance else ''}"
        return f"{best.mark} is {exactly}right most often: {right}, against {second}."

    def markdown(self) -> str:
        """Tables that read well in a terminal of 80 columns and as Markdown."""
        head = ["", "run", *(["mean AP"] if self.multilabel else []), self.measure, "95 %", "NLL", "epochs", "time"]
        parts = [self.verdict(), table(head, self._rows())]
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
            if self.multilabel:
                shown.insert(0, "" if run.scores is None else percent(run.scores.mean_average_precision))
            name = run.name if len(run.name) <= 18 else run.name[:17] + "…"
            rows.append(
                [run.mark, name, *shown, epochs(run), NOT_RECORDED if run.seconds is None else duration(run.seconds)]
            )
        return rows


WHY_UNPAIRED = (
    "They were measured on other images, or by a version that kept no predictions.csv; "
    "their intervals are all that can be compared."
)


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
