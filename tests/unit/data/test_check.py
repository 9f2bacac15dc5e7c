"""What is found wrong without a model: each finding, and data without it."""

import numpy as np
import pytest

from pictures import encode, noise, smooth
from vitrail.data.check import class_counts, find_copies, imbalance, odd_sizes, scan
from vitrail.data.stores import MemorySource


def source(*data: bytes) -> MemorySource:
    names = tuple(f"{i}.png" for i in range(len(data)))
    return MemorySource(("a", "b"), np.zeros(len(data), np.int64), tuple(data), names)


def test_every_image_is_read_or_has_a_reason():
    told: list[tuple[int, int]] = []
    found = scan(source(encode(noise(8, 9)), b"", b"hello there", encode(noise(5, 5))), lambda *n: told.append(n))
    assert {i: (one.rows, one.cols) for i, one in found.looks.items()} == {0: (8, 9), 3: (5, 5)}
    assert dict(found.unreadable) == {1: "empty file", 2: "not an image, but text"}
    assert told == [(4, 4)]


def test_copies_by_bytes_by_pixels_and_by_sight():
    first, other = smooth(64, 64, 1), smooth(64, 64, 2)
    data = source(
        encode(first),
        encode(other),
        encode(first),
        encode(first, "BMP"),
        encode(other, "JPEG", quality=80),
        encode(smooth(64, 64, 3)),
    )
    groups = find_copies(scan(data))
    assert [(g.kind, g.members) for g in groups] == [("pixels", (0, 2, 3)), ("near", (1, 4))]
    assert groups[0].similarity == 1.0
    assert 0.95 <= groups[1].similarity < 1.0


def test_a_group_is_as_weak_as_its_weakest_tie():
    first = smooth(64, 64, 1)
    data = source(encode(first), encode(first), encode(first, "JPEG", quality=70))
    assert [(g.kind, g.members) for g in find_copies(scan(data))] == [("near", (0, 1, 2))]


def test_small_images_are_compared_by_their_pixels_alone():
    first = smooth(16, 16, 1)
    found = scan(source(encode(first), encode(first, "JPEG", quality=90), encode(first, "BMP")))
    assert found.small == [0, 1, 2]
    assert [(g.kind, g.members) for g in find_copies(found)] == [("pixels", (0, 2))]


def test_odd_sizes():
    usual = [encode(noise(100, 120, seed)) for seed in range(5)]
    found = scan(source(*usual, encode(noise(20, 100)), encode(noise(101, 430)), encode(noise(26, 26))))
    assert odd_sizes(found) == {
        5: "tiny: 20 x 100 px, where the shorter side usually has 100",
        6: "a strip: 101 x 430 px, of which a square crop shows 23%",
    }


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((50, 50), None),
        ((490, 50), None),
        ((500, 50), "'rose' has 500 training images and 'fern' has 50: train with --set sampler=balanced"),
        ((9, 10), "'rose' has 9 training images: add some"),
        ((12, 0), "'fern' has 0 training images"),
    ],
)
def test_imbalance(counts, sentence):
    found = imbalance(("rose", "fern"), counts)
    assert found is None if sentence is None else found is not None and found.startswith(sentence)


def test_class_counts_hold_the_classes_without_images():
    assert class_counts(source(encode(noise(4, 4)), encode(noise(4, 4)))) == [2, 0]
