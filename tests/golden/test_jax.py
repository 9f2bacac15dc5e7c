"""Logits and position embeddings computed by google-research/vision_transformer itself, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.models.catalog import MODELS, find_model
from vitrail.models.cost import flops, parameters
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.ops.grid import resample_positions
from vitrail.weights.load import load_weights, read_file

FIXTURES = Path(__file__).parent / "fixtures"
MODELS_OF_JAX = ["vit_token", "vit_token_linen", "vit_token_nonsquare", "vit_token_prelogits", "vit_gap"]


@pytest.mark.parametrize("name", MODELS_OF_JAX)
def test_logits_equal_the_original_code(name: str) -> None:
    io = np.load(FIXTURES / f"{name}.io.npz")
    images = torch.from_numpy(io["images_nhwc"]).permute(0, 3, 1, 2).double()
    model = load_weights(FIXTURES / f"{name}.weights.npz", image_size=tuple(images.shape[2:])).model.double()
    expected = torch.from_numpy(io["logits"])
    assert (model(images) - expected).abs().max() < 1e-9
    assert (trace(model, images)[0] - expected).abs().max() < 1e-9


@pytest.mark.parametrize("side", [6, 8, 3])
def test_positions_are_resampled_as_the_original_code_does(side: int) -> None:
    table = np.load(FIXTURES / "posemb_resize.npz")
    old = torch.from_numpy(table["posemb_4x4"])
    new = resample_positions(old, (4, 4), (side, side), rule="paper")
    assert (new - torch.from_numpy(table[f"resized_{side}x{side}"])).abs().max() < 1e-5


def test_loading_for_another_size_resamples_by_the_rule_of_the_format() -> None:
    source = FIXTURES / "vit_token.weights.npz"
    stored = read_file(source)["Transformer/posembed_input/pos_embedding"]
    loaded = load_weights(source, image_size=(48, 64))
    expected = resample_positions(stored, (4, 4), (6, 8), rule="paper")
    assert torch.equal(loaded.model.position_embedding, expected)
    assert loaded.preprocess.size == loaded.model.config.image_size == (48, 64)


# Parameter counts with 1,000 classes at 224 px: torchvision's num_params and the original code.
PARAMETERS = {
    "Ti/16": 5_717_416,
    "S/32": 22_878_952,
    "S/16": 22_050_664,
    "B/32": 88_224_232,
    "B/16": 86_567_656,
    "B/8": 86_576_872,
    "L/32": 306_535_400,
    "L/16": 304_326_632,
    "H/14": 632_045_800,
}
AT_384 = {
    "Ti/16": 5_790_376,
    "S/32": 22_915_432,
    "S/16": 22_196_584,
    "B/32": 88_297_192,
    "B/16": 86_859_496,
    "L/32": 306_632_680,
    "L/16": 304_715_752,
}
OWN = {"Pico/2", "Nano/4"}  # vitrail's own sizes: no published number to hold them to


def test_the_golden_table_covers_the_catalog() -> None:
    assert set(MODELS) == set(PARAMETERS) | OWN


@pytest.mark.parametrize("name", MODELS)
def test_parameters_from_the_config_equal_the_model_and_the_published_count(name: str) -> None:
    config = find_model(name)
    with torch.device("meta"):
        model = ViT(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters()) == PARAMETERS.get(name, parameters(config))


@pytest.mark.parametrize("name", AT_384)
def test_parameters_at_384(name: str) -> None:
    config = find_model(name)
    assert parameters(type(config)(**{**config.model_dump(), "image_size": (384, 384)})) == AT_384[name]


def test_parameters_with_the_heads_of_imagenet_21k() -> None:
    config = find_model("B/16").model_dump() | {"classes": 21_843}
    kind = type(find_model("B/16"))
    assert parameters(kind(**config)) == 102_595_923
    assert parameters(kind(**config | {"pre_logits": 768})) == 103_186_515


def test_parameters_of_h14_at_518() -> None:
    config = find_model("H/14")
    assert parameters(type(config)(**{**config.model_dump(), "image_size": (518, 518)})) == 633_470_440


def test_flops_of_b16_and_the_share_saved_by_the_class_token() -> None:
    config = find_model("B/16")
    assert flops(config) / 1e9 == pytest.approx(35.1, abs=0.05)
    assert 1 - flops(config, all_tokens=False) / flops(config) == pytest.approx(0.069, abs=0.001)
