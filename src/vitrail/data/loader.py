"""Batches: the seeded, endless stream for training, and the exact pass for evaluation.

A worker process makes whole batches, each a pure function of its number, so neither the count of workers nor where a
run resumes changes one bit. Pixels cross from worker to parent as uint8, a quarter of the size, and become floats
there.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitrail.config import AugmentConfig, DataConfig, Preprocess
from vitrail.data.augment import augment, check_extras
from vitrail.data.decode import decode, dimensions
from vitrail.data.labels import multilabel, places, targets
from vitrail.data.mix import mix
from vitrail.data.preprocess import fit_encoded, to_model
from vitrail.data.sampler import ClassTurns, batch_positions, batch_seed, sample_seed
from vitrail.data.stores import Source
from vitrail.errors import DataError, ImageError, WorkerDied
from vitrail.types import Batch, Pixels

_TINY = 64 * 64  # pixels of an image that is kept decoded, and that needs no worker process
_KEPT = 256 * 2**20  # bytes of decoded tiny images kept
_LISTED = 20  # broken images named in an error
_NO_WORKERS_BELOW = 64  # images: reading them takes less than starting a worker


@dataclass(frozen=True)
class _Part:
    """What a worker hands over: uint8 images with labels and positions, and (position, reason) of the unreadable."""

    pixels: Tensor
    labels: Tensor
    index: Tensor
    broken: list[tuple[int, str]]


class TrainLoader:
    """The training stream of a source: `batches(start, stop)` are steps start to stop - 1 of it.

    An unreadable image is replaced by another of its class, which one follows from the seed alone, and counted in
    `broken`.
    """

    def __init__(
        self, source: Source, preprocess: Preprocess, augment: AugmentConfig, data: DataConfig, seed: int
    ) -> None:
        if len(source) == 0:
            raise DataError("there are no images to train on")
        check_extras(augment)
        self.source, self.preprocess, self.augment, self.data, self.seed = source, preprocess, augment, data, seed
        self.workers = worker_count(source, data.workers)
        self.broken: dict[str, str] = {}  # id -> reason, of the images met so far
        self._make = _TrainParts(source, preprocess, augment, data, seed)

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Steps of the stream, on the CPU, mixed; a pure function of (seed, step).

        Raises DataError with the list once more than data.max_broken of the source's images are unreadable.
        """
        steps = range(start_step, stop_step)
        with closing(_run(self._make, steps, self.workers)) as parts:
            for step, part in zip(steps, parts, strict=True):
                self._count(part.broken)
                batch = Batch(to_model(part.pixels, self.preprocess), part.labels, part.index)
                yield mix(batch, self.augment, len(self.source.classes), batch_seed(self.seed, step))

    def _count(self, broken: list[tuple[int, str]]) -> None:
        self.broken.update((self.source.id(index), reason) for index, reason in broken)
        share = len(self.broken) / len(self.source)
        if share > self.data.max_broken:
            listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.broken.items())[:_LISTED])
            more = len(self.broken) - _LISTED
            raise DataError(
                f"at most {self.data.max_broken:.1%} of the images may be unreadable (data.max_broken), found "
                f"{len(self.broken)} of {len(self.source)} so far: {listed}{f'; and {more} more' if more > 0 else ''}. "
                "Repair or remove them"
            )


