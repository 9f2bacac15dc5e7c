"""DINOv3's own files: timm's converter and transformers' network as witnesses, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.evaluate.libraries import _in_float64
from vitrail.evaluate.parity import convert
from vitrail.weights.load import load_weights

WIDTH, DEPTH, HEADS, PATCH = 48, 2, 3, 8


def state(gated: bool = False, registers: int = 4, bias: bool = True) -> dict[str, Tensor]:
    """A file's tensors, normal, under the names of DINOv3's own code; its mask hides the keys' bias."""
    torch.manual_seed(0)
    hidden = 96
    layers: dict[str, tuple[int, int]] = {"attn.proj": (WIDTH, WIDTH)}
    up = {"w1": (hidden, WIDTH), "w2": (hidden, WIDTH), "w3": (WIDTH, hidden)}
    layers |= {f"mlp.{k}": v for k, v in (up if gated else {"fc1": (hidden, WIDTH), "fc2": (WIDTH, hidden)}).items()}
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "mask_token": (1, WIDTH), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
    }  # fmt: skip
    if registers:
        shapes["storage_tokens"] = (1, registers, WIDTH)
    for i in range(DEPTH):
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        shapes[f"blocks.{i}.attn.qkv.weight"] = (3 * WIDTH, WIDTH)
        if bias:
            shapes[f"blocks.{i}.attn.qkv.bias"] = (3 * WIDTH,)
        for j in (1, 2):
            shapes |= {f"blocks.{i}.norm{j}.weight": (WIDTH,), f"blocks.{i}.norm{j}.bias": (WIDTH,)}
            shapes[f"blocks.{i}.ls{j}.gamma"] = (WIDTH,)
    w = {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}
    w["rope_embed.periods"] = 100 ** torch.arange(0, 1, 4 / (WIDTH // HEADS))
    mask = torch.ones(3 * WIDTH).index_fill(0, torch.arange(WIDTH, 2 * WIDTH), 0)
    return w | {f"blocks.{i}.attn.qkv.bias_mask": mask.clone() for i in range(DEPTH) if bias}


def network_of_timm(w: dict[str, Tensor], gated: bool) -> torch.nn.Module:
    options: dict[str, Any] = {"img_size": 32, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH}
    options |= {"num_heads": HEADS, "mlp_ratio": 2.0, "global_pool": "token", "num_classes": 0}
    if gated:
        options["swiglu_align_to"] = 1
    theirs = timm.create_model(f"vit_small_{'plus_' * gated}patch16_dinov3_qkvb", **options)
    theirs.load_state_dict(checkpoint_filter_fn(dict(w), theirs))
    return theirs.double().eval()


@pytest.mark.parametrize("size", [(32, 32), (64, 16)])  # timm's patch centres are float32, exact for such grids
@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_features_equal_timm_s(tmp_path: Path, gated: bool, size: tuple[int, int]) -> None:
    w = state(gated)
    save_file(w, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors", image_size=size)
    assert loaded.form == "dinov3"
    assert loaded.model.config.heads == HEADS and loaded.model.config.registers == 4
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    theirs = network_of_timm(w, gated)
    with _in_float64(theirs):
        assert (loaded.model.double()(x) - theirs(x)).abs().max() < 1e-9


@pytest.mark.parametrize(("gated", "registers", "bias"), [(False, 4, True), (True, 4, True), (True, 0, False)])
def test_through_transformers_names_and_back(tmp_path: Path, gated: bool, registers: int, bias: bool) -> None:
    """Proven in transformers' own network; all that comes back otherwise is the bias that the mask hides."""
    w = state(gated, registers, bias) | {"local_cls_norm.weight": torch.randn(WIDTH)}
    (tmp_path / "a").mkdir()
    save_file(w, tmp_path / "a" / "model.safetensors")
    convert(tmp_path / "a", tmp_path / "b", "vitrail")
    report = convert(tmp_path / "b", tmp_path / "c", "transformers", allow_loss=["passengers"])
    (theirs,) = [c for c in report.comparisons if c.what.startswith("the result in transformers")]
    assert theirs.differences is not None and max(theirs.differences.values()) < 1e-9
    convert(tmp_path / "b", tmp_path / "d", "dinov3")
    found = load_file(tmp_path / "d" / "model.safetensors")
    assert found.keys() == w.keys()
    for key, value in w.items():
        if key.endswith("qkv.bias"):
            value = value * w[f"{key}_mask"]
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "blocks.1.attn.qkv.bias_mask",
            torch.ones(3 * WIDTH),
            r"bias_mask should be zero for the keys",
        ),
        ("rope_embed.periods", torch.ones(4), r"rope_embed\.periods are not those of the base 100"),
        ("rope_embed.periods", torch.ones(5), r"5 rope_embed\.periods are no quarter of the channels of a head"),
        ("cls_norm.weight", torch.ones(WIDTH), r"unknown: cls_norm\.weight"),
    ],
)
def test_what_is_not_this_network_is_refused(tmp_path: Path, key: str, value: Tensor, text: str) -> None:
    save_file(state() | {key: value}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=text):
        load_weights(tmp_path / "w.safetensors")
