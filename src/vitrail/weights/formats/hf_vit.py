"""transformers' ViT (models/vit/modeling_vit.py) and DeiT (models/deit/modeling_deit.py), in the names that
save_pretrained writes and in those that its modules have in memory since version 5.

The pooler of ViTModel and DeiTModel is the paper's representation layer: tanh of a linear layer on the class token. The
classifiers of both read the class token itself, so a model with pre_logits and a head is none of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.types import LabelSet
from vitrail.weights.huggingface import (
    attention,
    bare,
    body,
    classes_of,
    companions,
    cut,
    describe,
    described,
    description_of,
    either,
    gelu_of,
    has,
    heads_of,
    image_size_of,
    must_be,
    required,
)
from vitrail.weights.processor import read_processor
from vitrail.weights.rename import Format, Hints, Rule, Shapes, count_of, same, shape_of
from vitrail.weights.torch_layers import layer

_Kind = Literal["vit", "deit"]
_HEADS = ("classifier.weight", "cls_classifier.weight")


@dataclass(frozen=True)
class _Names:
    """Names within the encoder of one generation."""

    block: str
    attention: tuple[str, str, str, str]
    fc1: str
    fc2: str


_DISK = _Names(
    "encoder.layer",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    "intermediate.dense",
    "output.dense",
)
_MEMORY = _Names(
    "layers", ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"), "mlp.fc1", "mlp.fc2"
)


def _rules(config: ViTConfig, names: _Names, kind: _Kind) -> list[Rule]:
    prefix = f"{kind}." if config.classes else ""
    rules = [
        *layer("patch_embedding", f"{prefix}embeddings.patch_embeddings.projection"),
        same("position_embedding", f"{prefix}embeddings.position_embeddings"),
        same("class_token", f"{prefix}embeddings.cls_token"),
        *layer("norm", f"{prefix}layernorm"),
    ]
    if config.distillation_token:
        rules.append(same("distillation_token", f"{prefix}embeddings.distillation_token"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}{names.block}.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.layernorm_before")
        rules += attention(f"{ours}.attention", theirs, names.attention, config)
        rules += layer(f"{ours}.norm2", f"{theirs}.layernorm_after")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.{names.fc1}")
        rules += layer(f"{ours}.mlp.fc2", f"{theirs}.{names.fc2}")
    if config.pre_logits:
        rules += layer("pre_logits", f"{prefix}pooler.dense")
    if config.classes:
        rules += layer("head", "cls_classifier" if config.distilled else "classifier")
        rules += layer("distillation_head", "distillation_classifier") if config.distilled else []
    return rules


def _infer(shapes: Shapes, hints: Hints, names: _Names, kind: _Kind) -> ViTConfig:
    table = described(hints, (kind,))
    must_be(table, {"pooler_act": "tanh"})
    shapes = body(shapes, (f"{kind}.",))
    width, channels, rows, cols = shape_of(shapes, r"embeddings\.patch_embeddings\.projection\.weight", 4)
    distillation = kind == "deit"
    patches = shape_of(shapes, r"embeddings\.position_embeddings", 3)[1] - (2 if distillation else 1)
    pooler = shapes["pooler.dense.bias"][0] if "pooler.dense.bias" in shapes else None
    classes = next((shapes[head][0] for head in _HEADS if head in shapes), 0)
    if pooler and classes:
        raise WeightsError("the file holds a pooler and a classifier, which no network of transformers joins")
    size = image_size_of(table, hints.image_size, (rows, cols), patches)
    block = names.block.replace(".", r"\.")
    return ViTConfig(
        image_size=size,
        patch_size=(rows, cols),
        cut_patches=cut(size, (rows, cols)),
        channels=channels,
        width=width,
        depth=count_of(shapes, block + r"\.(\d+)\."),
        heads=heads_of(table, hints, 12),
        mlp_dim=shape_of(shapes, block + r"\.\d+\." + names.fc1.replace(".", r"\.") + r"\.weight", 2)[0],
        classes=classes,
        distillation_token=distillation,
        distillation_head="distillation_classifier.weight" in shapes or not distillation,
        pre_logits=pooler,
        gelu=gelu_of(table, "exact"),
        norm_eps=table.get("layer_norm_eps", 1e-12),  # transformers' default, not the 1e-6 of the original code
        qkv_bias=has(shapes, block + r"\.\d+\." + names.attention[0].replace(".", r"\.") + r"\.bias"),
        position_rule="transformers",
    )


def _description(config: Any, labels: LabelSet | None, kind: _Kind) -> dict[str, Any]:
    free = {"gelu", "qkv_bias"} | (set() if isinstance(config, ViTConfig) and config.classes else {"pre_logits"})
    if kind == "deit":
        config = required(config, "transformers' DeiT", free | {"distillation_head"}, {"distillation_token": True})
        if config.distilled and not config.classes:
            raise WeightsError("transformers' DeiT without classes gives the class token, not the distillation token")
        architecture = "DeiTForImageClassification" if config.classes else "DeiTModel"
        architecture += "WithTeacher" if config.distilled else ""
    else:
        config = required(config, "transformers' ViT", free, {})
        architecture = "ViTForImageClassification" if config.classes else "ViTModel"
    fields: dict[str, Any] = {"intermediate_size": config.mlp_dim, "qkv_bias": config.qkv_bias}
    if config.pre_logits:
        fields |= {"pooler_output_size": config.pre_logits, "pooler_act": "tanh"}
    return description_of(config, kind, architecture, fields | classes_of(config, labels))


def _vit_preprocess(size: tuple[int, int]) -> Preprocess:
    """ViTImageProcessor: squash, bilinear, pixels to [-1, 1]."""
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear")


def _deit_preprocess(size: tuple[int, int]) -> Preprocess:
    """The published DeiT: both sides to 256, the centre 224, bicubic, ImageNet's mean and deviation."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess(size=size, resize="squash", crop=0.875, odd_margin="down", mean=mean, std=std)


def _format(name: str, names: _Names, kind: _Kind) -> Format:
    prefixes = (f"{kind}.",)
    first = f"{names.block}.0."
    keys = ["embeddings.position_embeddings", f"{first}layernorm_before.weight", f"{first}{names.attention[0]}.weight"]
    keys += ["embeddings.distillation_token"] if kind == "deit" else []
    preprocess = _deit_preprocess if kind == "deit" else _vit_preprocess
    description = partial(_description, kind=kind)

    def read(processor: Mapping[str, Any]) -> Preprocess:
        return read_processor(processor, preprocess((224, 224)))

    return Format(
        name=name,
        markers=either(prefixes, *keys),
        absent=() if kind == "deit" else ("embeddings.distillation_token",),
        infer=partial(_infer, names=names, kind=kind),
        rules=partial(_rules, names=names, kind=kind),
        preprocess=preprocess,
        prepare=partial(bare, prefixes=prefixes, heads=_HEADS),
        passengers=(rf"(?:{kind}\.)?embeddings\.mask_token",),
        describe=describe(description),
        read_processor=read,
        companions=companions(description),
    )


HF_VIT = _format("transformers-vit", _DISK, "vit")
HF_VIT_MEMORY = _format("transformers-vit-v5", _MEMORY, "vit")
HF_DEIT = _format("transformers-deit", _DISK, "deit")
HF_DEIT_MEMORY = _format("transformers-deit-v5", _MEMORY, "deit")
