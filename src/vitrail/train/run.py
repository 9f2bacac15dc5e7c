"""`train`: from images to a run folder with a trained, measured model. See folder.py for what lies in it.

What makes a run continue bit for bit: the order and the variation of the images and everything drawn inside a step are
pure functions of (seed, step); a checkpoint holds the rest.
"""

import math
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitrail.data.loader import TrainLoader
from vitrail.errors import ConfigError, WeightsError, WorkerDied
from vitrail.evaluate import evaluate_each, picture_mistakes, render
from vitrail.evaluate.multilabel_report import MultilabelReport
from vitrail.evaluate.predictions import PREDICTIONS_FILE, ImageResult, to_csv
from vitrail.inference import Classifier
from vitrail.models.cost import parameters
from vitrail.report import Report, duration, write_text
from vitrail.train.distill import Distillation
from vitrail.train.folder import CHECKPOINTS, MODEL, Metrics, finish_run, only_writer
from vitrail.train.job import Job, Notify, decide
from vitrail.train.loop import Step, train_steps
from vitrail.train.lora import count_trained, merged
from vitrail.train.loss import Objective, make_loss
from vitrail.train.optim import make_optimizer
from vitrail.train.progress import Progress, print_line
from vitrail.train.settings import evaluation_steps
from vitrail.train.signals import Stopped, stop_signals
from vitrail.train.sinks import TensorBoard
from vitrail.train.solve import solve_head
from vitrail.train.start import build_model
from vitrail.train.state import TrainState, new_average, resume, save_checkpoint
from vitrail.train.wrap import wrap_blocks
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

SAVE_SECONDS = 120.0  # between checkpoints where evaluations are further apart
LOGGED = 10_000  # most step rows in metrics.jsonl
SMOOTHED = 20  # steps over which the shown loss and rate are taken
SELECTION = "none: the weights of the last step are kept, so no score on held-out images chose them"

