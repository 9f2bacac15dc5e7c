"""timm's names for the plain ViT and DeiT (timm/models/vision_transformer.py), and its config.json both ways."""

import re
from collections.abc import Mapping
from typing import Any

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError, close_matches
from vitrail.models.catalog import ModelConfig
from vitrail.weights.rename import Format, Hints, Rule, Shapes, file_grid, same

_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_ARCHITECTURE = re.compile(r"(?:vit|deit)_(tiny|small|base|large|huge)_patch(\d+)_(\d+)(?:\..*)?")
_GELUS = {"exact": "gelu", "tanh": "gelu_tanh"}


def _rules(config: ViTConfig) -> list[Rule]:
    rules = [*_layer("patch_embedding", "patch_embed.proj"), same("position_embedding", "pos_embed")]
    if config.class_token:
        rules.append(same("class_token", "cls_token"))
    for i in range(config.depth):
        ours = theirs = f"blocks.{i}"
        rules += _layer(f"{ours}.norm1", f"{theirs}.norm1")
        rules += _layer(f"{ours}.attention.qkv", f"{theirs}.attn.qkv", bias=config.qkv_bias)
        rules += _layer(f"{ours}.attention.out", f"{theirs}.attn.proj")
        rules += _layer(f"{ours}.norm2", f"{theirs}.norm2")
        rules += _layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
        rules += _layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    rules += _layer("norm", "norm")
    if config.pre_logits:
        rules += _layer("pre_logits", "pre_logits.fc")  # timm's own name for it, before it gave up the layer
    if config.classes:
        rules += _layer("head", "head")
    return rules


