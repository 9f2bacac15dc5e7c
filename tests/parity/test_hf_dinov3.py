"""The same numbers as transformers' DINOv3ViT, both ways, in both generations of names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from hugging import assert_equal, assert_survives, difference, edit, images, save, write_back
from vitrail.config import ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.layers import rotation
from vitrail.weights.formats.hf_dinov3 import HF_DINOV3
from vitrail.weights.load import load_weights

TOY = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40, "patch_size": 8}
REGISTERS = {"num_register_tokens": 4, "image_size": 32}
GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
OPTIONS = [
    REGISTERS,
    REGISTERS | GATED | {"query_bias": False, "value_bias": False},  # as the largest published one
    REGISTERS | {"key_bias": True, "rope_theta": 10.0, "hidden_act": "gelu_pytorch_tanh"},
    REGISTERS | {"image_size": (16, 40), "layer_norm_eps": 1e-6, "pos_embed_jitter": 2.0, "layerscale_value": 0.1},
]


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers computes angles in float32 whatever the model's precision; here it does so in float64."""

    def forward(self: DINOv3ViTRopePositionEmbedding, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert not self.training
        rows, cols = (side // self.config.patch_size for side in pixels.shape[2:])
        y, x = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in (rows, cols))
        exponents = torch.arange(0, 1, 4 / self.head_dim, dtype=torch.float64)
        frequencies = 2 * torch.pi / self.base**exponents
        by_row = (y[:, None] * frequencies).repeat_interleave(cols, dim=0)
        by_col = (x[:, None] * frequencies).repeat(rows, 1)
        angles = torch.cat([by_row, by_col, by_row, by_col], dim=1)
        return angles.cos().to(pixels), angles.sin().to(pixels)

    monkeypatch.setattr(DINOv3ViTRopePositionEmbedding, "forward", forward)


def make(**options: object) -> DINOv3ViTModel:
    return DINOv3ViTModel(DINOv3ViTConfig(**TOY | options))


def read(output: object) -> torch.Tensor:
    return output.pooler_output


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "memory"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_and_written_back(tmp_path: Path, options: dict[str, object], in_memory: bool) -> None:
    theirs = make(**options)
    folder = save(theirs, tmp_path / "model", in_memory)
    loaded = load_weights(folder)
    size = loaded.model.config.image_size
    assert size in (theirs.config.image_size, (theirs.config.image_size,) * 2)
    assert loaded.form == "transformers-dinov3" + ("-v5" if in_memory else "")
    assert list(loaded.passengers) == ["embeddings.mask_token"]
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("size", [(48, 48), (16, 40)])
def test_any_size_is_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = make(**REGISTERS)
    loaded = load_weights(save(theirs, tmp_path / "model"), image_size=size)
    assert_equal(loaded, theirs, read, size)


def test_the_angles_of_transformers_are_ours_rounded_to_float32(tmp_path: Path) -> None:
    theirs = make(**REGISTERS)
    loaded = load_weights(save(theirs, tmp_path / "model"))
    x = images(2, 3, 32, 32)
    for ours, rounded in zip(rotation(loaded.model.config), theirs.rope_embeddings(x), strict=True):
        assert (ours[loaded.model.config.prefix :] - rounded).abs().max() < 1e-6
    with torch.no_grad():
        gap = difference(loaded.model.double()(x), read(theirs.double()(x)))
    assert 1e-12 < gap < 1e-6


def test_zero_registers_are_an_empty_tensor_that_is_not_written_again(tmp_path: Path) -> None:
    theirs = make(image_size=32)
    folder = save(theirs, tmp_path / "model")
    loaded = write_back(folder, tmp_path / "back")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() - after.keys() == {"embeddings.register_tokens"}
    assert before["embeddings.register_tokens"].numel() == 0
    x = images(1, 3, 32, 32).float()
    with torch.no_grad():
        assert torch.equal(read(DINOv3ViTModel.from_pretrained(tmp_path / "back")(x)), read(theirs(x)))
        assert loaded.model.config.registers == 0


def test_without_config_json_the_published_values_hold(tmp_path: Path) -> None:
    theirs = make(**REGISTERS | GATED | {"hidden_size": 1280, "num_hidden_layers": 1, "num_attention_heads": 16})
    folder = save(theirs, tmp_path / "model")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="does not hold a H/14: patch_size"):
        load_weights(folder, "H/14", image_size=(32, 32))
    with pytest.raises(WeightsError, match="number of heads is not in the file"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        (GATED, {"hidden_act": "gelu"}, "hidden_act='gelu'; only 'silu' is read"),
        ({}, {"proj_bias": False}, "proj_bias=False; only True is read"),
        ({}, {"mlp_bias": False}, "mlp_bias=False; only True is read"),
        ({"value_bias": False}, {}, "biases on queries or values only"),
    ],
    ids=str,
)
def test_what_no_vitrail_network_does_is_refused(tmp_path: Path, options, fields, message: str) -> None:
    folder = save(make(**REGISTERS | options), tmp_path / "model")
    edit(folder, **fields)
    with pytest.raises(WeightsError, match=message):
        load_weights(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "transformers' DINOv3ViT cannot hold classes=3; it has no classifier"),
        ({"layer_scale": None}, "cannot hold layer_scale=None"),
        ({"position": "learned"}, "cannot hold position='learned'"),
    ],
    ids=str,
)
def test_what_transformers_cannot_hold_is_named(changes: dict[str, object], message: str) -> None:
    options = {"image_size": 32, "patch_size": 8, "width": 24, "heads": 3, "mlp_dim": 48, "layer_scale": 1.0}
    config = ViTConfig(**options | {"position": "rope", "classes": 0} | changes)
    assert HF_DINOV3.companions is not None
    with pytest.raises(WeightsError, match=message):
        HF_DINOV3.companions(config, HF_DINOV3.preprocess((32, 32)), None)
