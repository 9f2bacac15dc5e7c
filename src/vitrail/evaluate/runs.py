"""A run folder as its reader finds it: what was asked for, what was measured on the way, and what came of it.

Everything may be missing but run.json: a run may be unfinished, killed, or of an older version.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.errors import DataError, close_matches
from vitrail.evaluate.multilabel_report import MultilabelReport, load_report
from vitrail.evaluate.predictions import PREDICTIONS_FILE, ImageResult, read_csv
from vitrail.report import Report, printable

RUN_FILE, METRICS_FILE, EVALUATION_FILE = "run.json", "metrics.jsonl", "evaluation.json"


@dataclass(frozen=True)
class Run:
    """What a run folder holds. `report` and `results` are None where the run has not written them (yet)."""

    folder: Path
    record: Mapping[str, Any]  # run.json
    history: Sequence[Mapping[str, Any]]  # one row a step, see by_step
    report: Report | MultilabelReport | None
    results: tuple[ImageResult, ...] | None

    @property
    def name(self) -> str:
        """The folder's name, safe to print."""
        return printable(self.folder.resolve().name)

    @property
    def step(self) -> int:
        """Steps done, as far as was logged."""
        return int(max((number(row, "step") or 0.0 for row in self.history), default=0.0))

    @property
    def seconds(self) -> float | None:
        """Time of training and its evaluations, all sittings together."""
        logged = [s for row in self.history if (s := number(row, "seconds")) is not None]
        return number(self.record, "seconds") or max(logged, default=None)


def read_run(folder: str | Path) -> Run:
    """Read a run folder. Raises DataError where it is none, or a file in it is damaged."""
    folder = Path(folder)
    try:
        record = json.loads((folder / RUN_FILE).read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_run(folder) from error
    except ValueError as error:
        raise DataError(f"{folder / RUN_FILE} is not the record of a run: name a folder of `vitrail train`") from error
    except OSError as error:
        raise DataError(f"cannot read {folder / RUN_FILE}: {error.strerror or error}") from error
    report = load_report(folder / EVALUATION_FILE) if (folder / EVALUATION_FILE).exists() else None
    try:
        results = read_csv(folder / PREDICTIONS_FILE)
    except FileNotFoundError:
        results = None
    return Run(folder, record, by_step(_rows(folder / METRICS_FILE)), report, results)


def number(row: Mapping[str, Any], key: str) -> float | None:
    """The finite number under `key`, else None."""
    value = row.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None


def by_step(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One row a step, in order; a run writes what it trained and what it scored in rows of their own."""
    merged: dict[float, dict[str, Any]] = {}
    for row in history:
        if (step := number(row, "step")) is not None:
            merged.setdefault(step, {}).update(row)
    return [merged[step] for step in sorted(merged)]


def points(history: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    """(x, y) of the rows that have both."""
    pairs = ((number(row, x), number(row, y)) for row in history)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a line that a kill cut short, or that holds no row, is left out."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _not_a_run(folder: Path) -> DataError:
    try:
        beside = sorted(p.name for p in folder.parent.iterdir() if (p / RUN_FILE).is_file())
    except OSError:
        beside = []
    what = "has no run.json" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    rule = f"a run is a folder that `vitrail train` made, but {str(folder)!r} {what}"
    return DataError(rule + close_matches(folder.name, [printable(name) for name in beside]))
