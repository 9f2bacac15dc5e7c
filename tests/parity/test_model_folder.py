"""A model folder loads in timm and in transformers with the same logits and labels, whatever the model's options."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.models.eva import Eva
from transformers import AutoModelForImageClassification, pipeline

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.errors import WeightsError
from vitrail.inference import load
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.load import load_weights
from vitrail.weights.timm_config import companions, describe

LABELS = LabelSet(("daisy", "rose", "sun | flower", "tulip", "<img onerror=x>"))
CLIP = {"norm_before": True, "patch_bias": False, "head_has_bias": False, "norm_eps": 1e-5}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"image_size": (32, 48)},
    {"image_size": (36, 45), "cut_patches": True},
    {"patch_size": (8, 4), "channels": 1},
    {"width": 192, "heads": 3, "mlp_dim": 500},
    {"mlp_dim": 67},
    {"gelu": "tanh", "qkv_bias": False},
    {"gelu": "quick", "key_bias": False},
    {"qk_norm": True, "layer_scale": 0.2},
    {"head_has_bias": False},
    {"patch_bias": False},
    {"norm_before": True, "patch_bias": False},
    CLIP,
    CLIP | {"pool": "gap", "class_token": False, "norm_after_pool": True, "gelu": "quick"},
    {"norm_eps": 1e-5},
    {"norm_after_pool": True},
    {"pool": "gap", "class_token": False},
    {"pool": "gap", "class_token": True},
    {"pool": "gap", "class_token": True, "norm_after_pool": True},
    {"pool": "map", "class_token": False},
    {"pool": "map", "class_token": True, "registers": 2, "norm_after_pool": True},
    {"registers": 3},
    {"registers": 3, "position_registers": True},
    {"registers": 3, "position_prefix": False},
    {"registers": 3, "class_token": False, "pool": "gap"},
    {"registers": 3, "class_token": False, "pool": "gap", "position_registers": True},
    {"position_prefix": False},
    {"position": "none"},
    {"position": "none", "registers": 2, "class_token": False, "pool": "gap"},
    {"distillation_token": True},
    {"distillation_token": True, "head_has_bias": False, "layer_scale": 0.1},
    {"mlp": "swiglu"},
    {"mlp": "swiglu", "layer_scale": 0.1, "registers": 2, "mlp_dim": 100},
    {"position": "rope"},
    {"position": "rope", "norm_eps": 1e-5, "rope_base": 50.0},
    {"position": "rope", "key_bias": False, "registers": 2},
    {"position": "rope", "qkv_bias": False, "layer_scale": 0.1, "qk_norm": True, "norm_eps": 1e-5},
    {"position": "rope", "key_bias": False, "layer_scale": 0.1, "mlp": "swiglu", "mlp_dim": 100, "norm_eps": 1e-5},
    {"position": "rope", "layer_scale": 0.1, "pool": "gap", "class_token": False, "norm_after_pool": True},
    {"position": "rope", "pool": "map", "class_token": False},
    {"position": "rope", "pool": "map", "class_token": False, "mlp": "swiglu", "norm_eps": 1e-5, "mlp_dim": 67},
    {"position": "rope", "norm_before": True, "patch_bias": False, "pool": "gap", "registers": 1},
    {"dropout": 0.1, "stochastic_depth": 0.2, "patch_dropout": 0.3},
]
# Options that timm has no network for; such a folder keeps vitrail's own names.
WITHOUT_A_TWIN: list[dict[str, Any]] = [
    {"pre_logits": 12},
    {"pool": "token_gap"},
    {"pool": "token_gap", "pool_blocks": 2},
    {"position": "sincos2d"},
    {"norm_eps": 1e-12},
    {"norm_before": True},
    {"stem": ResNetConfig(image_size=(32, 32), layers=(1,), width=32), "patch_size": (2, 2)},
    {"mlp": "swiglu", "norm_eps": 1e-5},
    {"mlp": "swiglu", "pool": "map"},
    {"position": "rope", "gelu": "tanh"},
    {"position": "rope", "pool": "map", "registers": 1},
    {"distillation_token": True, "registers": 1},
    {"distillation_token": True, "position_prefix": False},
    {"distillation_token": True, "position": "rope"},
    {"distillation_token": True, "norm_eps": 1e-5},
    {"distillation_token": True, "mlp": "swiglu"},
    {"distillation_token": True, "distillation_head": False},
]


# What timm's layers have and the model has not is written as zeros, and comes back as such.
COMES_BACK_AS_ZEROS = {"patch_bias", "head_has_bias", "key_bias", "position_registers"}


def write(folder: Path, labels: LabelSet = LABELS, **changes: Any) -> ViT:
    torch.manual_seed(0)
    small = {
        "image_size": (32, 32),
        "patch_size": (8, 8),
        "width": 48,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 96,
        "classes": 5,
    }
    model = ViT(ViTConfig(**small | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    write_model_folder(folder, model, Preprocess(size=model.config.image_size, crop=1.0), labels, {"licence": "mit"})
    return model


def exact(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, with the rotary periods that timm computes in single precision computed in double."""
    model = model.eval().double()
    for part in model.modules():
        if isinstance(part, Eva):
            part.rope.periods = part.rope.temperature ** (torch.arange(0, 1, 4 / part.rope.dim, dtype=torch.float64))
    return model


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_timm_and_transformers_give_the_same_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = write(tmp_path / "model", **changes).double()
    images = torch.randn(2, ours.config.channels, *ours.config.image_size, dtype=torch.float64)
    in_timm = exact(timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True))
    in_transformers = exact(AutoModelForImageClassification.from_pretrained(tmp_path / "model"))
    with torch.no_grad():
        expected = ours(images)
        assert expected.std() > 0.1
        assert (in_timm(images) - expected).abs().max() < 1e-9
        assert (in_transformers(images).logits - expected).abs().max() < 1e-9
        assert (load(tmp_path / "model").model.double()(images) - expected).abs().max() == 0
    assert tuple(in_timm.pretrained_cfg["label_names"]) == LABELS.names
    assert in_transformers.config.id2label == dict(enumerate(LABELS.names))


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_config_json_alone_tells_the_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = write(tmp_path / "model", **changes).double()
    (tmp_path / "model" / "vitrail.json").unlink()
    loaded = load_weights(tmp_path / "model")
    back = loaded.model.double()
    images = torch.randn(2, ours.config.channels, *ours.config.image_size, dtype=torch.float64)
    assert (back(images) - ours(images)).abs().max() < 1e-12
    different = {key for key, value in dict(ours.config).items() if getattr(back.config, key) != value}
    assert different <= {"position_rule"} | COMES_BACK_AS_ZEROS
    assert loaded.preprocess == Preprocess(size=ours.config.image_size, crop=1.0)


