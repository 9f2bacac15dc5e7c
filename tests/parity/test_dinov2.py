"""DINOv2's own files: the forward pass written here from its description, and timm's converter as a second witness."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.trace import trace
from vitrail.weights.load import FORMATS, load_weights
from vitrail.weights.rename import write_tensors

WIDTH, DEPTH, PATCH = 128, 3, 4  # two heads: DINOv2 has 64 channels a head
NETWORKS = [(False, 0), (False, 3), (True, 0), (True, 3)]  # gated MLP, registers


def state(gated: bool, registers: int, grid: int = 4) -> dict[str, Tensor]:
    """A file's tensors, normal, under the names of DINOv2's own code."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "mask_token": (1, WIDTH), "pos_embed": (1, 1 + grid**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
    }  # fmt: skip
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    hidden = 96
    mlp = (
        {"w12": (2 * hidden, WIDTH), "w3": (WIDTH, hidden)}
        if gated
        else {"fc1": (hidden, WIDTH), "fc2": (WIDTH, hidden)}
    )
    layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)} | {f"mlp.{k}": v for k, v in mlp.items()}
    for i in range(DEPTH):
        for name, shape in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for j in (1, 2):
            shapes |= {f"blocks.{i}.norm{j}.weight": (WIDTH,), f"blocks.{i}.norm{j}.bias": (WIDTH,)}
            shapes[f"blocks.{i}.ls{j}.gamma"] = (WIDTH,)
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def positions(w: dict[str, Tensor], rows: int, cols: int) -> Tensor:
    """As DINOv2 does it: nothing at the stored square grid; else bicubic, by a scale factor whose sides have 0.1 added,
    or, in the models with registers, to the size itself with antialiasing."""
    table = w["pos_embed"]
    side = math.isqrt(table.shape[1] - 1)
    if (rows, cols) == (side, side):
        return table
    image = table[:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
    if "register_tokens" in w:
        image = F.interpolate(image, size=(rows, cols), mode="bicubic", antialias=True)
    else:
        factor = ((rows + 0.1) / side, (cols + 0.1) / side)
        image = F.interpolate(image, scale_factor=factor, mode="bicubic")
    assert image.shape[-2:] == (rows, cols)
    return torch.cat([table[:, :1], image.permute(0, 2, 3, 1).reshape(1, rows * cols, WIDTH)], dim=1)


def forward(w: dict[str, Tensor], images: Tensor, depth: int = DEPTH) -> Tensor:
    """All tokens after the last norm. Class token and patches get positions; the registers come between them."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    grid = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([w["cls_token"].expand(len(images), -1, -1), grid.flatten(2).transpose(1, 2)], dim=1)
    x = x + positions(w, *grid.shape[-2:])
    if "register_tokens" in w:
        x = torch.cat([x[:, :1], w["register_tokens"].expand(len(images), -1, -1), x[:, 1:]], dim=1)
    for i in range(depth):
        block = f"blocks.{i}"
        q, k, v = (
            t.unflatten(-1, (2, 64)).transpose(1, 2)
            for t in dense(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        )
        mixed = (torch.softmax(q @ k.transpose(-2, -1) / 8, dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + w[f"{block}.ls1.gamma"] * dense(mixed, f"{block}.attn.proj")
        y = norm(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in w:
            gate, value = dense(y, f"{block}.mlp.w12").chunk(2, -1)
            y = dense(F.silu(gate) * value, f"{block}.mlp.w3")
        else:
            y = dense(F.gelu(dense(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + w[f"{block}.ls2.gamma"] * y
    return norm(x, "norm")


def double(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.double() for key, tensor in w.items()}


@pytest.mark.parametrize("chunked", [False, True], ids=["one row", "chunks"])
@pytest.mark.parametrize(("gated", "registers"), NETWORKS)
@torch.no_grad()
def test_features_equal_the_original_s(tmp_path: Path, gated: bool, registers: int, chunked: bool) -> None:
    w = state(gated, registers)
    # a sharded model keeps the number of the block within the chunk
    file = {
        k.replace("blocks.", f"blocks.{int(k[7]) // 2}.") if chunked and k[:7] == "blocks." else k: t
        for k, t in w.items()
    }
    save_file(file, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors")
    assert loaded.form == "dinov2" and loaded.model.config.heads == 2
    assert loaded.passengers.keys() == {"mask_token"} and torch.equal(loaded.passengers["mask_token"], w["mask_token"])
    written = write_tensors(loaded.model.state_dict(), FORMATS["dinov2"].rules(loaded.model.config)) | dict(
        loaded.passengers
    )
    assert written.keys() == w.keys() and all(torch.equal(written[key], w[key]) for key in w)

    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = forward(double(w), images)
    features, record = trace(loaded.model.double(), images)
    assert expected.std() > 0.1
    assert (record.tokens - expected).abs().max() < 1e-9
    assert (features - expected[:, 0]).abs().max() < 1e-9
    assert (loaded.model(images) - expected[:, 0]).abs().max() < 1e-9


@pytest.mark.parametrize("size", [(24, 24), (20, 28), (12, 8)], ids=str)
@pytest.mark.parametrize("registers", [0, 3])
@torch.no_grad()
def test_another_image_size_equals_the_original_s(tmp_path: Path, registers: int, size: tuple[int, int]) -> None:
    w = state(False, registers)
    save_file(w, tmp_path / "model.safetensors")
    ours = load_weights(tmp_path / "model.safetensors", image_size=size).model
    assert ours.position_embedding is not None
    # both in single precision, in which the original resamples
    assert torch.equal(ours.position_embedding, positions(w, size[0] // PATCH, size[1] // PATCH))
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    resampled = double(w | {"pos_embed": positions(w, size[0] // PATCH, size[1] // PATCH)})
    side = math.isqrt(resampled["pos_embed"].shape[1] - 1)
    if (size[0] // PATCH, size[1] // PATCH) == (side, side):
        assert (ours.double()(images) - forward(resampled, images)[:, 0]).abs().max() < 1e-9


@pytest.mark.parametrize(("gated", "registers"), NETWORKS)
@torch.no_grad()
def test_features_equal_those_after_timm_s_conversion(tmp_path: Path, gated: bool, registers: int) -> None:
    w = state(gated, registers)
    save_file(w, tmp_path / "model.safetensors")
    ours = load_weights(tmp_path / "model.safetensors").model.double()
    options: dict[str, Any] = {"reg_tokens": registers, "no_embed_class": bool(registers), "mlp_ratio": 96 / WIDTH}
    if gated:
        options["mlp_ratio"] *= 2
    theirs = timm.create_model(
        "vit_giant_patch14_dinov2" if gated else "vit_small_patch14_dinov2", img_size=16, patch_size=PATCH,
        embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0, **options,
    ).eval().double()  # fmt: skip
    theirs.load_state_dict(checkpoint_filter_fn(double(w), theirs), strict=True)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert (ours(images) - theirs(images)).abs().max() < 1e-9
    assert (trace(ours, images)[1].tokens - theirs.forward_features(images)).abs().max() < 1e-9


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("registers", [0, 3])
@torch.no_grad()
def test_the_linear_classifier_reads_class_tokens_beside_the_mean(tmp_path: Path, registers: int, blocks: int) -> None:
    w = state(False, registers)
    head = {"linear_head.weight": torch.randn(7, (blocks + 1) * WIDTH), "linear_head.bias": torch.randn(7)}
    save_file({f"backbone.{key}": t for key, t in w.items()} | head, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors")
    assert loaded.form == "dinov2-classifier" and loaded.model.config.pool == "token_gap"
    rules = FORMATS[loaded.form].rules(loaded.model.config)
    written = write_tensors(loaded.model.state_dict(), rules) | dict(loaded.passengers)
    original = load_file(tmp_path / "model.safetensors")
    assert written.keys() == original.keys() and all(torch.equal(written[key], original[key]) for key in original)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = forward(double(w), images)
    features = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(dim=1)], dim=1)
    if blocks == 2:  # the tokens of a shallower network are those after an earlier block
        earlier = forward(double(w), images, depth=DEPTH - 1)
        features = torch.cat([earlier[:, 0], features], dim=1)
    expected = features @ head["linear_head.weight"].double().T + head["linear_head.bias"].double()
    assert (loaded.model.double()(images) - expected).abs().max() < 1e-9


@pytest.mark.parametrize("features", [WIDTH, 5 * WIDTH, 2 * WIDTH + 1])
def test_a_linear_head_on_other_features_is_refused(tmp_path: Path, features: int) -> None:
    head = {"linear_head.weight": torch.randn(7, features), "linear_head.bias": torch.randn(7)}
    save_file({f"backbone.{key}": t for key, t in state(False, 0).items()} | head, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=rf"the linear head reads {features} features; it must read .* 1 to 3 blocks"
    ):
        load_weights(tmp_path / "model.safetensors")


def test_its_description_tells_what_the_file_does_not() -> None:
    form = FORMATS["dinov2"]
    assert form.describe is not None
    config = ViTConfig(
        image_size=(28, 28), patch_size=(14, 14), width=96, depth=2, heads=3, mlp_dim=256, classes=0, layer_scale=1e-5,
        mlp="swiglu", registers=4, position_rule="timm",
    )  # fmt: skip
    table = form.describe(config, Preprocess())
    assert table is not None
    arguments = table["model_args"]
    hidden = int(96 * arguments["mlp_ratio"])
    assert (int(hidden * 2 / 3) + 7) // 8 * 8 == 256  # as its gated MLP computes it
    assert (arguments["interpolate_offset"], arguments["interpolate_antialias"]) == (0.0, True)
    for changes in ({"layer_scale": None}, {"gelu": "tanh", "mlp": "gelu"}, {"classes": 5}, {"norm_eps": 1e-5}):
        assert form.describe(ViTConfig(**dict(config) | changes), Preprocess()) is None
