"""The original JAX code's `.npz` (google-research/vision_transformer, vit_jax/checkpoint.py), both key generations,
hybrids included.

Published files carry the older names; today's code writes the newer ("linen") ones. The tanh approximation of the
GELU and eps 1e-6 are the code's.
"""

import re
from dataclasses import dataclass

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.weights.flax import attention, conv, dense, norm
from vitrail.weights.rename import Format, Hints, Rule, Shapes, Tensors, count_of, file_grid, same, shape_of


@dataclass(frozen=True)
class _Names:
    """Sub-module names of one generation."""

    norm1: str
    attention: str
    norm2: str
    mlp: str


_OLD = _Names("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_LINEN = _Names("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def _rules(config: ViTConfig, names: _Names) -> list[Rule]:
    rules = [
        conv("patch_embedding.weight", "embedding/kernel"),
        same("patch_embedding.bias", "embedding/bias"),
        same("position_embedding", "Transformer/posembed_input/pos_embedding"),
        *norm("norm", "Transformer/encoder_norm"),
    ]
    if config.stem is not None:
        rules += _resnet("stem", config.stem)
    if config.class_token:
        rules.append(same("class_token", "cls"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        rules += norm(f"{ours}.norm1", f"{theirs}/{names.norm1}")
        rules += attention(f"{ours}.attention", f"{theirs}/{names.attention}", config.heads)
        rules += norm(f"{ours}.norm2", f"{theirs}/{names.norm2}")
        rules += dense(f"{ours}.mlp.fc1", f"{theirs}/{names.mlp}/Dense_0")
        rules += dense(f"{ours}.mlp.fc2", f"{theirs}/{names.mlp}/Dense_1")
    if config.pre_logits:
        rules += dense("pre_logits", "pre_logits")
    if config.classes:
        rules += dense("head", "head")
    return rules


def _resnet(ours: str, config: ResNetConfig) -> list[Rule]:
    rules = [conv(f"{ours}.root.weight", "conv_root/kernel"), *norm(f"{ours}.root_norm", "gn_root")]
    inputs = config.width
    for i, count in enumerate(config.layers):
        for j in range(count):
            unit, theirs = f"{ours}.stages.{i}.{j}", f"block{i + 1}/unit{j + 1}"
            for k in (1, 2, 3):
                rules.append(conv(f"{unit}.conv{k}.weight", f"{theirs}/conv{k}/kernel"))
                rules += norm(f"{unit}.norm{k}", f"{theirs}/gn{k}")
            outputs = 4 * config.width * 2**i
            if j == 0 and (i > 0 or inputs != outputs):
                rules.append(conv(f"{unit}.projection.weight", f"{theirs}/conv_proj/kernel"))
                rules += norm(f"{unit}.projection_norm", f"{theirs}/gn_proj")
            inputs = outputs
    return rules


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    rows, cols, channels, width = shape_of(shapes, r"embedding/kernel", 4)
    block = r"Transformer/encoderblock_\d+"
    token = "cls" in shapes
    patches = shape_of(shapes, r"Transformer/posembed_input/pos_embedding", 3)[1] - token
    stem, stride = None, 1
    if "conv_root/kernel" in shapes:
        stages = count_of(shapes, r"block(\d+)/") - 1  # their numbers begin at 1
        layers = tuple(count_of(shapes, rf"block{i + 1}/unit(\d+)/") - 1 for i in range(stages))
        _, _, channels, root = shape_of(shapes, r"conv_root/kernel", 4)
        stem = ResNetConfig(channels=channels, layers=layers, width=root)
        stride = stem.stride
    grid = file_grid(patches, (rows * stride, cols * stride), hints.image_size)
    size = (grid[0] * rows * stride, grid[1] * cols * stride)
    return ViTConfig(
        image_size=size,
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"Transformer/encoderblock_(\d+)/"),
        heads=shape_of(shapes, block + r"/MultiHeadDotProductAttention_\d/query/kernel", 3)[1],
        mlp_dim=shape_of(shapes, block + r"/MlpBlock_\d/Dense_0/kernel", 2)[1],
        classes=shapes["head/bias"][0] if "head/bias" in shapes else 0,
        stem=None if stem is None else stem.model_copy(update={"image_size": size}),
        pool="token" if token else "gap",
        pre_logits=shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None,
        gelu="tanh",
        position_rule="paper",
    )


def _prepare(tensors: Tensors) -> Tensors:
    """Without the optimiser's prefix, and with old hybrids' GroupNorm tensors (1, 1, 1, C) as (C)."""
    plain = {key.removeprefix("opt/target/"): tensor for key, tensor in tensors.items()}
    group = re.compile(r"(?:.*/)?gn(?:_root|_proj|\d)/(?:scale|bias)")
    return {key: t.flatten() if group.fullmatch(key) and t.shape[:-1] == (1, 1, 1) else t for key, t in plain.items()}


def _finish(tensors: Tensors) -> Tensors:
    """With the optimiser's prefix where its state rides along."""
    state = any(key.startswith("opt/") for key in tensors)
    return {f"opt/target/{k}" if state and not k.startswith("opt/") else k: t for k, t in tensors.items()}


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """Evaluation of vit_jax/input_pipeline.py: squash, bilinear without antialiasing, pixels to [-1, 1]."""
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear", antialias=False)


def _format(name: str, names: _Names) -> Format:
    return Format(
        name=name,
        markers=(
            "embedding/kernel",
            "Transformer/posembed_input/pos_embedding",
            f"Transformer/encoderblock_0/{names.attention}/query/kernel",
        ),
        absent=(),
        infer=_infer,
        rules=lambda config: _rules(config, names),
        preprocess=_preprocess,
        prepare=_prepare,
        finish=_finish,
        passengers=(r"opt/(?!target/).*",),  # what an optimiser remembers
    )


NPZ = _format("npz", _OLD)
NPZ_LINEN = _format("npz-linen", _LINEN)
