"""The same numbers as torchvision's VisionTransformer: random-normal weights, float64, 1e-9, old names and new."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from vitrail.config import Preprocess, ViTConfig
from vitrail.data.preprocess import preprocess
from vitrail.errors import WeightsError
from vitrail.models.trace import trace
from vitrail.ops.grid import resample_positions
from vitrail.weights.load import FORMATS, load_weights
from vitrail.weights.rename import write_tensors

TOY: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 48}
TOY |= {"mlp_dim": 100, "num_classes": 7}
OPTIONS: list[dict[str, Any]] = [{}, {"image_size": 48}, {"patch_size": 4, "num_heads": 6}, {"representation_size": 20}]


def create(options: dict[str, Any]) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**TOY | options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def save(folder: Path, model: VisionTransformer, old: bool = False, heads: int | None = 4) -> Path:
    """The state dict, with the older names of the MLP's layers if asked, and the number of heads beside it."""
    state = model.state_dict()
    if old:
        names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
        for new, name in names.items():
            state = {key.replace(new, name): tensor for key, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    if heads is not None:
        table = {"library": "torchvision", "model_args": {"num_heads": heads}}
        (folder / "config.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("old", [False, True], ids=["names of today", "older names"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_logits_and_features_equal_torchvision(tmp_path: Path, options: dict[str, Any], old: bool) -> None:
    theirs = create(options)
    loaded = load_weights(save(tmp_path, theirs, old, theirs.encoder.layers[0].num_heads))
    assert loaded.form == ("torchvision-old" if old else "torchvision")
    original = load_file(tmp_path / "model.safetensors")
    written = write_tensors(loaded.model.state_dict(), FORMATS[loaded.form].rules(loaded.model.config))
    assert written.keys() == original.keys() and all(torch.equal(written[key], original[key]) for key in original)
    assert loaded.model.config.position_rule == "torchvision"

    ours, theirs = loaded.model.double(), theirs.double()
    images = torch.randn(2, 3, theirs.image_size, theirs.image_size, dtype=torch.float64)
    logits, record = trace(ours, images)
    expected = theirs(images)
    assert expected.std() > 0.1
    assert (ours(images) - expected).abs().max() < 1e-9
    assert (logits - expected).abs().max() < 1e-9
    patches = theirs._process_input(images)
    tokens = theirs.encoder(torch.cat([theirs.class_token.expand(2, -1, -1), patches], dim=1))
    assert (record.tokens - tokens).abs().max() < 1e-9


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_written_builds_the_same_network_in_torchvision(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = create(options)
    model = load_weights(save(tmp_path, theirs, heads=theirs.encoder.layers[0].num_heads)).model
    form = FORMATS["torchvision"]
    assert form.describe is not None and form.companions is not None
    pixels = Preprocess(size=model.config.image_size)
    table = form.describe(model.config, pixels)
    assert table == form.companions(model.config, pixels, None)["config.json"]
    again = VisionTransformer(**table["model_args"]).eval()
    again.load_state_dict(write_tensors(model.state_dict(), form.rules(model.config)), strict=True)
    images = torch.randn(2, 3, theirs.image_size, theirs.image_size)
    assert torch.equal(again(images), theirs(images))


@pytest.mark.parametrize("side", [16, 48, 56])
@torch.no_grad()
def test_another_image_size_equals_torchvision_s(tmp_path: Path, side: int) -> None:
    theirs = create({})
    ours = load_weights(save(tmp_path, theirs), image_size=(side, side)).model
    state = interpolate_embeddings(side, 8, theirs.state_dict())
    assert torch.equal(ours.position_embedding, state["encoder.pos_embedding"])
    larger = create({"image_size": side})
    larger.load_state_dict(state)
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    assert (ours.double()(images) - larger.double()(images)).abs().max() < 1e-9


def test_positions_are_resampled_as_torchvision_does() -> None:
    rows = torch.randn(1, 1 + 14 * 14, 12, dtype=torch.float64)
    expected = interpolate_embeddings(384, 16, {"encoder.pos_embedding": rows})["encoder.pos_embedding"]
    assert (resample_positions(rows, (14, 14), (24, 24), rule="torchvision") - expected).abs().max() < 1e-12
    assert (resample_positions(rows, (14, 14), (24, 24), rule="timm") - expected).abs().max() > 0.1


def test_the_published_sizes_have_their_heads_and_their_preprocessing(tmp_path: Path) -> None:
    theirs = create(
        {"image_size": 224, "patch_size": 32, "hidden_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 8}
    )
    loaded = load_weights(save(tmp_path, theirs, heads=None))
    assert loaded.model.config.heads == 12
    assert loaded.preprocess.interpolation == "bilinear" and int(224 / loaded.preprocess.crop) == 256
    assert load_weights(tmp_path, image_size=(384, 384)).preprocess.size == (384, 384)


def test_the_heads_of_other_sizes_must_be_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="torchvision has no size of width 48 and depth 2; its library's config"):
        load_weights(save(tmp_path, create({}), heads=None))


@pytest.mark.parametrize(
    "changes",
    [
        {"gelu": "tanh"}, {"norm_eps": 1e-5}, {"channels": 1}, {"image_size": (32, 40)}, {"classes": 0},
        {"registers": 1}, {"pool": "gap"}, {"qkv_bias": False}, {"image_size": (36, 36), "cut_patches": True},
        {"layer_scale": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_what_torchvision_cannot_hold_is_named(changes: dict[str, Any]) -> None:
    config = ViTConfig(**{"image_size": (32, 32), "patch_size": (8, 8), "classes": 5} | changes)
    form = FORMATS["torchvision"]
    assert form.describe is not None and form.companions is not None
    assert form.describe(config, Preprocess()) is None
    with pytest.raises(WeightsError, match="torchvision's VisionTransformer cannot hold"):
        form.companions(config, Preprocess(), None)


@pytest.mark.parametrize("crop", [0.9, 1.0, 0.875])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_its_transforms_travel_beside_it(crop: float, interpolation: Any) -> None:
    """What is written are the arguments of torchvision's preset. The steps are made of its newer transforms here, whose
    kernels vitrail's are: the preset resizes floats, which rounds by up to three of 255 otherwise."""
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms._presets import ImageClassification

    form = FORMATS["torchvision"]
    assert form.companions is not None and form.read_description is not None
    pixels = Preprocess(size=(32, 32), crop=crop, interpolation=interpolation, mean=(0.1, 0.2, 0.3))
    config = ViTConfig(image_size=(32, 32), patch_size=(8, 8), width=48, depth=1, heads=3, mlp_dim=40, classes=3)
    table = form.companions(config, pixels, None)["config.json"]
    again = form.read_description(table, (32, 32))
    image = torch.randint(0, 256, (3, 57, 81), dtype=torch.uint8)
    assert torch.equal(preprocess(image, again), preprocess(image, pixels))
    preset = ImageClassification(**{**table["transforms"], "interpolation": InterpolationMode(interpolation)})
    resize = v2.Resize(preset.resize_size, preset.interpolation, antialias=preset.antialias)
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(preset.mean, preset.std)]
    theirs = v2.Compose([resize, v2.CenterCrop(preset.crop_size), *scale])(image)
    assert (theirs - preprocess(image, pixels)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "fields", [{"resize": "squash"}, {"antialias": False}, {"odd_margin": "down"}, {"interpolation": "area"}], ids=str
)
def test_other_transforms_are_named(fields: dict[str, Any]) -> None:
    form = FORMATS["torchvision"]
    assert form.companions is not None
    config = ViTConfig(image_size=(32, 32), patch_size=(8, 8), width=48, depth=1, heads=3, mlp_dim=40, classes=3)
    with pytest.raises(WeightsError, match=rf"cannot hold the preprocess {next(iter(fields))}="):
        form.companions(config, Preprocess(size=(32, 32), **fields), None)
