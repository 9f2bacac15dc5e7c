"""A prediction job: a list of images, one file of answers, every image in it exactly once however often it is stopped.

    job = open_job(classifier, images, Path("answers.parquet"), top=5)
    summary = job.run()

The protocol. Images are taken in order, and what is said about them is published in parts: a part is written under a
name that does not count, then renamed into `answers.parquet.parts/`, where its name says which images it holds. So what
lies there is always the answers for the first so many images, and the same command goes on after them. When the last is
published the parts are joined into one file, which is renamed into place too; then `answers.parquet.job.json` says that
it is done and what it was made of, and the parts go. A stop between any two of these steps costs the images of one part
that was not published yet. A job is refused where its parts or its file were made with another model, other images or
other settings.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, DataError, StorageError
from vitrail.inference import Classifier
from vitrail.jobs.formats import Format, by_suffix
from vitrail.models.build import weights_sha256
from vitrail.report import write_text
from vitrail.types import Prediction

PUBLISH_IMAGES, PUBLISH_SECONDS = 1000, 10.0  # a part is published after so many images, or so many seconds
_PART = re.compile(r"(\d{9})-(\d{9})-(\d+)")  # first image, the one after the last, how many are unreadable
_SAYS = {  # how a person calls what a job is made of
    "weights": "another model",
    "preprocess": "another preprocessing",
    "labels": "other class names",
    "engine": "another engine",
    "top": "another --top",
    "threshold": "another --threshold",
    "images": "other images",
    "part": "another --part",
    "vitrail": "another version of vitrail",
}


@dataclass(frozen=True)
class Summary:
    """What a job's file holds, and what this run of it added."""

    out: Path
    images: int
    unreadable: int
    added: int  # images of this run
    seconds: float  # that they took


