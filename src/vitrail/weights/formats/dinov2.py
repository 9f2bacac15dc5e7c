"""DINOv2's own names (facebookresearch/dinov2, models/vision_transformer.py): timm's, beside `register_tokens`,
`mask_token`, and `w12` and `w3` where the MLP is gated; `blocks.CHUNK.BLOCK` in files of a sharded model; the backbone
and `linear_head` in those of its classifiers.

Its positions are for the class token and the patches; they go to another grid by a scale factor with an offset of 0.1,
and in the models with registers by antialiasing without that offset, which is timm's rule.
"""

import re
from functools import partial
from typing import Any

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.huggingface import required
from vitrail.weights.rename import (
    Format,
    HeadsNotTold,
    Hints,
    Rule,
    Shapes,
    Tensors,
    count_of,
    file_grid,
    same,
    shape_of,
)
from vitrail.weights.torch_layers import layer

_CHUNKED = re.compile(r"((?:backbone\.)?blocks)\.\d+\.(\d+\..*)")


def _rules(config: ViTConfig, prefix: str) -> list[Rule]:
    rules = [
        *layer("patch_embedding", f"{prefix}patch_embed.proj"),
        same("class_token", f"{prefix}cls_token"),
        same("position_embedding", f"{prefix}pos_embed"),
    ]
    if config.registers:
        rules.append(same("registers", f"{prefix}register_tokens"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}blocks.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.norm1") + layer(f"{ours}.norm2", f"{theirs}.norm2")
        rules += layer(f"{ours}.attention.qkv", f"{theirs}.attn.qkv", bias=config.qkv_bias)
        rules += layer(f"{ours}.attention.out", f"{theirs}.attn.proj")
        first, second = ("w12", "w3") if config.mlp == "swiglu" else ("fc1", "fc2")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.{first}") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.{second}")
        rules += [same(f"{ours}.scale{j}.gamma", f"{theirs}.ls{j}.gamma") for j in (1, 2)]
    rules += layer("norm", f"{prefix}norm")
    return rules + (layer("head", "linear_head") if config.classes else [])


def _infer(shapes: Shapes, hints: Hints, prefix: str) -> ViTConfig:
    classes, features = shapes.get("linear_head.weight", (0, 0))
    shapes = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    width, channels, rows, cols = shape_of(shapes, r"patch_embed\.proj\.weight", 4)
    depth = count_of(shapes, r"blocks\.(\d+)\.")
    if classes and (features % width or not 1 < features // width <= depth + 1):
        raise WeightsError(
            f"the linear head reads {features} features; it must read the class tokens of 1 to {depth} blocks beside "
            f"the mean of the patches, of {width} each"
        )
    registers = shape_of(shapes, r"register_tokens", 3)[1] if "register_tokens" in shapes else 0
    grid = file_grid(shape_of(shapes, r"pos_embed", 3)[1] - 1, (rows, cols))  # its code knows square ones only
    gated = "blocks.0.mlp.w3.weight" in shapes
    return ViTConfig(
        image_size=(grid[0] * rows, grid[1] * cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=depth,
        heads=_heads(width, hints),
        mlp_dim=shape_of(shapes, r"blocks\.\d+\.mlp\.(?:w3|fc2)\.weight", 2)[1],
        classes=classes,
        registers=registers,
        pool="token_gap" if classes else "token",
        pool_blocks=features // width - 1 if classes else 1,
        mlp="swiglu" if gated else "gelu",
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        layer_scale=1e-5,
        position_rule="timm" if registers else "dinov2",
    )


def _heads(width: int, hints: Hints) -> int:
    """Heads leave no trace in the shapes; all sizes that DINOv2 has have 64 channels a head."""
    description = hints.description or {}
    if description.get("library") == "dinov2":
        return int(description["model_args"]["num_heads"])
    if isinstance(hints.model, ViTConfig):
        return hints.model.heads
    if width % 64:
        raise HeadsNotTold()
    return width // 64


def _prepare(tensors: Tensors) -> Tensors:
    """With the blocks of a sharded model numbered in one row, as they already are within their chunks."""
    if not any(_CHUNKED.fullmatch(key) for key in tensors):
        return tensors
    return {_CHUNKED.sub(r"\1.\2", key): tensor for key, tensor in tensors.items()}


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """Its linear evaluation: the shorter side to 8/7 of the crop, bicubic, ImageNet's mean and deviation."""
    return Preprocess(size=size, crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _description(config: Any) -> dict[str, Any]:
    """The arguments of its DinoVisionTransformer, which its files come without."""
    holder = "DINOv2's own code"
    pool = "token_gap" if getattr(config, "classes", 0) else "token"
    free = {"mlp", "registers", "layer_scale", "qkv_bias", "pool_blocks"}
    config = required(config, holder, free, {"pool": pool, "norm_eps": 1e-6, "cut_patches": False})
    if config.layer_scale is None or config.grid[0] != config.grid[1] or config.patch_size[0] != config.patch_size[1]:
        raise WeightsError(f"{holder} cannot hold layer_scale={config.layer_scale}, a grid of {config.grid}")
    gated = config.mlp == "swiglu"
    if gated and config.mlp_dim % 8:  # two thirds of the MLP's nominal width, rounded up to a multiple of 8
        raise WeightsError(f"{holder} cannot hold mlp_dim={config.mlp_dim} of a gated MLP")
    return {
        "library": "dinov2",
        "architecture": "DinoVisionTransformer",
        "model_args": {
            "img_size": config.image_size[0],
            "patch_size": config.patch_size[0],
            "in_chans": config.channels,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_dim * (1.5 if gated else 1) / config.width,
            "qkv_bias": config.qkv_bias,
            "init_values": config.layer_scale,
            "ffn_layer": "swiglufused" if gated else "mlp",
            "block_chunks": 0,
            "num_register_tokens": config.registers,
            "interpolate_antialias": bool(config.registers),
            "interpolate_offset": 0.0 if config.registers else 0.1,
        },
    }


def _describe(config: Any, preprocess: Preprocess) -> dict[str, Any] | None:
    try:
        return _description(config)
    except WeightsError:
        return None


def _format(name: str, prefix: str) -> Format:
    return Format(
        name=name,
        markers=tuple(f"{prefix}{key}" for key in ("cls_token", "mask_token", "pos_embed", "blocks.0.ls1.gamma")),
        absent=(f"{prefix}decoder_embed.weight",),
        infer=partial(_infer, prefix=prefix),
        rules=partial(_rules, prefix=prefix),
        preprocess=_preprocess,
        prepare=_prepare,
        passengers=(rf"{re.escape(prefix)}mask_token",),
        describe=_describe,
        companions=lambda config, preprocess, labels: {"config.json": _description(config)},
    )


DINOV2 = _format("dinov2", "")
DINOV2_CLASSIFIER = _format("dinov2-classifier", "backbone.")
