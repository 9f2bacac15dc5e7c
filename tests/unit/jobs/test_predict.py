"""A prediction job: every image once, whatever stops it, and never mixed with another job's answers."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vitrail
from vitrail.errors import ConfigError, DataError, StorageError
from vitrail.inference import Classifier
from vitrail.jobs import predict as module
from vitrail.jobs.formats import FORMATS
from vitrail.jobs.predict import open_job, part_name, range_of
from vitrail.types import Prediction


class Stopped(BaseException):
    """The process ends here."""


@pytest.fixture
def classifier(model_folder: Path) -> Classifier:
    return vitrail.load(model_folder)


@pytest.fixture
def images(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Thirty images, one of them unreadable; parts of seven images."""
    monkeypatch.setattr(module, "PUBLISH_IMAGES", 7)
    files = sorted(photos.rglob("*.png"))
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        shutil.copy(files[number % len(files)], folder / f"{number:02d}.png")
    (folder / "11.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


def rows(out: Path) -> list[tuple[str, str | None]]:
    """(image, best label or None) of each row of a file."""
    if out.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(out).to_pylist()
        assert all(row["label"] == (row["predictions"][0]["label"] if row["predictions"] else None) for row in table)
        return [(row["image"], row["label"]) for row in table]
    if out.suffix == ".jsonl":
        records = [json.loads(line) for line in out.read_text().splitlines()]
        return [(r["image"], r["predictions"][0]["label"] if r["predictions"] else None) for r in records]
    table = list(csv.DictReader(out.read_text().splitlines()))
    return [(row["image"], row["label"] or None) for row in table if row["rank"] in ("", "1")]


def expected(classifier: Classifier, images: list[Path]) -> list[tuple[str, str | None]]:
    return [(p.id, p.labels[0] if p.labels else None) for p in classifier.predict(images)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_job_writes_what_predict_says(
    classifier: Classifier, images: list[Path], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"answers{suffix}"
    broken: list[Prediction] = []
    counts: list[tuple[int, int]] = []
    summary = open_job(classifier, images, out).run(lambda *at: counts.append(at), broken.append)
    assert rows(out) == expected(classifier, images)
    assert (summary.images, summary.unreadable, summary.added) == (30, 1, 30)
    assert [p.id for p in broken] == [str(images[11])]
    assert counts == [(at, 30) for at in range(1, 31)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, f"{out.name}.job.json", "many"]
    again = open_job(classifier, images, out)
    assert again.finished is not None and again.run().added == 0


def stop_after(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, calls: int, before: bool) -> None:
    """End the process at the `calls`-th call, before or after what it does."""
    real: Callable[..., Any] = getattr(target, name)
    made = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made == calls and before:
            raise Stopped
        result = real(*arguments, **options)
        if made == calls:
            raise Stopped
        return result

    monkeypatch.setattr(target, name, counted)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("where", "calls"),
    [(("os", "replace"), n) for n in range(1, 8)]
    + [(("os", "fsync"), n) for n in range(1, 8)]
    + [(("shutil", "rmtree"), 1)],
)
def test_stopped_anywhere_it_goes_on_and_has_every_image_once(
    classifier: Classifier, images: list[Path], tmp_path: Path, where: tuple[str, str], calls: int, before: bool
) -> None:
    out = tmp_path / "answers.csv"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, {"os": os, "shutil": shutil}[where[0]], where[1], calls, before)
        with pytest.raises(Stopped):
            open_job(classifier, images, out).run()
    kept = sum(stop - start for _, start, stop, _ in module._published(out)) if module._folder(out).is_dir() else 30
    job = open_job(classifier, images, out)
    assert job.done == kept
    summary = job.run()
    assert rows(out) == expected(classifier, images)
    assert (summary.images, summary.unreadable) == (30, 1)
    assert not module._folder(out).exists()
    assert not list(tmp_path.glob(".*"))


def test_the_check_of_this_file_sees_an_image_that_is_missing_or_there_twice(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    open_job(classifier, images, out).run()
    lines = out.read_text().splitlines(keepends=True)
    for changed in (lines[:-3], lines + lines[-3:]):
        out.write_text("".join(changed))
        assert rows(out) != expected(classifier, images)


def begin(classifier: Classifier, images: list[Path], out: Path, **options: Any) -> None:
    """A job that is stopped after its second part."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, module.Job, "_publish", 2, False)
        with pytest.raises(Stopped):
            open_job(classifier, images, out, **options).run()


@pytest.mark.parametrize("done", [False, True])
def test_what_was_made_of_something_else_is_refused(
    classifier: Classifier, images: list[Path], tmp_path: Path, done: bool
) -> None:
    out = tmp_path / "answers.jsonl"
    if done:
        open_job(classifier, images, out).run()
    else:
        begin(classifier, images, out)
    held = sorted(tmp_path.rglob("*.jsonl"))
    word = "made" if done else "begun"
    with pytest.raises(DataError, match=f"was {word} with another --top: give the same again"):
        open_job(classifier, images, out, top=1)
    with pytest.raises(DataError, match=f"was {word} with other images"):
        open_job(classifier, images[:-1], out)
    os.utime(images[5], (1, 1))
    with pytest.raises(DataError, match="with other images"):
        open_job(classifier, images, out)
    with pytest.raises(DataError, match="with another model and other images"):
        open_job(_other(classifier), images, out)
    assert sorted(tmp_path.rglob("*.jsonl")) == held
    open_job(_other(classifier), images, out, fresh=True).run()
    assert rows(out) == expected(_other(classifier), images)


def _other(classifier: Classifier) -> Classifier:
    from copy import deepcopy

    import torch

    model = deepcopy(classifier.model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    return Classifier(model, classifier.preprocess, classifier.labels)


def test_a_file_of_unknown_origin_is_not_written_over(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("mine")
    with pytest.raises(DataError, match="exists and no job says what it was made of"):
        open_job(classifier, images, out)
    assert out.read_text() == "mine"
    open_job(classifier, images, out, fresh=True).run()
    assert rows(out) == expected(classifier, images)


def test_one_process_at_a_time(classifier: Classifier, images: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "answers.csv"
    module._folder(out).mkdir()
    code = (
        "import pathlib, sys; from vitrail.jobs.predict import _Lock\n"
        "lock = _Lock(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(module._folder(out))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        for fresh in (False, True):
            with pytest.raises(StorageError, match=r"another process is writing .*answers.csv: wait for it"):
                open_job(classifier, images, out, fresh=fresh)
        other.kill()
    open_job(classifier, images, out).run()
    assert rows(out) == expected(classifier, images)


def test_a_missing_part_and_a_damaged_record_are_named(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    begin(classifier, images, out)
    module._published(out)[0][0].unlink()
    with pytest.raises(DataError, match=r"lacks the part before 000000007-000000014-1\.csv"):
        open_job(classifier, images, out)
    (module._folder(out) / "job.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*job.json: start anew with --fresh"):
        open_job(classifier, images, out)


def test_parts_of_a_large_job_are_disjoint_and_everything(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    for parts in (1, 4, 16, 40):
        ranges = [range_of(images, (number, parts)) for number in range(1, parts + 1)]
        assert [path for some in ranges for path in some] == images
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    found = []
    for number in (3, 1, 2, 4):
        out = tmp_path / "answers.jsonl"
        summary = open_job(classifier, images, out, part=(number, 4)).run()
        assert summary.out == tmp_path / f"answers-{number}-of-4.jsonl" == part_name(out, (number, 4))
    for number in (1, 2, 3, 4):
        found += rows(part_name(tmp_path / "answers.jsonl", (number, 4)))
    assert found == expected(classifier, images)
    assert open_job(classifier, images, tmp_path / "answers.jsonl", part=(2, 4)).finished
    assert part_name(Path("a/b.csv"), (3, 160)) == Path("a/b-003-of-160.csv")
    with pytest.raises(ConfigError, match="from 1 to N"):
        range_of(images, (5, 4))


def test_a_full_disk_is_a_sentence_and_costs_nothing(
    classifier: Classifier, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    with pytest.MonkeyPatch.context() as patch:
        calls = 0
        real = os.fsync

        def full(handle: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise OSError(28, "No space left on device")
            real(handle)

        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device; what was published stays"):
            open_job(classifier, images, out).run()
    job = open_job(classifier, images, out)
    assert job.done == 7
    job.run()
    assert rows(out) == expected(classifier, images)


def test_other_kinds_of_file_are_refused(classifier: Classifier, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out should end in \.parquet, \.csv, \.jsonl, found 'answers\.txt'"):
        open_job(classifier, images, tmp_path / "answers.txt")
