"""Files for the user: whole or not at all, `-` is stdout."""

import os
import threading
from pathlib import Path

import pytest

from vitrail.cli.output import check, write
from vitrail.errors import ConfigError, StorageError


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    write(str(tmp_path / "new" / "a.json"), "höchst\n")
    assert (tmp_path / "new" / "a.json").read_bytes() == "höchst\n".encode()
    assert os.listdir(tmp_path / "new") == ["a.json"]


def test_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write("-", "text\n")
    assert capsys.readouterr().out == "text\n"


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    check({"--json": None, "--csv": "-"})
    check({"--json": str(tmp_path / "a.json"), "--csv": "-"})
    with pytest.raises(StorageError, match=r"^cannot write .*: it is a folder; name a file$"):
        check({"--json": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"^--json - and --html - would mix on stdout: write one of them to a file$"):
        check({"--json": "-", "--html": "-"})


def test_a_pipe_takes_the_text_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(str(pipe), "text")
    reader.join(timeout=10)
    assert read == ["text"]
    assert pipe.is_fifo()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write .*/file/a\.json: "):
        write(str(tmp_path / "file" / "a.json"), "text")
