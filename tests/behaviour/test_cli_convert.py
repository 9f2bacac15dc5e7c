"""`vitrail convert`: a folder in another layout and a table of differences; or one sentence, and nothing left."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vitrail
import vitrail.weights.load
from vitrail.cli import main
from vitrail.config import Preprocess, ViTConfig
from vitrail.evaluate import parity
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def desk(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, tmp_path / "tiny")
    return tmp_path


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_report_names_every_layer_and_the_folder_works(desk: Path, photos: Path, capsys: Capture) -> None:
    assert main(["convert", "tiny", "--out", "for-timm", "--to", "timm"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "tiny (timm) -> for-timm (timm)"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == [
        *("after", "embedding", "block 1", "output")
    ]
    assert "the result in timm" in out and "the result in vitrail" in out
    assert left(desk / "for-timm") == ["README.md", "config.json", "model.safetensors"]
    before, after = (vitrail.load(desk / name).predict(sorted(photos.rglob("*.png"))) for name in ("tiny", "for-timm"))
    assert before == after


def test_the_report_fits_a_narrow_terminal(desk: Path, capsys: Capture) -> None:
    assert main(["convert", "tiny", "out", "--to", "transformers", "--allow-loss", "preprocess"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("- lost")) <= 80
    assert any(line.startswith("- source: the source in timm 1.") for line in lines)
    assert any(line.startswith("- result: the result in transformers ") for line in lines)


def test_a_size_that_the_file_does_not_tell_is_said(desk: Path, capsys: Capture) -> None:
    """A .npz of an image that is not square: refused with the remedy, which works."""
    wide = ViTConfig(image_size=(16, 24), patch_size=(8, 8), width=24, depth=1, heads=3, mlp_dim=40, gelu="tanh")
    pixels = Preprocess(size=(16, 24), resize="squash", crop=1.0, interpolation="bilinear", antialias=False)
    write_model_folder(desk / "wide", ViT(wide), pixels, None, {})
    lose = ["--allow-loss", "image_size"]
    assert main(["convert", "wide", "wide.npz", "--to", "npz", *lose]) == 0
    assert "- lost, as allowed: image_size=(16, 24), which nothing in it tells" in capsys.readouterr().out
    assert main(["inspect", "wide.npz"]) == 2
    assert capsys.readouterr().err.endswith(
        "say the image size (rows, cols), as in `vitrail convert FILE FOLDER --to vitrail --image-size 224x320`\n"
    )
    assert main(["inspect", "wide.npz", "--image-size", "16x24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["image_size"] == [16, 24]
    assert main(["convert", "wide.npz", "back", "--to", "vitrail", "--image-size", "16x24"]) == 0
    first, again = (vitrail.weights.load.load_weights(desk / name) for name in ("wide", "back"))
    assert first.preprocess == again.preprocess
    states = first.model.state_dict(), again.model.state_dict()
    assert all(value.equal(states[1][key]) for key, value in states[0].items())
    assert main(["inspect", "wide.npz", "--image-size", "16,24"]) == 2
    assert "should be pixels, as in 224 or 224x320 (rows x columns), found '16,24'" in capsys.readouterr().err


def test_another_size_resamples_and_says_so(desk: Path, capsys: Capture) -> None:
    assert main(["convert", "tiny", "larger", "--to", "timm", "--image-size", "48"]) == 0
    out = capsys.readouterr().out
    assert "- not compared: the source (its positions were resampled from " in out
    loaded = vitrail.weights.load.load_weights(desk / "larger")
    assert loaded.model.config.image_size == loaded.preprocess.size == (48, 48)


def test_a_loss_is_refused_by_name_and_allowed_by_name(desk: Path, capsys: Capture) -> None:
    assert main(["convert", "tiny", "tiny.npz", "--to", "npz", "--allow-loss", "labels"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "vitrail: npz cannot hold gelu='exact', which becomes 'tanh'; nor preprocess (resized, crop 0.9"
    )
    assert err.endswith("; lose it with --allow-loss gelu --allow-loss preprocess, or convert to vitrail\n")
    assert left(desk) == ["tiny"]
    allowed = [word for name in ("gelu", "preprocess", "labels") for word in ("--allow-loss", name)]
    assert main(["convert", "tiny", "tiny.npz", "--to", "npz", *allowed]) == 0
    out = capsys.readouterr().out
    assert "- lost, as allowed: gelu='exact', which becomes 'tanh'" in out
    assert "- what is lost changes the output by up to" in out
    assert left(desk) == ["tiny", "tiny.npz"]


def test_a_failed_gate_is_exit_1_and_leaves_nothing(
    desk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parity.residuals
    calls = iter(range(9))

    def wrong(model: Any, images: Any) -> Any:
        found = real(model, images)
        return found if next(calls) == 0 else found | {"output": found["output"] + 2e-6}

    monkeypatch.setattr(parity, "residuals", wrong)
    assert main(["convert", "tiny", "out", "--to", "vitrail"]) == 1
    err = capsys.readouterr().err
    assert "is not the same network and was removed" in err
    assert "| 2.0e-06" in err
    assert left(desk) == ["tiny"]


def test_the_gate_lets_rounding_through(desk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above: a difference under the gate is no failure."""
    real = parity.residuals
    calls = iter(range(9))

    def nearly(model: Any, images: Any) -> Any:
        found = real(model, images)
        return found if next(calls) == 0 else found | {"output": found["output"] + 5e-7}

    monkeypatch.setattr(parity, "residuals", nearly)
    assert main(["convert", "tiny", "out", "--to", "vitrail"]) == 0


