"""The image towers of OpenAI's CLIP and of open_clip (open_clip/transformer.py): in a whole file behind `visual.`, or
alone.

The patches are embedded without a bias and normalised before the first block; the head is the projection to the space
shared with text, a matrix without a bias. Which GELU, how many heads and how the tokens are pooled is in no tensor:
open_clip_config.json tells it, and without that the file is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError, close_matches
from vitrail.weights.huggingface import required
from vitrail.weights.open_clip_config import (
    default_preprocess,
    image_size_of,
    model_of,
    read_preprocess,
    write_preprocess,
)
from vitrail.weights.rename import Format, Hints, Rule, Shapes, Tensors, count_of, file_grid, same, shape_of
from vitrail.weights.torch_layers import layer

# Fields of vision_cfg: shown by the tensors or without effect outside training, read, and read at one value only.
_SHOWN = {
    "layers", "width", "mlp_ratio", "patch_size", "ls_init_value", "patch_dropout", "no_ln_pre", "pos_embed_type",
    "attn_pooler_queries", "attn_pooler_heads", "output_tokens",
}  # fmt: skip
_READ = {"head_width", "image_size", "pool_type", "final_ln_after_pool", "act_kwargs", "norm_kwargs"}
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "attentional_pool": (False,), "block_type": (None, "default"), "qk_norm": (False,), "scaled_cosine_attn": (False,),
    "scale_heads": (False,), "scale_attn_inner": (False,), "scale_attn": (False,), "scale_fc": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class _Options:
    """What no tensor shows."""

    heads: int
    gelu: Literal["exact", "tanh", "quick"]
    norm_eps: float = 1e-5  # torch's default, which neither library changes
    pool: Literal["token", "gap"] = "token"
    norm_after_pool: bool = False
    size: tuple[int, int] | None = None


def _rules(config: ViTConfig, prefix: str) -> list[Rule]:
    def flat(tensor: Any) -> list[Any]:
        return [tensor.flatten()]

    rules = [
        same("patch_embedding.weight", f"{prefix}conv1.weight"),
        Rule("class_token", (f"{prefix}class_embedding",), lambda t: t[0].reshape(1, 1, -1), flat),
        Rule("position_embedding", (f"{prefix}positional_embedding",), lambda t: t[0][None], lambda t: [t[0]]),
    ]
    rules += layer("norm_before", f"{prefix}ln_pre") if config.norm_before else []
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}transformer.resblocks.{i}"
        rules += layer(f"{ours}.norm1", f"{theirs}.ln_1") + layer(f"{ours}.norm2", f"{theirs}.ln_2")
        rules.append(same(f"{ours}.attention.qkv.weight", f"{theirs}.attn.in_proj_weight"))
        rules.append(same(f"{ours}.attention.qkv.bias", f"{theirs}.attn.in_proj_bias"))
        rules += layer(f"{ours}.attention.out", f"{theirs}.attn.out_proj")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj")
        if config.layer_scale is not None:
            rules += [same(f"{ours}.scale{j}.gamma", f"{theirs}.ls_{j}.gamma") for j in (1, 2)]
    rules += layer("norm", f"{prefix}ln_post")
    if config.classes:
        rules.append(Rule("head.weight", (f"{prefix}proj",), lambda t: t[0].T, lambda t: [t.T]))
    return rules


def _infer(shapes: Shapes, hints: Hints, prefix: str) -> ViTConfig:
    shapes = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    width, channels, rows, cols = shape_of(shapes, r"conv1\.weight", 4)
    options = _options(hints, width)
    grid = file_grid(shape_of(shapes, r"positional_embedding", 2)[0] - 1, (rows, cols), options.size, hints.image_size)
    size = (grid[0] * rows, grid[1] * cols)
    if options.size is not None and (options.size[0] // rows, options.size[1] // cols) == grid:
        size = options.size
    return ViTConfig(
        image_size=size,
        cut_patches=bool(size[0] % rows or size[1] % cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"transformer\.resblocks\.(\d+)\."),
        heads=options.heads,
        mlp_dim=shape_of(shapes, r"transformer\.resblocks\.\d+\.mlp\.c_fc\.weight", 2)[0],
        classes=shape_of(shapes, r"proj", 2)[1] if "proj" in shapes else 0,
        class_token=True,
        pool=options.pool,
        norm_after_pool=options.norm_after_pool,
        head_has_bias="proj" not in shapes,
        gelu=options.gelu,
        norm_eps=options.norm_eps,
        layer_scale=1e-5 if "transformer.resblocks.0.ls_1.gamma" in shapes else None,
        norm_before="ln_pre.weight" in shapes,
        patch_bias=False,
        position_rule="timm",  # open_clip's own resize: bicubic with antialiasing
    )


def _options(hints: Hints, width: int) -> _Options:
    tables = model_of(hints.description)
    if tables is None:
        named = hints.model
        if isinstance(named, ViTConfig) and named.norm_before:
            return _Options(heads=named.heads, gelu=named.gelu, norm_eps=named.norm_eps)
        raise WeightsError(
            "which GELU this CLIP has, and how many heads, is not in the file; put its open_clip_config.json beside it"
        )
    model, vision = tables
    known = _SHOWN | _READ | _FIXED.keys()
    for key, value in vision.items():
        if key not in known:
            raise WeightsError(f"open_clip_config.json has the vision_cfg field {key!r}{close_matches(key, known)}")
        if key in _FIXED and value not in _FIXED[key]:
            raise WeightsError(f"open_clip_config.json has {key}={value!r}; only {_FIXED[key][0]!r} is read")
    norm = dict(vision.get("norm_kwargs") or {})
    eps = norm.pop("eps", 1e-5)
    if norm:
        raise WeightsError(f"open_clip_config.json has norm_kwargs={vision['norm_kwargs']!r}; only eps is read")
    pools: dict[str, Literal["token", "gap"]] = {"tok": "token", "avg": "gap"}
    if (pool := vision.get("pool_type", "tok")) not in pools:
        raise WeightsError(f"open_clip_config.json has pool_type={pool!r}; known: {', '.join(pools)}")
    return _Options(
        heads=width // int(vision.get("head_width", 64)),
        gelu=_gelu(bool(model.get("quick_gelu")), vision.get("act_kwargs")),
        norm_eps=eps,
        pool=pools[pool],
        norm_after_pool=bool(vision.get("final_ln_after_pool")),
        size=image_size_of(vision),
    )


def _gelu(quick: bool, options: object) -> Literal["exact", "tanh", "quick"]:
    if options in (None, {}):
        return "quick" if quick else "exact"
    if not quick and options in ({"approximate": "tanh"}, {"approximate": "none"}):
        return "tanh" if options == {"approximate": "tanh"} else "exact"
    raise WeightsError(f"open_clip_config.json has act_kwargs={options!r} with quick_gelu={quick}")


def _prepare(tensors: Tensors) -> Tensors:
    """Without the prefix of a model that was trained on several devices."""
    if "module.visual.conv1.weight" not in tensors:
        return tensors
    return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}


def _description(config: Any, preprocess: Preprocess) -> dict[str, Any]:
    """open_clip_config.json without its text_cfg: a tower says nothing about text."""
    holder = "open_clip's visual tower"
    free = {"pool", "norm_after_pool", "gelu", "layer_scale", "norm_before", "class_token"}
    config = required(config, holder, free, {"channels": 3, "patch_bias": False, "head_has_bias": False})
    if config.pool not in ("token", "gap") or not config.class_token or not config.classes:
        raise WeightsError(f"{holder} cannot hold pool={config.pool!r}, class_token={config.class_token}, or no head")
    vision: dict[str, Any] = {
        "image_size": _short(config.image_size),
        "patch_size": _short(config.patch_size),
        "layers": config.depth,
        "width": config.width,
        "head_width": config.width // config.heads,
        "mlp_ratio": config.mlp_dim / config.width,
        "pool_type": "tok" if config.pool == "token" else "avg",
        "final_ln_after_pool": config.norm_after_pool,
        "no_ln_pre": not config.norm_before,
        "norm_kwargs": {"eps": config.norm_eps},
    }
    if config.layer_scale is not None:
        vision["ls_init_value"] = config.layer_scale
    if config.gelu == "tanh":
        vision["act_kwargs"] = {"approximate": "tanh"}
    return {
        "model_cfg": {"embed_dim": config.classes, "vision_cfg": vision, "quick_gelu": config.gelu == "quick"},
        "preprocess_cfg": write_preprocess(preprocess),
    }


def _short(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def _format(name: str, prefix: str) -> Format:
    return Format(
        name=name,
        markers=(f"{prefix}class_embedding", f"{prefix}conv1.weight", f"{prefix}positional_embedding"),
        absent=(),
        infer=partial(_infer, prefix=prefix),
        rules=partial(_rules, prefix=prefix),
        preprocess=default_preprocess,
        prepare=_prepare,
        passengers=(r"(?!visual\.).*",) if prefix else (),  # the text tower and the temperature
        read_description=read_preprocess,
        companions=lambda config, preprocess, labels: {"open_clip_config.json": _description(config, preprocess)},
    )


OPEN_CLIP = _format("open_clip", "visual.")
OPEN_CLIP_VISUAL = _format("open_clip-visual", "")
