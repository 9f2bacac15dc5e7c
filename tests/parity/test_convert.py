"""Conversions between all layouts, proven in the libraries that they are for, and nothing lost on the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.errors import ParityError, WeightsError
from vitrail.evaluate import parity
from vitrail.evaluate.parity import GATE, ParityReport, convert
from vitrail.models.build import Network, build
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.convert import TARGETS
from vitrail.weights.load import load_weights

SMALL: dict[str, Any] = {"image_size": (16, 16), "patch_size": (8, 8), "width": 48, "depth": 2, "heads": 3}
SMALL |= {"mlp_dim": 96, "classes": 3}
BARE = {"classes": 0}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide image": {"image_size": (16, 24)},
    "tanh": {"gelu": "tanh"},
    "pre_logits": {"gelu": "tanh", "pre_logits": 12},
    "gap": {"pool": "gap", "gelu": "tanh"},
    "fc_norm": {"pool": "gap", "norm_after_pool": True},
    "map": {"pool": "map", "gelu": "tanh", "position_prefix": False},
    "sincos2d": {"pool": "gap", "gelu": "tanh", "position": "sincos2d"},
    "deit": {"distillation_token": True},
    "deit3": {"layer_scale": 1e-6, "position_prefix": False},
    "dinov2": {"layer_scale": 1e-5, "registers": 4, "position_prefix": True, **BARE},
    "dinov2 classifier": {"layer_scale": 1e-5, "pool": "token_gap"},
    "dinov2 gated": {"layer_scale": 1e-5, "mlp": "swiglu", "position_prefix": True, **BARE},
    "dinov3": {
        "position": "rope", "layer_scale": 1e-5, "registers": 4, "key_bias": False, "norm_eps": 1e-5, **BARE,
    },
    "clip": {"norm_before": True, "patch_bias": False, "head_has_bias": False, "gelu": "quick", "norm_eps": 1e-5},
    "siglip": {"pool": "map", "gelu": "tanh", "position_prefix": False, **BARE},
    "hybrid": {"patch_size": (2, 2), "stem": ResNetConfig(image_size=(16, 16), layers=(), width=32), "gelu": "tanh"},
}  # fmt: skip
LIBRARY = {"timm": "timm", "transformers": "transformers", "torchvision": "torchvision", "open_clip": "open_clip"}
# Target -> the models it holds; every other pair is refused by name.
HOLDS: dict[str, set[str]] = {
    "vitrail": set(MODELS),
    "timm": {
        *("plain", "wide image", "tanh", "gap", "fc_norm", "map", "deit", "deit3", "dinov2", "dinov2 gated"),
        *("dinov3", "clip", "siglip"),
    },
    "transformers": {
        *("plain", "wide image", "tanh", "gap", "deit", "dinov2", "dinov2 classifier", "dinov2 gated", "dinov3"),
        *("clip", "siglip"),
    },
    "npz": {"tanh", "pre_logits", "gap", "hybrid"},
    "npz-linen": {"tanh", "pre_logits", "gap", "hybrid"},
    "big_vision": {"tanh", "pre_logits", "gap", "map", "siglip"},
    "torchvision": {"plain"},
    "dinov2": {"dinov2", "dinov2 classifier", "dinov2 gated"},
    "dinov3": {"dinov3"},
    "open_clip": {"clip"},
}
GROWN = {("dinov2", "timm"), ("clip", "timm")}  # held with zeros for what the model has no tensor of
BESIDE = ("labels", "preprocess", "licence", "passengers")  # what is no part of the network


def network(name: str) -> Network:
    torch.manual_seed(0)
    model = build(ViTConfig(**SMALL | MODELS[name])).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2)
    return model


def write(folder: Path, model: Network, **beside: Any) -> Path:
    classes = model.config.classes
    labels = LabelSet(tuple(f"name {i}" for i in range(classes))) if classes else None
    pixels = Preprocess(size=model.config.image_size, crop=1.0, resize="squash", mean=(0.1, 0.2, 0.3))
    write_model_folder(folder, model, pixels, labels, {"licence": "mit"}, **beside)
    return folder


def place(folder: Path, to: str) -> Path:
    return folder / ("out.npz" if to in ("npz", "npz-linen", "big_vision") else "out")


def result(report: ParityReport, what: str) -> dict[str, float]:
    (found,) = [c for c in report.comparisons if c.what.startswith(what)]
    assert found.differences is not None, found.reason
    return dict(found.differences)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_what_a_target_holds_is_the_same_network_there_and_back(tmp_path: Path, name: str, to: str) -> None:
    model = network(name)
    source = write(tmp_path / "source", model)
    out = place(tmp_path, to)
    if name not in HOLDS[to]:
        with pytest.raises(WeightsError, match="cannot hold"):
            convert(source, out, to, allow_loss=BESIDE)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
        return
    report = convert(source, out, to, allow_loss=BESIDE)
    assert report.passed and report.effect == 0.0
    assert list(report.scale) == ["embedding", "block 1", "block 2", "output"]
    assert min(report.scale.values()) > 0.1, "differences of small numbers are small"
    assert set(result(report, "the result in vitrail").values()) == {0.0}
    if to in LIBRARY:
        assert max(result(report, f"the result in {LIBRARY[to]}").values()) < 1e-9
    back = tmp_path / "back"
    convert(out, back, "vitrail", allow_loss=BESIDE)
    again = load_weights(back).model.state_dict()
    if (name, to) in GROWN:
        assert again.keys() >= model.state_dict().keys()
        return
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_preprocessing_labels_and_licence_travel(tmp_path: Path, to: str) -> None:
    source = write(tmp_path / "source", network("plain"))
    report = convert(source, tmp_path / "out", to)
    before, after = load_weights(source), load_weights(tmp_path / "out")
    assert report.losses == {}
    assert (after.preprocess, after.labels, after.licence) == (before.preprocess, before.labels, "mit")
    assert after.form == {"timm": "timm", "transformers": "transformers-vit"}[to]


def test_a_resnet_is_held_by_vitrail_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(ResNetConfig(image_size=(32, 32), layers=(1, 1), width=32, classes=3))
    source = write(tmp_path / "source", model)
    report = convert(source, tmp_path / "out", "vitrail")
    assert list(report.scale) == ["stage 1", "stage 2", "output"]
    assert report.passed
    for to in ("timm", "transformers", "torchvision", "dinov2", "dinov3", "open_clip"):
        with pytest.raises(WeightsError, match=r"cannot hold .*convert to vitrail, which holds everything"):
            convert(source, tmp_path / "other", to)


@pytest.mark.parametrize(
    ("name", "to", "lost", "becomes"),
    [
        ("plain", "npz", ("gelu",), {"gelu": "tanh"}),
        ("tanh", "torchvision", ("gelu",), {"gelu": "exact"}),
        ("clip", "open_clip", (), {}),
        ("pre_logits", "timm", ("pre_logits",), {"pre_logits": None, "classes": 0}),
        ("pre_logits", "torchvision", ("gelu",), {"gelu": "exact", "pre_logits": 12}),
    ],
)
def test_a_named_loss_is_the_only_difference(
    tmp_path: Path, name: str, to: str, lost: tuple[str, ...], becomes: dict[str, Any]
) -> None:
    source = write(tmp_path / "source", network(name))
    out = place(tmp_path, to)
    for missing in lost:
        with pytest.raises(WeightsError, match=rf"\b{missing}\b"):
            convert(source, out, to, allow_loss=BESIDE)
    report = convert(source, out, to, allow_loss=(*BESIDE, *lost))
    assert report.passed, "the source with that loss, and the result, are the same"
    assert set(lost) <= set(report.losses)
    assert (report.effect > GATE) == (bool(lost) and "pre_logits" not in lost)
    config = load_weights(out).model.config
    assert {field: getattr(config, field) for field in becomes} == becomes
    if lost and report.effect:
        assert "what is lost changes the output by up to" in report.markdown()


def test_a_damaged_result_is_noticed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one number of one block, moved by a hundred-thousandth after the draft was written."""
    source = write(tmp_path / "source", network("plain"))
    real = parity.write_draft

    def spoilt(*arguments: Any) -> Any:
        from safetensors.torch import load_file, save_file

        draft = real(*arguments)
        tensors = load_file(draft.path / "model.safetensors")
        tensors["blocks.1.mlp.fc2.bias"][0] += 1e-4
        save_file(tensors, draft.path / "model.safetensors", {"format": "pt"})
        return draft

    monkeypatch.setattr(parity, "write_draft", spoilt)
    with pytest.raises(ParityError, match="is not the same network and was removed") as caught:
        convert(source, tmp_path / "out", "timm")
    lines = {line.split("|")[1].strip(): line for line in str(caught.value).splitlines() if line.startswith("| ")}
    assert "1.0e-04" in lines["block 2"] and "1.0e-04" not in lines["block 1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_result_that_its_library_does_not_load_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    source = write(tmp_path / "source", network("plain"))
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no such model")))
    with pytest.raises(ParityError, match="timm does not load what was written for it: RuntimeError: no such model"):
        convert(source, tmp_path / "out", "timm")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_without_the_library_vitrail_s_own_reading_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.evaluate import libraries

    source = write(tmp_path / "source", network("plain"))
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    report = convert(source, tmp_path / "out", "timm")
    made = [c.what for c in report.comparisons if c.differences is not None]
    assert made == ["the result in vitrail"]
    assert "- not compared: the result in timm (timm is not installed)" in report.markdown()


def test_passengers_come_home(tmp_path: Path) -> None:
    """A mask token survives dinov2 -> vitrail -> dinov2, and is a loss where the target has no seat for it."""
    token = torch.randn(1, 48)
    source = write(tmp_path / "a", network("dinov2"), passengers=("dinov2", {"mask_token": token}))
    convert(source, tmp_path / "b", "dinov2", allow_loss=["preprocess"])
    convert(tmp_path / "b", tmp_path / "c", "vitrail")
    for folder in ("b", "c"):
        loaded = load_weights(tmp_path / folder)
        assert torch.equal(loaded.passengers["mask_token"], token)
        assert loaded.passengers_of == "dinov2"
    with pytest.raises(WeightsError, match=r"passengers \(tensors that classification does not use: mask_token\)"):
        convert(tmp_path / "c", tmp_path / "d", "timm", allow_loss=["preprocess"])
    report = convert(tmp_path / "c", tmp_path / "d", "timm", allow_loss=["preprocess", "passengers"])
    assert "passengers" in report.losses
