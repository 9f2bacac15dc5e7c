"""timm's config.json, both ways: an architecture name, `model_args` over it, and the preprocessing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError, close_matches
from vitrail.models.catalog import ModelConfig
from vitrail.types import MULTILABEL, LabelSet
from vitrail.weights.open_clip_config import image_size_of
from vitrail.weights.timm_names import options_of

_Value = TypeVar("_Value")
_GELUS: Mapping[str, Literal["exact", "tanh", "quick"]] = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
_POOLS: Mapping[str, Literal["token", "gap", "map"]] = {"token": "token", "avg": "gap", "map": "map"}

# Arguments whose effect the names and shapes of the tensors show, and those without any outside training.
_SHOWN = {
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qk_norm",
    "class_token", "drop_rate", "attn_drop_rate", "weight_init", "fix_init", "dynamic_img_size",
}  # fmt: skip
_SHOWN_PLAIN = {"reg_tokens", "pre_norm", "fc_norm"}
_SHOWN_ROTARY = {
    "num_reg_tokens", "use_pre_transformer_norm", "use_post_transformer_norm", "use_fc_norm", "attn_pool_mlp_ratio",
    "attn_type", "swiglu_mlp", "swiglu_align_to", "no_embed_class", "ref_feat_shape", "head_init_scale",
    "rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords",
}  # fmt: skip
_READ = {
    "num_heads", "global_pool", "norm_layer", "init_values", "pos_drop_rate", "proj_drop_rate", "patch_drop_rate",
    "drop_path_rate",
}  # fmt: skip
_READ_PLAIN = {"act_layer", "no_embed_class", "pos_embed"}
_READ_ROTARY = {"rope_temperature", "attn_pool_num_heads"}
# Arguments that are read at these values only.
_FIXED_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "scale_attn_norm": (False,), "scale_mlp_norm": (False,), "proj_bias": (True,), "final_norm": (True,),
    "pool_include_prefix": (False,), "attn_layer": ("attn", ""), "dynamic_img_pad": (False,),
}  # fmt: skip
_FIXED_ROTARY: Mapping[str, tuple[Any, ...]] = {
    "use_abs_pos_emb": (False,), "use_rot_pos_emb": (True,), "rope_type": ("dinov3",), "rope_rotate_half": (True,),
    "rope_grid_offset": (0.0,), "rope_grid_indexing": ("ij",), "qkv_fused": (True,), "scale_mlp": (False,),
    "scale_attn_inner": (False,), "use_post_norm": (False,), "attn_only_layer_scale": (False,),
    "dynamic_img_pad": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class TimmOptions:
    """What config.json tells beside the tensors."""

    rotary: bool  # timm's class Eva with DINOv3's rotary positions
    heads: int
    pool: Literal["token", "gap", "map"]
    gelu: Literal["exact", "tanh", "quick"]
    norm_eps: float
    layer_scale: float
    position: Literal["learned", "rope", "none"]
    position_prefix: bool | None  # whether the tokens before the patches have positions; None: not told
    rope_base: float
    dropout: float
    stochastic_depth: float
    patch_dropout: float


def read_options(description: Mapping[str, Any]) -> TimmOptions:
    """The options of a config.json. Raises WeightsError where vitrail's network cannot be the same."""
    if not isinstance(name := description.get("architecture"), str):
        raise WeightsError("config.json does not name timm's architecture")
    options = options_of(name)
    rotary = bool(options["rotary"])
    options |= _model_args(description, rotary)
    if not isinstance(heads := options.get("num_heads"), int):
        raise WeightsError(f"config.json does not tell the number of heads of {name!r}")
    if options.get("attn_pool_num_heads") not in (None, heads) and options["global_pool"] == "map":
        raise WeightsError(f"config.json has attn_pool_num_heads={options['attn_pool_num_heads']!r}, heads are {heads}")
    if rotary:
        position: Literal["learned", "rope", "none"] = "rope"
    else:
        position = _choice("pos_embed", options["pos_embed"], {"learn": "learned", "none": "none", "": "none"})
    dropout = options.get("proj_drop_rate", 0.0)
    return TimmOptions(
        rotary=rotary,
        heads=heads,
        pool=_choice("global_pool", options["global_pool"], _POOLS),
        # a gated MLP has no GELU; its gate is a SiLU
        gelu=_choice("act_layer", options["act_layer"], {"silu": "exact"} if options.get("swiglu") else _GELUS),
        norm_eps=options["norm_eps"],
        layer_scale=float(options["init_values"] or 1e-5),  # its keys show whether there is one
        position=position,
        position_prefix=not options.get("no_embed_class"),
        rope_base=float(options.get("rope_temperature", 100.0)),
        dropout=dropout if dropout == options.get("pos_drop_rate", 0.0) else 0.0,
        stochastic_depth=options.get("drop_path_rate", 0.0),
        patch_dropout=0.0 if rotary else options.get("patch_drop_rate", 0.0),
    )


