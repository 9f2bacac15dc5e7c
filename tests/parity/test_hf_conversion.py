"""A model of vitrail's own, written for transformers, computes the same there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForImageClassification, CLIPVisionModelWithProjection

from hugging import difference, images
from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.load import FORMATS
from vitrail.weights.rename import write_tensors

TOY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 48, "classes": 3}
LABELS = LabelSet(("daisy", "sun | flower", "daisy"))
AUTO: Callable[..., Any] = AutoModelForImageClassification.from_pretrained
CASES = [
    ("vit", {"gelu": "tanh", "image_size": (16, 40)}, AUTO, "logits"),
    ("vit", {"classes": 0, "pre_logits": 12}, AutoModel.from_pretrained, "pooler_output"),
    ("deit", {"distillation_token": True}, AUTO, "logits"),
    ("deit", {"distillation_token": True, "distillation_head": False, "qkv_bias": False}, AUTO, "logits"),
    (
        "dinov2",
        {"pool": "token_gap", "registers": 2, "layer_scale": 0.1, "mlp": "swiglu", "mlp_dim": 64},
        AUTO,
        "logits",
    ),
    ("dinov2", {"pool": "token_gap", "layer_scale": 0.1}, AUTO, "logits"),
    (
        "dinov3",
        {"classes": 0, "position": "rope", "layer_scale": 0.1, "registers": 1, "key_bias": False},
        AutoModel.from_pretrained,
        "pooler_output",
    ),
    (
        "clip",
        {"norm_before": True, "patch_bias": False, "head_has_bias": False, "gelu": "quick"},
        CLIPVisionModelWithProjection.from_pretrained,
        "image_embeds",
    ),
    ("siglip", {"classes": 0, "pool": "map", "gelu": "tanh"}, AutoModel.from_pretrained, "pooler_output"),
    ("siglip-classifier", {"pool": "gap"}, AUTO, "logits"),
]


@pytest.mark.parametrize(("name", "options", "open_folder", "output"), CASES, ids=lambda v: str(v)[:60])
def test_transformers_computes_the_same(
    tmp_path: Path, name: str, options: dict[str, object], open_folder: Callable[..., Any], output: str
) -> None:
    torch.manual_seed(0)
    ours = ViT(ViTConfig(**TOY | options)).eval()
    with torch.no_grad():
        for p in ours.parameters():
            p.normal_(std=0.2)
    form, config = FORMATS[f"transformers-{name}"], ours.config
    save_file(
        {key: tensor.detach().clone() for key, tensor in write_tensors(ours.state_dict(), form.rules(config)).items()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert form.companions is not None
    labels = LABELS if output == "logits" else None
    for file, table in form.companions(config, form.preprocess(config.image_size), labels).items():
        (tmp_path / file).write_text(json.dumps(table))
    theirs = open_folder(tmp_path).eval()
    x = images(2, 3, *config.image_size)
    # the angles of DINOv3 are float32 in transformers
    allowed = 1e-6 if name == "dinov3" else 1e-9
    with torch.no_grad():
        assert difference(ours.double()(x), getattr(theirs.double()(x), output)) < allowed
    if labels is not None:
        assert theirs.config.id2label == dict(enumerate(LABELS.names))


def test_without_names_the_classes_are_numbered() -> None:
    form, config = FORMATS["transformers-vit"], ViTConfig(**TOY)
    assert form.companions is not None
    table = form.companions(config, Preprocess(size=32, resize="squash"), None)["config.json"]
    assert table["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit", {"pre_logits": 12}, "transformers' ViT cannot hold pre_logits=12"),
        ("vit", {"registers": 2, "layer_scale": 0.1}, "cannot hold registers=2, layer_scale=0.1"),
        ("vit", {"pool": "gap"}, "cannot hold class_token=False, pool='gap'"),
        ("vit", {"position_prefix": False}, "cannot hold position_prefix=False"),
        ("deit", {}, "transformers' DeiT cannot hold distillation_token=False"),
        ("deit", {"distillation_token": True, "classes": 0}, "without classes gives the class token"),
    ],
    ids=str,
)
def test_what_transformers_cannot_hold_is_named(name: str, options: dict[str, object], message: str) -> None:
    form = FORMATS[f"transformers-{name}"]
    assert form.companions is not None and form.describe is not None
    config, preprocess = ViTConfig(**TOY | options), form.preprocess((32, 32))
    assert form.describe(config, preprocess) is None
    with pytest.raises(WeightsError, match=message):
        form.companions(config, preprocess, None)