def _layer(ours: str, theirs: str, bias: bool = True) -> list[Rule]:
    weight = same(f"{ours}.weight", f"{theirs}.weight")
    return [weight, same(f"{ours}.bias", f"{theirs}.bias")] if bias else [weight]


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    width, channels, rows, cols = _rank(shapes, "patch_embed.proj.weight", 4)
    token = "cls_token" in shapes
    patches = _rank(shapes, "pos_embed", 3)[1] - token
    blocks = {int(m[1]) for key in shapes if (m := re.match(r"blocks\.(\d+)\.", key))}
    mlp_dims = {shape[0] for key, shape in shapes.items() if re.fullmatch(r"blocks\.\d+\.mlp\.fc1\.weight", key)}
    if not blocks or not mlp_dims:
        raise WeightsError("the file has no keys blocks.N.mlp.fc1.weight")
    description = hints.description or {}
    options = _model_args(description)
    grid = file_grid(patches, (rows, cols), hints.image_size, _input_size(description))
    pre_logits = shapes.get("pre_logits.fc.bias")
    return ViTConfig(
        image_size=(grid[0] * rows, grid[1] * cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=max(blocks) + 1,
        heads=_heads(description, options, hints.model),
        mlp_dim=max(mlp_dims),
        classes=shapes["head.bias"][0] if "head.bias" in shapes else 0,
        pool="token" if token else "gap",
        pre_logits=None if pre_logits is None else pre_logits[0],
        gelu="tanh" if options.get("act_layer") == "gelu_tanh" else "exact",
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        position_rule="timm",
    )


def _rank(shapes: Shapes, key: str, rank: int) -> tuple[int, ...]:
    if len(shapes[key]) != rank:
        raise WeightsError(f"{key} should have {rank} axes, found the shape {shapes[key]}")
    return shapes[key]


def _heads(description: Mapping[str, Any], options: Mapping[str, Any], model: ViTConfig | None) -> int:
    """Heads leave no trace in the shapes: they come from config.json or from the model the user named."""
    if "num_heads" in options:
        return int(options["num_heads"])
    if model is not None:
        return model.heads
    if "architecture" not in description:
        raise WeightsError("the number of heads is not in the file; name the model, for instance --model B/16")
    return _HEADS[_architecture(description)]


def _architecture(description: Mapping[str, Any]) -> str:
    """The size word of a timm architecture that is the plain network; names hide variants that shapes do not show."""
    name = str(description.get("architecture"))
    match = _ARCHITECTURE.fullmatch(name)
    if match is None:
        raise WeightsError(
            f"the architecture {name!r} is not one of the plain networks read so far: "
            f"vit_SIZE_patchN_M or deit_SIZE_patchN_M with SIZE {', '.join(_HEADS)}"
        )
    return match[1]


_KNOWN_ARGS = (
    "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "global_pool",
    "class_token", "fc_norm", "act_layer",
)  # fmt: skip


def _model_args(description: Mapping[str, Any]) -> Mapping[str, Any]:
    options = description.get("model_args") or {}
    if not isinstance(options, Mapping):
        raise WeightsError(f"model_args in config.json must be a table, found {options!r}")
    for name in options:
        if name not in _KNOWN_ARGS:
            raise WeightsError(f"config.json has the model_args field {name!r}{close_matches(name, _KNOWN_ARGS)}")
    if options.get("global_pool") == "avg" and options.get("fc_norm") is not False:
        raise WeightsError("config.json asks for a norm after the mean (fc_norm), which is not read so far")
    if options.get("act_layer", "gelu") not in _GELUS.values():
        raise WeightsError(f"config.json has the act_layer {options['act_layer']!r}; known: gelu, gelu_tanh")
    return options


def _input_size(description: Mapping[str, Any]) -> tuple[int, int] | None:
    size = (description.get("pretrained_cfg") or {}).get("input_size")
    return None if size is None else (int(size[-2]), int(size[-1]))


def describe(config: ViTConfig, preprocess: Preprocess) -> dict[str, Any] | None:
    """timm's config.json of a model, or None where timm cannot build it (pre_logits, another eps).

    `num_classes` stays out of model_args: with it transformers cannot load the folder.
    """
    if config.pre_logits or config.norm_eps != 1e-6 or config.stem is not None or config.gelu not in _GELUS:
        return None
    sizes = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
    patch = config.patch_size[0] if config.patch_size[0] == config.patch_size[1] else list(config.patch_size)
    options: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": patch,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_dim / config.width,
        "qkv_bias": config.qkv_bias,
        "act_layer": _GELUS[config.gelu],
    }
    if config.pool == "gap":
        options |= {"global_pool": "avg", "class_token": False, "fc_norm": False}
    return {
        "architecture": "vit_huge_patch14_224" if config.width == 1280
        else f"vit_{sizes.get(config.width, 'base')}_patch16_224",
        "num_classes": config.classes,
        "num_features": config.width,
        "global_pool": "token" if config.pool == "token" else "avg",
        "model_args": options,
        "pretrained_cfg": pretrained_cfg(config, preprocess),
    }  # fmt: skip


def pretrained_cfg(config: ModelConfig, preprocess: Preprocess) -> dict[str, Any]:
    """The part of config.json that timm's transforms read."""
    return {
        "input_size": [config.channels, *preprocess.size],
        "fixed_input_size": True,
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop,
        "crop_mode": "squash" if preprocess.resize == "squash" else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": config.classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def read_preprocess(description: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """The evaluation that timm would run for this config.json, at `size`."""
    stored = description.get("pretrained_cfg") or {}
    mode = stored.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise WeightsError(f"config.json has the crop_mode {mode!r}; known: center, squash")
    return Preprocess(
        size=size,
        resize="squash" if mode == "squash" else "shortest",
        crop=stored.get("crop_pct", 0.875),
        interpolation=stored.get("interpolation", "bicubic"),
        mean=tuple(stored.get("mean", (0.5, 0.5, 0.5))),
        std=tuple(stored.get("std", (0.5, 0.5, 0.5))),
    )


TIMM = Format(
    name="timm",
    markers=("patch_embed.proj.weight", "pos_embed", "norm.weight"),
    absent=("dist_token",),
    infer=_infer,
    rules=_rules,
    preprocess=lambda size: Preprocess(size=size),
    describe=describe,
    read_description=read_preprocess,
)
