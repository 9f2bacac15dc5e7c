"""torchvision's names (torchvision/models/vision_transformer.py), both generations: the MLP's layers were `linear_1`
and `linear_2` before they were `0` and `3`. Eps 1e-6 and the exact GELU are its code's."""

import math
from collections.abc import Mapping
from typing import Any

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.huggingface import required
from vitrail.weights.processor import share
from vitrail.weights.rename import Format, HeadsNotTold, Hints, Rule, Shapes, count_of, file_grid, same, shape_of
from vitrail.weights.torch_layers import layer

_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}  # (width, depth) of vit_b, vit_l, vit_h
_LAYER = "encoder.layers.encoder_layer_"


def _rules(config: ViTConfig, mlp: tuple[str, str]) -> list[Rule]:
    rules = [
        *layer("patch_embedding", "conv_proj"),
        same("class_token", "class_token"),
        same("position_embedding", "encoder.pos_embedding"),
    ]
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{_LAYER}{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.ln_1")
        rules.append(same(f"{ours}.attention.qkv.weight", f"{theirs}.self_attention.in_proj_weight"))
        rules.append(same(f"{ours}.attention.qkv.bias", f"{theirs}.self_attention.in_proj_bias"))
        rules += layer(f"{ours}.attention.out", f"{theirs}.self_attention.out_proj")
        rules += layer(f"{ours}.norm2", f"{theirs}.ln_2")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.{mlp[0]}")
        rules += layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.{mlp[1]}")
    rules += layer("norm", "encoder.ln")
    if config.pre_logits:
        rules += layer("pre_logits", "heads.pre_logits")
    if config.classes:
        rules += layer("head", "heads.head")
    return rules


def _infer(shapes: Shapes, hints: Hints, mlp: tuple[str, str]) -> ViTConfig:
    width, channels, rows, cols = shape_of(shapes, r"conv_proj\.weight", 4)
    depth = count_of(shapes, rf"{_LAYER.replace('.', chr(92) + '.')}(\d+)\.")
    positions = shape_of(shapes, r"encoder\.pos_embedding", 3)[1] - 1
    description = hints.description or {}
    options = description.get("model_args", {}) if description.get("library") == "torchvision" else {}
    named = (options["image_size"],) * 2 if "image_size" in options else None
    grid = file_grid(positions, (rows, cols), named, hints.image_size)
    pre_logits = shapes.get("heads.pre_logits.bias")
    return ViTConfig(
        image_size=(grid[0] * rows, grid[1] * cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=depth,
        heads=_heads(width, depth, options, hints),
        mlp_dim=shape_of(shapes, rf".*encoder_layer_\d+\.mlp\.{mlp[0]}\.weight", 2)[0],
        classes=shapes["heads.head.bias"][0] if "heads.head.bias" in shapes else 0,
        pre_logits=None if pre_logits is None else pre_logits[0],
        position_rule="torchvision",
    )


def _heads(width: int, depth: int, options: Mapping[str, Any], hints: Hints) -> int:
    """Heads leave no trace in the shapes; torchvision has published three sizes."""
    if "num_heads" in options:
        return int(options["num_heads"])
    if isinstance(hints.model, ViTConfig):
        return hints.model.heads
    if (width, depth) not in _HEADS:
        raise HeadsNotTold(f", and torchvision has no size of width {width} and depth {depth}")
    return _HEADS[width, depth]


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """Evaluation of the published weights: at 224 those trained there (vit_l_16's 242 pixels, which the file does not
    tell from the others' 256, left aside), at any other size the fine-tuned ones."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if size == (224, 224):
        return Preprocess(size=size, crop=0.875, interpolation="bilinear", mean=mean, std=std)
    return Preprocess(size=size, crop=1.0, interpolation="bicubic", mean=mean, std=std)


def _transforms(preprocess: Preprocess) -> dict[str, Any]:
    """The arguments of torchvision's ImageClassification preset (transforms/_presets.py). Raises WeightsError where it
    does something else."""
    rows, cols = preprocess.size
    odd = [
        f"{name}={getattr(preprocess, name)!r}"
        for name, value in {"resize": "shortest", "antialias": True, "odd_margin": "even"}.items()
        if getattr(preprocess, name) != value
    ]
    odd += [f"size={preprocess.size}"] if rows != cols else []
    odd += [f"interpolation={preprocess.interpolation!r}"] if preprocess.interpolation == "area" else []
    if odd:
        raise WeightsError(f"torchvision's preset of transforms cannot hold the preprocess {', '.join(odd)}")
    return {
        "crop_size": rows,
        "resize_size": math.floor(rows / preprocess.crop),
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def _read_transforms(description: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """The preprocessing beside weights that vitrail wrote; else that of the published ones."""
    table = description.get("transforms")
    if description.get("library") != "torchvision" or not isinstance(table, Mapping):
        return _preprocess(size)
    crop, resized = (int(table["crop_size"]),) * 2, (int(table["resize_size"]),) * 2
    return Preprocess(
        size=size,
        crop=share(crop, resized, _preprocess(size).crop),
        interpolation=table["interpolation"],
        mean=tuple(table["mean"]),
        std=tuple(table["std"]),
    )


def _description(config: Any, preprocess: Preprocess) -> dict[str, Any]:
    """The arguments of torchvision's VisionTransformer, and of its transforms, which its files come without."""
    holder = "torchvision's VisionTransformer"
    config = required(config, holder, {"pre_logits"}, {"norm_eps": 1e-6, "channels": 3, "cut_patches": False})
    if config.image_size[0] != config.image_size[1] or config.patch_size[0] != config.patch_size[1]:
        raise WeightsError(f"{holder} cannot hold image_size={config.image_size}, patch_size={config.patch_size}")
    if not config.classes:
        raise WeightsError(f"{holder} cannot hold a model without classes")
    return {
        "library": "torchvision",
        "architecture": "VisionTransformer",
        "model_args": {
            "image_size": config.image_size[0],
            "patch_size": config.patch_size[0],
            "num_layers": config.depth,
            "num_heads": config.heads,
            "hidden_dim": config.width,
            "mlp_dim": config.mlp_dim,
            "dropout": config.dropout,
            "num_classes": config.classes,
            "representation_size": config.pre_logits,
        },
        "transforms": _transforms(preprocess),
    }


def _describe(config: Any, preprocess: Preprocess) -> dict[str, Any] | None:
    try:
        return _description(config, preprocess)
    except WeightsError:
        return None


def _format(name: str, mlp: tuple[str, str]) -> Format:
    return Format(
        name=name,
        markers=("conv_proj.weight", "encoder.pos_embedding", f"{_LAYER}0.mlp.{mlp[0]}.weight"),
        absent=(),
        infer=lambda shapes, hints: _infer(shapes, hints, mlp),
        rules=lambda config: _rules(config, mlp),
        preprocess=_preprocess,
        describe=_describe,
        companions=lambda config, preprocess, labels: {"config.json": _description(config, preprocess)},
        read_description=_read_transforms,
    )


TORCHVISION = _format("torchvision", ("0", "3"))
TORCHVISION_OLD = _format("torchvision-old", ("linear_1", "linear_2"))
