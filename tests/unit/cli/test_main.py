"""Exit codes, and that everything a user can do wrong ends in one sentence."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

import vitrail
from vitrail import cli
from vitrail.errors import DataError

Capture = pytest.CaptureFixture[str]


def verb(error: BaseException | None = None, text: str = "") -> Callable[[], None]:
    def work() -> None:
        """Do it."""
        print(text, end="")
        if error is not None:
            raise error

    return work


def run(monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any], *arguments: str) -> int:
    monkeypatch.setattr(cli, "VERBS", (work,))
    return cli.main(["work", *arguments])


def test_done_is_0(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(text="result\n")) == 0
    assert capsys.readouterr() == ("result\n", "")


def test_a_users_mistake_is_2_and_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(DataError("a class folder\nholds no images"))) == 2
    assert capsys.readouterr() == ("", "vitrail: a class folder holds no images\n")


def test_a_defect_is_1_with_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(KeyError("inner"))) == 1
    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert out == ""
    assert first == (
        f"vitrail: this is a defect of vitrail {vitrail.__version__}, "
        "please report it with the command and the lines below"
    )
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "KeyError: 'inner'"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM])
def test_what_the_system_refuses_is_the_users_to_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, code: int
) -> None:
    assert run(monkeypatch, verb(OSError(code, os.strerror(code), "runs/a"))) == 2
    assert capsys.readouterr().err == f"vitrail: {os.strerror(code)}: runs/a\n"


def test_another_system_error_is_a_defect(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(OSError(errno.EIO, "Input/output error"))) == 1
    assert "defect" in capsys.readouterr().err


def test_ctrl_c_is_130_and_says_what_comes_next(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(KeyboardInterrupt("the same command continues"))) == 130
    assert capsys.readouterr().err == "vitrail: stopped; the same command continues\n"
    assert run(monkeypatch, verb(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "vitrail: stopped\n"


def test_a_reader_that_went_away_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert run(monkeypatch, verb(BrokenPipeError())) == 141
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "trian",
            "unknown command 'trian'; did you mean 'train' or 'trace'? "
            f"Choices: {', '.join(verb.__name__.replace('_', '-') for verb in cli.VERBS)}",
        ),
        ("--versoin", "unknown option '--versoin'; did you mean '--version'? Choices: --help, --version"),
        ("train", "DATA is missing; see: vitrail train --help"),
        ("evaluate runs/a", "DATA is missing; see: vitrail evaluate --help"),
        ("predict runs/a", "IMAGE_OR_FOLDER is missing; see: vitrail predict --help"),
        ("train a b", "too much on the command line: 'b'; see: vitrail train --help"),
        (
            "train a --sed 3",
            "unknown option '--sed'; did you mean '--seed' or '--set'? "
            "Choices: --model, --weights, --recipe, --out, --seed, --set, --accept-changes",
        ),
        ("train a --seed", "the option --seed needs a value; see: vitrail train --help"),
        ("train a --seed x", "--seed should be a whole number, found 'x'; see: vitrail train --help"),
        ("train a --seed=1.5", "--seed should be a whole number, found '1.5'; see: vitrail train --help"),
        ("train a --seed 1 --seed 2", "the option --seed is given more than once; see: vitrail train --help"),
        ("predict a b --top many", "--top should be a whole number, found 'many'; see: vitrail predict --help"),
        (
            "predict a b --json --csv",
            "--json should be the name of a file, or - for stdout, found '--csv'; see: vitrail predict --help",
        ),
        ("models --json=maybe", "--json should be true or false, found 'maybe'; see: vitrail models --help"),
    ],
)
def test_a_command_line_that_cannot_be_parsed(capsys: Capture, line: str, sentence: str) -> None:
    assert cli.main(line.split()) == 2
    assert capsys.readouterr() == ("", f"vitrail: {sentence}\n")


def test_no_command_shows_the_help(capsys: Capture) -> None:
    assert cli.main([]) == 0
    assert "Usage: vitrail COMMAND" in capsys.readouterr().out


def test_the_version(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{vitrail.__version__}\n"


def test_the_process_own_arguments_are_the_default(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "argv", ["vitrail", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"{vitrail.__version__}\n"
