"""`vitrail evaluate --protocol NAME` on a folder of ImageNet's layout, with a model that knows its thousand classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitrail.cli import main
from vitrail.config import Preprocess, ViTConfig
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.load import imagenet_labels

Capture = pytest.CaptureFixture[str]
CLASSES = (0, 134, 517, 999)  # two of them are called crane


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Which of the thousand classes it names follows from the colour; names without ids, as transformers keeps them."""
    config = ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=8, depth=1, heads=2, mlp_dim=8, classes=1000)
    network = ViT(config)
    network.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("weights") / "imagenet"
    write_model_folder(folder, network, Preprocess(size=(8, 8)), LabelSet(imagenet_labels().names), {})
    (folder / "vitrail.json").unlink()
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "imagenet"
    ids = imagenet_labels().ids
    assert ids is not None
    for place in CLASSES:
        (folder / ids[place]).mkdir(parents=True)
        for i in range(2):
            noise = Image.effect_noise((20 + 7 * i, 31), 90).convert("RGB")
            noise.save(folder / ids[place] / f"{i}.png")
    return folder


@pytest.mark.parametrize("layout", ["flat", "val", "train and val"])
def test_wordnet_folders_are_matched_by_their_ids(
    model: Path, images: Path, layout: str, tmp_path: Path, capsys: Capture
) -> None:
    data = images
    if layout != "flat":
        data = tmp_path / "ILSVRC"
        for split in layout.split(" and "):
            shutil.copytree(images, data / split)
    assert main(["evaluate", str(model), str(data), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 8
    assert found["data"]["split"] == ("all" if layout == "flat" else "val")
    assert sorted(c["support"] for c in found["classes"] if c["support"]) == [2, 2, 2, 2]
    assert found["model"]["protocol"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gvt-squash", "squashed to 8 x 8 px, bilinear without antialiasing (protocol gvt-squash)"),
        ("bv-crop", "resized to 8 x 8 px, the centre 87.5 %, area (protocol bv-crop)"),
        ("timm", "resized to 8 x 8 px, the centre 90.0 %, bicubic (protocol timm)"),
        ("torchvision", "resized to 8 x 8 px, the centre 87.5 %, bilinear (protocol torchvision)"),
    ],
)
def test_the_protocol_is_recorded(
    model: Path, images: Path, name: str, words: str, tmp_path: Path, capsys: Capture
) -> None:
    files = [str(tmp_path / "e.json"), str(tmp_path / "e.html")]
    command = ["evaluate", str(model), str(images), "--protocol", name, "--json", files[0], "--html", files[1]]
    assert main(command) == 0
    assert f"Images {words}." in capsys.readouterr().out
    found = json.loads(Path(files[0]).read_text())["model"]
    assert found["protocol"] == name
    assert found["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert words in Path(files[1]).read_text()


def test_another_protocol_is_another_score_of_the_same_weights(model: Path, images: Path, capsys: Capture) -> None:
    """Negative control: the option reaches the pixels."""
    losses = set()
    for name in ("gvt-squash", "bv-crop", "timm", "torchvision"):
        assert main(["evaluate", str(model), str(images), "--protocol", name, "--json", "-"]) == 0
        losses.add(json.loads(capsys.readouterr().out)["nll"])
    assert len(losses) == 4


def test_an_unknown_protocol_is_one_sentence(model: Path, images: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(model), str(images), "--protocol", "gvt-sqash"]) == 2
    assert capsys.readouterr().err.startswith("vitrail: unknown protocol 'gvt-sqash'; did you mean 'gvt-squash'?")
