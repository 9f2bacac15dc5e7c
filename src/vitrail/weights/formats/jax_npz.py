"""The original JAX code's `.npz` (google-research/vision_transformer, vit_jax/checkpoint.py), both key generations.

Published files carry the older names; today's code writes the newer ("linen") ones. Kernels are (in, out), attention
kernels (D, h, d), the embedding (rows, cols, C, D). The tanh approximation of the GELU and eps 1e-6 are the code's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.rename import Format, Hints, Rule, Shapes, file_grid, same


@dataclass(frozen=True)
class _Names:
    """Sub-module names of one generation."""

    norm1: str
    attention: str
    norm2: str
    mlp: str


_OLD = _Names("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_LINEN = _Names("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def _dense(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}.weight", (f"{theirs}/kernel",), lambda t: t[0].T, lambda t: [t.T]),
        same(f"{ours}.bias", f"{theirs}/bias"),
    ]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [same(f"{ours}.weight", f"{theirs}/scale"), same(f"{ours}.bias", f"{theirs}/bias")]


def _attention(ours: str, theirs: str, heads: int) -> list[Rule]:
    kernels = tuple(f"{theirs}/{part}/kernel" for part in ("query", "key", "value"))
    biases = tuple(f"{theirs}/{part}/bias" for part in ("query", "key", "value"))

    def read_kernels(parts: Sequence[Tensor]) -> Tensor:  # three of (D, h, d) -> (3 D, D)
        return torch.cat([part.flatten(1).T for part in parts])

    def write_kernels(fused: Tensor) -> list[Tensor]:
        return [part.T.reshape(part.shape[1], heads, -1) for part in fused.chunk(3)]

    def read_biases(parts: Sequence[Tensor]) -> Tensor:  # three of (h, d) -> (3 D)
        return torch.cat([part.flatten() for part in parts])

    def write_biases(fused: Tensor) -> list[Tensor]:
        return [part.reshape(heads, -1) for part in fused.chunk(3)]

    def read_out(parts: Sequence[Tensor]) -> Tensor:  # (h, d, D) -> (D, D)
        return parts[0].flatten(0, 1).T

    def write_out(weight: Tensor) -> list[Tensor]:
        return [weight.T.reshape(heads, -1, weight.shape[0])]

    return [
        Rule(f"{ours}.qkv.weight", kernels, read_kernels, write_kernels),
        Rule(f"{ours}.qkv.bias", biases, read_biases, write_biases),
        Rule(f"{ours}.out.weight", (f"{theirs}/out/kernel",), read_out, write_out),
        same(f"{ours}.out.bias", f"{theirs}/out/bias"),
    ]


def _rules(config: ViTConfig, names: _Names) -> list[Rule]:
    rules = [
        Rule(  # (rows, cols, C, D) <-> (D, C, rows, cols)
            "patch_embedding.weight",
            ("embedding/kernel",),
            lambda t: t[0].permute(3, 2, 0, 1),
            lambda t: [t.permute(2, 3, 1, 0)],
        ),
        same("patch_embedding.bias", "embedding/bias"),
        same("position_embedding", "Transformer/posembed_input/pos_embedding"),
        *_norm("norm", "Transformer/encoder_norm"),
    ]
    if config.pool == "token":
        rules.append(same("class_token", "cls"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        rules += _norm(f"{ours}.norm1", f"{theirs}/{names.norm1}")
        rules += _attention(f"{ours}.attention", f"{theirs}/{names.attention}", config.heads)
        rules += _norm(f"{ours}.norm2", f"{theirs}/{names.norm2}")
        rules += _dense(f"{ours}.mlp.fc1", f"{theirs}/{names.mlp}/Dense_0")
        rules += _dense(f"{ours}.mlp.fc2", f"{theirs}/{names.mlp}/Dense_1")
    if config.pre_logits:
        rules += _dense("pre_logits", "pre_logits")
    if config.classes:
        rules += _dense("head", "head")
    return rules


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    rows, cols, channels, width = _shape(shapes, r"embedding/kernel", 4)
    heads = _shape(shapes, r"Transformer/encoderblock_\d+/MultiHeadDotProductAttention_\d/query/kernel", 3)[1]
    mlp_dim = _shape(shapes, r"Transformer/encoderblock_\d+/MlpBlock_\d/Dense_0/kernel", 2)[1]
    token = "cls" in shapes
    patches = _shape(shapes, r"Transformer/posembed_input/pos_embedding", 3)[1] - token
    grid = file_grid(patches, (rows, cols), hints.image_size)
    blocks = {int(m[1]) for key in shapes if (m := re.match(r"Transformer/encoderblock_(\d+)/", key))}
    return ViTConfig(
        image_size=(grid[0] * rows, grid[1] * cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=max(blocks) + 1,
        heads=heads,
        mlp_dim=mlp_dim,
        classes=shapes["head/bias"][0] if "head/bias" in shapes else 0,
        pool="token" if token else "gap",
        pre_logits=shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None,
        gelu="tanh",
    )


def _shape(shapes: Shapes, pattern: str, rank: int) -> tuple[int, ...]:
    """The shape of the first key of this form, which must have this rank."""
    for key, shape in shapes.items():
        if re.fullmatch(pattern, key):
            if len(shape) != rank:
                raise WeightsError(f"{key} should have {rank} axes, found the shape {shape}")
            return shape
    raise WeightsError(f"the file has no key {pattern.replace(chr(92) + 'd+', 'N').replace(chr(92) + 'd', 'N')}")


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
        absent=("conv_root/kernel",),
        infer=_infer,
        rules=lambda config: _rules(config, names),
        position_rule="paper",
        preprocess=_preprocess,
    )


NPZ = _format("npz", _OLD)
NPZ_LINEN = _format("npz-linen", _LINEN)
