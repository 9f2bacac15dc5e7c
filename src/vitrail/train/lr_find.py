"""The learning-rate range test (Smith 2017, "Cyclical Learning Rates", section 3.3): train while the rate grows from
far too small to far too large, and read off the curve where learning still goes well."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vitrail.config import Config
from vitrail.data.loader import TrainLoader
from vitrail.errors import ConfigError
from vitrail.train.job import Job, choose, rehearsal
from vitrail.train.loop import step_that_fits
from vitrail.train.run import make_objective, new_state
from vitrail.train.solve import solve_head

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # times the lowest smoothed loss; fastai's LRFinder stops there too
FEWEST = 20  # steps of a test
EDGE = 5  # first points, whose running mean is over too few losses, that a suggestion leaves out
FALLEN = 0.01  # share of the first smoothed loss by which the lowest must lie below it
RULE = "a tenth of the rate at which the smoothed loss is lowest (the rule that fastai calls minimum)"


class LrPoint(Config):
    """One step: its peak rate (before layer-wise scaling), its loss and the smoothed loss, in nats an image."""

    lr: float
    loss: float
    smoothed: float


class LrFinding(Config):
    """The curve of a range test, and the rate it suggests for `optim.lr`."""

    version: Literal[1] = 1
    data: str
    recipe: str
    optimizer: str
    started_from: str | None
    seed: int
    recipe_lr: float  # what the recipe has
    suggestion: Annotated[float, Field(gt=0.0)] | None  # None where the loss never fell
    rule: str = RULE
    stopped: Literal["diverged", "end"]
    points: tuple[LrPoint, ...]


def find_lr(
    data: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    recipe: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    steps: int = STEPS,
    notify: Callable[[int, int], None] | None = None,
) -> LrFinding:
    """Run the range test on what `train` would train with the same arguments; nothing is written, no file changed.

    Model, batches, augmentation, optimiser, loss and layer-wise rates are the recipe's; all that trains does so from
    the first step, and the schedule is replaced by rates that grow from 1e-6 to 10, each by the same factor. It ends
    where the smoothed loss is four times its lowest, or no longer finite. `notify(step, steps)` is called after each
    step. Raises ConfigError where the recipe takes no steps, and what `train` raises.
    """
    if steps < FEWEST:
        raise ConfigError(f"a range test needs at least {FEWEST} steps, found {steps}")
    plan = choose(data, model, weights, recipe, seed, overrides)
    job = rehearsal(plan)
    if not job.steps:
        raise ConfigError(f"the recipe {plan.recipe.name} takes no steps, so it has no rate to find: choose another")
    points, diverged = sweep(job, steps, notify)
    best = suggest(points)
    return LrFinding(
        data=plan.dataset.name,
        recipe=plan.recipe.name,
        optimizer=plan.recipe.optim.optimizer,
        started_from=plan.start.source if plan.start else None,
        seed=plan.recipe.seed,
        recipe_lr=plan.recipe.optim.lr,
        suggestion=None if best is None else round_rate(best),
        stopped="diverged" if diverged else "end",
        points=points,
    )


def sweep(job: Job, steps: int, notify: Callable[[int, int], None] | None) -> tuple[tuple[LrPoint, ...], bool]:
    """The points of the test, and whether it ended because the loss diverged."""
    recipe, source, state = job.recipe, job.dataset.split("train"), new_state(job)
    if recipe.head_solver != "none":
        solve_head(state.model, recipe, source, job.precision)
    objective = make_objective(job)
    loader = TrainLoader(source, recipe.preprocess, recipe.augment, recipe.data, recipe.seed)
    points: list[LrPoint] = []
    mean, lowest = 0.0, math.inf
    for step, batch in enumerate(loader.batches(0, steps)):
        lr = LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))
        state.model.train()
        loss, _, moved = step_that_fits(
            state, batch, lr, recipe.optim, recipe.seed, job.precision, objective, job.device
        )
        state.step += 1
        if not moved:
            return tuple(points), True
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (step + 1))  # without the bias towards the zero it began with
        points.append(LrPoint(lr=lr, loss=loss, smoothed=smoothed))
        lowest = min(lowest, smoothed)
        if smoothed > DIVERGED * lowest:
            return tuple(points), True
        if notify:
            notify(step + 1, steps)
    return tuple(points), False


def suggest(points: Sequence[LrPoint]) -> float | None:
    """The rate that RULE gives; None where the loss did not fall by a hundredth of what it was."""
    usable = points[EDGE:]
    if not usable:
        return None
    lowest = min(usable, key=lambda p: p.smoothed)
    return lowest.lr / 10 if lowest.smoothed < (1 - FALLEN) * usable[0].smoothed else None


def round_rate(rate: float) -> float:
    """Two significant digits: the test tells no more."""
    return float(f"{rate:.1e}")
