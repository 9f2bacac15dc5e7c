"""How many images a device computes at once: the step of a recipe in micro-batches of 1, 2, 4, ... until one does not
fit. The recipe's batch stays what it is; only the parts it is computed in are looked for."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from vitrail.config import Config
from vitrail.errors import ConfigError
from vitrail.train.job import Job, choose, rehearsal
from vitrail.train.loop import split, step_rng, train_step
from vitrail.train.loss import Objective
from vitrail.train.memory import OutOfMemory, is_out_of_memory
from vitrail.train.run import make_objective, new_state
from vitrail.train.state import TrainState
from vitrail.types import Batch

LONGEST = 10.0  # seconds of a step after which no larger micro-batch is tried
NEARLY = 0.95  # of the highest rate of images: a smaller micro-batch that reaches it needs less memory


class BatchTrial(Config):
    """One size of micro-batch: whether it fits, and how it does."""

    images: int
    fits: bool
    images_per_second: float | None = None  # of forward and backward pass and optimiser
    peak_bytes: int | None = None  # of a CUDA device


class BatchFinding(Config):
    """All sizes that were tried, and the two that matter."""

    version: Literal[1] = 1
    recipe: str
    device: str
    precision: str
    batch_size: int  # the recipe's
    trials: tuple[BatchTrial, ...]
    largest: int  # that was tried and fits
    suggestion: int  # the smallest that is nearly as fast as the fastest
    accumulate: int  # parts in which the recipe's batch has at most that many images


def find_batch(
    data: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    notify: Callable[[BatchTrial], None] | None = None,
) -> BatchFinding:
    """Try what `train` would train with the same arguments on random pixels, in micro-batches up to the recipe's batch.

    Each size takes two steps, the second of which is timed; it ends where memory runs out, where a step takes ten
    seconds, and at the recipe's batch. Nothing is written. Raises ConfigError where not even one image fits, and what
    `train` raises.
    """
    job = rehearsal(choose(data, model, weights, recipe, seed, overrides))
    state, objective = new_state(job), make_objective(job)
    trials: list[BatchTrial] = []
    for size in sizes(job.recipe.data.batch_size):
        trials.append(attempt(job, state, objective, size))
        if notify:
            notify(trials[-1])
        rate = trials[-1].images_per_second
        if rate is None or size / rate > LONGEST:
            break
    return conclude(job, trials)


def sizes(batch_size: int) -> list[int]:
    """1, 2, 4, ... and the batch itself."""
    return [2**i for i in range((batch_size - 1).bit_length())] + [batch_size]


def attempt(job: Job, state: TrainState, objective: Objective, size: int) -> BatchTrial:
    """Two steps at rate 0 on `size` random images; the first takes what only the first step needs."""
    pixels = torch.randn(size, 3, *job.recipe.preprocess.size)
    whole = Batch(pixels, torch.arange(size) % len(job.dataset.classes), torch.arange(size))
    cuda = job.device.type == "cuda"
    began = 0.0
    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats(job.device)
        state.model.train()
        for _ in range(2):
            began = time.perf_counter()
            with step_rng(job.recipe.seed, 0, job.device):
                parts = split(whole, 1, job.device)
                optim = job.recipe.optim
                train_step(state.model, state.optimizer, parts, 0.0, optim, job.precision, objective)
            if cuda:
                torch.cuda.synchronize(job.device)
    except (OutOfMemory, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        return BatchTrial(images=size, fits=False)
    rate = size / (time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(job.device) if cuda else None
    return BatchTrial(images=size, fits=True, images_per_second=rate, peak_bytes=peak)


def conclude(job: Job, trials: Sequence[BatchTrial]) -> BatchFinding:
    """What the trials come to. ConfigError where none fits."""
    rates = {trial.images: trial.images_per_second for trial in trials if trial.images_per_second is not None}
    if not rates:
        rows, cols = job.recipe.preprocess.size
        raise ConfigError(
            f"a training step needs memory for one image at least, and one of {rows} x {cols} px does not fit "
            f"({job.device}): set checkpointing=true, or choose a smaller model or image_size"
        )
    suggestion = min(size for size, rate in rates.items() if rate >= NEARLY * max(rates.values()))
    return BatchFinding(
        recipe=job.recipe.name,
        device=str(job.device),
        precision=job.precision,
        batch_size=job.recipe.data.batch_size,
        trials=tuple(trials),
        largest=max(rates),
        suggestion=suggestion,
        accumulate=-(-job.recipe.data.batch_size // suggestion),
    )
