"""The image tower of transformers' SigLIP (models/siglip/modeling_siglip.py): SiglipVisionModel, alone or inside a
SiglipModel, whose text tower then rides along unused, and SiglipForImageClassification.

The attention pooling of the first gives features; the classifier of the last reads the mean of all tokens instead, so
that its attention pooling rides along unused. Without either (`vision_use_head` false) the features are that mean.
Version 5 writes a SiglipVisionModel without the prefix `vision_model.` that all other files have.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.types import LabelSet
from vitrail.weights.huggingface import (
    attention,
    classes_of,
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
    positions = f"{prefix}embeddings.position_embedding.weight"
    rules = [
        *layer("patch_embedding", f"{prefix}embeddings.patch_embedding"),
        Rule("position_embedding", (positions,), lambda t: t[0][None], lambda t: [t[0]]),
        *layer("norm", f"{prefix}post_layernorm"),
    ]
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}encoder.layers.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.layer_norm1") + layer(f"{ours}.norm2", f"{theirs}.layer_norm2")
        rules += attention(f"{ours}.attention", f"{theirs}.self_attn", _ATTENTION, config)
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    if config.pool == "map":
        ours, theirs = "attention_pool", f"{prefix}head"
        rules.append(same(f"{ours}.probe", f"{theirs}.probe"))
        rules += [
            same(f"{ours}.attention.qkv.{kind}", f"{theirs}.attention.in_proj_{kind}") for kind in ("weight", "bias")
        ]
        rules += layer(f"{ours}.attention.out", f"{theirs}.attention.out_proj")
        rules += layer(f"{ours}.norm", f"{theirs}.layernorm")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    return rules + (layer("head", "classifier") if config.classes else [])


def _infer(shapes: Shapes, hints: Hints, prefix: str) -> ViTConfig:
    table = described(hints, ("siglip", "siglip_vision_model"), "vision_config")
    start = prefix.replace(".", r"\.")
    width, channels, rows, cols = shape_of(shapes, start + r"embeddings\.patch_embedding\.weight", 4)
    patches = shape_of(shapes, start + r"embeddings\.position_embedding\.weight", 2)[0]
    size = image_size_of(table, None, (rows, cols), patches)
    classes = shapes["classifier.weight"][0] if "classifier.weight" in shapes else 0
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
        pool="map" if f"{prefix}head.probe" in shapes and not classes else "gap",
        gelu=gelu_of(table, "tanh"),
        norm_eps=table.get("layer_norm_eps", 1e-6),
        position_rule="transformers",
    )


def _description(config: Any, labels: LabelSet | None, classifier: bool) -> dict[str, Any]:
    holder = f"transformers' {'SiglipForImageClassification' if classifier else 'SiglipVisionModel'}"
    free = {"gelu"} if classifier else {"gelu", "pool"}
    config = required(config, holder, free, {"class_token": False, "pool": "gap"})
    if bool(config.classes) != classifier or config.pool not in ("gap", "map"):
        raise WeightsError(f"{holder} cannot hold classes={config.classes}, pool={config.pool!r}")
    if config.grid[0] != config.grid[1] or config.image_size[0] != config.image_size[1]:
        raise WeightsError(f"{holder} cannot hold image_size={config.image_size}; its images are square")
    fields = {"intermediate_size": config.mlp_dim, "vision_use_head": config.pool == "map"}
    vision = description_of(config, "siglip_vision_model", "SiglipVisionModel", fields)
    if not classifier:
        return vision
    table = {"architectures": ["SiglipForImageClassification"], "model_type": "siglip", "vision_config": vision}
    return table | classes_of(config, labels)


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """SiglipImageProcessor: squash, bicubic, pixels to [-1, 1]."""
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bicubic")


def _read_processor(processor: Mapping[str, Any]) -> Preprocess:
    return read_processor(processor, _preprocess((224, 224)))


def _format(name: str, prefix: str, classifier: bool = False) -> Format:
    unused = [r"text_model\..*", r"logit_(?:scale|bias)", r"(?:vision_model\.)?embeddings\.position_ids"]
    description = partial(_description, classifier=classifier)
    keys = ("embeddings.patch_embedding.bias", "embeddings.position_embedding.weight", "post_layernorm.weight")
    return Format(
        name=name,
        markers=(*(prefix + key for key in keys), *(["classifier.weight"] if classifier else [])),
        absent=(f"{prefix}pre_layrnorm.weight", *([] if classifier else ["classifier.weight"])),
        infer=partial(_infer, prefix=prefix),
        rules=partial(_rules, prefix=prefix),
        preprocess=_preprocess,
        passengers=(*unused, *([r"vision_model\.head\..*"] if classifier else [])),
        describe=describe(description),
        read_processor=_read_processor,
        companions=companions(description),
    )


HF_SIGLIP = _format("transformers-siglip", "vision_model.")
HF_SIGLIP_CLASSIFIER = _format("transformers-siglip-classifier", "vision_model.", classifier=True)
HF_SIGLIP_BARE = _format("transformers-siglip-v5", "")
