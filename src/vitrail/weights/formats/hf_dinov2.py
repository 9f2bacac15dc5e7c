"""transformers' Dinov2 (models/dinov2/modeling_dinov2.py) and Dinov2WithRegisters, in the names that save_pretrained
writes and in those that their modules have in memory since version 5.

Their classifiers read the class token beside the mean of the patches. Their positions always form a square grid; those
of the networks with registers go to another one with antialiasing, the others without.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

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
    required,
)
from vitrail.weights.processor import read_processor
from vitrail.weights.rename import Format, Hints, Rule, Shapes, count_of, same, shape_of
from vitrail.weights.torch_layers import joined, layer

_PREFIXES = ("dinov2_with_registers.", "dinov2.")
_HEADS = ("classifier.weight",)
_DISK = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
_MEMORY = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
_BLOCK = r"encoder\.layer\.\d+\."


def _rules(config: ViTConfig, disk: bool) -> list[Rule]:
    prefix = "" if not config.classes else "dinov2_with_registers." if config.registers else "dinov2."
    rules = [
        *layer("patch_embedding", f"{prefix}embeddings.patch_embeddings.projection"),
        same("position_embedding", f"{prefix}embeddings.position_embeddings"),
        same("class_token", f"{prefix}embeddings.cls_token"),
        *layer("norm", f"{prefix}layernorm"),
    ]
    if config.registers:
        rules.append(same("registers", f"{prefix}embeddings.register_tokens"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}encoder.layer.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.norm1") + layer(f"{ours}.norm2", f"{theirs}.norm2")
        rules += attention(f"{ours}.attention", theirs, _DISK if disk else _MEMORY, config)
        rules += [same(f"{ours}.scale{j}.gamma", f"{theirs}.layer_scale{j}.lambda1") for j in (1, 2)]
        rules += _mlp(f"{ours}.mlp", f"{theirs}.mlp", config, disk)
    return rules + (layer("head", "classifier") if config.classes else [])


def _mlp(ours: str, theirs: str, config: ViTConfig, disk: bool) -> list[Rule]:
    """A gated one is one tensor of gate and value on disk, and two in memory."""
    if config.mlp == "gelu":
        return layer(f"{ours}.fc1", f"{theirs}.fc1") + layer(f"{ours}.fc2", f"{theirs}.fc2")
    if disk:
        return layer(f"{ours}.fc1", f"{theirs}.weights_in") + layer(f"{ours}.fc2", f"{theirs}.weights_out")
    halves = [joined(f"{ours}.fc1.{k}", [f"{theirs}.{n}_proj.{k}" for n in ("gate", "up")]) for k in ("weight", "bias")]
    return halves + layer(f"{ours}.fc2", f"{theirs}.down_proj")


def _infer(shapes: Shapes, hints: Hints, disk: bool) -> ViTConfig:
    shapes = body(shapes, _PREFIXES)
    registers = shapes["embeddings.register_tokens"][1] if "embeddings.register_tokens" in shapes else 0
    table = described(hints, ("dinov2_with_registers",) if registers else ("dinov2",))
    width, channels, rows, cols = shape_of(shapes, r"embeddings\.patch_embeddings\.projection\.weight", 4)
    patches = shape_of(shapes, r"embeddings\.position_embeddings", 3)[1] - 1
    size = image_size_of(table, None, (rows, cols), patches)
    gated = has(shapes, _BLOCK + r"mlp\.(?:weights_out|down_proj)\.weight")
    classes = shapes["classifier.weight"][0] if "classifier.weight" in shapes else 0
    query = (_DISK if disk else _MEMORY)[0].replace(".", r"\.")
    return ViTConfig(
        image_size=size,
        patch_size=(rows, cols),
        cut_patches=cut(size, (rows, cols)),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"encoder\.layer\.(\d+)\."),
        heads=heads_of(table, hints, 12),
        mlp_dim=shape_of(shapes, _BLOCK + r"mlp\.(?:weights_out|down_proj|fc2)\.weight", 2)[1],
        classes=classes,
        registers=registers,
        pool="token_gap" if classes else "token",
        gelu="exact" if gated else gelu_of(table, "exact"),  # the gate of a gated one is always a SiLU
        mlp="swiglu" if gated else "gelu",
        norm_eps=table.get("layer_norm_eps", 1e-6),
        qkv_bias=has(shapes, _BLOCK + query + r"\.bias"),
        layer_scale=table.get("layerscale_value", 1.0),
        position_rule="timm" if registers else "transformers",
    )


def _description(config: Any, labels: LabelSet | None) -> dict[str, Any]:
    holder = "transformers' Dinov2"
    pool = "token_gap" if isinstance(config, ViTConfig) and config.classes else "token"
    config = required(config, holder, {"gelu", "mlp", "qkv_bias", "registers", "layer_scale"}, {"pool": pool})
    if config.layer_scale is None:
        raise WeightsError(f"{holder} cannot hold layer_scale=None")
    if config.grid[0] != config.grid[1]:
        raise WeightsError(f"{holder} cannot hold the grid {config.grid}; its positions form a square")
    kind, name = ("dinov2_with_registers", "Dinov2WithRegisters") if config.registers else ("dinov2", "Dinov2")
    fields: dict[str, Any] = {
        "mlp_ratio": _ratio(config),
        "use_swiglu_ffn": config.mlp == "swiglu",
        "qkv_bias": config.qkv_bias,
        "layerscale_value": config.layer_scale,
    }
    if config.registers:
        fields["num_register_tokens"] = config.registers
    architecture = f"{name}ForImageClassification" if config.classes else f"{name}Model"
    return description_of(config, kind, architecture, fields | classes_of(config, labels))


def _ratio(config: ViTConfig) -> int:
    """The whole number from which transformers computes the MLP's width: times the model's, two thirds if gated."""
    for ratio in range(1, 2 * config.mlp_dim // config.width + 2):
        hidden = config.width * ratio
        if config.mlp == "swiglu":
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == config.mlp_dim:
            return ratio
    raise WeightsError(f"transformers' Dinov2 cannot hold mlp_dim={config.mlp_dim}, no whole multiple of the width")


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """The published networks: the shorter side to 256, the centre 224, bicubic, ImageNet's mean and deviation."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess(size=size, crop=0.875, odd_margin="down", mean=mean, std=std)


def _read_processor(processor: Mapping[str, Any]) -> Preprocess:
    return read_processor(processor, _preprocess((224, 224)))


def _format(name: str, disk: bool) -> Format:
    query = (_DISK if disk else _MEMORY)[0]
    first = "encoder.layer.0"
    return Format(
        name=name,
        markers=either(
            _PREFIXES, "embeddings.position_embeddings", f"{first}.layer_scale1.lambda1", f"{first}.{query}.weight"
        ),
        absent=(),
        infer=partial(_infer, disk=disk),
        rules=partial(_rules, disk=disk),
        preprocess=_preprocess,
        prepare=partial(bare, prefixes=_PREFIXES, heads=_HEADS),
        passengers=(r"(?:dinov2(?:_with_registers)?\.)?embeddings\.mask_token",),
        describe=describe(_description),
        read_processor=_read_processor,
        companions=companions(_description),
    )


HF_DINOV2 = _format("transformers-dinov2", disk=True)
HF_DINOV2_MEMORY = _format("transformers-dinov2-v5", disk=False)
