"""Images decoded ahead: by whichever hands, the same pixels in the same order, and nothing held back."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pictures import encode, noise
from vitrail.config import Preprocess
from vitrail.data import stream as module
from vitrail.data.stream import FittedBatch, fit_any, fitted_batches
from vitrail.errors import ImageError, WorkerDied
from vitrail.types import ImageLike

SHOWN = Preprocess(size=(8, 8))


@pytest.fixture
def mixed(tmp_path: Path) -> list[ImageLike]:
    """Seventy images: files, bytes and pixels; each seventh cannot be read."""
    found: list[ImageLike] = []
    for number in range(70):
        data = encode(noise(9 + number % 4, 12, number))
        if number % 7 == 3:
            data = data[:60] if number % 2 else b""
        file = tmp_path / f"{number}.png"
        file.write_bytes(data)
        kinds: list[ImageLike] = [file, str(file), data]
        found.append(kinds[number % 3])
    found[1] = torch.from_numpy(noise(10, 12)).permute(2, 0, 1)
    found[2] = tmp_path / "missing.png"
    return found


def gather(batches: Iterator[FittedBatch]) -> list[torch.Tensor | str]:
    """Each image's pixels or reason, in order; what is taken is taken before the next batch."""
    found: list[torch.Tensor | str] = []
    for batch in batches:
        rows = iter(batch.pixels.clone())
        found += [next(rows) if reason is None else reason for reason in batch.reasons]
        assert next(rows, None) is None
    return found


def one_by_one(images: list[ImageLike]) -> list[torch.Tensor | str]:
    found: list[torch.Tensor | str] = []
    for image in images:
        try:
            found.append(fit_any(image, SHOWN))
        except ImageError as error:
            found.append(error.reason)
    return found


def equal(left: list[torch.Tensor | str], right: list[torch.Tensor | str]) -> bool:
    return len(left) == len(right) and all(
        a == b if isinstance(a, str) or isinstance(b, str) else torch.equal(a, b)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [None, 0, 3])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_all_ways_give_the_same_in_order(mixed: list[ImageLike], workers: int | None, batch_size: int) -> None:
    expected = one_by_one(mixed)
    assert sum(isinstance(result, str) for result in expected) == 11
    found = gather(fitted_batches(iter(mixed), SHOWN, batch_size, workers))
    assert equal(found, expected)
    assert not equal(found[::-1], expected)


def test_a_batch_without_a_readable_image_and_no_images_at_all() -> None:
    for workers in (0, 1):
        (batch,) = fitted_batches([b"", b"x"], SHOWN, 4, workers)
        assert batch.pixels.shape == (0, 3, 8, 8)
        assert batch.reasons == ["empty file", "not an image, but text"]
        assert list(fitted_batches([], SHOWN, 4, workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_only_so_many_images_are_asked_for_ahead(workers: int) -> None:
    asked = 0
    data = encode(noise(9, 9))

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield data

    batches = fitted_batches(endless(), SHOWN, 16, workers)
    for _ in range(3):
        next(batches)
    assert asked < 64 + 16 * 8
    batches.close()


def test_processes_end_with_the_pass() -> None:
    before = set(multiprocessing.active_children())
    data = [encode(noise(9, 9))] * 80
    list(fitted_batches(data, SHOWN, 16, 2))
    abandoned = fitted_batches(data, SHOWN, 16, 2)
    next(abandoned)
    assert len(set(multiprocessing.active_children()) - before) == 2
    abandoned.close()
    assert set(multiprocessing.active_children()) == before


def test_a_killed_process_is_a_sentence_not_a_wait() -> None:
    before = set(multiprocessing.active_children())
    batches = fitted_batches([encode(noise(9, 9))] * 10_000, SHOWN, 16, 2)
    next(batches)
    for process in set(multiprocessing.active_children()) - before:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDied, match="a process that reads images died"):
        list(batches)
    assert time.monotonic() - start < 30


def test_few_images_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(module, "_by_processes", lambda *_: started.append(1) or (batch for batch in ()))
    data = encode(noise(9, 9))
    assert sum(len(batch.images) for batch in fitted_batches([data] * 63, SHOWN, 8)) == 63
    assert not started
    list(fitted_batches([data] * 64, SHOWN, 8))
    assert started


def test_a_batch_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        fitted_batches([], SHOWN, 0)