def test_what_is_not_a_number_fails_the_gate(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = parity.residuals
    calls = iter(range(9))
    monkeypatch.setattr(
        parity,
        "residuals",
        lambda m, x: real(m, x) if next(calls) == 0 else {k: v * float("nan") for k, v in real(m, x).items()},
    )
    assert main(["convert", "tiny", "out", "--to", "vitrail"]) == 1
    assert left(desk) == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tiny", "out"], "the option --to is missing; see: vitrail convert --help"),
        (["tiny", "out", "--to", "tim"], "unknown target 'tim'; did you mean 'timm'? Choices: vitrail, timm, tr"),
        (["tiny", "out", "--to", "timm", "--allow-loss", "lables"], "unknown loss 'lables'; did you mean 'labels'?"),
        (["tiny", "tiny", "--to", "timm"], "tiny is there already and is not overwritten: choose another place"),
        (["tiny", "out", "--to", "npz"], "npz is one file: name it with .npz, found 'out'"),
        (["tiny", "out.npz", "--to", "timm"], "timm is a folder, whose weights lie in model.safetensors: leave out"),
        (["./tiny/nowhere", "out", "--to", "timm"], "no weights at './tiny/nowhere'"),
        (["tiny", "out", "--to", "timm", "--model", "B/16"], "model.safetensors does not hold a B/16: patch_size"),
        (["tiny", "tiny/config.json/out", "--to", "timm"], "cannot write tiny/config.json/out: File exists"),
    ],
)
def test_a_mistake_is_one_sentence(desk: Path, capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert main(["convert", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"vitrail: {sentence}"), err
    assert err.count("\n") == 1
    assert left(desk) == ["tiny"]


def test_inspect_tells_everything_without_reading_a_number(desk: Path, capsys: Capture) -> None:
    """The numbers are overwritten with NaN: what tells of them would notice."""
    write_model_folder(
        desk / "odd",
        ViT(
            ViTConfig(
                image_size=(16, 24), patch_size=(8, 8), width=24, depth=2, heads=3, mlp_dim=40, classes=7, gelu="quick",
                norm_eps=1e-5, registers=2, norm_before=True, patch_bias=False, layer_scale=1e-5,
            )
        ),
        Preprocess(size=(16, 24), crop=0.875),
        LabelSet(tuple(f"kind {i}" for i in range(7))),
        {"licence": "cc0-1.0"},
    )  # fmt: skip
    (desk / "odd" / "vitrail.json").unlink()
    weights = desk / "odd" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    weights.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    assert main(["inspect", "odd"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = {name: text for name, text in rows if name}
    assert found["format"] == "timm"
    assert found["architecture"] == "2 blocks, width 24, 3 heads, MLP 40, 6 patches of 8 x 8 px and 3 other tokens"
    assert found["image"] == "16 x 24 px, 3 channels"
    assert found["preprocessing"].startswith("shorter side resized, the centre 87.5 %, bicubic, mean [0.5")
    assert found["classes"] == "7: kind 0, kind 1, kind 2, kind 3, kind 4, ..."
    assert found["licence"] == "cc0-1.0"
    unusual = [text for name, text in rows[[r[0] for r in rows].index("unusual") :]]
    assert unusual == [
        "OpenAI's quick GELU",
        "the norms' eps is 1e-05",
        "an image of 16 x 24 px",
        "2 registers",
        "a norm between embedding and blocks",
        "LayerScale",
        "no bias on the patch embedding",
    ]
    assert main(["predict", "odd", "odd/config.json"]) == 2
    assert "NaN or infinite numbers" in capsys.readouterr().err, "negative control: reading the numbers notices"


def test_inspect_as_json_holds_all_of_it(desk: Path, capsys: Capture) -> None:
    assert main(["inspect", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = vitrail.load(desk / "tiny").model
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert ViTConfig(**{k: v for k, v in found["architecture"].items() if k != "kind"}) == model.config
    assert found["labels"] == ["blue", "green", "red"]
    assert found["unusual"] == [] and found["passengers"] == [] and found["dtypes"] == ["float32"]


def test_inspect_refuses_what_cannot_be_loaded(desk: Path, capsys: Capture) -> None:
    assert main(["inspect", "tiny/README.md"]) == 2
    assert capsys.readouterr().err.startswith("vitrail: README.md is neither .safetensors nor .npz")


def test_models_are_filtered_by_words(capsys: Capture) -> None:
    assert main(["models", "hybrid", "b/", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["R26+B/32", "R50+B/16"]
    assert main(["models", "R50x1"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "R50x1\t224\t\t64\t16\t\t25,557,032\t8.18"
    assert main(["models", "vision"]) == 2
    assert capsys.readouterr().err.startswith("vitrail: no row of `vitrail models` contains 'vision'. Choices: Pico/2")
    assert main(["models", "--weights", "dinov2", "384"]) == 2
    assert capsys.readouterr().err.startswith(
        "vitrail: no row of `vitrail models --weights` contains all of these words ('dinov2' in "
    )


def test_weights_are_listed_with_number_protocol_and_licence(capsys: Capture) -> None:
    assert main(["models", "--weights", "dinov3-vits16plus", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["hub"], row["licence"]) == ("facebook/dinov3-vits16plus-pretrain-lvd1689m", "dinov3-license")
    assert main(["models", "--weights", "jax-augreg-B16-in1k"]) == 0
    header, line = (text.split("\t") for text in capsys.readouterr().out.splitlines())
    assert header == ["weights", "model", "image", "classes", "top-1", "protocol", "licence"]
    assert line == ["jax-augreg-B16-in1k-384", "B/16", "384", "1000", "85.49", "gvt-squash", "apache-2.0"]
    assert main(["models", "--weights", "jax-augreg-B16-in1k", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["url"].startswith("https://storage.googleapis.com/vit_models/augreg/B_16-i21k-300ep")
    assert main(["models", "--weights", "deit_tiny_patch16_224"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("timm/deit_tiny_patch16_224.fb_in1k\tTi/16\t224")
