"""Images decoded ahead of the model that waits for them, in order: many by processes, a few by threads.

The processes read the files themselves and write the fitted pixels into memory that they share with the parent, where a
batch lies as the model takes it: one copy, from the decoder's pixels to the batch. How many batches are read ahead is
fixed, so memory does not grow with their number.
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.decode import DecodePolicy
from vitrail.data.preprocess import Fitted, fit, fit_encoded
from vitrail.errors import ImageError, WorkerDied
from vitrail.types import ImageLike

_FEW = 64  # images for which starting processes takes longer than it saves
_TASK = 8  # images that a process is handed at once


@dataclass(frozen=True)
class FittedBatch:
    """Images in order, why each could not be read (None where it could), and the pixels of those that could.

    The pixels may be overwritten once the next batch is asked for.
    """

    images: Sequence[ImageLike]
    reasons: Sequence[str | None]
    pixels: UInt8[Tensor, "B 3 H W"]


def fitted_batches(
    images: Iterable[ImageLike], config: Preprocess, batch_size: int, workers: int | None = None
) -> Generator[FittedBatch, None, None]:
    """All images, in order, `batch_size` at a time, as `fit` makes them. Raises WorkerDied.

    `workers`: processes that decode; 0 for none; by default one a core, up to eight, for 64 images and more. Where the
    system cannot fork a process safely, threads do the work.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size should be at least 1, found {batch_size}")
    rest = iter(images)
    first = list(islice(rest, _FEW))
    forks = sys.platform == "linux" and not multiprocessing.current_process().daemon
    count = min(cores(), 8) if workers is None else workers
    if forks and count > 0 and (len(first) == _FEW or workers):
        return _by_processes(chain(first, rest), config, batch_size, count)
    return _by_threads(chain(first, rest), config, batch_size)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fit_any(image: ImageLike, config: Preprocess, policy: DecodePolicy | None = None) -> Fitted:
    """A file, its bytes, or decoded pixels (3 H W, uint8), at the model's size. Raises ImageError."""
    if isinstance(image, Tensor):
        return fit(image, config)
    return fit_encoded(image if isinstance(image, bytes) else read_bytes(Path(image)), config, policy)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; ImageError with a short reason where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError((error.strerror or str(error)).lower()) from error


def _by_threads(images: Iterator[ImageLike], config: Preprocess, batch_size: int) -> Generator[FittedBatch, None, None]:
    with ThreadPoolExecutor(min(cores(), 8), "vitrail-decode") as pool:
        ahead: deque[tuple[list[ImageLike], list[Future[Fitted | str]]]] = deque()
        try:
            for batch in chain(_batches(images, batch_size), [None]):
                if batch is not None:
                    ahead.append((batch, [pool.submit(_fit_or_reason, image, config) for image in batch]))
                while ahead and (batch is None or len(ahead) > 1):
                    items, futures = ahead.popleft()
                    yield _gathered(items, [future.result() for future in futures], config)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _gathered(items: list[ImageLike], results: Sequence[Fitted | str], config: Preprocess) -> FittedBatch:
    readable = [result for result in results if not isinstance(result, str)]
    pixels = torch.stack(readable) if readable else torch.empty(0, 3, *config.size, dtype=torch.uint8)
    return FittedBatch(items, [result if isinstance(result, str) else None for result in results], pixels)


def _fit_or_reason(image: ImageLike, config: Preprocess) -> Fitted | str:
    try:
        return fit_any(image, config)
    except ImageError as error:
        return error.reason


def _by_processes(
    images: Iterator[ImageLike], config: Preprocess, batch_size: int, workers: int
) -> Generator[FittedBatch, None, None]:
    places = 2 + math.ceil(2 * workers * _TASK / batch_size)  # batches: one in use, the others in the making
    shared = _Shared(config, places, batch_size)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (shared,))
    ahead: deque[tuple[list[ImageLike], int, list[Future[list[str | None]]]]] = deque()
    try:
        for number, batch in enumerate(chain(_batches(images, batch_size), [None])):
            if batch is not None:
                place = number % places
                ahead.append((batch, place, _submit(pool, batch, place)))
            while ahead and (batch is None or len(ahead) == places - 1):
                items, place, tasks = ahead.popleft()
                reasons = [reason for task in tasks for reason in task.result()]
                yield FittedBatch(items, reasons, shared.readable(place, reasons))
    except BrokenExecutor as error:
        raise WorkerDied(
            "a process that reads images died, as happens where memory runs out: run the same command again, with "
            "fewer workers if it dies again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: Executor, batch: list[ImageLike], place: int) -> list[Future[list[str | None]]]:
    with warnings.catch_warnings():  # Python 3.12 warns of forks in a process with threads
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        return [
            pool.submit(_fill, place, start, [_sendable(image) for image in batch[start : start + _TASK]])
            for start in range(0, len(batch), _TASK)
        ]


def _sendable(image: ImageLike) -> object:
    """Pixels as an array: torch would send a tensor by a file of its own."""
    return image.numpy() if isinstance(image, Tensor) else image


class _Shared:
    """Memory of this process and those forked from it: `places` batches of fitted pixels."""

    def __init__(self, config: Preprocess, places: int, batch_size: int) -> None:
        self.config = config
        shape = places, batch_size, 3, *config.size
        self.pixels = torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape)

    def readable(self, place: int, reasons: Sequence[str | None]) -> UInt8[Tensor, "B 3 H W"]:
        """The pixels of a batch's readable images; a copy only where some are not."""
        pixels = self.pixels[place, : len(reasons)]
        if all(reason is None for reason in reasons):
            return pixels
        return pixels[torch.tensor([reason is None for reason in reasons])]


_shared: _Shared  # of a worker process, from its start on


def _start_worker(shared: _Shared) -> None:
    """One thread a process; Ctrl-C is the parent's to handle, which then ends its processes."""
    global _shared
    _shared = shared
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: a killed one cannot tell it, and it would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _fill(place: int, start: int, images: Sequence[object]) -> list[str | None]:
    """Fit images into their places of a batch; why each could not be read, if so."""
    reasons: list[str | None] = []
    for at, image in enumerate(images, start):
        known = image if isinstance(image, str | Path | bytes) else torch.as_tensor(image)
        result = _fit_or_reason(known, _shared.config)
        if isinstance(result, str):
            reasons.append(result)
        else:
            _shared.pixels[place, at] = result
            reasons.append(None)
    return reasons


def _batches(items: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
