"""The run folder: what a run is (run.json) and what it measured on the way (metrics.jsonl).

RUN/run.json         recipe, data, start, seed, versions, start and finish
    metrics.jsonl    one JSON line a step or evaluation
    checkpoints/     see state.py
    model/           the trained model, see weights/checkpoint.py
    evaluation.json  predictions.csv  report.html
"""

import errno
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, StorageError
from vitrail.train.settings import differences
from vitrail.train.sinks import TensorBoard
from vitrail.train.state import replace_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUN_FILE, METRICS_FILE, CHECKPOINTS, MODEL = "run.json", "metrics.jsonl", "checkpoints", "model"
LASTING = (  # what no run can change on its way: the state that a checkpoint holds is of these
    *("recipe.model.", "recipe.lora.", "recipe.head_", "weights"),
    *(f"recipe.optim.{name}" for name in ("optimizer", "ema", "frozen_blocks")),
)
IDENTITY = "identity"  # the part of run.json that must be the same for a run to be continued


def open_run(folder: Path, run: Mapping[str, Any], accept_changes: bool = False) -> dict[str, Any]:
    """Begin the run in `folder`, or find that it can be continued: its run.json as stored.

    With `accept_changes` a run goes on with other data and settings, which are written to its `changes`; but not with
    other classes or what is LASTING. Refuses a finished run, one with other settings or other data (ConfigError, naming
    what differs), and a folder that holds anything else (StorageError).
    """
    try:
        stored = json.loads((folder / RUN_FILE).read_bytes())
        identity, finished = stored[IDENTITY], stored["finished"]
    except FileNotFoundError:
        return _begin(folder, run)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder / RUN_FILE} is not the record of a run: choose another --out") from error
    except OSError as error:
        raise StorageError(
            f"cannot read {folder / RUN_FILE}: {error.strerror or error}; choose another --out"
        ) from error
    if finished:
        raise ConfigError(
            f"the run in {folder} is finished and is not overwritten: choose another --out to train again"
        )
    if changed := differences(identity, run[IDENTITY]):
        if accept_changes:
            return _go_on_otherwise(folder, stored, run, changed)
        raise ConfigError(
            f"the run in {folder} was started differently ({'; '.join(changed)}): "
            f"give what it was started with to continue it, or another --out, or --accept-changes to go on like this"
        )
    return dict(stored)


def _go_on_otherwise(
    folder: Path, stored: Mapping[str, Any], run: Mapping[str, Any], changed: list[str]
) -> dict[str, Any]:
    """The record of a run that goes on with other data or settings, written down."""
    lasting = [text for text in changed if text.startswith(LASTING)]
    names = [record.get("data", {}).get("class_names") for record in (stored, run)]
    if names[0] != names[1]:
        lasting.append("the classes")
    if lasting:
        raise ConfigError(
            f"a run cannot change {'; '.join(lasting)} on its way: choose another --out, and start it from this one "
            f"with --weights {folder} where it is finished"
        )
    kept = {name: stored[name] for name in ("started", "precision", "versions") if name in stored}
    before = stored.get("changes", [])
    going = {**run, **kept, "finished": None, "changes": [*before, {"at": now(), "changed": changed}]}
    try:
        replace_file(folder / RUN_FILE, json_bytes(going))
    except OSError as error:
        raise StorageError(f"cannot write {folder / RUN_FILE}: {error.strerror or error}") from error
    return going


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from training into the same folder; the system lets go of it when this one ends or dies.

    StorageError where another process is at it. Systems without such locks (Windows, some network disks) are trusted.
    """
    lock = folder / CHECKPOINTS / ".lock"
    try:
        lock.parent.mkdir(exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise StorageError(f"cannot write {lock.parent}: {error.strerror or error}; choose another --out") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which loader processes would inherit
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise StorageError(f"another process is training in {folder}: choose another --out") from error
        yield


def _begin(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    begun = {**run, "started": now(), "finished": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(not p.name.startswith(".") for p in folder.iterdir()):
            raise StorageError(f"the folder {folder} holds other files and no run: choose another --out")
        replace_file(folder / RUN_FILE, json_bytes(begun))
    except OSError as error:
        raise StorageError(
            f"cannot write the run folder {folder}: {error.strerror or error}; choose another --out"
        ) from error
    return begun


def finish_run(folder: Path, run: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Mark the run as finished, with `more` about how it ended. StorageError."""
    try:
        replace_file(folder / RUN_FILE, json_bytes({**run, **more, "finished": now()}))
    except OSError as error:
        raise StorageError(f"cannot write {folder / RUN_FILE}: {error.strerror or error}") from error


class Metrics:
    """metrics.jsonl: rows appended and flushed one by one. `scored` are the steps with a held-out score in it; a
    `sink` is given every new row."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self.sink: TensorBoard | None = None
        self.scored = _scored(self.rows())

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row. StorageError."""
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; make room, then run the same command to continue"
            ) from error
        self.scored |= _scored([row])
        if self.sink is not None:
            self.sink.append(row)

    def close(self) -> None:
        """End the sink."""
        if self.sink is not None:
            self.sink.close()

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a line that a kill cut short is left out."""
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def truncate(self, step: int) -> None:
        """Forget everything after `step`, so that a continued run logs what an unbroken one does."""
        rows = [row for row in self.rows() if row["step"] <= step]
        try:
            replace_file(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error
        self.scored = _scored(rows)


def _scored(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    return {row["step"] for row in rows if any(key.startswith("val_") for key in row)}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def json_bytes(table: Mapping[str, Any]) -> bytes:
    """JSON for people: indented, with a line end."""
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()
