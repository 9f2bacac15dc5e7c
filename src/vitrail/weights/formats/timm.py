"""timm's names (timm/models/vision_transformer.py, deit.py, eva.py): the plain ViT and its descendants, DeiT with two
heads, and DINOv3, whose rotary class has other names for the same things."""

import re
from collections.abc import Sequence
from typing import Literal

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.open_clip_config import default_preprocess, model_of
from vitrail.weights.open_clip_config import read_preprocess as read_preprocess_of_open_clip
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
from vitrail.weights.timm_config import (
    TimmOptions,
    companions,
    describe,
    description_in_open_clip,
    image_sizes,
    read_options,
    read_preprocess,
)
from vitrail.weights.torch_layers import joined, layer, layer_with_zero_bias, with_zero_rows


def _rules(config: ViTConfig) -> list[Rule]:
    rotary = config.position == "rope"
    rules = _embedding(config)
    for i in range(config.depth):
        rules += _block(config, f"blocks.{i}", rotary)
    # DeiT's two heads know no norm after the pool, and without it is the same
    rules += layer("norm", "fc_norm" if config.norm_after_pool and not config.distillation_token else "norm")
    if config.pool == "map":
        ours, theirs = "attention_pool", "attn_pool"
        rules.append(same(f"{ours}.probe", f"{theirs}.latent"))
        rules += [_pool_projection(ours, theirs, kind, config.width) for kind in ("weight", "bias")]
        rules += layer(f"{ours}.attention.out", f"{theirs}.proj")
        rules += layer(f"{ours}.norm", f"{theirs}.norm")
        rules += layer(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1") + layer(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")
    if config.pre_logits:
        rules += layer("pre_logits", "pre_logits.fc")  # timm's own name for it, before it gave up the layer
    head = layer if config.head_has_bias else layer_with_zero_bias
    if config.classes:
        rules += head("head", "head")
        rules += head("distillation_head", "head_dist") if config.distilled else []
    return rules


def _embedding(config: ViTConfig) -> list[Rule]:
    """The patches, the tokens before them, and their positions."""
    if config.patch_bias or config.norm_before:
        rules = layer("patch_embedding", "patch_embed.proj", bias=config.patch_bias)
    else:
        rules = layer_with_zero_bias("patch_embedding", "patch_embed.proj")
    tokens = {
        "class_token": ("cls_token", config.class_token),
        "distillation_token": ("dist_token", config.distillation_token),
        "registers": ("reg_token", config.registers),
    }
    rules += [same(ours, theirs) for ours, (theirs, there) in tokens.items() if there]
    if config.position == "learned" and config.registers and config.position_rows == config.heading > 0:
        # in timm's networks all tokens before the patches have positions, or none has
        rules.append(with_zero_rows("position_embedding", "pos_embed", 1, config.heading, config.registers))
    elif config.position == "learned":
        rules.append(same("position_embedding", "pos_embed"))
    return rules + (layer("norm_before", "norm_pre") if config.norm_before else [])


def _block(config: ViTConfig, name: str, rotary: bool) -> list[Rule]:
    theirs = f"{name}.attn"
    rules = layer(f"{name}.norm1", f"{name}.norm1") + layer(f"{name}.norm2", f"{name}.norm2")
    rules += layer(f"{name}.attention.qkv", f"{theirs}.qkv", bias=config.qkv_bias and config.key_bias)
    if config.qkv_bias and not config.key_bias:
        ours = f"{name}.attention.qv_bias"
        if rotary:
            rules.append(joined(ours, [f"{theirs}.q_bias", f"{theirs}.v_bias"]))
        else:
            rules.append(with_zero_rows(ours, f"{theirs}.qkv.bias", 0, config.width, config.width))
    if config.qk_norm:
        rules += layer(f"{name}.attention.q_norm", f"{theirs}.q_norm")
        rules += layer(f"{name}.attention.k_norm", f"{theirs}.k_norm")
    rules += layer(f"{name}.attention.out", f"{theirs}.proj")
    if config.mlp == "swiglu" and rotary:
        parts = [[f"{name}.mlp.fc1_{part}.{kind}" for part in "gx"] for kind in ("weight", "bias")]
        rules += [joined(f"{name}.mlp.fc1.weight", parts[0]), joined(f"{name}.mlp.fc1.bias", parts[1])]
    else:
        rules += layer(f"{name}.mlp.fc1", f"{name}.mlp.fc1")
    rules += layer(f"{name}.mlp.fc2", f"{name}.mlp.fc2")
    if config.layer_scale is not None:
        scales = ("gamma_1", "gamma_2") if rotary else ("ls1.gamma", "ls2.gamma")
        rules += [same(f"{name}.scale{i + 1}.gamma", f"{name}.{scale}") for i, scale in enumerate(scales)]
    return rules


