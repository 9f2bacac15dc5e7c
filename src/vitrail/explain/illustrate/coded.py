"""Tensors as the page carries them: little-endian bytes in base64, rounded to what the page shows of them."""

import base64
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ATTENTION_UNIT = 1e-4  # a hundredth of a percent
SIMILARITY_UNIT = 1e-2
LARGEST = 8_000_000  # attention entries that a page carries; with more, fewer queries can be chosen
_ESCAPE = 255


def floats(tensor: Tensor) -> dict[str, Any]:
    """As float32."""
    return _coded("f4", tensor.shape, tensor.detach().cpu().to(torch.float32).numpy().astype("<f4").tobytes())


def bytes_of(tensor: Tensor) -> dict[str, Any]:
    """As bytes, of a uint8 tensor."""
    return _coded("u1", tensor.shape, tensor.cpu().contiguous().numpy().tobytes())


def hundredths(tensor: Tensor) -> dict[str, Any]:
    """As signed bytes of 0.01, of numbers between -1 and 1."""
    units = (tensor.double() / SIMILARITY_UNIT).round().to(torch.int8)
    return _coded("i1", tensor.shape, units.cpu().contiguous().numpy().tobytes())


def shares(tensor: Float[Tensor, "L h Q T"]) -> dict[str, Any]:
    """As whole ten thousandths, a byte each; where 255 stands, the number is the next of `large`, two bytes each.

    Most of a row of attention is small, so this takes a byte an entry as a scale a row would, and what the page reads
    from it is the tensor's number as far as it is printed, not about it.
    """
    units = (tensor.double().cpu() / ATTENTION_UNIT).round().to(torch.int32).numpy()
    small = np.minimum(units, _ESCAPE).astype("u1")
    large = units[units >= _ESCAPE].astype("<u2")
    return _coded("shares", tensor.shape, small.tobytes()) | {"large": base64.b64encode(large.tobytes()).decode()}


def as_carried(tensor: Tensor, unit: float) -> Tensor:
    """What the script reads of the numbers: its pictures and those that stand without it have the same pixels."""
    return (tensor.double() / unit).round() * unit


def queries_that_fit(layers: int, heads: int, tokens: int, prefix: int) -> list[int]:
    """The tokens whose rows of attention the page carries: all, or the prefix tokens and evenly spaced patches."""
    rows = max(1, LARGEST // (layers * heads * tokens))
    if rows >= tokens:
        return list(range(tokens))
    step = -(-(tokens - prefix) // max(1, rows - prefix))
    return [*range(prefix), *range(prefix, tokens, step)]


def _coded(kind: str, shape: torch.Size, data: bytes) -> dict[str, Any]:
    return {"type": kind, "shape": list(shape), "data": base64.b64encode(data).decode()}
