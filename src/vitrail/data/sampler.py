"""The order of training images, a pure function of (seed, epoch, step): a run resumes at any step without saved state.

The stream is one random permutation of the data an epoch, end to end, cut into batches. A batch may span two epochs, so
that every batch is full and every image comes exactly once an epoch. The balanced stream is ClassTurns.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vitrail.data.labels import counts_of
from vitrail.errors import DataError

LISTED = 10  # empty classes named in an error


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


class ClassTurns:
    """The balanced stream: the K classes take turns, so that each comes equally often, however many images it has.

    A round is K places of the stream, one for each class in a random order. A class fills its places from passes over
    its own images, each pass in a random order: in a pass every image of the class comes exactly once. So after any
    number of places the counts of two classes differ by at most one. An epoch stays as many places as there are images;
    where all classes have equally many, it is every image exactly once, and elsewhere it is not.

    Any step is computed without the ones before it. What is kept between calls only saves time.
    """

    def __init__(self, labels: Int[Tensor, " n"], classes: Sequence[str], seed: int) -> None:
        class_counts(labels, classes)
        self.members = [torch.nonzero(labels == k).flatten() for k in range(len(classes))]
        self.seed = seed
        self.kept: dict[int, tuple[int, list[int]]] = {}  # class -> (pass, its order): the last one asked for

    def positions(self, batch_size: int, step: int) -> list[tuple[int, int]]:
        """(pass of its class, index) of each image of the batch at `step` (counted from 0)."""
        if batch_size < 1 or step < 0:
            raise ValueError(f"batch_size must be positive and step not negative: {batch_size}, {step}")
        found: list[tuple[int, int]] = []
        for at in range(step * batch_size, (step + 1) * batch_size):
            turn, place = divmod(at, len(self.members))
            if place == 0 or not found:
                order = _permutation(len(self.members), _hash("turn", self.seed, turn)).tolist()
            number, offset = divmod(turn, len(self.members[order[place]]))
            found.append((number, self._pass(order[place], number)[offset]))
        return found

    def _pass(self, of_class: int, number: int) -> list[int]:
        """The images of a class in the order of one pass."""
        if of_class not in self.kept or self.kept[of_class][0] != number:
            members = self.members[of_class]
            order = _permutation(len(members), _hash("pass", self.seed, of_class, number))
            self.kept[of_class] = (number, members[order].tolist())
        return self.kept[of_class][1]


def class_counts(labels: Int[Tensor, " n"] | Bool[Tensor, "n K"], classes: Sequence[str]) -> list[int]:
    """Training images of each class. DataError where one has none."""
    counts = counts_of(labels.numpy(), len(classes))
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        named = ", ".join(map(repr, empty[:LISTED])) + (f" and {len(empty) - LISTED} more" if empty[LISTED:] else "")
        raise DataError(
            f"balanced classes need a training image of each, found none of {named}: add some, or leave these out"
        )
    return counts


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of one image's augmentation in one epoch: 63 bits of blake2b."""
    return _hash("sample", seed, epoch, index)


def batch_seed(seed: int, step: int) -> int:
    """The seed of what happens to a batch as a whole (mixup, cutmix)."""
    return _hash("batch", seed, step)


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    return _permutation(n, _hash("epoch", seed, epoch))


def _permutation(n: int, seed: int) -> Int[Tensor, " n"]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _hash(purpose: str, *numbers: int) -> int:
    """63 bits that depend on every number; the purpose keeps the streams apart."""
    text = "/".join((purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