def _pool_projection(ours: str, theirs: str, kind: Literal["weight", "bias"], width: int) -> Rule:
    """Attention pooling: the query's projection on its own, those of keys and values fused."""
    fused = joined(f"{ours}.attention.qkv.{kind}", [f"{theirs}.q.{kind}", f"{theirs}.kv.{kind}"])
    return Rule(fused.ours, fused.theirs, fused.read, lambda t: [t[:width], t[width:]])


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    width, channels, rows, cols = shape_of(shapes, r"patch_embed\.proj\.weight", 4)
    inner = shape_of(shapes, r"blocks\.\d+\.mlp\.fc2\.weight", 2)[1]
    description = hints.description or {}
    options = read_options(description) if "architecture" in description else _bare(shapes, hints)
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    heading = ("cls_token" in shapes) + ("dist_token" in shapes)
    named = image_sizes(description)
    rows_before, grid = _positions(shapes, options, heading + registers, (rows, cols), [*named, hints.image_size])
    pre_logits = shapes.get("pre_logits.fc.bias")
    gated = "blocks.0.mlp.fc1_g.weight" in shapes or (
        shape_of(shapes, r"blocks\.\d+\.mlp\.fc1\.weight", 2)[0] == 2 * inner
    )
    size = (grid[0] * rows, grid[1] * cols)
    whole = next((s for s in named if (s[0] // rows, s[1] // cols) == grid), size)
    return ViTConfig(
        image_size=whole,
        cut_patches=whole != size,
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"blocks\.(\d+)\."),
        heads=options.heads,
        mlp_dim=inner,
        classes=classes,
        class_token="cls_token" in shapes,
        distillation_token="dist_token" in shapes,
        registers=registers,
        pool=options.pool,
        norm_after_pool="fc_norm.weight" in shapes,
        pre_logits=None if pre_logits is None else pre_logits[0],
        head_has_bias=not classes or "head.bias" in shapes,
        position=options.position,
        position_prefix=options.position != "learned" or rows_before > 0 or not heading,
        position_registers=bool(registers) and rows_before > 0,
        position_rule="timm",
        rope_base=options.rope_base,
        gelu=options.gelu,
        mlp="swiglu" if gated else "gelu",
        norm_eps=options.norm_eps,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes or "blocks.0.attn.q_bias" in shapes,
        key_bias="blocks.0.attn.q_bias" not in shapes,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
        layer_scale=options.layer_scale if "blocks.0.ls1.gamma" in shapes or "blocks.0.gamma_1" in shapes else None,
        norm_before="norm_pre.weight" in shapes,
        patch_bias="patch_embed.proj.bias" in shapes,
        dropout=options.dropout,
        stochastic_depth=options.stochastic_depth,
        patch_dropout=options.patch_dropout,
    )


def _bare(shapes: Shapes, hints: Hints) -> TimmOptions:
    """The options of a file without config.json: timm's defaults, where its names leave no doubt."""
    rotary = "blocks.0.gamma_1" in shapes or "blocks.0.attn.q_bias" in shapes
    if "norm_pre.weight" in shapes or "attn_pool.latent" in shapes:
        raise WeightsError(
            "which GELU and eps this CLIP or SigLIP network has is not in the file; give its config.json"
        )
    if rotary and "pos_embed" in shapes:
        raise WeightsError("the file holds a network of timm's class Eva with learned positions, which is not read")
    if not rotary and "pos_embed" not in shapes:
        raise WeightsError("the file has no positions; whether they are rotary is in its config.json")
    if not isinstance(hints.model, ViTConfig):
        raise HeadsNotTold()
    mean = rotary or "cls_token" not in shapes or "fc_norm.weight" in shapes  # Eva's own default is the mean
    return TimmOptions(
        rotary=rotary,
        heads=hints.model.heads,
        pool="gap" if mean else "token",
        gelu="exact",
        norm_eps=1e-5 if rotary else 1e-6,
        layer_scale=1e-5,
        position="rope" if rotary else "learned",
        position_prefix=None,
        rope_base=100.0,
        dropout=0.0,
        stochastic_depth=0.0,
        patch_dropout=0.0,
    )


def _positions(
    shapes: Shapes,
    options: TimmOptions,
    prefix: int,
    patch: tuple[int, int],
    sizes: Sequence[tuple[int, int] | None],
) -> tuple[int, tuple[int, int]]:
    """Rows of the positions before those of the patches, and the (rows, cols) of the grid."""
    if options.position != "learned":
        size = next((s for s in sizes if s is not None), (224, 224))
        return 0, (size[0] // patch[0], size[1] // patch[1])
    total = shape_of(shapes, r"pos_embed", 3)[1]
    if options.position_prefix is not None:
        before = [prefix if options.position_prefix else 0]
    else:
        before = [n for n in {prefix, 0} if _fits(total - n, patch, sizes)] or [prefix]
    if len(before) > 1:
        raise WeightsError(
            f"the file's {total} positions fit a grid with and without its {prefix} first tokens; give its config.json"
        )
    return before[0], file_grid(total - before[0], patch, *sizes)


def _fits(patches: int, patch: tuple[int, int], sizes: Sequence[tuple[int, int] | None]) -> bool:
    try:
        file_grid(patches, patch, *sizes)
    except WeightsError:
        return False
    return True


def _prepare(tensors: Tensors) -> Tensors:
    """With the LayerScale of DeiT III's own files under timm's names for it."""
    if "pos_embed" not in tensors or "blocks.0.attn.qkv.bias" not in tensors:
        return tensors
    return {re.sub(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma", key): t for key, t in tensors.items()}


def _trunk_rules(config: ViTConfig) -> list[Rule]:
    """In open_clip's files, where a head without a bias is open_clip's own layer."""
    own = not config.head_has_bias and config.classes
    rules = [rule for rule in _rules(config) if not (own and rule.ours == "head.weight")]
    rules = [Rule(r.ours, tuple(f"{_TRUNK}{key}" for key in r.theirs), r.read, r.write) for r in rules]
    return [*rules, same("head.weight", _OWN_HEAD)] if own else rules


def _infer_trunk(shapes: Shapes, hints: Hints) -> ViTConfig:
    tables = model_of(hints.description)
    if tables is None:
        raise WeightsError(
            "which of timm's networks this image tower is, is not in the file; put its open_clip_config.json beside it"
        )
    plain = {key.removeprefix(_TRUNK): shape for key, shape in shapes.items() if key.startswith(_TRUNK)}
    if _OWN_HEAD in shapes:
        plain["head.weight"] = shapes[_OWN_HEAD]
    return _infer(plain, Hints(hints.model, hints.image_size, description_in_open_clip(tables)))


_TRUNK, _OWN_HEAD = "visual.trunk.", "visual.head.proj.weight"
TIMM = Format(
    name="timm",
    markers=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    absent=("mask_token", "register_tokens", "storage_tokens"),  # DINOv2's and DINOv3's own files, and MAE's
    infer=_infer,
    rules=_rules,
    preprocess=lambda size: Preprocess(size=size),
    prepare=_prepare,
    describe=describe,
    read_description=read_preprocess,
    companions=companions,
)
TIMM_IN_OPEN_CLIP = Format(
    name="open_clip-timm",
    markers=(f"{_TRUNK}patch_embed.proj.weight", f"{_TRUNK}blocks.0.attn.qkv.weight"),
    absent=(),
    infer=_infer_trunk,
    rules=_trunk_rules,
    preprocess=default_preprocess,
    passengers=(r"(?!visual\.).*",),  # the text tower and the temperature
    read_description=read_preprocess_of_open_clip,
)
