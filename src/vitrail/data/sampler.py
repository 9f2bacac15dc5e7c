"""The order of training images, a pure function of (seed, epoch, step): a run resumes at any step without saved state.

The stream is one random permutation of the data an epoch, end to end, cut into batches. A batch may span two epochs, so
that every batch is full and every image comes exactly once an epoch.
"""

import hashlib
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor


def epoch_order(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The permutation of 0..n-1 in which an epoch (counted from 0) reads the data."""
    return _order(n, seed, epoch).clone()


def batch_positions(n: int, batch_size: int, seed: int, step: int) -> list[tuple[int, int]]:
    """(epoch, index) of each image of the batch at `step` (counted from 0)."""
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"n and batch_size must be positive and step not negative: {n}, {batch_size}, {step}")
    at, end = step * batch_size, (step + 1) * batch_size
    positions: list[tuple[int, int]] = []
    while at < end:
        epoch, offset = divmod(at, n)
        indices = _order(n, seed, epoch)[offset : offset + end - at].tolist()
        positions += [(epoch, index) for index in indices]
        at += len(indices)
    return positions


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of one image's augmentation in one epoch: 63 bits of blake2b."""
    return _hash("sample", seed, epoch, index)


def batch_seed(seed: int, step: int) -> int:
    """The seed of what happens to a batch as a whole (mixup, cutmix)."""
    return _hash("batch", seed, step)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    generator = torch.Generator().manual_seed(_hash("epoch", seed, epoch))
    return torch.randperm(n, generator=generator)


def _hash(purpose: str, *numbers: int) -> int:
    """63 bits that depend on every number; the purpose keeps the streams apart."""
    text = "/".join((purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