@pytest.mark.parametrize("changes", WITHOUT_A_TWIN, ids=str)
def test_what_timm_cannot_build_keeps_our_names(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = write(tmp_path / "model", **changes)
    assert describe(ours.config, Preprocess(size=(32, 32))) is None
    with pytest.raises(WeightsError, match="timm cannot hold"):
        companions(ours.config, Preprocess(size=(32, 32)), LABELS)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architecture"] == "vitrail"
    back = load_weights(tmp_path / "model").model
    assert back.config == ours.config
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in ours.state_dict().items())


def test_every_option_is_held_or_named_as_without_a_twin() -> None:
    fields = {name for changes in OPTIONS + WITHOUT_A_TWIN for name in changes}
    initial_or_ours = {"initialisation", "head_bias", "position_std", "position_rule", "depth", "classes"}
    assert fields == set(ViTConfig.model_fields) - initial_or_ours


def test_the_pipeline_of_transformers_names_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "model")
    photo = tmp_path / "photo.png"
    Image.effect_noise((60, 40), 80).convert("RGB").save(photo)
    ours = load(tmp_path / "model").predict(photo)[0]
    theirs = pipeline("image-classification", model=str(tmp_path / "model"))(str(photo))
    assert [row["label"] for row in theirs] == list(ours.labels)
    # Pillow's resize, which timm's transforms use, differs from ours by at most 2 of 255 in a pixel
    assert [row["score"] for row in theirs] == pytest.approx(list(ours.probabilities), abs=2e-3)


def test_the_pipeline_takes_each_class_on_its_own_where_there_may_be_several(tmp_path: Path) -> None:
    write(tmp_path / "model", labels=replace(LABELS, multilabel=True))
    photo = tmp_path / "photo.png"
    Image.effect_noise((60, 40), 80).convert("RGB").save(photo)
    ours = load(tmp_path / "model").predict(photo, threshold=0.0)[0]
    theirs = pipeline("image-classification", model=str(tmp_path / "model"))(str(photo))
    assert [row["label"] for row in theirs] == list(ours.labels)
    assert [row["score"] for row in theirs] == pytest.approx(list(ours.probabilities), abs=2e-3)
    assert sum(ours.probabilities) != pytest.approx(1.0, abs=0.05)
