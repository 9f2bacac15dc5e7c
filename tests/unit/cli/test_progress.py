"""Progress: a bar where a line can be redrawn, plain lines elsewhere, on stderr in both cases."""

import io
import sys

import pytest

from vitrail.cli.progress import counting, reporting
from vitrail.train.progress import Progress

NEWS = [
    Progress("start", text="training [bold]Pico/2[/bold] on digits"),
    Progress(
        "step", step=1, steps=2, epoch=0.5, epochs=1.0, loss=2.3026, lr=0.001, images_per_second=123.4, eta_seconds=65.0
    ),
    Progress("evaluating"),
    Progress("epoch", step=1, steps=2, epoch=0.5, epochs=1.0, score=0.4321),
    Progress(
        "step", step=2, steps=2, epoch=1.0, epochs=1.0, loss=1.9, lr=0.001, images_per_second=7.25, eta_seconds=0.0
    ),
    Progress("done", text="the model is in runs/a"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, kind: str = "xterm") -> Terminal:
    """stderr from here on. Not a fixture: pytest sets its own stderr between a fixture and its test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    return stream


def test_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting() as notify:
        for news in NEWS:
            notify(news)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "training [bold]Pico/2[/bold] on digits"
    assert lines[1].startswith("step 1/2") and "loss 2.3026" in lines[1] and "1 min 5 s left" in lines[1]
    assert "43.21 %" in lines[2]
    assert lines[-1] == "the model is in runs/a"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with reporting() as notify:
        for news in NEWS:
            notify(news)
    text = stream.getvalue()
    for part in ("epoch 1.0/1", "7.25 img/s", "loss 1.900", "top-1 43.2 %", "0 s left"):
        assert part in text, part
    assert "training [bold]Pico/2[/bold] on digits" in text  # names are no markup
    assert "the model is in runs/a" in text


def test_counting_says_nothing_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("predict") as count:
        count(1, 2)
    assert capsys.readouterr() == ("", "")


def test_counting_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with counting("predict") as count:
        count(64, 200)
        count(200, 200)
    assert "predict" in stream.getvalue()
    assert "200 of 200 images" in stream.getvalue()


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch, "dumb")
    with reporting() as notify:
        notify(NEWS[0])
    assert stream.getvalue() == "training [bold]Pico/2[/bold] on digits\n"


def test_the_cursor_comes_back_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), reporting() as notify:
        notify(NEWS[1])
        raise KeyboardInterrupt
    text = stream.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
