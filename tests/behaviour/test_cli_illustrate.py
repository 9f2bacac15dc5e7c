"""`vitrail illustrate`: one file, whole or not at all; a user's mistake is one sentence and exit code 2."""

from pathlib import Path

import pytest
import torch

from vitrail.cli import main
from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.models.build import build
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

Capture = pytest.CaptureFixture[str]


def test_it_writes_one_page(model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "page.html"
    assert main(["illustrate", str(model_folder), str(photos / "red" / "red0.png"), "-o", str(page)]) == 0
    out, err = capsys.readouterr()
    assert out == f"page     {page}\n"
    assert "where the answer comes from: rollout" in err
    assert page.read_text(encoding="utf-8").startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_it_can_open_in_chinese_and_go_to_stdout(model_folder: Path, photos: Path, capsys: Capture) -> None:
    photo = str(photos / "red" / "red0.png")
    assert main(["illustrate", str(model_folder), photo, "-o", "-", "--language", "zh", "--class", "green"]) == 0
    out = capsys.readouterr().out
    assert out.startswith('<!DOCTYPE html>\n<html lang="zh">') and "从像素到“green”" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class", "geen"], "vitrail: unknown class 'geen'; did you mean 'green'? Choices: blue, green, red"),
        (["--language", "en-US"], "vitrail: unknown language 'en-US'; did you mean 'en'? Choices: en, zh"),
    ],
)
def test_an_unknown_name_lists_the_choices(
    arguments: list[str], sentence: str, model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    page = tmp_path / "page.html"
    photo = str(photos / "red" / "red0.png")
    assert main(["illustrate", str(model_folder), photo, "-o", str(page), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == sentence
    assert not page.exists()


def test_a_resnet_and_a_broken_image_are_a_sentence(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    config = ResNetConfig(image_size=(32, 32), layers=(1,), width=32, groups=8, classes=2)
    write_model_folder(tmp_path / "resnet", build(config), Preprocess(size=(32, 32)), LabelSet(("a", "b")), {})
    assert main(["illustrate", str(tmp_path / "resnet"), str(photos / "red" / "red0.png")]) == 2
    assert capsys.readouterr().err == (
        "vitrail: illustrate shows tokens and their attention, which this model, a ResNet, does not have: choose a "
        "Vision Transformer, or a hybrid of both\n"
    )
    (tmp_path / "cut.png").write_bytes((photos / "red" / "red0.png").read_bytes()[:60])
    assert main(["illustrate", str(model_folder), str(tmp_path / "cut.png")]) == 2
    assert capsys.readouterr().err.startswith(f"vitrail: {tmp_path / 'cut.png'}: truncated PNG file")


def test_a_model_of_several_classes_an_image_is_a_sentence(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    config = ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=4, depth=1, heads=1, mlp_dim=4, classes=2)
    labels = LabelSet(("a", "b"), multilabel=True)
    write_model_folder(tmp_path / "several", build(config), Preprocess(size=(8, 8)), labels, {})
    assert main(["illustrate", str(tmp_path / "several"), str(photos / "red" / "red0.png")]) == 2
    assert capsys.readouterr().err == (
        "vitrail: illustrate follows one answer among others, and this model gives each class an answer of its own: "
        "use vitrail explain or vitrail trace\n"
    )


@pytest.mark.parametrize("patch", [8, 4])
def test_the_smallest_models_have_a_page(patch: int, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """One patch, one block, one head, two classes."""
    config = ViTConfig(image_size=(8, 8), patch_size=(patch, patch), width=4, depth=1, heads=1, mlp_dim=4, classes=2)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    write_model_folder(tmp_path / "tiny", model, Preprocess(size=(8, 8)), LabelSet(("a", "b")), {})
    page = tmp_path / "page.html"
    assert main(["illustrate", str(tmp_path / "tiny"), str(photos / "red" / "red0.png"), "-o", str(page)]) == 0
    assert page.stat().st_size > 50_000
