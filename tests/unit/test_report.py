"""The Report: JSON both ways, text for a terminal, files whole or absent."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vitrail import report as module
from vitrail.errors import DataError, StorageError
from vitrail.report import (
    Calibration,
    ClassScore,
    DataFacts,
    Machine,
    Mistake,
    ModelFacts,
    Report,
    Unreadable,
    machine,
    percent,
    printable,
    table,
    write_text,
)


def make(**changes: Any) -> Report:
    """A report on six images of three classes."""
    values: dict[str, Any] = {
        "images": 6,
        "top1": 4 / 6,
        "top1_interval": (0.3, 0.9),
        "top1_count": 4,
        "top5": 1.0,
        "top5_count": 6,
        "nll": 0.1 + 0.2,
        "brier": 0.25,
        "ece": 1 / 3,
        "macro_precision": None,
        "macro_recall": 0.5,
        "macro_f1": 0.5,
        "data": DataFacts(name="pets", fingerprint="f" * 64, split="val", held_out=True, classes=2),
        "model": ModelFacts(config={"width": 8}, sha256="a" * 64, parameters=100, classes=3, seed=7),
        "machine": Machine(
            python="3.12.1", torch="2.11.0", vitrail="0.1.0", device="cpu", processor="Abacus", precision="float32"
        ),
        "mistakes": (Mistake(id="val/cat/1.png", true="cat", predicted="dog", probability=0.75, index=3),),
        "reliability": (Calibration(low=0.0, high=1.0, count=6, confidence=0.9, accuracy=4 / 6),),
        "classes": (
            ClassScore(name="cat", support=4, predicted=2, correct=2, precision=1.0, recall=0.5, f1=2 / 3),
            ClassScore(name="dog", support=2, predicted=3, correct=2, precision=2 / 3, recall=1.0, f1=0.8),
            ClassScore(name="fox", support=0, predicted=1, correct=0, precision=0.0, recall=None, f1=0.0),
        ),
        "confusion": ((0, 0, 2), (0, 1, 1), (0, 2, 1), (1, 1, 2)),
    }
    return Report(**values | changes)


def test_json_and_back_is_the_same_report(tmp_path: Path) -> None:
    report = make()
    report.save(tmp_path / "deep" / "evaluation.json")
    again = Report.load(tmp_path / "deep" / "evaluation.json")
    assert again == report
    assert again.json() == report.json() == (tmp_path / "deep" / "evaluation.json").read_text()
    assert again.nll == 0.1 + 0.2  # every bit


def test_json_has_one_line_for_each_number_class_and_mistake() -> None:
    text = make().json()
    assert json.loads(text)["classes"][0]["name"] == "cat"
    lines = text.splitlines()
    assert '  "top1_count": 4,' in lines
    assert "    [0, 1, 1]," in lines
    assert sum('"precision": ' in line and '"name": ' in line for line in lines) == 3


def test_names_of_any_kind_survive(tmp_path: Path) -> None:
    report = make(unreadable=(Unreadable(id='ro"se\\/数/😀|<b>.jpg', reason="truncated"),))
    report.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == report


def test_a_saved_report_cannot_be_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the report .*nowhere\.json: No such file or directory"):
        Report.load(tmp_path / "nowhere.json")
    (tmp_path / "cut.json").write_text(make().json()[:100])
    with pytest.raises(DataError, match=r"cut\.json is not a saved evaluation: "):
        Report.load(tmp_path / "cut.json")
    (tmp_path / "more.json").write_text(json.dumps(json.loads(make().json()) | {"extra": 1}))
    with pytest.raises(DataError, match="report has no field 'extra'"):
        Report.load(tmp_path / "more.json")


@pytest.mark.parametrize(("field", "value"), [("top1", 1.5), ("images", 0), ("nll", float("nan")), ("ece", -0.1)])
def test_impossible_numbers_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        make(**{field: value})


@pytest.mark.parametrize(
    "address", ["http://example.org/a.png", "data:image/svg+xml;base64,AAAA", 'data:image/png;base64,AA" onload="x']
)
def test_a_thumbnail_is_pixels_and_nothing_else(address: str) -> None:
    with pytest.raises(ValidationError, match="thumbnail"):
        Mistake(id="a", true="b", predicted="c", probability=0.5, thumbnail=address)
    assert Mistake(id="a", true="b", predicted="c", probability=0.5, thumbnail="data:image/png;base64,AAAA").thumbnail


def test_verdict() -> None:
    text = (
        "On 6 held-out images of pets it names the right one of 3 classes 66.7 % of the time (95 % interval 30.0–90.0)."
    )
    assert make().verdict() == text
    whole = DataFacts(name="pets", fingerprint="f", split="all", held_out=False, classes=2)
    assert make(data=whole).verdict().startswith("On 6 images of pets it")
    assert make(data=whole, images=1).verdict().startswith("On 1 image of pets it")


def test_markdown() -> None:
    note = DataFacts(
        name="pets", fingerprint="f" * 64, split="val", held_out=True, classes=2, note="they were held out"
    )
    text = make(data=note, unreadable=(Unreadable(id="val/dog/x.png", reason="empty file"),)).markdown()
    lines = text.splitlines()
    assert lines[0] == make().verdict()
    assert "They were held out." in lines
    measures = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in measures[:9]}) == 1  # the columns line up
    assert [c.strip() for c in measures[2].split("|")[1:4]] == ["top-1", "66.7 %", "4 of 6, 95 % interval 30.0–90.0"]
    assert "each counted once, 1 unreadable and not counted" in text
    assert "- not counted: val/dog/x.png (empty file)" in lines
    assert "| cat   | 4      | 50.0 % | 100.0 %   | dog (1)              |" in lines
    assert "\n| fox" not in text  # it has no images, so it cannot be hard
    assert "\n| dog" not in text  # all found
    assert "vitrail 0.1.0, torch 2.11.0, float32 on Abacus." in text


def test_top5_is_told_only_where_it_says_something() -> None:
    assert "top-5" not in make().markdown()
    six = ModelFacts(config={}, sha256="a" * 64, parameters=1, classes=6)
    assert "| top-5        | 100.0 % | 6 of 6" in make(model=six).markdown()


def test_orders() -> None:
    report = make()
    assert [c.name for _, c in report.hardest(9)] == ["cat", "dog"]
    assert report.hardest(1) == [(0, report.classes[0])]
    assert report.confusions() == [(0, 1, 1), (0, 2, 1)]


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.9421, "94.2 %"), (0.9999, "> 99.9 %"), (0.0001, "< 0.1 %")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    assert table(["a", "b"], [["x|y", "1"]]).splitlines() == ["| a    | b   |", "|------|-----|", "| x\\|y | 1   |"]


def test_printable() -> None:
    assert printable("rose\x1b[31m\n\udcff\u202egpj.exe") == "rose\\x1b[31m\\n\\udcff\\u202egpj.exe"
    assert printable("été 数 😀 👩‍🌾 می‌خواهم") == "été 数 😀 👩‍🌾 می‌خواهم"


def test_the_machine_says_what_computed() -> None:
    facts = machine(torch.device("cpu"), "float32")
    assert facts.torch == torch.__version__
    assert facts.device == "cpu"
    assert facts.processor


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "report.html"
    write_text(path, "old")
    assert os.listdir(tmp_path) == ["report.html"]

    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, step, full)
    with pytest.raises(
        StorageError, match=r"cannot write .*report\.html: No space left on device; choose another place"
    ):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*report\.json: (Not a directory|File exists)"):
        make().save(tmp_path / "file" / "report.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*folder: Is a directory"):
        make().save(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
