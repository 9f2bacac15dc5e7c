"""Exports: what is written computes the same in a fresh process, and what does not leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitrail
from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import ConfigError, GateError, StorageError, UnknownName, WeightsError
from vitrail.export import write
from vitrail.export.verify import Shown, images_to_show, judge
from vitrail.export.write import export
from vitrail.inference import load
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def exported(model_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "openvino"
    found = export(model_folder, folder, "openvino", precision="float32", check=photos)
    assert found.passed and found.real and found.images == 24 and found.agreement == 1.0
    assert found.top1_before == found.top1_after is not None
    return folder


def test_a_folder_has_all_that_it_takes(exported: Path, model_folder: Path) -> None:
    names = {p.name for p in exported.iterdir()}
    files = {"model.xml", "model.bin", "labels.json", "preprocess.json"}
    assert names == files | {"vitrail-export.json", "verify.json", "README.md"}
    assert json.loads((exported / "labels.json").read_text())["names"] == ["blue", "green", "red"]
    assert json.loads((exported / "verify.json").read_text())["passed"] is True
    assert set(json.loads((exported / "vitrail-export.json").read_text())["sha256"]) == files
    assert not [p for p in exported.parent.iterdir() if p != exported]


def test_the_lines_of_the_card_run(exported: Path, photos: Path, model_folder: Path) -> None:
    code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    photo = Image.open(photos / "red" / "red0.png").resize((8, 8))  # the model's size: nothing is resized
    photo.save(exported / "photo.jpg", format="PNG")
    expected = load(model_folder).predict(exported / "photo.jpg")[0].labels[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, timeout=120)
    (exported / "photo.jpg").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected


def test_a_folder_is_an_engine_for_its_own_weights_only(exported: Path, model_folder: Path, photos: Path) -> None:
    classifier = vitrail.load(model_folder, engine=exported)
    assert classifier.engine is not None and classifier.engine.name == "openvino-float32"
    other = load(model_folder)
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1
    from vitrail.engines.catalog import with_engine

    with pytest.raises(WeightsError, match="other weights"):
        with_engine(other, exported)


def test_a_folder_that_was_edited_is_refused(exported: Path, model_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    with (copy / "model.bin").open("r+b") as file:
        file.write(b"\x00\x01")
    with pytest.raises(WeightsError, match="damaged or edited"):
        vitrail.load(model_folder, engine=copy)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "precision"), [("onnx", "float32"), ("onnx", "int8"), ("aoti", "float32")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_other_targets(model_folder: Path, photos: Path, tmp_path: Path, to: str, precision: str) -> None:
    assert export(model_folder, tmp_path / "out", to, precision=precision, check=photos).passed
    assert vitrail.load(model_folder, engine=tmp_path / "out").predict(photos / "red" / "red0.png")[0].labels


@pytest.mark.slow
def test_int8_with_photos(photos: Path, tmp_path: Path) -> None:
    """Of a network that has learned something: an untrained one hardly prefers any class, and int8 tips it over."""
    from vitrail.train import train

    train(photos, out=tmp_path / "run", overrides=["epochs=60"], notify=lambda news: None)
    found = export(tmp_path / "run", tmp_path / "out", "openvino", precision="int8", calibrate=photos)
    assert found.passed and found.images == 24 and found.top1_after is not None
    graph = (tmp_path / "out" / "model.xml").read_text()
    assert 'element_type="i8"' in graph or 'element_type="u8"' in graph


def test_a_failed_gate_leaves_nothing(
    model_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another network's graph in the folder, and the command finds out."""
    real = write.fold

    def other(model: torch.nn.Module, preprocess: object, merge: int) -> object:
        folded = real(model, preprocess, merge)  # type: ignore[arg-type]
        folded.network.head.weight.data.neg_()
        return folded

    monkeypatch.setattr(write, "fold", other)
    with pytest.raises(GateError, match="was removed: the lowest cosine"):
        export(model_folder, tmp_path / "out", "openvino", precision="float32", check=photos)
    assert list(tmp_path.iterdir()) == []