def _model_args(description: Mapping[str, Any], rotary: bool) -> dict[str, Any]:
    """What config.json sets over the architecture's own options; null means nothing, as in timm."""
    table = description.get("model_args") or {}
    if not isinstance(table, Mapping):
        raise WeightsError(f"model_args in config.json must be a table, found {table!r}")
    options = {key: value for key, value in table.items() if value is not None}
    fixed = _FIXED_ROTARY if rotary else _FIXED_PLAIN
    known = _SHOWN | _READ | fixed.keys() | (_SHOWN_ROTARY | _READ_ROTARY if rotary else _SHOWN_PLAIN | _READ_PLAIN)
    for key in options:
        if key not in known:
            raise WeightsError(f"config.json has the model_args field {key!r}{close_matches(key, known)}")
    name = str(options.pop("norm_layer", "layernorm"))
    if "norm_layer" in table:
        options["norm_eps"] = _choice("norm_layer", name.replace("_", "").lower(), {"layernorm": 1e-6})
    effective = {**options_of(description["architecture"]), **options}
    for key, values in fixed.items():
        if key in effective and effective[key] not in values:
            raise WeightsError(f"config.json means {key}={effective[key]!r}; only {values[0]!r} is read")
    return options


def _choice(option: str, value: object, values: Mapping[str, _Value]) -> _Value:
    if not isinstance(value, str) or value not in values:
        raise WeightsError(f"config.json means {option}={value!r}; known: {', '.join(map(repr, values))}")
    return values[value]


def description_in_open_clip(tables: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, Any]:
    """The config.json of a network of timm's that is the image tower of open_clip's model."""
    vision = tables[1]
    pool, linear = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear") == "linear"
    options = {} if linear and not pool else {"global_pool": pool}  # beside a layer of its own, none means timm's
    size = image_size_of(vision)
    return {
        "architecture": vision.get("timm_model_name"),
        "model_args": options,
        "pretrained_cfg": {} if size is None else {"input_size": [3, *size]},
    }


