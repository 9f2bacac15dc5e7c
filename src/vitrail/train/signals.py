"""Ctrl-C and SIGTERM, noted while a run works, so that the step at hand is finished and saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Stopped = Callable[[], int | None]  # the signal that was noted, if any


@contextmanager
def stop_signals() -> Iterator[Stopped]:
    """While it lasts, the first Ctrl-C or SIGTERM is only noted, and the function it gives tells which; the second acts
    as usual. A signal that is ignored stays so. Outside the main thread, where Python allows no handlers, nothing is
    noted."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    usual = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    usual = {number: handler for number, handler in usual.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: noted[0] if noted else None
    finally:
        restore()
