"""`vitrail explain`: a page, pictures and numbers; what cannot be given is said before the work, in one sentence."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli import main
from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.explain import render
from vitrail.explain.catalog import METHODS
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

Capture = pytest.CaptureFixture[str]
NAMES = LabelSet(("a <b>", "green", "red"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT off the square, a ResNet, and two photos, one with a name that a page must escape."""
    torch.manual_seed(0)
    here = tmp_path_factory.mktemp("explain")
    vit = ViT(ViTConfig(image_size=(16, 24), patch_size=(8, 8), width=12, depth=2, heads=2, mlp_dim=16, classes=3))
    resnet = ResNet(ResNetConfig(image_size=(16, 16), layers=(1,), width=32, groups=8, classes=3))
    with torch.no_grad():
        for parameter in [*vit.parameters(), *resnet.parameters()]:
            parameter.normal_(std=0.3)
    write_model_folder(here / "vit", vit, Preprocess(size=(16, 24)), NAMES, {})
    write_model_folder(here / "resnet", resnet, Preprocess(size=(16, 16)), NAMES, {})
    (here / "photos").mkdir()
    for name in ("a.png", "<i>x.png"):
        pixels = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(here / "photos" / name)
    return here


def run(folder: Path, out: Path, *more: str, model: str = "vit") -> int:
    return main(["explain", str(folder / model), str(folder / "photos"), "--out", str(out), *more])


def test_the_numbers_of_the_page_are_those_of_python(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(folder, tmp_path, "--method", "rollout,occlusion", "--class", "green", "--random-maps", "2") == 0
    table = json.loads((tmp_path / "explain.json").read_text())
    classifier = vitrail.load(folder / "vit")
    assert [i["image"] for i in table["images"]] == ["<i>x.png", "a.png"]
    for image in table["images"]:
        x = classifier.prepare(folder / "photos" / image["image"])[None]
        shares = classifier.logits(x).double().softmax(1)[0]
        assert image["class"]["label"] == "green"
        assert image["class"]["probability"] == pytest.approx(float(shares[1]), abs=1e-6)
        for name in ("rollout", "occlusion"):
            expected = METHODS[name].method(classifier.model, x, torch.tensor([1]))[0]
            assert (torch.tensor(image["maps"][name]["values"]) - expected).abs().max() < 1e-5
            evidence = image["maps"][name]["evidence"]
            assert list(evidence) == [
                *("deletion_drop", "insertion_drop", "deletion_mean", "insertion_mean", "deletion_blur"),
                *("insertion_blur", "saco", "sanity"),
            ]
            for measure, row in evidence.items():
                assert len(row["random"]["values"]) == (100 if measure == "sanity" else 2)
                assert row["random"]["low"] <= row["random"]["mean"] <= row["random"]["high"]
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][2:] == ["map", "deletion, left out (random)", "verdict"] and len(rows) == 1 + 4 + 1


def test_the_pictures_are_the_maps_on_one_scale(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "--method", "rollout", "--random-maps", "0") == 0
    table = json.loads((tmp_path / "explain.json").read_text())
    maps = [i["maps"]["rollout"] for i in table["images"]]
    high = max(v for m in maps for row in m["values"] for v in row)
    assert [m["scale"]["low"] for m in maps] == [0, 0]
    assert [m["scale"]["high"] for m in maps] == pytest.approx([high, high])
    assert "evidence" not in maps[0]
    classifier = vitrail.load(folder / "vit")
    pixels = classifier.fit(folder / "photos" / "a.png")
    over = render.overlay(pixels, torch.tensor(maps[1]["values"]), patch=(8, 8), low=0.0, high=high)
    shown = Image.open(tmp_path / "a-rollout.png")
    assert shown.tobytes() == Image.open(io.BytesIO(render.png(render.enlarge(over)))).tobytes()
    assert (tmp_path / "i_x-rollout.png").is_file()  # a name that no file system stumbles over


