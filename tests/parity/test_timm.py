"""The same numbers as timm's VisionTransformer: random-normal weights, float64, 1e-9, through the shipped converter."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from vitrail.models.catalog import find_model
from vitrail.models.trace import trace
from vitrail.ops.grid import resample_positions
from vitrail.weights.load import load_weights

TOY = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 11}
SIZES = {"Ti/16": "vit_tiny_patch16_224", "S/16": "vit_small_patch16_224", "B/16": "vit_base_patch16_224"}
OPTIONS = [
    {},
    {"img_size": (16, 40)},
    {"act_layer": "gelu_tanh"},
    {"qkv_bias": False},
    {"global_pool": "avg", "class_token": False, "fc_norm": False},
]


def save(folder: Path, architecture: str, options: dict[str, object]) -> torch.nn.Module:
    """A timm model with random-normal weights, saved as timm saves it."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, **TOY | options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.1)
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.double()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_features_equal_timm(tmp_path: Path, size: str, options: dict[str, object]) -> None:
    theirs = save(tmp_path, SIZES[size], options)
    rows, cols = theirs.patch_embed.img_size
    config = {"architecture": SIZES[size], "model_args": {k: v for k, v in options.items() if k != "img_size"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load_weights(tmp_path, image_size=(rows, cols)).model.double()
    assert ours.config.heads == find_model(size).heads
    images = torch.randn(2, 3, rows, cols, dtype=torch.float64)
    logits, record = trace(ours, images)
    assert theirs(images).std() > 0.1
    assert (ours(images) - theirs(images)).abs().max() < 1e-9
    assert (logits - theirs(images)).abs().max() < 1e-9
    assert (record.tokens - theirs.forward_features(images)).abs().max() < 1e-9


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((14, 14), (7, 9)), ((4, 6), (8, 8))])
def test_positions_are_resampled_as_timm_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows = torch.randn(1, 1 + old[0] * old[1], 12)
    expected = resample_abs_pos_embed(rows, new_size=list(new), old_size=list(old), num_prefix_tokens=1)
    assert (resample_positions(rows, old, new, rule="timm") - expected).abs().max() < 1e-6


def test_a_bare_file_needs_the_name_of_its_model(tmp_path: Path) -> None:
    theirs = save(tmp_path, "vit_tiny_patch16_224", {"patch_size": 16, "img_size": 48, "depth": 12})
    ours = load_weights(tmp_path / "model.safetensors", "ti/16", image_size=(48, 48)).model.double()
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    assert (ours(images) - theirs(images)).abs().max() < 1e-9
