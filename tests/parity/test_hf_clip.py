"""The same numbers as the image tower of transformers' CLIP, both ways, alone and inside a model of image and text."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)

from hugging import MODEL, assert_equal, assert_survives, difference, edit, images, save
from vitrail.config import ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.formats.hf_clip import HF_CLIP, HF_CLIP_BARE
from vitrail.weights.load import load_weights
from vitrail.weights.resize import resized

TOY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "patch_size": 8}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}
OPTIONS = [
    {},
    {"hidden_act": "gelu", "layer_norm_eps": 1e-6},  # as OpenCLIP's networks
    {"image_size": 36, "num_channels": 1},  # no patch sees the last 4 rows and columns
]


def config(**options: object) -> CLIPVisionConfig:
    return CLIPVisionConfig(**TOY | {"image_size": 32, "projection_dim": 7} | options)


def whole(**options: object) -> CLIPConfig:
    return CLIPConfig(vision_config=config(**options).to_dict(), text_config=TEXT, projection_dim=7)


def read(output: object) -> torch.Tensor:
    return output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("network", "prefix", "form"),
    [
        (CLIPVisionModelWithProjection, "", "transformers-clip"),
        (CLIPVisionModel, "vision_model.", "transformers-clip"),  # as version 4 writes it, and all published files
        (CLIPVisionModel, "", "transformers-clip-v5"),
    ],
    ids=["projection", "v4", "v5"],
)
def test_equal_and_written_back(
    tmp_path: Path, network: type[PreTrainedModel], prefix: str, form: str, options: dict[str, object]
) -> None:
    theirs = network(config(**options))
    folder = save(theirs, tmp_path / "model", prefix=prefix)
    loaded = load_weights(folder)
    size = (theirs.config.image_size,) * 2
    assert (loaded.form, loaded.model.config.image_size, loaded.labels) == (form, size, None)
    assert loaded.model.config.classes == (7 if network is CLIPVisionModelWithProjection else 0)
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.parametrize("size", [(48, 48), (16, 40)])
def test_another_size_is_resampled_as_transformers_does(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = CLIPVisionModelWithProjection(config())
    ours = resized(load_weights(save(theirs, tmp_path / "model")).model.double(), image_size=size)
    x = images(2, 3, *size)
    with torch.no_grad():
        assert difference(ours(x), read(theirs.double()(x, interpolate_pos_encoding=True))) < 1e-9


def test_the_text_tower_rides_along(tmp_path: Path) -> None:
    theirs = CLIPModel(whole())
    folder = save(theirs, tmp_path / "model")
    ids = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}  # whole numbers, in files of version 4
    save_file(load_file(folder / MODEL) | ids, folder / MODEL)
    loaded = load_weights(folder)
    assert {key.split(".")[0] for key in loaded.passengers} == {
        "text_model",
        "text_projection",
        "logit_scale",
        "vision_model",
    }
    with torch.no_grad():
        features = theirs.double().get_image_features(images(2, 3, 32, 32))
        features = features if isinstance(features, torch.Tensor) else features.pooler_output
        assert difference(loaded.model.double()(images(2, 3, 32, 32)), features) < 1e-9
    tower = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    assert_survives(tower, folder, tmp_path / "back", read, (32, 32))


def test_the_second_vision_config_is_the_one_that_counts(tmp_path: Path) -> None:
    theirs = CLIPModel(whole(hidden_act="gelu", num_attention_heads=12))
    folder = save(theirs, tmp_path / "model")
    told = theirs.config.vision_config.to_dict() | {"hidden_act": "quick_gelu", "num_attention_heads": 2}
    edit(folder, vision_config_dict={"hidden_act": "gelu"}, vision_config=told)
    found = load_weights(folder).model.config
    assert (found.gelu, found.heads) == ("exact", 12), "transformers takes its default number of heads here"


def test_a_classifier_on_unnormalised_tokens_is_refused(tmp_path: Path) -> None:
    folder = save(CLIPForImageClassification(whole()), tmp_path / "model")
    with pytest.raises(WeightsError, match=r"CLIPForImageClassification, whose classifier .* no vitrail network does"):
        load_weights(folder)


def test_another_tower_of_the_same_names_is_refused(tmp_path: Path) -> None:
    folder = save(CLIPVisionModel(config()), tmp_path / "model")
    edit(folder, model_type="chinese_clip_vision_model")
    with pytest.raises(WeightsError, match="are read as 'clip' or 'clip_vision_model'"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_has_bias": True}, "transformers' CLIPVisionModel cannot hold head_has_bias=True"),
        ({"norm_before": False, "patch_bias": True}, "cannot hold norm_before=False, patch_bias=True"),
        ({"image_size": (16, 32)}, r"cannot hold image_size=\(16, 32\); its images are square"),
    ],
    ids=str,
)
def test_what_transformers_cannot_hold_is_named(changes: dict[str, object], message: str) -> None:
    base = ViTConfig(image_size=32, patch_size=8, width=24, heads=3, norm_before=True, patch_bias=False, classes=3)
    clip = ViTConfig(**base.model_dump() | {"head_has_bias": False} | changes)
    assert HF_CLIP.companions is not None and HF_CLIP_BARE.companions is not None
    with pytest.raises(WeightsError, match=message):
        HF_CLIP.companions(clip, HF_CLIP.preprocess((32, 32)), None)
    whole = ViTConfig(**base.model_dump() | {"head_has_bias": False})
    with pytest.raises(WeightsError, match="cannot hold classes=3; CLIPVisionModelWithProjection does"):
        HF_CLIP_BARE.companions(whole, HF_CLIP.preprocess((32, 32)), None)