def test_each_gate_can_fail() -> None:
    torch.manual_seed(0)
    before = torch.randn(200, 10)
    labels = before.argmax(dim=1)
    shown = Shown(torch.zeros(200, 3, 1, 1, dtype=torch.uint8), labels)
    assert judge(before, before, shown, "onnx", "float32").passed
    assert "cosine" in judge(before, -before, shown, "onnx", "int8").failures[0]
    lost = before.clone()
    lost[torch.arange(2), labels[:2]] = before[:2].min(dim=1).values - 0.01
    found = judge(before, lost, shown, "onnx", "int8")
    assert any("1.00 points of top-1" in failure for failure in found.failures)
    assert any("keep their first class" in f for f in judge(before, lost, shown, "onnx", "float32").failures)
    assert not judge(before, torch.full_like(before, torch.nan), shown, "onnx", "int8").passed


def test_mistakes_are_sentences(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'openvino'"):
        export(model_folder, tmp_path / "out", "openvin")
    with pytest.raises(UnknownName, match="precision of onnx"):
        export(model_folder, tmp_path / "out", "onnx", precision="bfloat16")
    with pytest.raises(ConfigError, match="--calibrate PHOTOS"):
        export(model_folder, tmp_path / "out", "openvino", precision="int8")
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists"):
        export(model_folder, tmp_path / "out", "openvino")


def test_photos_of_other_things_have_no_accuracy(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.open(photos / "red" / f"red{i}.png").save(tmp_path / name / "a.png")
    shown = images_to_show(load(model_folder), tmp_path)
    assert shown.labels is None and len(shown.pixels) == 2 and shown.real
    assert not images_to_show(load(model_folder), None).real


@pytest.fixture(scope="module")
def whole(model_folder: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "whole"
    found = export(model_folder, folder, "openvino", precision="float32", check=mixed, resize_inside=True)
    assert found.passed and found.real and found.resize == "inside" and found.agreement == 1.0
    assert "whole; resized in the graph" in found.markdown()
    return folder


@pytest.fixture(scope="module")
def mixed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in several sizes."""
    folder = tmp_path_factory.mktemp("mixed")
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        size = [(8, 8), (31, 17), (31, 17), (13, 40), (5, 9)][i % 5]
        Image.open(path).resize(size).save(folder / path.name)
    return folder


def test_a_graph_that_resizes_says_so_and_predicts_the_same(whole: Path, model_folder: Path, mixed: Path) -> None:
    assert json.loads((whole / "vitrail-export.json").read_text())["resize"] == "inside"
    assert json.loads((whole / "verify.json").read_text())["resize"] == "inside"
    paths = sorted(mixed.iterdir())
    expected = load(model_folder).predict(paths)
    found = vitrail.load(model_folder, engine=whole).predict(paths)
    for one, other in zip(expected, found, strict=True):
        assert one.labels == other.labels
        assert torch.allclose(torch.tensor(one.probabilities), torch.tensor(other.probabilities), atol=1e-5)


def test_the_lines_of_its_card_run_on_a_photo_of_any_size(whole: Path, mixed: Path, model_folder: Path) -> None:
    code = (whole / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert ".resize(" not in code
    photo = sorted(mixed.iterdir())[1]
    (whole / "photo.jpg").write_bytes(photo.read_bytes())
    done = subprocess.run([sys.executable, "-c", code], cwd=whole, capture_output=True, text=True, timeout=120)
    (whole / "photo.jpg").unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == load(model_folder).predict(photo)[0].labels[0]


def test_a_graph_that_resizes_wrongly_leaves_nothing(
    model_folder: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its crop begins a few pixels beside the right place."""
    from vitrail.engines.resize import Resize

    monkeypatch.setattr(Resize, "_start", lambda self, new, kept: 0 * new)
    with pytest.raises(GateError, match="was removed: the lowest cosine"):
        export(model_folder, tmp_path / "out", "openvino", precision="float32", check=mixed, resize_inside=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("to", "precision"), [("onnx", "float32"), ("onnx", "int8"), ("openvino", "bfloat16")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_other_targets_resize_too(tmp_path: Path, to: str, precision: str) -> None:
    """On random pictures of several sizes, two of each. The network is wide enough for bfloat16: of eight channels the
    norms alone move the logits further than the gate allows, whatever resizes."""
    model = ViT(ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=64, depth=1, heads=2, mlp_dim=64, classes=3))
    model.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    write_model_folder(tmp_path / "model", model, Preprocess(size=(8, 8)), LabelSet(("blue", "green", "red")), {})
    found = export(tmp_path / "model", tmp_path / "out", to, precision=precision, resize_inside=True)
    assert found.passed and found.resize == "inside" and not found.real
