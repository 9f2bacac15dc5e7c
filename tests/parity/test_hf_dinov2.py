"""The same numbers as transformers' Dinov2 and Dinov2WithRegisters, both ways, in both generations of names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    PreTrainedModel,
)

import vitrail
from hugging import assert_equal, assert_survives, difference, edit, images, save
from vitrail.config import ViTConfig
from vitrail.errors import WeightsError
from vitrail.evaluate.parity import convert
from vitrail.weights.formats.hf_dinov2 import HF_DINOV2
from vitrail.weights.inspect import inspect_weights
from vitrail.weights.load import load_weights

TOY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
NAMES = {i: f"class {i}" for i in range(5)}
KINDS = {
    "classifier": (Dinov2ForImageClassification, Dinov2Config),
    "backbone": (Dinov2Model, Dinov2Config),
    "registers classifier": (Dinov2WithRegistersForImageClassification, Dinov2WithRegistersConfig),
    "registers backbone": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig),
}
OPTIONS = [
    {},
    {"use_swiglu_ffn": True},
    {"qkv_bias": False, "mlp_ratio": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-5},
    {"image_size": 36, "layerscale_value": 0.5},  # no patch sees the last 4 rows and columns
]


def make(kind: str, **options: object) -> PreTrainedModel:
    network, config = KINDS[kind]
    return network(config(**TOY | options, id2label=NAMES))


def read(output: object) -> torch.Tensor:
    return output.logits if hasattr(output, "logits") else output.pooler_output


@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_and_written_back(tmp_path: Path, kind: str, options: dict[str, object], in_memory: bool) -> None:
    theirs = make(kind, **options)
    folder = save(theirs, tmp_path / "model", in_memory)
    loaded = load_weights(folder)
    size = (theirs.config.image_size,) * 2
    assert loaded.form == "transformers-dinov2" + ("-v5" if in_memory else "")
    assert loaded.model.config.image_size == size
    assert loaded.model.config.layer_scale == theirs.config.layerscale_value
    assert [key.endswith("embeddings.mask_token") for key in loaded.passengers] == [True]
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.parametrize("size", [(48, 48), (16, 40), (64, 16)])
@pytest.mark.parametrize("kind", ["classifier", "registers classifier"])
def test_another_size_is_resampled_as_transformers_does(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    theirs = make(kind)
    ours = load_weights(save(theirs, tmp_path / "model"), image_size=size).model.double()
    x = images(2, 3, *size)
    with torch.no_grad():
        assert difference(ours(x), read(theirs.double()(x))) < 1e-9


@pytest.mark.parametrize("kind", ["classifier", "registers classifier"])
def test_images_smaller_than_the_positions(tmp_path: Path, kind: str) -> None:
    """DINOv2's published files hold positions of 518 px, and their processor crops to 224: transformers resamples the
    positions in each forward pass. So do the loaded weights, once; the stored positions survive a conversion."""
    theirs = make(kind, image_size=56)
    folder = save(theirs, tmp_path / "model")
    table = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 28}, "crop_size": 24}
    (folder / "preprocessor_config.json").write_text(json.dumps(table | {"do_center_crop": True, "resample": 3}))
    classifier = vitrail.load(folder)
    assert classifier.preprocess.size == classifier.model.config.image_size == (24, 24)
    x = images(2, 3, 24, 24)
    with torch.no_grad():
        assert difference(classifier.model.double()(x), read(theirs.double()(x))) < 1e-9
    found = inspect_weights(folder)
    assert found.config.image_size == (56, 56) and found.preprocess.size == (24, 24)
    assert "images are shown at 24 x 24 px, to which the positions, of 56 x 56 px, are resampled" in found.unusual
    assert not convert(folder, tmp_path / "a", "vitrail").losses
    assert not convert(tmp_path / "a", tmp_path / "b", "transformers").losses
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "b"))
    assert before.keys() == after.keys() and all(torch.equal(after[k], t) for k, t in before.items())
    back = json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())
    assert back["size"] == {"shortest_edge": 28} and back["crop_size"] == {"height": 24, "width": 24}
    for name in ("a", "b"):
        assert vitrail.load(tmp_path / name).preprocess.size == (24, 24)
    with pytest.raises(WeightsError, match=r"preprocess \(24 x 24 px, .* becomes 56 x 56 px"):
        convert(folder, tmp_path / "c", "dinov2")


def test_without_a_mask_token_nothing_rides_along(tmp_path: Path) -> None:
    folder = save(make("backbone", use_mask_token=False), tmp_path / "model")
    assert not load_weights(folder).passengers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu'; known: gelu"),
        ({"model_type": "dinov2_with_registers"}, "are read as 'dinov2'"),
        ({"layerscale_value": 0}, "layer_scale: should be greater than 0"),
    ],
    ids=str,
)
def test_what_no_vitrail_network_does_is_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    folder = save(make("classifier"), tmp_path / "model")
    edit(folder, **fields)
    with pytest.raises(WeightsError, match=message):
        load_weights(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "token"}, "transformers' Dinov2 cannot hold pool='token'"),
        ({"layer_scale": None}, "cannot hold layer_scale=None"),
        ({"image_size": (16, 32)}, r"cannot hold the grid \(2, 4\); its positions form a square"),
        ({"mlp_dim": 50}, "cannot hold mlp_dim=50, no whole multiple of the width"),
        ({"qk_norm": True, "head_has_bias": False}, "cannot hold head_has_bias=False, qk_norm=True"),
    ],
    ids=str,
)
def test_what_transformers_cannot_hold_is_named(changes: dict[str, object], message: str) -> None:
    options = {"image_size": 32, "patch_size": 8, "width": 24, "heads": 3, "mlp_dim": 48, "layer_scale": 1.0}
    whole = ViTConfig(**options, pool="token_gap", classes=3)
    config = ViTConfig(**whole.model_dump() | changes)
    assert HF_DINOV2.companions is not None and HF_DINOV2.describe is not None
    preprocess = HF_DINOV2.preprocess((32, 32))
    assert HF_DINOV2.companions(whole, preprocess, None)["config.json"] == HF_DINOV2.describe(whole, preprocess)
    assert HF_DINOV2.describe(config, preprocess) is None
    with pytest.raises(WeightsError, match=message):
        HF_DINOV2.companions(config, preprocess, None)