class EvaluationPass:
    """Every readable image of a source exactly once, in batches; iterate it once or again.

    `unreadable` holds (id, reason) of the others after the pass. Nothing stands in for them. Without `normalised` the
    images are the pixels that `fit` gives (uint8), as an engine takes them.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int = 64,
        workers: int | None = None,
        normalised: bool = True,
    ) -> None:
        self.source, self.preprocess, self.batch_size = source, preprocess, batch_size
        self.normalised = normalised
        self.workers = worker_count(source, workers)
        self.unreadable: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """Batches that are read; one without a readable image is not handed out."""
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.unreadable = []
        make = _EvaluationParts(self.source, self.preprocess, self.batch_size)
        with closing(_run(make, range(len(self)), self.workers)) as parts:
            for part in parts:
                self.unreadable += [(self.source.id(index), reason) for index, reason in part.broken]
                if len(part.index):
                    images = to_model(part.pixels, self.preprocess) if self.normalised else part.pixels
                    yield Batch(images, part.labels, part.index)


def worker_count(source: Source, workers: int | None) -> int:
    """Worker processes to use: as told, else none for few or tiny images and up to eight, one a core, for others."""
    if workers is not None:
        return workers
    if len(source) < _NO_WORKERS_BELOW or sys.platform == "win32":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for index in range(_NO_WORKERS_BELOW):  # the first readable image stands for all
        try:
            rows, cols = dimensions(source.read(index).data)
        except ImageError:
            continue
        return 0 if rows * cols <= _TINY else min(cores, 8)
    return 0


def smallest_side(size: tuple[int, int], augment: AugmentConfig) -> int:
    """Pixels that both sides of an image must have so that its smallest random crop is not enlarged to `size`."""
    if augment.crop == "simple":
        return math.ceil(max(size) * augment.crop_enlarge)
    low, high = augment.crop_ratio
    return math.ceil(max(size) / math.sqrt(augment.crop_scale[0] * min(low, 1 / high)))


@dataclass
class _Reader:
    """Decodes images of a source; keeps the tiny ones, whose decoding costs more than all else."""

    source: Source
    at_least: int  # pixels a side that are enough, see decode
    kept: dict[int, Pixels] = field(default_factory=dict)
    bytes: int = 0

    def pixels(self, index: int) -> Pixels:
        """Decoded pixels. Raises ImageError."""
        if index in self.kept:
            return self.kept[index]
        pixels = decode(self.source.read(index).data, at_least=self.at_least)
        if pixels.numel() <= 3 * _TINY and self.bytes + pixels.numel() <= _KEPT:
            self.kept[index] = pixels
            self.bytes += pixels.numel()
        return pixels


class _TrainParts:
    """Step -> the augmented images of its batch."""

    def __init__(
        self, source: Source, preprocess: Preprocess, augment: AugmentConfig, data: DataConfig, seed: int
    ) -> None:
        self.source, self.preprocess, self.augment = source, preprocess, augment
        self.batch_size, self.seed = data.batch_size, seed
        self.labels = torch.from_numpy(source.labels)
        self.turns = ClassTurns(self.labels, source.classes, seed) if data.sampler == "balanced" else None
        self.reader = _Reader(source, smallest_side(preprocess.size, augment))

    def __getitem__(self, step: int) -> _Part:
        images: list[Pixels] = []
        indices: list[int] = []
        broken: list[tuple[int, str]] = []
        if self.turns is None:
            positions = batch_positions(len(self.source), self.batch_size, self.seed, step)
        else:
            positions = self.turns.positions(self.batch_size, step)
        for epoch, index in positions:
            seed = sample_seed(self.seed, epoch, index)
            pixels, used = self._readable(index, seed, broken)
            images.append(augment(pixels, self.preprocess.size, self.augment, seed, self.preprocess.interpolation))
            indices.append(used)
        at = torch.tensor(indices)
        return _Part(torch.stack(images), targets(self.labels[at]), at, broken)

    def _readable(self, index: int, seed: int, broken: list[tuple[int, str]]) -> tuple[Pixels, int]:
        """Pixels of an image and its position: the image at `index`, else the next readable one of its class.

        Where the search starts follows from the seed, so the stand-ins of a broken image vary from epoch to epoch.
        """
        try:
            return self.reader.pixels(index), index
        except ImageError as error:
            broken.append((index, error.reason))
        for other in self._stand_ins(index, seed):
            try:
                return self.reader.pixels(other), other
            except ImageError as error:
                broken.append((other, error.reason))
        name = " and ".join(self.source.classes[k] for k in places(self.labels[index].numpy())) or "no class"
        reasons = "; ".join(f"{self.source.id(i)}: {reason}" for i, reason in dict(broken).items())
        raise DataError(f"every class needs a readable image, but none of {name!r} is: {reasons}")

    def _stand_ins(self, index: int, seed: int) -> Iterator[int]:
        """Images with the very labels of the one at `index`, from a place that follows from the seed; then, where
        images have several classes and few share them all, the others."""
        alike = self.labels == self.labels[index]
        if multilabel(self.labels):
            alike = alike.all(dim=1)
        for chosen in (alike, ~alike) if multilabel(self.labels) else (alike,):
            found = torch.nonzero(chosen).flatten().tolist()
            start = seed % max(1, len(found))
            yield from found[start:] + found[:start]


class _EvaluationParts:
    """Number -> the readable images of that batch."""

    def __init__(self, source: Source, preprocess: Preprocess, batch_size: int) -> None:
        self.source, self.preprocess, self.batch_size = source, preprocess, batch_size
        self.labels = torch.from_numpy(source.labels)

    def __getitem__(self, number: int) -> _Part:
        images: list[Pixels] = []
        indices: list[int] = []
        broken: list[tuple[int, str]] = []
        start = number * self.batch_size
        for index in range(start, min(start + self.batch_size, len(self.source))):
            try:
                images.append(fit_encoded(self.source.read(index).data, self.preprocess))
                indices.append(index)
            except ImageError as error:
                broken.append((index, error.reason))
        at = torch.tensor(indices, dtype=torch.int64)
        pixels = torch.stack(images) if images else torch.empty(0, 3, *self.preprocess.size, dtype=torch.uint8)
        return _Part(pixels, targets(self.labels[at]), at, broken)


def _run(make: Any, numbers: Sequence[int], workers: int) -> Generator[_Part, None, None]:
    """make[number] for each number, in order, by worker processes where there are any."""
    if not workers:
        yield from (make[number] for number in numbers)
        return
    guarded: Any = _Guarded(make)
    others = set(multiprocessing.active_children())
    with warnings.catch_warnings(), _deaths_wait():
        # Python 3.12 warns of forks in a process with threads, torch of more workers than cores: both were asked for.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader: DataLoader[_Part | DataError] = DataLoader(
            guarded,
            sampler=numbers,
            batch_size=None,
            num_workers=min(workers, max(1, len(numbers))),
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            generator=torch.Generator(),  # the loader draws a seed for its workers: not from the caller's generator
        )
        parts = iter(loader)
    processes = [process for process in multiprocessing.active_children() if process not in others]
    try:
        while (part := _next(parts, processes)) is not None:
            if isinstance(part, DataError):
                raise part
            yield part
    finally:
        del parts  # ends the workers now, not when the last traceback that holds this frame is gone


def _next(parts: "Iterator[_Part | DataError]", processes: Sequence[BaseProcess]) -> "_Part | DataError | None":
    """The next part; None after the last; WorkerDied where a process is gone, which takes five seconds to notice. A
    value like other errors: raised here, its traceback would hold `parts`, and with it the living workers."""
    try:
        return next(parts, None)
    except RuntimeError:  # torch's word that it looked after its workers and one did not live
        codes = [process.exitcode for process in processes if process.exitcode]
        if not codes:
            raise
    cause = f"killed: {signal.strsignal(-codes[0])}" if codes[0] < 0 else f"exit code {codes[0]}"
    return WorkerDied(
        f"a process that reads images died ({cause}), as happens where memory runs out: run the same command again, "
        "with fewer workers (data.workers) or a smaller batch if it dies again"
    )


@contextmanager
def _deaths_wait() -> Iterator[None]:
    """Keep torch from raising the death of a worker at whatever line the program happens to be, in the middle of a
    training step or of saving: it is noticed all the same where the next part is asked for."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield  # torch sets no handler here
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


class _Guarded:
    """Hands a DataError over as a value: raised in a worker, its sentence would come back as a page of traceback."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __getitem__(self, number: int) -> _Part | DataError:
        try:
            part: _Part = self.make[number]
        except DataError as error:
            return DataError(str(error))
        return part


def _as_it_is(part: Any) -> Any:
    return part


def _start_worker(number: int) -> None:
    """One thread a worker; Ctrl-C is the parent's to handle, which then ends its workers."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
