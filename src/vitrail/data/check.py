"""What is wrong with a data set, found without a model: unreadable images, copies, odd sizes, uneven classes.

Nothing here decides what to do about it: `evaluate.audit` adds what a model sees, and writes the report and the list.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from vitrail.data.labels import counts_of
from vitrail.data.look import SIDE, Look, look, near_pairs
from vitrail.data.stores import Source
from vitrail.errors import ImageError

Kind = Literal["bytes", "pixels", "near"]
KINDS: tuple[Kind, ...] = ("bytes", "pixels", "near")  # from the same file to the same picture

TINY = 0.25  # of the median shorter side
LONG = 4.0  # longer side over shorter: of such an image a square crop shows less than a quarter
UNEVEN = 10.0  # images of the largest class over those of the smallest
FEW = 10  # training images of a class below which little can be learned or said

Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class Scan:
    """All images of a source, looked at once; the keys are positions in it."""

    looks: Mapping[int, Look]
    unreadable: Mapping[int, str]  # the reason

    @property
    def small(self) -> list[int]:
        """Positions of the images that are too small for a search of near copies."""
        return [index for index, one in self.looks.items() if min(one.rows, one.cols) < SIDE]


@dataclass(frozen=True)
class Copies:
    """Images that show one picture. `kind` is the weakest tie that was needed to join them, `similarity` its strength:
    the lowest correlation among the pairs that are near, 1 where there is none."""

    kind: Kind
    similarity: float
    members: tuple[int, ...]  # positions in the source, ascending


def scan(source: Source, notify: Notify | None = None) -> Scan:
    """Decode every image of the source once. `notify(done, total)` is called after each batch.

    An image that cannot be read or decoded is kept with its reason; nothing else is raised for it.
    """
    looks: dict[int, Look] = {}
    unreadable: dict[int, str] = {}

    def one(index: int) -> Look | str:
        try:
            return look(source.read(index).data)
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # decoding leaves Python's lock
        for batch in _batches(len(source), 256):
            for index, found in zip(batch, threads.map(one, batch), strict=True):
                if isinstance(found, Look):
                    looks[index] = found
                else:
                    unreadable[index] = found
            if notify:
                notify(batch.stop, len(source))
    return Scan(looks, unreadable)


def find_copies(found: Scan) -> list[Copies]:
    """Groups of images that show one picture, in the order of their first members.

    Ties are the same bytes, the same pixels, or a near copy: saved again, resized, brightened, or cut by up to a tenth
    at each side. Mirrored and turned copies are not found, nor near ones among images under 32 pixels a side.
    """
    ties: list[tuple[Kind, int, int, float]] = []
    by_content, by_pixels = _first(found, lambda x: x.content), _first(found, lambda x: x.pixels)
    for index, one in found.looks.items():
        if by_content[one.content] != index:
            ties.append(("bytes", by_content[one.content], index, 1.0))
        elif by_pixels[one.pixels] != index:
            ties.append(("pixels", by_pixels[one.pixels], index, 1.0))
    small = set(found.small)
    distinct = [index for index in by_pixels.values() if index not in small]
    if distinct:
        hashes = np.array([found.looks[i].hashes for i in distinct], dtype=np.uint64)
        thumbnails = np.stack([found.looks[i].thumbnail for i in distinct])
        ties += [("near", distinct[a], distinct[b], s) for a, b, s in near_pairs(hashes, thumbnails)]
    return _groups(ties)


def odd_sizes(found: Scan) -> dict[int, str]:
    """Position -> what is odd about the size of that image: tiny beside the others, or a strip."""
    odd: dict[int, str] = {}
    usual = median(min(one.rows, one.cols) for one in found.looks.values()) if found.looks else 0
    for index, one in found.looks.items():
        short, long = sorted((one.rows, one.cols))
        if short < TINY * usual:
            odd[index] = f"tiny: {one.rows} x {one.cols} px, where the shorter side usually has {usual:.0f}"
        elif long > LONG * short:
            odd[index] = f"a strip: {one.rows} x {one.cols} px, of which a square crop shows {short / long:.0%}"
    return odd


def imbalance(classes: Sequence[str], counts: Sequence[int], remedy: str = "sampler=balanced") -> str | None:
    """One sentence where the training images of the classes are uneven or few; None where all is well."""
    most, least = max(counts), min(counts)
    low = classes[list(counts).index(least)]
    if least and most >= UNEVEN * least:
        high = classes[list(counts).index(most)]
        return (
            f"{high!r} has {most:,} training images and {low!r} has {least:,}: train with --set {remedy}, or add images"
        )
    if least < FEW:
        return f"{low!r} has {least} training images: add some, a class needs {FEW} or more"
    return None


def _first(found: Scan, key: Callable[[Look], bytes]) -> dict[bytes, int]:
    """The first position of each distinct key."""
    first: dict[bytes, int] = {}
    for index, one in found.looks.items():
        first.setdefault(key(one), index)
    return first


def _groups(ties: Sequence[tuple[Kind, int, int, float]]) -> list[Copies]:
    """The connected parts of the graph of ties."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        while parent.setdefault(index, index) != index:
            parent[index] = index = parent[parent[index]]
        return index

    for _, a, b, _ in ties:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: dict[int, set[int]] = defaultdict(set)
    kinds: dict[int, list[int]] = defaultdict(list)
    lowest: dict[int, list[float]] = defaultdict(list)
    for kind, a, b, strength in ties:
        at = root(a)
        members[at] |= {a, b}
        kinds[at].append(KINDS.index(kind))
        lowest[at].append(strength)
    return [Copies(KINDS[max(kinds[at])], min(lowest[at]), tuple(sorted(members[at]))) for at in sorted(members)]


def class_counts(source: Source) -> list[int]:
    """Images of each class of the source."""
    return counts_of(source.labels, len(source.classes))


def _batches(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
