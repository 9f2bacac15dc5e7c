"""What a run tells while it works, and the plain lines that tell it where no progress bar is at hand."""

from dataclasses import dataclass
from typing import Literal

from vitrail.report import duration


@dataclass(frozen=True)
class Progress:
    """One piece of news from a run; fields that do not apply are None.

    kind: `start` (text says what will be trained on what), `features` (step of steps images were read, to solve for the
    head), `step` (after every step), `evaluating` (the pass over the
    held-out split begins), `epoch` (that pass is done: score), `message` (text), `done` and `stopped` (text says where
    everything is, or how to continue).
    """

    kind: Literal["start", "features", "step", "evaluating", "epoch", "message", "done", "stopped"]
    step: int = 0  # steps finished
    steps: int = 0  # steps of the whole run
    epoch: float = 0.0  # passes over the training images finished
    epochs: float = 0.0
    loss: float | None = None  # running mean over the last steps, nats
    lr: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None  # until the last step, without evaluations
    score: float | None = None  # newest on the held-out split, 0..1
    measure: str = "top-1"  # what it is
    text: str = ""


LINES = 20  # of step news in a whole run


def print_line(progress: Progress) -> None:
    """Print the news as a plain line; of the steps about one in twenty, so that a log stays short."""
    p = progress
    if p.kind == "step":
        if p.step % max(1, p.steps // LINES) and p.step != 1:
            return
        print(step_line(p), flush=True)
    elif p.kind == "epoch":
        epoch = f"epoch {p.epoch:.1f}/{p.epochs:.4g}  " if p.epochs else ""
        print(f"{epoch}held-out {p.measure} {100 * (p.score or 0.0):.2f} %", flush=True)
    elif p.text:
        print(p.text, flush=True)


def step_line(p: Progress) -> str:
    """One line about a step: where it is, loss, rate of learning, rate of images and the time left."""
    parts = [f"step {p.step}/{p.steps}", f"epoch {p.epoch:.2f}/{p.epochs:.4g}"]
    if p.loss is not None:
        parts.append(f"loss {p.loss:.4f}")
    if p.lr is not None:
        parts.append(f"lr {p.lr:.2e}")
    if p.images_per_second is not None:
        parts.append(f"{p.images_per_second:.1f} img/s")
    if p.eta_seconds is not None:
        parts.append(f"{duration(p.eta_seconds)} left")
    return "  ".join(parts)
