"""The same numbers as transformers' ViT and DeiT, both ways, in both generations of names."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
    pipeline,
)

from hugging import assert_equal, assert_survives, difference, edit, images, save
from pictures import noise
from vitrail.errors import WeightsError
from vitrail.inference import load
from vitrail.weights.load import load_weights
from vitrail.weights.resize import resized

TOY = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "patch_size": 8}
NAMES = {i: f"class {i}" for i in range(5)}
KINDS = {
    "classifier": (ViTForImageClassification, ViTConfig),
    "pooler": (ViTModel, ViTConfig),
    "deit": (DeiTForImageClassification, DeiTConfig),
    "deit both heads": (DeiTForImageClassificationWithTeacher, DeiTConfig),
    "deit pooler": (DeiTModel, DeiTConfig),
}
OPTIONS = [
    {},
    {"image_size": (16, 40)},
    {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    {"qkv_bias": False, "hidden_act": "quick_gelu"},
    {"num_channels": 1, "patch_size": (4, 8)},
    {"image_size": 37},  # no patch sees the last 5 rows and columns
]


def make(kind: str, **options: object) -> PreTrainedModel:
    network, config = KINDS[kind]
    return network(config(**TOY | {"image_size": 32} | options, id2label=NAMES))


def read(output: object) -> torch.Tensor:
    return output.logits if hasattr(output, "logits") else output.pooler_output


@pytest.mark.parametrize(("options", "in_memory"), [*((o, False) for o in OPTIONS), ({}, True), (OPTIONS[3], True)])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_and_written_back(tmp_path: Path, kind: str, options: dict[str, object], in_memory: bool) -> None:
    theirs = make(kind, **options)
    folder = save(theirs, tmp_path / "model", in_memory)
    loaded = load_weights(folder)
    size = loaded.model.config.image_size
    assert size == theirs.config.image_size or size == (theirs.config.image_size,) * 2
    expected = "deit" if kind.startswith("deit") else "vit"
    assert loaded.form == f"transformers-{expected}" + ("-v5" if in_memory else "")
    assert loaded.labels is None or loaded.labels.names == tuple(NAMES.values())
    assert (loaded.labels is None) == ("pooler" in kind)
    assert_equal(loaded, theirs, read, size)
    assert_survives(theirs, folder, tmp_path / "back", read, size)


@pytest.mark.parametrize("size", [(48, 48), (16, 40), (64, 16)])
@pytest.mark.parametrize("kind", ["classifier", "deit both heads"])
def test_another_size_is_resampled_as_transformers_does(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    theirs = make(kind)
    ours = resized(load_weights(save(theirs, tmp_path / "model")).model.double(), image_size=size)
    x = images(2, 3, *size)
    with torch.no_grad():
        assert difference(ours(x), read(theirs.double()(x, interpolate_pos_encoding=True))) < 1e-9


def test_the_pipeline_of_transformers_predicts_the_same(tmp_path: Path) -> None:
    theirs = make("classifier")
    folder = save(theirs, tmp_path / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    photo = tmp_path / "photo.png"
    Image.fromarray(noise(60, 41)).save(photo)
    ours = load(folder).predict(photo)[0]
    rows = pipeline("image-classification", model=str(folder))(str(photo))
    assert [row["label"] for row in rows] == list(ours.labels)
    assert [row["score"] for row in rows] == pytest.approx(list(ours.probabilities), abs=1e-5)


def test_a_backbone_without_a_pooler_gives_the_class_token(tmp_path: Path) -> None:
    theirs = ViTModel(ViTConfig(**TOY, image_size=32), add_pooling_layer=False)
    folder = save(theirs, tmp_path / "model")
    assert load_weights(folder).model.config.pre_logits is None
    assert_equal(load_weights(folder), theirs, lambda output: output.last_hidden_state[:, 0], (32, 32))


def test_a_classifier_without_classes_is_a_backbone(tmp_path: Path) -> None:
    theirs = ViTForImageClassification(ViTConfig(**TOY, image_size=32, num_labels=0))
    folder = save(theirs, tmp_path / "model")
    assert_equal(load_weights(folder), theirs, read, (32, 32))


def test_a_mask_token_rides_along(tmp_path: Path) -> None:
    theirs = ViTModel(ViTConfig(**TOY, image_size=32), use_mask_token=True)
    folder = save(theirs, tmp_path / "model")
    assert list(load_weights(folder).passengers) == ["embeddings.mask_token"]
    assert_survives(theirs, folder, tmp_path / "back", read, (32, 32))


def test_without_config_json_the_defaults_of_transformers_hold(tmp_path: Path) -> None:
    options = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    theirs = ViTForImageClassification(ViTConfig(**options, image_size=48))
    folder = save(theirs, tmp_path / "model")
    (folder / "config.json").unlink()
    loaded = load_weights(folder, "Ti/16")
    assert loaded.model.config.norm_eps == 1e-12 and loaded.labels is None
    assert_equal(loaded, theirs, read, (48, 48))
    with pytest.raises(WeightsError, match="number of heads is not in the file"):
        load_weights(folder)


def test_the_eps_of_config_json_is_read(tmp_path: Path) -> None:
    """Negative control of the equality: the other usual eps is seen."""
    theirs = make("classifier")
    folder = save(theirs, tmp_path / "model")
    edit(folder, layer_norm_eps=1e-6)
    with pytest.raises(AssertionError):
        assert_equal(load_weights(folder), theirs, read, (32, 32))


def test_a_pooler_beside_a_classifier_is_refused(tmp_path: Path) -> None:
    folder = save(make("classifier"), tmp_path / "model")
    pooler = {"vit.pooler.dense.weight": torch.zeros(24, 24), "vit.pooler.dense.bias": torch.zeros(24)}
    save_file(load_file(folder / "model.safetensors") | pooler, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="holds a pooler and a classifier"):
        load_weights(folder)


def test_the_decoder_of_masked_modelling_is_refused_by_its_names(tmp_path: Path) -> None:
    folder = save(ViTForMaskedImageModeling(ViTConfig(**TOY, image_size=32)), tmp_path / "model")
    with pytest.raises(WeightsError, match=r"unknown: decoder\.0\.bias, decoder\.0\.weight"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'; known: gelu"),
        ({"pooler_act": "relu"}, "pooler_act='relu'; only 'tanh' is read"),
        ({"model_type": "vit_msn"}, "model_type 'vit_msn'; files of these names are read as 'vit'"),
        ({"image_size": [224]}, r"image_size in config.json must be one number or two, found \[224\]"),
        ({"num_attention_heads": "3"}, "num_attention_heads in config.json must be a number, found '3'"),
        ({"layer_norm_eps": 0.0}, "norm_eps: should be greater than 0"),
    ],
    ids=str,
)
def test_what_no_vitrail_network_does_is_refused(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    folder = save(make("pooler"), tmp_path / "model")
    edit(folder, **fields)
    with pytest.raises(WeightsError, match=message):
        load_weights(folder)
