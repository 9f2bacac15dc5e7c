"""Rules of torch's layers, which the PyTorch formats share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.rename import Rule, same


def layer(ours: str, theirs: str, bias: bool = True) -> list[Rule]:
    """A Linear, a convolution or a norm: weight and, where it has one, bias."""
    weight = same(f"{ours}.weight", f"{theirs}.weight")
    return [weight, same(f"{ours}.bias", f"{theirs}.bias")] if bias else [weight]


def layer_with_zero_bias(ours: str, theirs: str) -> list[Rule]:
    """A layer without a bias, in a file whose layer has one: it is written as zeros, and read where it is zero."""
    bias = f"{theirs}.bias"

    def read(parts: Sequence[Tensor]) -> Tensor:
        _check_zero(parts[1], bias)
        return parts[0]

    return [Rule(f"{ours}.weight", (f"{theirs}.weight", bias), read, lambda w: [w, w.new_zeros(w.shape[0])])]


def joined(ours: str, theirs: Sequence[str]) -> Rule:
    """One tensor that the file holds in equal parts along the first axis."""
    return Rule(ours, tuple(theirs), lambda parts: torch.cat(list(parts)), lambda t: list(t.chunk(len(theirs))))


def with_zero_rows(ours: str, theirs: str, axis: int, start: int, count: int) -> Rule:
    """A tensor whose twin in the file has `count` more rows of zeros at `start`, along `axis`."""

    def read(parts: Sequence[Tensor]) -> Tensor:
        _check_zero(parts[0].narrow(axis, start, count), f"rows {start} to {start + count - 1} of {theirs}")
        rest = parts[0].shape[axis] - start - count
        return torch.cat([parts[0].narrow(axis, 0, start), parts[0].narrow(axis, start + count, rest)], dim=axis)

    def write(tensor: Tensor) -> list[Tensor]:
        shape = list(tensor.shape)
        shape[axis] = count
        rest = tensor.shape[axis] - start
        parts = [tensor.narrow(axis, 0, start), tensor.new_zeros(shape), tensor.narrow(axis, start, rest)]
        return [torch.cat(parts, dim=axis)]

    return Rule(ours, (theirs,), read, write)


def _check_zero(tensor: Tensor, name: str) -> None:
    if bool(tensor.count_nonzero()):
        raise WeightsError(f"{name} should be zero in this model, and is not")
