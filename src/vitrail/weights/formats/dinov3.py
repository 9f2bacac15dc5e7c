"""DINOv3's own names (facebookresearch/dinov3, models/vision_transformer.py): timm's, beside `storage_tokens` for the
registers, `mask_token`, the rotary `rope_embed.periods`, and `w1` (gate), `w2`, `w3` where the MLP is gated.

Its attention has one bias for queries, keys and values, and a mask of ones and zeros that takes the keys' part away;
vitrail's has no such part. The periods are numbers that follow from the base: both are read only where they say so.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.huggingface import required
from vitrail.weights.rename import Format, Hints, Rule, Shapes, count_of, same, shape_of
from vitrail.weights.torch_layers import joined, layer

_BASE = 100.0  # of the rotary periods, in every published network


def _rules(config: ViTConfig) -> list[Rule]:
    rules = [*layer("patch_embedding", "patch_embed.proj"), _class_token(config), *layer("norm", "norm")]
    if config.registers:
        rules.append(same("registers", "storage_tokens"))
    for i in range(config.depth):
        name = f"blocks.{i}"
        rules += layer(f"{name}.norm1", f"{name}.norm1") + layer(f"{name}.norm2", f"{name}.norm2")
        rules.append(same(f"{name}.attention.qkv.weight", f"{name}.attn.qkv.weight"))
        if config.qkv_bias:
            rules.append(_masked_bias(f"{name}.attention.qv_bias", f"{name}.attn.qkv", config.width))
        rules += layer(f"{name}.attention.out", f"{name}.attn.proj")
        if config.mlp == "swiglu":
            for kind in ("weight", "bias"):
                rules.append(joined(f"{name}.mlp.fc1.{kind}", [f"{name}.mlp.w{j}.{kind}" for j in (1, 2)]))
            rules += layer(f"{name}.mlp.fc2", f"{name}.mlp.w3")
        else:
            rules += layer(f"{name}.mlp.fc1", f"{name}.mlp.fc1") + layer(f"{name}.mlp.fc2", f"{name}.mlp.fc2")
        rules += [same(f"{name}.scale{j}.gamma", f"{name}.ls{j}.gamma") for j in (1, 2)]
    return rules


def _class_token(config: ViTConfig) -> Rule:
    """The class token, and beside it the periods, of which no tensor of ours is made."""
    d = config.width // config.heads
    periods = config.rope_base ** torch.arange(0, 1, 4 / d, dtype=torch.float64)

    def read(parts: Sequence[Tensor]) -> Tensor:
        found = parts[1]
        # half precision keeps three digits
        if not found.is_meta and not torch.allclose(found.double(), periods, rtol=1e-2):
            raise WeightsError(f"rope_embed.periods are not those of the base {config.rope_base:g}; no others are read")
        return parts[0]

    return Rule(
        "class_token", ("cls_token", "rope_embed.periods"), read, lambda t: [t, periods.to(t.device, torch.float32)]
    )


def _masked_bias(ours: str, theirs: str, width: int) -> Rule:
    """Biases of queries and values out of one for all three, whose mask takes that of the keys away."""

    def read(parts: Sequence[Tensor]) -> Tensor:
        bias, mask = parts
        expected = torch.ones_like(mask).index_fill(0, torch.arange(width, 2 * width, device=mask.device), 0)
        if not mask.is_meta and not torch.equal(mask, expected):
            raise WeightsError(f"{theirs}.bias_mask should be zero for the keys and one elsewhere, and is not")
        return torch.cat([bias[:width], bias[2 * width :]])

    def write(tensor: Tensor) -> list[Tensor]:
        queries, values = tensor.chunk(2)
        one, zero = torch.ones_like(queries), torch.zeros_like(queries)
        return [torch.cat([queries, zero, values]), torch.cat([one, zero, one])]

    return Rule(ours, (f"{theirs}.bias", f"{theirs}.bias_mask"), read, write)


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    width, channels, rows, cols = shape_of(shapes, r"patch_embed\.proj\.weight", 4)
    gated = "blocks.0.mlp.w3.weight" in shapes
    size = (hints.description or {}).get("model_args", {}).get("img_size")
    described = (size, size) if isinstance(size, int) else None
    return ViTConfig(
        image_size=described or hints.image_size or (224, 224),  # rotary positions leave no trace of the size
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"blocks\.(\d+)\."),
        heads=_heads(width, shapes, hints),
        mlp_dim=shape_of(shapes, r"blocks\.\d+\.mlp\.(?:w3|fc2)\.weight", 2)[1],
        classes=0,
        registers=shape_of(shapes, r"storage_tokens", 3)[1] if "storage_tokens" in shapes else 0,
        position="rope",
        rope_base=_BASE,
        mlp="swiglu" if gated else "gelu",
        norm_eps=1e-5,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        key_bias="blocks.0.attn.qkv.bias" not in shapes,
        layer_scale=1e-5,
    )


def _heads(width: int, shapes: Shapes, hints: Hints) -> int:
    """The periods are a quarter of a head's channels."""
    if isinstance(hints.model, ViTConfig):
        return hints.model.heads
    quarter = shape_of(shapes, r"rope_embed\.periods", 1)[0]
    if not quarter or width % (4 * quarter):
        raise WeightsError(f"{quarter} rope_embed.periods are no quarter of the channels of a head, of {width} in all")
    return width // (4 * quarter)


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """Its evaluation transform (README): squashed, bilinear, ImageNet's mean and deviation."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear", mean=mean, std=std)


def _description(config: Any) -> dict[str, Any]:
    """The arguments of its DinoVisionTransformer, which its files come without."""
    holder = "DINOv3's own code"
    free = {"mlp", "registers", "layer_scale", "qkv_bias", "key_bias"}
    config = required(config, holder, free, {"position": "rope", "norm_eps": 1e-5, "rope_base": _BASE})
    odd = {
        "classes": config.classes,
        "mlp_dim": config.mlp_dim if config.mlp == "swiglu" and config.mlp_dim % 8 else 0,  # it rounds up to those
        "layer_scale": None if config.layer_scale is None else False,
        "key_bias": config.qkv_bias and config.key_bias,
        "image_size": config.image_size if config.image_size[0] != config.image_size[1] else False,
        "patch_size": config.patch_size if config.patch_size[0] != config.patch_size[1] else False,
    }
    if named := [f"{name}={value}" for name, value in odd.items() if value is None or value]:
        raise WeightsError(f"{holder} cannot hold {', '.join(named)}")
    return {
        "library": "dinov3",
        "architecture": "DinoVisionTransformer",
        "model_args": {
            "img_size": config.image_size[0],
            "patch_size": config.patch_size[0],
            "in_chans": config.channels,
            "pos_embed_rope_base": config.rope_base,
            "embed_dim": config.width,
            "depth": config.depth,
            "num_heads": config.heads,
            "ffn_ratio": config.mlp_dim * (1.5 if config.mlp == "swiglu" else 1) / config.width,
            "qkv_bias": config.qkv_bias,
            "layerscale_init": config.layer_scale,
            "norm_layer": "layernormbf16",
            "ffn_layer": "swiglu" if config.mlp == "swiglu" else "mlp",
            "n_storage_tokens": config.registers,
            "mask_k_bias": config.qkv_bias,
        },
    }


def _describe(config: Any, preprocess: Preprocess) -> dict[str, Any] | None:
    try:
        return _description(config)
    except WeightsError:
        return None


DINOV3 = Format(
    name="dinov3",
    markers=("cls_token", "rope_embed.periods", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"),
    absent=("pos_embed",),
    infer=_infer,
    rules=_rules,
    preprocess=_preprocess,
    passengers=("mask_token", r"local_cls_norm\.(?:weight|bias)"),  # the latter is for training's small crops
    describe=_describe,
    companions=lambda config, preprocess, labels: {"config.json": _description(config)},
)
