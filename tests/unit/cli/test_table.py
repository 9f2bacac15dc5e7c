"""Tables: for people on a terminal, for programs elsewhere."""

import io
import sys

import pytest

from vitrail.cli.table import show, three_digits


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [("rose.jpg", "[red]rose[/red]", "97.1 %"), ("t.jpg", "tulip", "5.0 %")]


def test_elsewhere_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    show(("image", "label", "share"), ROWS, right=(2,))
    out = capsys.readouterr().out
    assert out == "image\tlabel\tshare\nrose.jpg\t[red]rose[/red]\t97.1 %\nt.jpg\ttulip\t5.0 %\n"


def test_on_a_terminal_aligned_and_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")  # no escape codes
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    show(("image", "label", "share"), ROWS, right=(2,))
    lines = [line.rstrip() for line in stream.getvalue().splitlines() if "jpg" in line]
    assert lines == ["rose.jpg  [red]rose[/red]  97.1 %", "t.jpg     tulip             5.0 %"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0071493, "0.00715"), (2.5133, "2.51"), (16.0, "16"), (1089.6, "1,090"), (123_456.0, "123,000"), (0.0, "0")],
)
def test_three_digits_are_shown_without_an_exponent(value: float, text: str) -> None:
    assert three_digits(value) == text
