"""Splits for data that come without them: by content, so that the same images always fall on the same side."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vitrail.data.labels import ClassLabels, counts_of, multilabel, places
from vitrail.data.stores import Indices, Source
from vitrail.errors import ImageError

NONE = -1  # what images without any class are ranked among


def split_by_content(source: Source, val_share: float) -> tuple[Indices, Indices]:
    """(train, val) positions: val_share of the distinct images of each class are held out.

    Images are ranked within their class by the sha256 of their bytes, so neither names nor order matter and exact
    duplicates fall on the same side. Every class keeps at least one training image and, from two distinct images on,
    gives at least one to val. An image that is filed under several classes is trained on and never measured: one of its
    labels is wrong.

    Where images may have several classes, each is ranked within the rarest of its own, and a class that would be
    measured without being trained on gives its images back.
    """
    digests = [_digest(source, index) for index in range(len(source))]
    labels = source.labels
    classes_of: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    images_of: dict[int, set[str]] = defaultdict(set)
    for digest, label, ranked in zip(digests, labels, _ranked_in(labels, len(source.classes)), strict=True):
        classes_of[digest].add(places(label))
        images_of[ranked].add(digest)
    held_out: set[str] = set()
    for images in images_of.values():
        own = sorted(digest for digest in images if len(classes_of[digest]) == 1)
        wanted = max(1, round(val_share * len(images)))
        held_out.update(own[: min(wanted, len(images) - 1)])
    inside = np.array([digest in held_out for digest in digests], dtype=bool)
    if multilabel(labels):
        untrained = ~labels[~inside].any(axis=0)  # K
        inside &= ~labels[:, untrained].any(axis=1)
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def _ranked_in(labels: ClassLabels, classes: int) -> Sequence[int]:
    """The class within which each image is ranked: its own, or the rarest of them."""
    if not multilabel(labels):
        return [int(label) for label in labels]
    counts = counts_of(labels, classes)
    return [min(places(row), key=lambda k: (counts[k], k), default=NONE) for row in labels]


def _digest(source: Source, index: int) -> str:
    """sha256 of an image's bytes; of its name where they cannot be read."""
    try:
        data = source.read(index).data
    except ImageError:
        data = source.id(index).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()
