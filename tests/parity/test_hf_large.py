"""The published networks of transformers in their real sizes, without numbers: names, shapes, parameters, options."""

import json
import math
import re

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)

from vitrail.models.cost import parameters
from vitrail.weights.load import FORMATS, model_shapes
from vitrail.weights.rename import Hints, claims, file_shapes

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}
SEVEN_B = {"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "intermediate_size": 8192}
GATED = {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 4}
CASES = {
    "vit-base-patch16-384": (ViTForImageClassification, ViTConfig(image_size=384, num_labels=1000), "vit-v5"),
    "vit-huge-patch14-224": (
        ViTForImageClassification,
        ViTConfig(**HUGE, intermediate_size=5120, patch_size=14, num_labels=1000),
        "vit-v5",
    ),
    "deit-base-distilled": (DeiTForImageClassificationWithTeacher, DeiTConfig(num_labels=1000), "deit-v5"),
    "dinov2-large": (Dinov2ForImageClassification, Dinov2Config(**LARGE, image_size=518, num_labels=1000), "dinov2-v5"),
    "dinov2-with-registers-giant": (
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersConfig(**GIANT, image_size=518, patch_size=14, use_swiglu_ffn=True, num_labels=1000),
        "dinov2-v5",
    ),
    "dinov3-vitl16": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**LARGE, intermediate_size=4096, num_register_tokens=4),
        "dinov3-v5",
    ),
    "dinov3-vit7b16": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**SEVEN_B, **GATED, query_bias=False, value_bias=False),
        "dinov3-v5",
    ),
    "clip-vit-large-patch14-336": (
        CLIPVisionModelWithProjection,
        CLIPVisionConfig(**LARGE, intermediate_size=4096, image_size=336, patch_size=14, projection_dim=768),
        "clip",
    ),
    "siglip-so400m-patch14-384": (
        SiglipVisionModel,
        SiglipVisionConfig(**SO400M, image_size=384, patch_size=14),
        "siglip-v5",
    ),
}
MILLIONS = {  # of parameters, by the models' own pages
    "vit-base-patch16-384": 86.9,
    "vit-huge-patch14-224": 632.0,
    "deit-base-distilled": 87.3,
    "dinov3-vitl16": 303.1,
    "dinov3-vit7b16": 6716.0,
    "siglip-so400m-patch14-384": 428.2,
}


@pytest.mark.parametrize("name", CASES)
def test_names_shapes_and_parameters_are_the_published_networks(name: str) -> None:
    network, config, suffix = CASES[name]
    with torch.device("meta"):
        theirs: PreTrainedModel = network(config)
    keys = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    form = FORMATS[f"transformers-{suffix}"]
    assert [f.name for f in FORMATS.values() if claims(f, f.prepare(theirs.state_dict()))] == [form.name]
    driving = {k: shape for k, shape in keys.items() if not any(re.fullmatch(p, k) for p in form.passengers)}
    found = form.infer(keys, Hints(description=json.loads(config.to_json_string())))
    assert file_shapes(form.rules(found), model_shapes(found)) == driving
    assert parameters(found) == sum(math.prod(shape) for shape in driving.values())
    if name in MILLIONS:
        assert parameters(found) / 1e6 == pytest.approx(MILLIONS[name], rel=1e-3)
    assert found.heads == config.num_attention_heads and found.norm_eps == config.layer_norm_eps
    assert found.image_size == (config.image_size,) * 2
    preprocess = form.preprocess(found.image_size)
    assert form.describe is not None and form.describe(found, preprocess) is not None
