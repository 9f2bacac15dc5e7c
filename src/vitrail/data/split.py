"""Splits for data that come without them: by content, so that the same images always fall on the same side."""

import hashlib
from collections import defaultdict

import numpy as np

from vitrail.data.stores import Indices, Source
from vitrail.errors import ImageError


def split_by_content(source: Source, val_share: float) -> tuple[Indices, Indices]:
    """(train, val) positions: val_share of the distinct images of each class are held out.

    Images are ranked within their class by the sha256 of their bytes, so neither names nor order matter and exact
    duplicates fall on the same side. Every class keeps at least one training image and, from two distinct images on,
    gives at least one to val. An image that is filed under several classes is trained on and never measured: one of its
    labels is wrong.
    """
    digests = [_digest(source, index) for index in range(len(source))]
    classes_of: dict[str, set[int]] = defaultdict(set)
    images_of: dict[int, set[str]] = defaultdict(set)
    for digest, label in zip(digests, source.labels.tolist(), strict=True):
        classes_of[digest].add(label)
        images_of[label].add(digest)
    held_out: set[str] = set()
    for images in images_of.values():
        own = sorted(digest for digest in images if len(classes_of[digest]) == 1)
        wanted = max(1, round(val_share * len(images)))
        held_out.update(own[: min(wanted, len(images) - 1)])
    inside = np.array([digest in held_out for digest in digests], dtype=bool)
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def _digest(source: Source, index: int) -> str:
    """sha256 of an image's bytes; of its name where they cannot be read."""
    try:
        data = source.read(index).data
    except ImageError:
        data = source.id(index).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()
