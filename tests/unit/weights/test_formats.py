"""What holds of every format: a file is claimed by one format alone, and its rules undo each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.build import build
from vitrail.weights.files import read_file
from vitrail.weights.load import FORMATS
from vitrail.weights.rename import Tensors, claims, read_tensors, write_tensors

FIXTURES = Path(__file__).parents[2] / "golden" / "fixtures"
SMALL: dict[str, Any] = {"image_size": (16, 16), "patch_size": (8, 8), "width": 24, "depth": 2, "heads": 3}
SMALL |= {"mlp_dim": 40, "classes": 3}
STEM = {"stem": ResNetConfig(image_size=(16, 16), layers=(), width=32), "patch_size": (2, 2)}
BARE = {"classes": 0}
GAP = {"pool": "gap", "class_token": False}
MAP = {"pool": "map", "class_token": False, "position_prefix": False}
CLIP = {"norm_before": True, "patch_bias": False, "head_has_bias": False}
DINOV2 = {"layer_scale": 0.1}
DINOV3 = {"position": "rope", "layer_scale": 0.1, "registers": 2, "key_bias": False, "classes": 0}
GATED = {"mlp": "swiglu"}
# Format -> models it holds that look least like each other.
HELD: dict[str, list[dict[str, Any]]] = {
    "timm": [
        {}, BARE, GAP, MAP, CLIP, DINOV2 | GATED, {"registers": 2, "position_prefix": False}, {"pre_logits": 8},
        {"distillation_token": True}, DINOV3, DINOV3 | GATED, {"position": "none"}, {"qk_norm": True},
    ],
    "npz": [{}, BARE, GAP, STEM, {"pre_logits": 8}],
    "npz-linen": [{}, BARE, GAP, STEM],
    "big_vision": [{}, GAP, MAP, GAP | {"position": "sincos2d"}, {"position_prefix": False, "pre_logits": 8}],
    "vitrail": [],  # a ResNet: see below
    "transformers-vit": [{}, BARE, {"pre_logits": 24, "classes": 0}],
    "transformers-vit-v5": [{}, BARE],
    "transformers-deit": [{"distillation_token": True}, {"distillation_token": True, "classes": 0}],
    "transformers-deit-v5": [{"distillation_token": True}],
    "transformers-dinov2": [
        BARE | DINOV2, DINOV2 | {"pool": "token_gap"}, BARE | DINOV2 | GATED, BARE | DINOV2 | {"registers": 2},
    ],
    "transformers-dinov2-v5": [BARE | DINOV2, DINOV2 | {"pool": "token_gap", "registers": 2} | GATED],
    "transformers-dinov3": [DINOV3, DINOV3 | GATED],
    "transformers-dinov3-v5": [DINOV3],
    "torchvision": [{}, {"pre_logits": 8}, BARE],
    "torchvision-old": [{}],
    "dinov2": [BARE | DINOV2, BARE | DINOV2 | GATED | {"registers": 2}],
    "dinov2-classifier": [DINOV2 | {"pool": "token_gap"}],
    "dinov3": [DINOV3, DINOV3 | GATED],
    "open_clip": [CLIP, CLIP | {"norm_before": False, "pool": "gap", "class_token": True}, CLIP | DINOV2],
    "open_clip-visual": [CLIP, CLIP | BARE],
    "open_clip-timm": [{}, MAP | BARE, {"head_has_bias": False}],
    "transformers-clip": [CLIP, CLIP | BARE],
    "transformers-clip-v5": [CLIP],
    "transformers-siglip": [MAP | BARE],
    "transformers-siglip-v5": [MAP | BARE],
    "transformers-siglip-classifier": [GAP],
}  # fmt: skip
# What rides along in every file of a format, and tells it from others.
RIDING: dict[str, tuple[str, ...]] = {
    "dinov2": ("mask_token",),
    "dinov2-classifier": ("backbone.mask_token",),
    "dinov3": ("mask_token",),
    "open_clip": ("positional_embedding", "transformer.resblocks.0.attn.in_proj_weight", "logit_scale"),
    "open_clip-timm": ("text.positional_embedding", "logit_scale"),
}
CASES = [pytest.param(name, changes, id=f"{name} {changes}") for name, rows in HELD.items() for changes in rows]


def state_of(changes: dict[str, Any]) -> tuple[ViTConfig, dict[str, Tensor]]:
    config = ViTConfig(**SMALL | changes)
    torch.manual_seed(0)
    return config, {key: torch.randn_like(value) for key, value in build(config).state_dict().items()}


def claiming(tensors: Tensors) -> list[str]:
    return [name for name, form in FORMATS.items() if claims(form, form.prepare(tensors))]


def test_every_format_is_tried() -> None:
    assert HELD.keys() == FORMATS.keys()


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_file_is_claimed_by_its_own_format_alone(name: str, changes: dict[str, Any]) -> None:
    config, state = state_of(changes)
    tensors = write_tensors(state, FORMATS[name].rules(config)) | {key: torch.ones(2) for key in RIDING.get(name, ())}
    assert claiming(tensors) == [name]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_the_rules_undo_each_other(name: str, changes: dict[str, Any]) -> None:
    config, state = state_of(changes)
    rules = FORMATS[name].rules(config)
    file = write_tensors(state, rules)
    back = read_tensors(file, rules, {key: tuple(value.shape) for key, value in state.items()}, name)
    assert back.keys() == state.keys() and all(torch.equal(back[key], value) for key, value in state.items())
    again = write_tensors(back, rules)
    assert again.keys() == file.keys() and all(torch.equal(again[key], value) for key, value in file.items())


def test_a_resnet_s_file_is_claimed_by_our_own_format_alone() -> None:
    config = ResNetConfig(image_size=(16, 16), layers=(1,), width=32, classes=3)
    assert claiming(write_tensors(build(config).state_dict(), FORMATS["vitrail"].rules(config))) == ["vitrail"]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.weights.npz")), ids=lambda path: path.name)
def test_a_golden_file_is_claimed_by_one_format_alone(path: Path) -> None:
    assert len(claiming(read_file(path))) == 1