Measured = tuple[Report | MultilabelReport, tuple[ImageResult, ...]]  # and what was said about each image


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and the evaluation of its model on the held-out images."""

    folder: Path
    report: Report | MultilabelReport


class Stop(Exception):
    """A signal asked the run to stop; raised between two steps only, where the state can be saved."""


@dataclass
class Pace:
    """What the progress shows (loss and rate over the last steps) and what the next sitting must know: the time the
    run has taken and the images it could not read."""

    seconds: float = 0.0  # of earlier sittings
    began: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    score: float | None = None
    measure: str = "top-1"
    broken: dict[str, str] = field(default_factory=dict)  # id -> reason
    head: dict[str, Any] | None = None  # how it was solved for

    def add(self, loss: float, seconds: float) -> None:
        if math.isfinite(loss):
            self.losses = [*self.losses[1 - SMOOTHED :], loss]
        self.times = [*self.times[1 - SMOOTHED :], seconds]

    @property
    def total(self) -> float:
        """Seconds of all sittings."""
        return self.seconds + time.monotonic() - self.began


def train(
    data: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    notify: Notify = print_line,
    accept_changes: bool = False,
) -> RunResult:
    """Train a Vision Transformer on the images of `data`, measure it on held-out ones, and keep both in `out`.

    `data`: what `open_dataset` takes. `weights`: a source to start from, else random weights. `model`: an architecture
    by name. `recipe`: a row of RECIPES; `finetune` with weights and `scratch_small` without, where none is named.
    `out`: runs/DATA-RECIPE-seedSEED where it is None. `overrides`: `field=value` changes of the recipe.

    The same call continues a run that was stopped, bit for bit on the same processor; `accept_changes` one that was
    started with other data or settings, with those of this call from here on. Ctrl-C (and SIGTERM) ends the
    step, saves, and raises KeyboardInterrupt (SystemExit 143). The weights of the last step are kept, averaged ones
    where the recipe averages: nothing is selected on the held-out images.
    Raises a UserError for what the user can mend: ConfigError, UnknownName, DataError, WeightsError, StorageError.
    """
    job = decide(data, model, weights, recipe, out, seed, overrides, notify, accept_changes)
    with only_writer(job.folder), closing(Metrics(job.folder)) as metrics:
        state = new_state(job)
        record = resume(job.folder / CHECKPOINTS, state, lambda text: notify(Progress("message", text=text)))
        metrics.truncate(state.step)
        if job.recipe.tensorboard:
            metrics.sink = TensorBoard(job.folder, state.step, lambda text: notify(Progress("message", text=text)))
        pace = Pace(seconds=record["seconds"], broken=record["broken"], head=record["head"]) if record else Pace()
        notify(Progress("start", state.step, job.steps, epochs=job.epochs, text=opening(job, state)))
        with stop_signals() as stopped:
            if job.recipe.head_solver != "none" and record is None:
                solve(job, state, pace, stopped)
            fit(job, state, metrics, pace, stopped)
        try:
            return finish(job, state, metrics, pace)
        except KeyboardInterrupt:  # every step is done and saved
            tell_stopped(job, state)
            raise


def new_state(job: Job) -> TrainState:
    """Model, optimiser and averaged weights at step 0."""
    model = build_model(job.recipe, job.start).to(job.device)
    optim = job.recipe.optim
    state = TrainState(model, make_optimizer(model, model.config, optim), new_average(model) if optim.ema else None)
    wrap_blocks(model, compile=job.recipe.compile, checkpointing=job.recipe.checkpointing)
    return state


def solve(job: Job, state: TrainState, pace: Pace, stopped: Stopped) -> None:
    """Solve for the head on frozen features and save; a run that is stopped before begins again."""

    def check(done: int, total: int) -> None:
        if stopped():
            raise Stop
        job.notify(Progress("features", done, total))

    try:
        found = solve_head(state.model, job.recipe, job.dataset.split("train"), job.precision, check)
    except Stop:
        text = "Stopped before the head was solved; the same command begins again."
        job.notify(Progress("stopped", 0, job.steps, text=text))
        raise halt(stopped) from None
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
    pace.broken.update(found.broken)
    pace.head = {"solver": found.method, "penalty": found.penalty, "images": found.images, "features": found.width}
    save(job, state, pace)
    how = f"{found.method}, penalty {found.penalty:.1e}"
    text = f"Head solved ({how}) on {found.width} features of {found.images:,} images."
    job.notify(Progress("message", text=text))
    if stopped():
        tell_stopped(job, state)
        raise halt(stopped)


def halt(stopped: Stopped) -> BaseException:
    """What ends the program after a signal has been heeded."""
    return SystemExit(128 + signal.SIGTERM) if stopped() == signal.SIGTERM else KeyboardInterrupt()


def fit(job: Job, state: TrainState, metrics: Metrics, pace: Pace, stopped: Stopped) -> None:
    """Train from `state.step` to the last step; between steps it logs, evaluates and saves."""
    recipe = job.recipe
    loader = TrainLoader(job.dataset.split("train"), recipe.preprocess, recipe.augment, recipe.data, recipe.seed)
    loader.broken.update(pace.broken)
    due = evaluation_steps(recipe, job.n_train) - {job.steps}  # after the last step comes the final evaluation
    try:
        if state.step in due - metrics.scored:  # stopped during that evaluation
            score(job, state, metrics, pace, stopped)
        batches = loader.batches(state.step, job.steps)
        saved = mark = time.monotonic()
        objective, halvings = make_objective(job), state.halvings
        for step in train_steps(state, batches, job.steps, recipe.optim, recipe.seed, job.precision, objective):
            if state.halvings > halvings:
                halvings = state.halvings
                tell_smaller(job, step)
            pace.add(step.loss, time.monotonic() - mark)
            pace.broken = loader.broken
            log(job, step, metrics, pace)
            if stopped():
                raise Stop
            if step.step in due:
                score(job, state, metrics, pace, stopped)
            if step.step in due or step.step == job.steps or time.monotonic() - saved > SAVE_SECONDS:
                save(job, state, pace)
                saved = time.monotonic()
            mark = time.monotonic()
    except WorkerDied:  # between two steps
        save(job, state, pace)
        tell_stopped(job, state)
        raise
    except Stop:
        save(job, state, pace)
        tell_stopped(job, state)
        raise halt(stopped) from None


def make_objective(job: Job) -> Objective:
    """What the run minimises: the recipe's loss on the labels, with a teacher's answers beside it where it has one."""
    labels = make_loss(job.recipe.optim, job.counts, job.device)
    if job.teacher is None:
        return labels
    return Distillation(job.teacher.to(job.device), job.recipe.distill, labels.of, job.recipe.preprocess)


def tell_smaller(job: Job, step: Step) -> None:
    """Say that memory ran out, what was done about it, and what avoids it."""
    size = -(-step.images // step.parts)
    text = (
        f"Step {step.step} did not fit in memory: from here on each step of {step.images} images is computed in "
        f"{step.parts} parts of up to {size}, with the same loss. "
        f"--set accumulate={step.parts} starts a run so."
    )
    job.notify(Progress("message", step.step, job.steps, text=text))


def tell_stopped(job: Job, state: TrainState) -> None:
    """Say how far the run came and how to continue it."""
    text = f"Stopped after step {state.step} of {job.steps}; saved in {job.folder}. The same command continues."
    job.notify(Progress("stopped", state.step, job.steps, text=text))


def save(job: Job, state: TrainState, pace: Pace) -> None:
    """Publish a checkpoint."""
    save_checkpoint(job.folder / CHECKPOINTS, state, {"seconds": pace.total, "broken": pace.broken, "head": pace.head})


def log(job: Job, step: Step, metrics: Metrics, pace: Pace) -> None:
    """One row of metrics.jsonl (every row, up to 10,000 a run) and one piece of news about a step."""
    epoch = job.epoch(step.step)
    if step.step % math.ceil(job.steps / LOGGED) == 0 or step.step == job.steps or step.skipped:
        row = {"step": step.step, "epoch": round(epoch, 6), "lr": step.lr, "seconds": round(pace.total, 3)}
        values = {"loss": step.loss, "gradient_norm": step.gradient_norm}
        source = job.dataset.split("train")
        skipped = {"skipped": True, "images": [source.id(index) for index in step.index.tolist()]}
        metrics.append({**row, **(skipped if step.skipped else values)})
    per_step = sum(pace.times) / len(pace.times)
    job.notify(
        Progress(
            "step",
            step.step,
            job.steps,
            epoch,
            job.epochs,
            loss=sum(pace.losses) / len(pace.losses) if pace.losses else None,
            lr=step.lr,
            images_per_second=step.images / per_step,
            eta_seconds=(job.steps - step.step) * per_step,
            score=pace.score,
            measure=pace.measure,
        )
    )


def score(job: Job, state: TrainState, metrics: Metrics, pace: Pace, stopped: Stopped) -> Measured:
    """Evaluate on the images that training watches, and log it. Raises Stop where a signal asks for it."""
    epoch = job.epoch(state.step)
    job.notify(Progress("evaluating", state.step, job.steps, epoch, job.epochs, score=pace.score))
    report, results = measure(job, state, job.dataset.validation, stopped)
    pace.score, pace.measure = report.score, report.measure
    if state.step not in metrics.scored:  # it is where a run was killed while it finished
        row = {"step": state.step, "epoch": round(epoch, 6), **report.logged()}
        metrics.append({**row, "val_images": report.images, "seconds": round(pace.total, 3)})
    news = Progress("epoch", state.step, job.steps, epoch, job.epochs, score=report.score, measure=report.measure)
    job.notify(news)
    return report, results


def measure(job: Job, state: TrainState, split: str, stopped: Stopped) -> Measured:
    """The report on one split and the answer for each image, by the path that every user of the model takes."""

    def check(done: int, total: int) -> None:
        if stopped():
            raise Stop

    record = model_record(job, state, {})
    classifier = Classifier(state.result, job.recipe.preprocess, labels_of(job), record, job.device)
    try:
        return evaluate_each(classifier, job.dataset, split=split, workers=job.recipe.data.workers, notify=check)
    except WeightsError as error:  # outputs that are not finite
        raise ConfigError(
            f"training has diverged by step {state.step}: lower optim.lr (now {job.recipe.optim.lr:g}) and choose "
            f"another --out ({error})"
        ) from error


def labels_of(job: Job) -> LabelSet:
    """The classes that the model names, and whether an image may have several."""
    return LabelSet(job.dataset.classes, multilabel=job.dataset.multilabel)


def finish(job: Job, state: TrainState, metrics: Metrics, pace: Pace) -> RunResult:
    """The final evaluation, and everything that is kept: model folder, evaluation, page, and last the word that the run
    is finished. What a kill leaves out, the same command makes good."""
    report, results = score(job, state, metrics, pace, lambda: None)
    if job.dataset.held_out != job.dataset.validation:
        report, results = measure(job, state, job.dataset.held_out, lambda: None)
    more = {
        "metrics": report.summary(),
        "steps": state.step,
        "skipped_steps": state.skipped,
        "head": pace.head,
        "broken_images": dict(sorted(pace.broken.items())),
        "seconds": round(pace.total, 1),
    }
    labels, record = labels_of(job), model_record(job, state, more)
    write_model_folder(job.folder / MODEL, merged(state.result), job.recipe.preprocess, labels, record)
    report.save(job.folder / "evaluation.json")
    write_text(job.folder / PREDICTIONS_FILE, to_csv(results))
    pictures = picture_mistakes(report, job.dataset)
    page = render(report, history=metrics.rows(), mistakes=pictures, title=record["name"])
    write_text(job.folder / "report.html", page)
    finish_run(job.folder, job.run, more)
    text = f"Done in {duration(pace.total)}: {report.closing()} ({report.data.split}); everything is in {job.folder}."
    epochs = job.epochs
    job.notify(
        Progress("done", state.step, job.steps, epochs, epochs, score=report.score, measure=report.measure, text=text)
    )
    return RunResult(job.folder, report)


def model_record(job: Job, state: TrainState, more: Mapping[str, Any]) -> dict[str, Any]:
    """What the model folder says about where the model comes from."""
    return {
        "name": f"{job.dataset.name}, {job.recipe.name}",
        **{key: job.run[key] for key in ("recipe", "data", "seed", "precision", "versions", "started_from")},
        "started_from_sha256": job.start.sha256 if job.start else None,
        "licence": job.start.licence if job.start else None,
        "teacher": {"source": job.teacher.source, "sha256": job.teacher.sha256} if job.teacher else None,
        "averaged": state.average is not None,
        "changes": job.run.get("changes", []),
        "selection": SELECTION,
        **more,
    }


def opening(job: Job, state: TrainState) -> str:
    """What will be trained on what."""
    recipe, splits = job.recipe, job.run["data"]["splits"]
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.items())
    rows, cols = recipe.model.image_size
    which = f": updates of rank {recipe.lora.rank} and the head" if recipe.lora.rank else ""
    which += f"; frozen blocks: {recipe.optim.frozen_blocks}" if recipe.optim.frozen_blocks else ""
    trained = f" ({count_trained(state.model):,} train{which})" if which else ""
    text = (
        f"{job.dataset.name}: {len(job.dataset.classes)} classes, {counts} images. "
        f"Training from {job.start.source if job.start else 'scratch'}: {parameters(recipe.model):,} parameters"
        f"{trained} at "
        f"{rows} x {cols} px, {job.steps:,} steps ({job.epochs:.4g} epochs) in {job.precision}."
    )
    if job.dataset.left_out:
        listed, images = job.dataset.left_out.quarantine, job.dataset.left_out.images
        each = ", ".join(f"{count:,} of {split}" for split, count in images.items() if count)
        text += f" {listed.path} leaves out {sum(images.values()):,} images{f': {each}' if each else ''}."
    if job.teacher:
        text += f" Its teacher is {job.teacher.source}."
    if recipe.expected:
        text += f" Expected: {recipe.expected}."
    if state.average is not None:
        text += f" Weights averaged over the steps (ema {recipe.optim.ema:g}) are evaluated and kept."
    if job.dataset.multilabel:
        text += f" An image may have several classes: one yes-or-no question each (loss {recipe.optim.loss})."
    if state.step:
        text += f" Continuing after step {state.step:,}."
        then, now = job.run["versions"]["torch"], str(torch.__version__)
        if then != now:
            text += f" It began with torch {then} and goes on with {now}: the last bits may differ."
    return text
