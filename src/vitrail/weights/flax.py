"""Rules of flax's layers, which the JAX formats share: kernels are (in, out), attention kernels (D, h, d)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitrail.weights.rename import Rule, same


def dense(ours: str, theirs: str) -> list[Rule]:
    """A Dense layer: kernel (in, out) and bias."""
    return [
        Rule(f"{ours}.weight", (f"{theirs}/kernel",), lambda t: t[0].T, lambda t: [t.T]),
        same(f"{ours}.bias", f"{theirs}/bias"),
    ]


def conv(ours: str, theirs: str) -> Rule:
    """A convolution's kernel: (rows, cols, in, out) <-> (out, in, rows, cols)."""
    return Rule(ours, (theirs,), lambda t: t[0].permute(3, 2, 0, 1), lambda t: [t.permute(2, 3, 1, 0)])


def norm(ours: str, theirs: str) -> list[Rule]:
    """A LayerNorm or GroupNorm: scale and bias."""
    return [same(f"{ours}.weight", f"{theirs}/scale"), same(f"{ours}.bias", f"{theirs}/bias")]


def attention(ours: str, theirs: str, heads: int) -> list[Rule]:
    """MultiHeadDotProductAttention: q, k, v kernels (D, h, d) and biases (h, d); out kernel (h, d, D)."""
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