def test_the_page_is_one_file_and_escapes_names(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "--method", "all", "--random-maps", "1", "--mode", "reveal") == 0
    text = (tmp_path / "index.html").read_text()
    assert "<i>x.png" not in text and "&lt;i&gt;x.png" in text
    assert "a <b>" not in text and "a &lt;b&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text and "url(" not in text
    for name in METHODS:
        assert f"<h3>{name.replace('_', ' ')}</h3>" in text
    assert text.count('class="bar"') == 2 * len(METHODS) == text.count('<div class="map">')
    assert "the gap is" in text  # of integrated gradients
    assert "1 random map." in text and 'id="how"' in text
    assert run(folder, tmp_path, "--random-maps", "0") == 0
    bare = (tmp_path / "index.html").read_text()
    assert "evidence was left out" in bare and 'id="how"' not in bare and '<svg class="strip' not in bare


def test_a_layer_and_a_head_go_to_the_methods_that_take_them(folder: Path, tmp_path: Path) -> None:
    assert (
        run(folder, tmp_path, "--method", "attention,rollout", "--layer", "0", "--head", "1", "--random-maps", "0") == 0
    )
    table = json.loads((tmp_path / "explain.json").read_text())
    classifier = vitrail.load(folder / "vit")
    x = classifier.prepare(folder / "photos" / "a.png")[None]
    _, record = vitrail.trace(classifier.model, x)
    found = torch.tensor(table["images"][1]["maps"]["attention"]["values"]).flatten()
    assert (found - record.blocks[0].attention[0, 1, 0, 1:]).abs().max() < 1e-6


def test_grad_cam_says_when_it_is_zero(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path, "--method", "grad_cam", "--layer", "2", "--random-maps", "1") == 0
    maps = json.loads((tmp_path / "explain.json").read_text())["images"][0]["maps"]["grad_cam"]
    assert maps["values"] == [[0.0] * 3] * 2 and "evidence" not in maps
    assert "zero everywhere" in maps["notes"][0] and "no patch has a gradient" in maps["notes"][0]


def test_a_resnet_gets_what_applies(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(folder, tmp_path, "--method", "all", "--random-maps", "1", model="resnet") == 0
    table = json.loads((tmp_path / "explain.json").read_text())
    wanted = ["grad_cam", "input_gradient", "smooth_gradient", "integrated_gradients", "occlusion", "rise", "random"]
    assert list(table["images"][0]["maps"]) == wanted
    assert "deletion_mean" in table["images"][0]["maps"]["rise"]["evidence"]
    capsys.readouterr()
    assert run(folder, tmp_path, "--random-maps", "0", model="resnet") == 0  # of the four quick ones, one
    assert "left out, since a ResNet has no attention: rollout, relevance, legrad\n" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "explain.json").read_text())["images"][0]["maps"]) == ["grad_cam"]
    assert run(folder, tmp_path, "--method", "rollout", model="resnet") == 2
    assert "rollout needs attention, and a ResNet has none; methods that apply: grad_cam" in capsys.readouterr().err
    assert run(folder, tmp_path, "--method", "grad_cam", "--layer", "0", model="resnet") == 2
    assert "grad_cam takes no layer; those that do: none of a ResNet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--method", "rolout"], "unknown explanation 'rolout'; did you mean 'rollout'"),
        (["--method", "logit_lens"], "logit_lens gives numbers, not a map over the image"),
        (["--mode", "hot"], "--mode should be heatmap or reveal, found 'hot'"),
        (["--method", "rollout,"], "unknown explanation ''"),
        (["--class", "gren"], "unknown class 'gren'; did you mean 'green'"),
        (["--class", "3"], "unknown class '3'"),
        (["--method", "attention", "--layer", "2"], "unknown block '2'. Choices: 0, 1"),
        (["--method", "grad_cam", "--layer", "3"], "unknown block '3'. Choices: 0, 1, 2"),
        (["--method", "attention", "--head", "2"], "unknown head '2'. Choices: 0, 1"),
        (["--method", "rollout", "--layer", "0"], "rollout takes no layer; those that do: attention, grad_cam"),
        (["--method", "grad_cam", "--head", "0"], "grad_cam takes no head; those that do: attention"),
        (["--random-maps", "-1"], "--random-maps should be 0 to 100"),
        (["--mode", "jet"], "jet"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, capsys: Capture, more: list[str], text: str) -> None:
    assert run(folder, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_unreadable_photo_stops_nothing(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    good = str(folder / "photos" / "a.png")
    given = ["explain", str(folder / "vit"), str(tmp_path / "text.jpg"), good, "--random-maps", "0"]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    assert "text.jpg: not an image, but text" in capsys.readouterr().err
    assert [i["image"] for i in json.loads((tmp_path / "out" / "explain.json").read_text())["images"]] == ["a.png"]
    assert main([*given[:3], "--out", str(tmp_path / "none")]) == 2
    (tmp_path / "file").write_text("mine")
    assert main([*given, "--out", str(tmp_path / "file")]) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_of_several_classes_an_image_has_maps_and_its_own_probabilities(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    several = LabelSet(NAMES.names, multilabel=True)
    model = vitrail.load(folder / "vit").model
    write_model_folder(tmp_path / "several", model, Preprocess(size=(16, 24)), several, {})
    given = ["explain", str(tmp_path / "several"), str(folder / "photos" / "a.png"), "--out", str(tmp_path / "out")]
    assert main(given) == 2
    assert "may have several classes" in capsys.readouterr().err
    assert main([*given, "--random-maps", "0"]) == 0
    (image,) = json.loads((tmp_path / "out" / "explain.json").read_text())["images"]
    logits = vitrail.load(tmp_path / "several").logits(
        vitrail.load(folder / "vit").prepare(folder / "photos" / "a.png")[None]
    )
    assert image["predictions"][0]["probability"] == pytest.approx(float(logits.max().sigmoid()), abs=1e-6)
