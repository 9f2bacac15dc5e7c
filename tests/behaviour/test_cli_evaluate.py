"""`vitrail evaluate`: the same numbers as from Python, in the terminal, as JSON and as a page."""

import json
import shutil
from pathlib import Path

import pytest

import vitrail
from vitrail.cli import main
from vitrail.report import Report

Capture = pytest.CaptureFixture[str]


def test_text_json_and_page_tell_the_same(model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    files = tmp_path / "e.json", tmp_path / "e.html"
    command = ["evaluate", str(model_folder), str(photos), "--json", str(files[0]), "--html", str(files[1])]
    assert main(command) == 0
    out, err = capsys.readouterr()
    expected = vitrail.evaluate(vitrail.load(model_folder), photos)
    saved = Report.load(files[0])
    assert err == ""
    assert saved == expected
    assert out == saved.markdown()
    page = files[1].read_text()
    assert saved.model.sha256[:12] in page
    assert page.count("data:image/png;base64,") == min(12, saved.images - saved.top1_count)
    assert "<script" not in page


def test_json_on_stdout_is_nothing_but_json(model_folder: Path, photos: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(model_folder), str(photos), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 24


def test_one_split(model_folder: Path, photos: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(model_folder), str(photos), "--split", "val", "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["data"]["split"] == "val"
    assert 0 < facts["images"] < 24


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{model}", "{photos}", "--split", "vla"], "unknown split 'vla'; did you mean 'val'? Choices: train, val"),
        (["{model}", "{photos}s"], "no data set '{photos}s'; did you mean 'photos'?"),
        (["{model}", "{empty}"], "{empty} holds no images"),
        (["{model}", "{photos}/red"], "{photos}/red holds 8 images but no class folders"),
        (["{model}", "digits"], "every class of the data must be one of the model's 3, but 10 of 10 are not: '0', '1'"),
        (["{model}s", "{photos}"], "no weights at '{model}s'; did you mean 'tiny'?"),
        (["{model}", "{photos}", "--html", "{photos}"], "cannot write {photos}: it is a folder; name a file"),
    ],
)
def test_a_mistake_is_one_sentence(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture, arguments: list[str], sentence: str
) -> None:
    names = {"model": str(model_folder), "photos": str(photos), "empty": str(tmp_path)}
    assert main(["evaluate", *(a.format(**names) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: " + sentence.format(**names)), err
    assert err.count("\n") == 1


def test_unreadable_images_are_named_and_too_many_of_them_stop_it(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "red" / "broken.png").write_bytes(b"")
    assert main(["evaluate", str(model_folder), str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: at most 1% of the images may be unreadable, found 1 of 25: red/broken.png (")
    assert err.count("\n") == 1
    for i in range(80):  # 1 of 105 is under 1 %
        shutil.copy(folder / "red" / "red0.png", folder / "red" / f"more{i}.png")
    assert main(["evaluate", str(model_folder), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "- not counted: red/broken.png (" in out
    assert "On 104 images" in out
