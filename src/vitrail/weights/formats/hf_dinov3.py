"""transformers' DINOv3ViT (models/dinov3_vit/modeling_dinov3_vit.py), in the names that save_pretrained writes and in
those that its modules have in memory since version 5. It has no classifier; its features are the class token.

transformers turns queries and keys by angles computed in float32, vitrail by the same angles in float64. The jitter of
positions is for training only, in both.
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
    must_be,
    required,
    stated_size,
)
from vitrail.weights.processor import read_processor
from vitrail.weights.rename import Format, Hints, Rule, Shapes, Tensors, count_of, same, shape_of
from vitrail.weights.torch_layers import joined, layer

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def _rules(config: ViTConfig, prefix: str) -> list[Rule]:
    rules = [
        *layer("patch_embedding", "embeddings.patch_embeddings"),
        same("class_token", "embeddings.cls_token"),
        *layer("norm", "norm"),
    ]
    if config.registers:
        rules.append(same("registers", "embeddings.register_tokens"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}layer.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.norm1") + layer(f"{ours}.norm2", f"{theirs}.norm2")
        rules += attention(f"{ours}.attention", f"{theirs}.attention", _ATTENTION, config)
        rules += [same(f"{ours}.scale{j}.gamma", f"{theirs}.layer_scale{j}.lambda1") for j in (1, 2)]
        if config.mlp == "swiglu":
            for kind in ("weight", "bias"):
                halves = [f"{theirs}.mlp.{name}_proj.{kind}" for name in ("gate", "up")]
                rules.append(joined(f"{ours}.mlp.fc1.{kind}", halves))
        else:
            rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.up_proj")
        rules += layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.down_proj")
    return rules


def _infer(shapes: Shapes, hints: Hints, prefix: str) -> ViTConfig:
    table = described(hints, ("dinov3_vit",))
    must_be(table, {"proj_bias": True, "mlp_bias": True})
    block = prefix.replace(".", r"\.") + r"layer\.\d+\."
    width, channels, rows, cols = shape_of(shapes, r"embeddings\.patch_embeddings\.weight", 4)
    up = shape_of(shapes, block + r"mlp\.up_proj\.weight", 2)[0]
    gated = f"{prefix}layer.0.mlp.gate_proj.weight" in shapes
    if gated:  # transformers' default is a GELU, but every published gated network says silu
        must_be(table, {"hidden_act": "silu"})
    biases = [f"{prefix}layer.0.attention.{name}.bias" in shapes for name in _ATTENTION[:3]]
    if biases not in ([True, False, True], [True, True, True], [False, False, False]):
        raise WeightsError("the file has biases on queries or values only, which is not read")
    # rotary positions leave no trace of the size
    size = stated_size(table) or hints.image_size or (224, 224)
    return ViTConfig(
        image_size=size,
        patch_size=(rows, cols),
        cut_patches=cut(size, (rows, cols)),
        channels=channels,
        width=width,
        depth=count_of(shapes, prefix.replace(".", r"\.") + r"layer\.(\d+)\."),
        heads=heads_of(table, hints, 6),
        mlp_dim=up,
        classes=0,
        registers=shapes["embeddings.register_tokens"][1] if "embeddings.register_tokens" in shapes else 0,
        position="rope",
        rope_base=table.get("rope_theta", 100.0),
        gelu="exact" if gated else gelu_of(table, "exact"),
        mlp="swiglu" if gated else "gelu",
        norm_eps=table.get("layer_norm_eps", 1e-5),
        qkv_bias=biases[0],
        key_bias=biases[1] or not biases[0],
        layer_scale=table.get("layerscale_value", 1.0),
    )


def _description(config: Any, labels: LabelSet | None) -> dict[str, Any]:
    holder = "transformers' DINOv3ViT"
    free = {"gelu", "mlp", "qkv_bias", "key_bias", "registers", "layer_scale", "rope_base"}
    config = required(config, holder, free, {"position": "rope"})
    if config.classes or config.layer_scale is None:
        odd = f"classes={config.classes}; it has no classifier" if config.classes else "layer_scale=None"
        raise WeightsError(f"{holder} cannot hold {odd}")
    fields: dict[str, Any] = {
        "intermediate_size": config.mlp_dim,
        "rope_theta": config.rope_base,
        "query_bias": config.qkv_bias,
        "key_bias": config.qkv_bias and config.key_bias,
        "value_bias": config.qkv_bias,
        "proj_bias": True,
        "mlp_bias": True,
        "layerscale_value": config.layer_scale,
        "use_gated_mlp": config.mlp == "swiglu",
        "num_register_tokens": config.registers,
    }
    if config.mlp == "swiglu":
        fields["hidden_act"] = "silu"
    return description_of(config, "dinov3_vit", "DINOv3ViTModel", fields)


def _prepare(tensors: Tensors) -> Tensors:
    """Without the empty tensor that zero registers are."""
    return {k: t for k, t in tensors.items() if t.numel() or k != "embeddings.register_tokens"}


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """DINOv3ViTImageProcessor: squash, bilinear, ImageNet's mean and deviation. It resizes floats, vitrail whole
    numbers, which rounds by up to one in 255."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear", mean=mean, std=std)


def _read_processor(processor: Mapping[str, Any]) -> Preprocess:
    return read_processor(processor, _preprocess((224, 224)))


def _format(name: str, prefix: str) -> Format:
    return Format(
        name=name,
        markers=("embeddings.patch_embeddings.weight", f"{prefix}layer.0.attention.k_proj.weight"),
        absent=(),
        infer=partial(_infer, prefix=prefix),
        rules=partial(_rules, prefix=prefix),
        preprocess=_preprocess,
        prepare=_prepare,
        passengers=(r"embeddings\.mask_token",),
        describe=describe(_description),
        read_processor=_read_processor,
        companions=companions(_description),
    )


HF_DINOV3 = _format("transformers-dinov3", "")
HF_DINOV3_MEMORY = _format("transformers-dinov3-v5", "model.")
