"""What the user sees while a command works: a bar on a terminal, plain lines elsewhere. Both on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from vitrail.cli.table import three_digits

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vitrail.train.progress import Progress

_SILENCE = 30.0  # seconds between two lines of a long pass


@contextmanager
def reporting() -> Iterator[Callable[["Progress"], None]]:
    """A `notify` for `vitrail.train.train`."""
    bar = _bar("{task.fields[rate]}", "{task.fields[loss]}", "{task.fields[score]}", "{task.fields[left]}")
    if bar is None:
        yield _print_line
        return
    with bar:
        yield _training_bar(bar)


@contextmanager
def counting(
    what: str, total: int | None = None, unit: str = "images", done: int | None = None
) -> Iterator[Callable[[int, int], None]]:
    """A `notify(done, total)` for a pass over images, or over other units. Where there is no terminal it says nothing:
    the result will. A pass that may take hours says how many were `done` before it, and then has a line every half
    minute."""
    bar = _bar("{task.completed:.0f} of {task.total:.0f} " + unit, "{task.fields[rate]}", left=True)
    if bar is None:
        yield (lambda done, total: None) if done is None else _lines(what, unit, done)
        return
    task = bar.add_task(what, total=total or 0, completed=done or 0, rate="")

    def count(done: int, total: int) -> None:
        speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
        bar.update(task, completed=done, total=total, rate=_rate(speed) if unit == "images" else "")

    with bar:
        yield count


def _lines(what: str, unit: str, before: int) -> Callable[[int, int], None]:
    start = said = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _SILENCE:
            said = now
            rate = _rate((done - before) / (now - start))
            print(f"{what}: {done:,} of {total:,} {unit}, {rate}", file=sys.stderr, flush=True)

    return count


def _bar(*columns: str, left: bool = False) -> "Bar | None":
    """A bar on stderr with these columns after it, or None where stderr is no terminal that can redraw a line."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    if not (sys.stderr.isatty() and console.is_interactive):
        return None
    shown: list[ProgressColumn] = [TextColumn(column, markup=False) for column in columns]
    if left:
        shown.append(TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), *shown, console=console, transient=True)


def _training_bar(bar: "Bar") -> "Callable[[Progress], None]":
    task = bar.add_task("starting", total=None, rate="", loss="", score="", left="")

    def notify(p: "Progress") -> None:
        if p.kind == "step":
            bar.update(task, description=f"epoch {p.epoch:.1f}/{p.epochs:.4g}", completed=p.step, total=p.steps)
            bar.update(task, rate=_rate(p.images_per_second), left=_left(p.eta_seconds))
            if p.loss is not None:
                bar.update(task, loss=f"loss {p.loss:.3f}")
        elif p.kind == "features":
            bar.update(task, description="features", completed=p.step, total=p.steps)
        elif p.kind == "evaluating":
            bar.update(task, description="evaluating")
        elif p.kind == "epoch":
            bar.update(task, score=f"{p.measure} {100 * (p.score or 0.0):.1f} %")
        if p.kind != "step" and p.text:
            bar.console.print(p.text, markup=False, soft_wrap=True)

    return notify


def _print_line(progress: "Progress") -> None:
    from vitrail.train.progress import print_line

    with redirect_stdout(sys.stderr):
        print_line(progress)


def _rate(images_per_second: float | None) -> str:
    return f"{three_digits(images_per_second)} img/s" if images_per_second else ""


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    from vitrail.report import duration

    return f"{duration(seconds)} left"
