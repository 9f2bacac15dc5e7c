"""The same numbers as the image tower of transformers' SigLIP, both ways, alone, with text, and with a classifier."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipForImageClassification, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from hugging import MODEL, assert_equal, assert_survives, difference, edit, images, save
from vitrail.config import ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.formats.hf_siglip import HF_SIGLIP, HF_SIGLIP_CLASSIFIER
from vitrail.weights.load import load_weights
from vitrail.weights.resize import resized

TOY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "patch_size": 8}
TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}
NAMES = {i: f"class {i}" for i in range(5)}
OPTIONS = [
    {},
    {"hidden_act": "gelu", "layer_norm_eps": 1e-5},
    {"image_size": 38, "num_channels": 1},  # as So400m/14 at 384: no patch sees the last rows and columns
]


def config(**options: object) -> SiglipVisionConfig:
    return SiglipVisionConfig(**TOY | {"image_size": 32} | options)


def whole(**options: object) -> SiglipConfig:
    return SiglipConfig(vision_config=config(**options).to_dict(), text_config=TEXT, id2label=NAMES)


def read(output: object) -> torch.Tensor:
    return output.logits if hasattr(output, "logits") else output.pooler_output


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("prefix", ["vision_model.", ""], ids=["v4", "v5"])  # v4: also all published files
def test_equal_and_written_back(tmp_path: Path, prefix: str, options: dict[str, object]) -> None:
    theirs = SiglipVisionModel(config(**options))
    folder = save(theirs, tmp_path / "model", prefix=prefix)
    loaded = load_weights(folder)
    size = (theirs.config.image_size,) * 2
    assert loaded.form == "transformers-siglip" + ("" if prefix else "-v5")
    assert loaded.model.config.image_size == size and not loaded.passengers
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_classifier_is_equal_and_written_back(tmp_path: Path, options: dict[str, object]) -> None:
    theirs = SiglipForImageClassification(whole(**options))
    folder = save(theirs, tmp_path / "model")
    loaded = load_weights(folder)
    size = (theirs.config.vision_config.image_size,) * 2
    assert loaded.form == "transformers-siglip-classifier"
    assert loaded.labels is not None and loaded.labels.names == tuple(NAMES.values())
    assert loaded.passengers and all(key.startswith("vision_model.head.") for key in loaded.passengers)
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.parametrize("size", [(48, 48), (16, 40)])
def test_another_size_is_resampled_as_transformers_does(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = SiglipVisionModel(config())
    ours = resized(load_weights(save(theirs, tmp_path / "model")).model.double(), image_size=size)
    x = images(2, 3, *size)
    with torch.no_grad():
        assert difference(ours(x), read(theirs.double()(x, interpolate_pos_encoding=True))) < 1e-9


def test_the_text_tower_rides_along(tmp_path: Path) -> None:
    theirs = SiglipModel(whole())
    folder = save(theirs, tmp_path / "model")
    ids = {f"{tower}_model.embeddings.position_ids": torch.arange(16)[None] for tower in ("vision", "text")}
    save_file(load_file(folder / MODEL) | ids, folder / MODEL)
    loaded = load_weights(folder)
    assert {key.split(".")[0] for key in loaded.passengers} == {
        "text_model",
        "logit_scale",
        "logit_bias",
        "vision_model",
    }
    with torch.no_grad():
        features = theirs.double().get_image_features(images(2, 3, 32, 32))
        features = features if isinstance(features, torch.Tensor) else features.pooler_output
        assert difference(loaded.model.double()(images(2, 3, 32, 32)), features) < 1e-9
    tower = SiglipVisionModel.from_pretrained(folder).eval()
    assert_survives(tower, folder, tmp_path / "back", read, (32, 32))


def test_without_its_head_the_features_are_the_mean(tmp_path: Path) -> None:
    theirs = SiglipVisionModel(config(vision_use_head=False))
    folder = save(theirs, tmp_path / "model")
    assert_equal(load_weights(folder), theirs, lambda output: output.last_hidden_state.mean(dim=1), (32, 32))
    assert_survives(theirs, folder, tmp_path / "back", lambda output: output.last_hidden_state, (32, 32))


def test_fields_that_config_json_leaves_out_mean_the_defaults(tmp_path: Path) -> None:
    """Published files say no more than the model type, where a network is the default one."""
    theirs = SiglipModel(whole(hidden_size=48, num_attention_heads=12))
    folder = save(theirs, tmp_path / "model")
    edit(folder, vision_config={"model_type": "siglip_vision_model"})
    found = load_weights(folder).model.config
    assert (found.heads, found.gelu, found.norm_eps, found.image_size) == (12, "tanh", 1e-6, (32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "transformers' SiglipVisionModel cannot hold classes=3, pool='map'"),
        ({"pool": "token", "class_token": True}, "cannot hold class_token=True"),
        ({"image_size": (16, 32)}, r"cannot hold image_size=\(16, 32\); its images are square"),
        ({"position": "sincos2d"}, "cannot hold position='sincos2d'"),
    ],
    ids=str,
)
def test_what_transformers_cannot_hold_is_named(changes: dict[str, object], message: str) -> None:
    base = {"image_size": 32, "patch_size": 8, "width": 24, "heads": 3, "pool": "map", "classes": 0}
    assert HF_SIGLIP.companions is not None and HF_SIGLIP_CLASSIFIER.companions is not None
    preprocess = HF_SIGLIP.preprocess((32, 32))
    assert HF_SIGLIP.companions(ViTConfig(**base), preprocess, None)["config.json"]["vision_use_head"] is True
    with pytest.raises(WeightsError, match=message):
        HF_SIGLIP.companions(ViTConfig(**base | changes), preprocess, None)
    with pytest.raises(WeightsError, match="SiglipForImageClassification cannot hold pool='map'"):
        HF_SIGLIP_CLASSIFIER.companions(ViTConfig(**base | {"classes": 3}), preprocess, None)