@dataclass
class Job:
    """An opened job: `done` of its images have been published. `run` does the rest."""

    classifier: Classifier
    images: Sequence[Path]
    out: Path
    made_of: dict[str, Any]
    format: Format
    top: int | None
    threshold: float | None
    done: int = 0
    unreadable: int = 0
    finished: Summary | None = None
    _lock: "_Lock | None" = field(default=None, repr=False)

    def run(
        self,
        notify: Callable[[int, int], None] = lambda done, total: None,
        unreadable: Callable[[Prediction], None] = lambda prediction: None,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> Summary:
        """Predict what is left and join the file. `notify(done, total)` is called for each image, `unreadable` for each
        that cannot be read. Raises StorageError, WorkerDied."""
        if self.finished is not None:
            return self.finished
        before, start = self.done, time.monotonic()
        taken: list[Prediction] = []
        published = start
        rest = self.images[before:]
        with closing(self.classifier.stream(rest, self.top, batch_size, self.threshold, workers)) as predictions:
            for prediction in predictions:
                if prediction.error is not None:
                    unreadable(prediction)
                taken.append(prediction)
                notify(self.done + len(taken), len(self.images))
                if len(taken) >= PUBLISH_IMAGES or time.monotonic() - published > PUBLISH_SECONDS:
                    self._publish(taken)
                    taken, published = [], time.monotonic()
        if taken:
            self._publish(taken)
        return self._finish(self.done - before, time.monotonic() - start)

    def _publish(self, predictions: Sequence[Prediction]) -> None:
        broken = sum(p.error is not None for p in predictions)
        stop = self.done + len(predictions)
        name = f"{self.done:09d}-{stop:09d}-{broken}{self.out.suffix}"
        with _storing(self.out):
            hidden = _folder(self.out) / f".{name}.partial"
            self.format.write(hidden, predictions)
            os.replace(hidden, _folder(self.out) / name)
        self.done, self.unreadable = stop, self.unreadable + broken

    def _finish(self, added: int, seconds: float) -> Summary:
        """Join the parts into the file, say that it is done, and take the parts away."""
        parts = [path for path, *_ in _published(self.out)]
        summary = Summary(self.out, len(self.images), self.unreadable, added, seconds)
        with _storing(self.out):
            hidden = self.out.with_name(f".{self.out.name}.partial")
            self.format.join(hidden, parts)
            os.replace(hidden, self.out)
            _write_record(_record_of(self.out), {"done": len(self.images), "unreadable": self.unreadable}, self.made_of)
            shutil.rmtree(_folder(self.out))
        if self._lock is not None:
            self._lock.release()
        self.finished = summary
        return summary


def open_job(
    classifier: Classifier,
    images: Sequence[Path],
    out: Path,
    *,
    top: int | None = None,
    threshold: float | None = None,
    part: tuple[int, int] | None = None,
    fresh: bool = False,
) -> Job:
    """The job that writes `out`, new or begun. With `part` (i, n) it takes the i-th of n ranges of the images and
    writes a file of its own, `answers-i-of-n.parquet`. `fresh` forgets what was begun or done under that name.

    Raises ConfigError for a file of another kind, MissingExtra for Parquet without pyarrow, DataError where what lies
    there was made of something else, StorageError where it cannot be written or another process is writing it.
    """
    form = by_suffix(out)
    if part is not None:
        images, out = range_of(images, part), part_name(out, part)
    made_of = _made_of(classifier, images, top, threshold, part)
    if fresh:
        _forget(out)
    job = Job(classifier, images, out, made_of, form, top, threshold)
    record = _read_record(_record_of(out))
    if record is not None and out.is_file():
        _check_same(record, made_of, out)
        shutil.rmtree(_folder(out), ignore_errors=True)
        job.done = len(images)
        job.finished = Summary(out, record["done"], record["unreadable"], 0, 0.0)
        return job
    _begin(job)
    return job


def range_of(images: Sequence[Path], part: tuple[int, int]) -> Sequence[Path]:
    """The i-th of n ranges of the images: disjoint, together all of them, none longer by more than one."""
    number, parts = part
    if not 1 <= number <= parts:
        raise ConfigError(f"--part should be I/N with I from 1 to N, as in 3/16, found {number}/{parts}")
    start, stop = (len(images) * at // parts for at in (number - 1, number))
    return images[start:stop]


def part_name(out: Path, part: tuple[int, int]) -> Path:
    """`answers.csv` as `answers-03-of-16.csv`."""
    number, parts = part
    return out.with_name(f"{out.stem}-{number:0{len(str(parts))}d}-of-{parts}{out.suffix}")


def _begin(job: Job) -> None:
    """Take up the parts that were published, or make the folder for them."""
    folder = _folder(job.out)
    if job.out.exists() and not (folder / "job.json").is_file():
        raise DataError(
            f"{job.out} exists and no job says what it was made of: name another file, or start anew with --fresh"
        )
    with _storing(job.out):
        folder.mkdir(parents=True, exist_ok=True)
    job._lock = _Lock(folder)
    record = _read_record(folder / "job.json")
    if record is None:
        _write_record(folder / "job.json", {}, job.made_of)
    else:
        _check_same(record, job.made_of, job.out)
    for path in folder.glob(".*.partial"):
        path.unlink()
    for path, start, stop, broken in _published(job.out):
        if start != job.done or stop > len(job.images):
            raise DataError(f"{folder} lacks the part before {path.name}: start anew with --fresh")
        job.done, job.unreadable = stop, job.unreadable + broken


def _made_of(
    classifier: Classifier,
    images: Sequence[Path],
    top: int | None,
    threshold: float | None,
    part: tuple[int, int] | None,
) -> dict[str, Any]:
    """All that decides what the file will hold."""
    digest = hashlib.sha256()
    for path in images:
        digest.update(os.fsencode(path) + b"\0")
        with contextlib.suppress(OSError):  # a missing file is an answer too
            facts = path.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}\0".encode())
    return {
        "weights": weights_sha256(classifier.model),
        "preprocess": classifier.preprocess.model_dump(mode="json"),
        "labels": hashlib.sha256("\0".join(classifier.labels.names).encode()).hexdigest(),
        "engine": "torch" if classifier.engine is None else classifier.engine.name,
        "top": top,
        "threshold": threshold,
        "images": {"number": len(images), "sha256": digest.hexdigest()},
        "part": None if part is None else list(part),
        "vitrail": version("vitrail"),
    }


def _check_same(record: dict[str, Any], made_of: dict[str, Any], out: Path) -> None:
    before = record.get("made_of", {})
    changed = [_SAYS[key] for key, value in made_of.items() if before.get(key) != value]
    if changed:
        raise DataError(
            f"{out} was {'made' if 'done' in record else 'begun'} with {' and '.join(changed)}: give the same again, "
            "name another file, or start anew with --fresh"
        )


def _published(out: Path) -> list[tuple[Path, int, int, int]]:
    """The parts in order: path, first image, the one after the last, how many are unreadable."""
    found = []
    for path in _folder(out).iterdir():
        if path.suffix == out.suffix and (match := _PART.fullmatch(path.stem)):
            start, stop, broken = map(int, match.groups())
            found.append((path, start, stop, broken))
    return sorted(found, key=lambda part: part[1])


class _Lock:
    """The right to write below a folder, until it is released or this process ends. StorageError where another process
    has it. A record lock: unlike `flock`, it does not live on in processes forked from this one."""

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            import fcntl

            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError as error:
            self.release()
            raise StorageError(
                f"another process is writing {folder.with_suffix('')}: wait for it, or end it"
            ) from error

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    __del__ = release


def _forget(out: Path) -> None:
    with _storing(out):
        _record_of(out).unlink(missing_ok=True)
        if _folder(out).is_dir():
            _Lock(_folder(out)).release()
            shutil.rmtree(_folder(out))
        out.unlink(missing_ok=True)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: start anew with --fresh") from error
    if not isinstance(record, dict) or not isinstance(record.get("made_of"), dict):
        raise DataError(f"{path} is no record of a job: start anew with --fresh")
    return record


def _write_record(path: Path, done: dict[str, int], made_of: dict[str, Any]) -> None:
    write_text(path, json.dumps(done | {"made_of": made_of}, indent=2) + "\n")


def _folder(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _record_of(out: Path) -> Path:
    return out.with_name(out.name + ".job.json")


@contextlib.contextmanager
def _storing(out: Path) -> Iterator[None]:
    """Errors of the file system as a sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}; what was published stays, and the same command goes on "
            "after it"
        ) from error
