"""The paper's CNN baseline and its hybrids train by the same recipes, from the same command, into the same folder."""

import json
import math
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.cli import main
from vitrail.train.run import RunResult
from vitrail.weights.load import load_weights

Capture = pytest.CaptureFixture[str]
FEW = {"epochs": "0.12", "batch_size": "32", "workers": "0"}  # five steps of the 1,438 digits


def run(out: Path, model: str | None, weights: Path | None = None, **changes: object) -> RunResult:
    """A run of a few steps; in the names of the fields __ stands for a dot."""
    settings = [f"{name.replace('__', '.')}={value}" for name, value in {**FEW, **changes}.items()]
    return vitrail.train("digits", model=model, weights=weights, out=out, overrides=settings, notify=lambda _: None)


@pytest.fixture(scope="module", params=["R14-nano", "R+Pico/8"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder, request.param)
    return request.param, folder


def test_it_trains_and_its_folder_gives_back_what_was_trained(trained: tuple[str, Path]) -> None:
    name, folder = trained
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 5 and losses[0] == pytest.approx(2.3026, abs=1e-3), "a zero head: an even guess of ten"
    assert all(math.isfinite(loss) for loss in losses)
    classifier = vitrail.load(folder)
    assert classifier.model.head is not None and bool(classifier.model.head.weight.any())
    assert classifier.labels.names == tuple("0123456789")
    assert vitrail.evaluate(classifier, "digits").top1 == json.loads((folder / "evaluation.json").read_text())["top1"]
    kind = json.loads((folder / "model" / "vitrail.json").read_text())["model"]["kind"]
    assert kind == {"R14-nano": "resnet", "R+Pico/8": "vit"}[name]


def test_it_starts_from_trained_weights(trained: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = trained
    run(tmp_path / "next", None, weights=folder, optim__lr=1e-12, epochs=0.03, head_solver="none")
    before, after = (load_weights(f).model.state_dict() for f in (folder, tmp_path / "next"))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_stopped_run_continues(trained: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of a model of another kind holds all of it: after a stop the weights come out bit for bit."""
    from vitrail.train import run as module

    name, folder = trained
    calls = iter(range(100))
    real = module.log

    def stopping(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if next(calls) == 2:
            raise module.Stop

    monkeypatch.setattr(module, "log", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", name)
    monkeypatch.setattr(module, "log", real)
    run(tmp_path / "again", name)
    whole, continued = (load_weights(f).model.state_dict() for f in (folder, tmp_path / "again"))
    assert all(torch.equal(whole[key], continued[key]) for key in whole)


def test_the_preset_paper_is_recorded_toggle_by_toggle(tmp_path: Path) -> None:
    run(tmp_path / "run", "R+Pico/8", preset="paper", epochs=0.03, model__position_std=0.5)
    stored = json.loads((tmp_path / "run" / "model" / "vitrail.json").read_text())
    model, pixels = stored["model"], stored["preprocess"]
    assert stored["record"]["recipe"]["preset"] == "paper"
    assert (model["gelu"], model["norm_eps"], model["position_rule"]) == ("tanh", 1e-6, "paper")
    assert (model["initialisation"], model["norm_after_pool"], model["head_bias"]) == ("paper", False, 0.0)
    assert model["position_std"] == 0.5, "what is set by name comes after the preset"
    assert (pixels["resize"], pixels["crop"], pixels["interpolation"], pixels["antialias"]) == (
        "squash",
        1.0,
        "bilinear",
        False,
    )
    assert pixels["mean"] == pixels["std"] == [0.5, 0.5, 0.5]


def test_the_preset_cannot_change_what_weights_decide(
    trained: tuple[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    name, folder = trained
    command = ["train", "digits", "--weights", str(folder), "--out", str(tmp_path / "run"), "--set", "preset=paper"]
    if name == "R14-nano":  # every toggle of the model is a ViT's; a ResNet's numbers are the paper's as they are
        assert main([*command, "--set", "epochs=0.03"]) == 0
        return
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("vitrail: preset=paper cannot be set: the weights have model.gelu exact")


@pytest.mark.parametrize(
    ("model", "change", "sentence"),
    [
        ("R14-nano", "heads=3", "the recipe of this model has no field 'model.heads'; did you mean"),
        ("Pico/2", "layers=[1]", "the recipe of this model has no field 'model.layers'"),
        ("R14-nano", "model.width=33", "model: width must be a multiple of groups: 33 / 32"),
        ("Pico/2", "preset=papre", "preset: should be 'paper', found 'papre'"),
    ],
)
def test_a_field_of_the_other_kind_is_a_mistake(
    tmp_path: Path, capsys: Capture, model: str, change: str, sentence: str
) -> None:
    assert main(["train", "digits", "--model", model, "--out", str(tmp_path / "run"), "--set", change]) == 2
    assert capsys.readouterr().err.startswith(f"vitrail: {sentence}")
