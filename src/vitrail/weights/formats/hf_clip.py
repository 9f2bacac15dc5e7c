"""The image tower of transformers' CLIP (models/clip/modeling_clip.py): CLIPVisionModel, with or without projection,
alone or inside a CLIPModel, whose text tower then rides along unused.

The projection is the head, so that its `classes` are the dimensions of the space that images and texts share. Version 5
writes a CLIPVisionModel without the prefix `vision_model.` that all other files have.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.types import LabelSet
from vitrail.weights.huggingface import (
    attention,
    companions,
    cut,
    describe,
    described,
    description_of,
    gelu_of,
    heads_of,
    image_size_of,
    required,
)
from vitrail.weights.processor import read_processor
from vitrail.weights.rename import Format, Hints, Rule, Shapes, count_of, same, shape_of
from vitrail.weights.torch_layers import layer

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def _rules(config: ViTConfig, prefix: str) -> list[Rule]:
    token, positions = f"{prefix}embeddings.class_embedding", f"{prefix}embeddings.position_embedding.weight"
    rules = [
        *layer("patch_embedding", f"{prefix}embeddings.patch_embedding", bias=False),
        Rule("class_token", (token,), lambda t: t[0][None, None], lambda t: [t[0, 0]]),
        Rule("position_embedding", (positions,), lambda t: t[0][None], lambda t: [t[0]]),
        *layer("norm_before", f"{prefix}pre_layrnorm"),  # so spelled
        *layer("norm", f"{prefix}post_layernorm"),
    ]
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}encoder.layers.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.layer_norm1") + layer(f"{ours}.norm2", f"{theirs}.layer_norm2")
        rules += attention(f"{ours}.attention", f"{theirs}.self_attn", _ATTENTION, config)
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    return rules + ([same("head.weight", "visual_projection.weight")] if config.classes else [])


def _infer(shapes: Shapes, hints: Hints, prefix: str) -> ViTConfig:
    if "classifier.weight" in shapes:
        raise WeightsError(
            "the file holds a CLIPForImageClassification, whose classifier reads the mean of tokens before the last "
            "norm; no vitrail network does"
        )
    table = described(hints, ("clip", "clip_vision_model"), "vision_config")
    start = prefix.replace(".", r"\.")
    width, channels, rows, cols = shape_of(shapes, start + r"embeddings\.patch_embedding\.weight", 4)
    patches = shape_of(shapes, start + r"embeddings\.position_embedding\.weight", 2)[0] - 1
    size = image_size_of(table, None, (rows, cols), patches)
    classes = shapes["visual_projection.weight"][0] if "visual_projection.weight" in shapes else 0
    return ViTConfig(
        image_size=size,
        patch_size=(rows, cols),
        cut_patches=cut(size, (rows, cols)),
        channels=channels,
        width=width,
        depth=count_of(shapes, start + r"encoder\.layers\.(\d+)\."),
        heads=heads_of(table, hints, 12),
        mlp_dim=shape_of(shapes, start + r"encoder\.layers\.\d+\.mlp\.fc1\.weight", 2)[0],
        classes=classes,
        head_has_bias=False,
        gelu=gelu_of(table, "quick"),
        norm_eps=table.get("layer_norm_eps", 1e-5),
        norm_before=True,
        patch_bias=False,
        position_rule="transformers",
    )


def _description(config: Any, labels: LabelSet | None, projection: bool = True) -> dict[str, Any]:
    holder = "transformers' CLIPVisionModel"
    config = required(config, holder, {"gelu"}, {"norm_before": True, "patch_bias": False, "head_has_bias": False})
    if config.classes and not projection:
        raise WeightsError(f"{holder} cannot hold classes={config.classes}; CLIPVisionModelWithProjection does")
    if config.grid[0] != config.grid[1] or config.image_size[0] != config.image_size[1]:
        raise WeightsError(f"{holder} cannot hold image_size={config.image_size}; its images are square")
    architecture, fields = "CLIPVisionModel", {"intermediate_size": config.mlp_dim}
    if config.classes:
        architecture, fields["projection_dim"] = "CLIPVisionModelWithProjection", config.classes
    return description_of(config, "clip_vision_model", architecture, fields)


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """CLIPImageProcessor: the shorter side to the size, the centre, bicubic, CLIP's own mean and deviation."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return Preprocess(size=size, crop=1.0, odd_margin="down", mean=mean, std=std)


def _read_processor(processor: Mapping[str, Any]) -> Preprocess:
    return read_processor(processor, _preprocess((224, 224)))


def _format(name: str, prefix: str) -> Format:
    description = partial(_description, projection=bool(prefix))
    return Format(
        name=name,
        markers=(f"{prefix}embeddings.class_embedding", f"{prefix}pre_layrnorm.weight"),
        absent=(),
        infer=partial(_infer, prefix=prefix),
        rules=partial(_rules, prefix=prefix),
        preprocess=_preprocess,
        passengers=(
            r"text_model\..*",
            r"text_projection\.weight",
            r"logit_scale",
            r"(?:vision_model\.)?embeddings\.position_ids",  # 0, 1, 2, ...: a buffer of older versions
        ),
        describe=describe(description),
        read_processor=_read_processor,
        companions=companions(description),
    )


HF_CLIP = _format("transformers-clip", "vision_model.")
HF_CLIP_BARE = _format("transformers-clip-v5", "")