def image_sizes(description: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The image sizes (rows, cols) that config.json names, the surest first."""
    found = []
    size = (description.get("model_args") or {}).get("img_size")
    if size is not None:
        found.append((size, size) if isinstance(size, int) else (int(size[0]), int(size[1])))
    if (size := _pretrained(description).get("input_size")) is not None:
        found.append((int(size[-2]), int(size[-1])))
    return found


def _pretrained(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of the preprocessing; the oldest files are that table themselves."""
    table = description.get("pretrained_cfg", description)
    return table if isinstance(table, Mapping) else {}


def describe(config: ModelConfig, preprocess: Preprocess) -> dict[str, Any] | None:
    """timm's config.json of a model, or None where timm cannot build it.

    `num_classes` stays out of model_args: with it transformers cannot load the folder.
    """
    if not isinstance(config, ViTConfig) or _unheld(config) is not None:
        return None
    options = _common(config) | (_rotary(config) if config.position == "rope" else _plain(config))
    return {
        "architecture": _architecture(config),
        "num_classes": config.classes,
        "num_features": config.width,
        "global_pool": options["global_pool"],
        "model_args": options,
        "pretrained_cfg": pretrained_cfg(config, preprocess),
    }


def companions(config: Any, preprocess: Preprocess, labels: LabelSet | None) -> dict[str, dict[str, Any]]:
    """The files beside the tensors: config.json. Raises WeightsError naming what timm cannot hold."""
    table = describe(config, preprocess)
    if table is None:
        raise WeightsError(f"timm cannot hold {'a ResNet' if not isinstance(config, ViTConfig) else _unheld(config)}")
    return {"config.json": {**table, **label_fields(labels)}}


def label_fields(labels: LabelSet | None) -> dict[str, Any]:
    """The fields of config.json that name the classes; where an image may have several, transformers' pipeline takes
    the sigmoid by the second."""
    if labels is None:
        return {}
    kind = {"problem_type": MULTILABEL} if labels.multilabel else {}
    return {"label_names": list(labels.names), **kind}


def _unheld(config: ViTConfig) -> str | None:
    """What keeps timm's networks from being this one, or None where one of them is it."""
    rotary, gated = config.position == "rope", config.mlp == "swiglu"
    distilled, mapped = config.distillation_token, config.pool == "map"
    reasons = {
        "a stem": config.stem is not None,  # its own hybrids have other eps
        "pre_logits": config.pre_logits is not None,
        "pool='token_gap'": config.pool == "token_gap",
        "position='sincos2d'": config.position == "sincos2d",
        # no name stands for another eps, and config.json cannot say one
        f"norm_eps={config.norm_eps}": config.norm_eps not in (1e-6, 1e-5),
        "norm_before with patch_bias": config.norm_before and config.patch_bias,
        "two tokens of which one is read": distilled and not config.distilled,
        "a distillation token with registers, or without its row of learned positions": distilled
        and (config.registers > 0 or config.position != "learned" or not config.position_prefix),
        # Eva knows the exact GELU only, and pools over the prefix tokens too
        f"position='rope' with gelu={config.gelu!r}": rotary and config.gelu != "exact" and (not gated or mapped),
        "position='rope' with pool='map' over patches alone": rotary and mapped and config.prefix > 0,
        # of the plain networks, the gated have one name, whose activation is a SiLU everywhere
        "mlp='swiglu' with pool='map' or a distillation token": not rotary and gated and (mapped or distilled),
        f"norm_eps={config.norm_eps} with mlp='swiglu' or a distillation token": config.norm_eps != 1e-6
        and not rotary
        and (gated or distilled),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _architecture(config: ViTConfig) -> str:
    """The name whose class, eps and kind of MLP are the model's; model_args say the rest."""
    clip = config.norm_eps == 1e-5
    if config.position == "rope":
        if clip and config.layer_scale is not None:
            return "vit_base_patch16_dinov3"
        return "vit_pe_core_tiny_patch16_384" if clip else "eva02_tiny_patch14_224"
    if config.distillation_token:
        return "deit_base_distilled_patch16_224"
    if config.mlp == "swiglu":
        return "vit_giant_patch14_dinov2"
    if clip:
        return "vit_base_patch16_clip_224"
    sizes = {192: "tiny", 384: "small", 1024: "large"}
    if config.width in (1280, 1408, 1664):
        return {1280: "vit_huge_patch14_224", 1408: "vit_giant_patch14_224"}.get(
            config.width, "vit_gigantic_patch14_224"
        )
    return f"vit_{sizes.get(config.width, 'base')}_patch16_224"


def _common(config: ViTConfig) -> dict[str, Any]:
    """Arguments that both classes take."""
    patch = config.patch_size[0] if config.patch_size[0] == config.patch_size[1] else list(config.patch_size)
    hidden = config.mlp_dim * (2 if config.mlp == "swiglu" and config.position != "rope" else 1)
    options: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": patch,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": _ratio(hidden, config.width),
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "class_token": config.class_token,
        "global_pool": next(theirs for theirs, ours in _POOLS.items() if ours == config.pool),
    }
    if config.layer_scale is not None:
        options["init_values"] = config.layer_scale
    if config.stochastic_depth:
        options["drop_path_rate"] = config.stochastic_depth
    if config.dropout:
        options |= {"pos_drop_rate": config.dropout, "proj_drop_rate": config.dropout}
    return options


def _plain(config: ViTConfig) -> dict[str, Any]:
    """Arguments of the class VisionTransformer."""
    options: dict[str, Any] = {
        "reg_tokens": config.registers,
        "no_embed_class": bool(config.prefix) and not config.position_rows,
        "pos_embed": "none" if config.position == "none" else "learn",
        "pre_norm": config.norm_before,
        "fc_norm": config.norm_after_pool and not config.distillation_token,
    }
    if config.mlp == "swiglu":
        options |= {} if config.layer_scale is not None else {"init_values": 0.0}  # none, as its own name has one
    else:
        options["act_layer"] = next(theirs for theirs, ours in _GELUS.items() if ours == config.gelu)
    if config.patch_dropout:
        options["patch_drop_rate"] = config.patch_dropout
    return options


def _rotary(config: ViTConfig) -> dict[str, Any]:
    """Arguments of the class Eva."""
    return {
        "num_reg_tokens": config.registers,
        "use_pre_transformer_norm": config.norm_before,
        "use_fc_norm": config.norm_after_pool,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": config.rope_base,
        "rope_rotate_half": True,
        "rope_grid_offset": 0.0,
        "rope_grid_indexing": "ij",
        "attn_type": "rope" if config.qkv_bias and config.key_bias else "eva",
        "swiglu_mlp": config.mlp == "swiglu",
        "swiglu_align_to": 1,  # gate and value as two layers, as in DINOv3
        "attn_pool_num_heads": config.heads,
        "attn_pool_mlp_ratio": _ratio(config.mlp_dim, config.width),
        "dynamic_img_size": True,
    }


def _ratio(hidden: int, width: int) -> float:
    """The ratio whose product with the width, rounded down as timm does, is `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def pretrained_cfg(config: ModelConfig, preprocess: Preprocess) -> dict[str, Any]:
    """The part of config.json that timm's transforms read."""
    distilled = isinstance(config, ViTConfig) and config.distilled
    return {
        "input_size": [config.channels, *config.image_size],
        "fixed_input_size": True,
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop,
        "crop_mode": "squash" if preprocess.resize == "squash" else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": config.classes,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if distilled else "head",
    }


def read_preprocess(description: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """The evaluation that timm would run for this config.json, at `size`."""
    if "architecture" not in description:
        return Preprocess(size=size)
    stored = _pretrained(description)
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
