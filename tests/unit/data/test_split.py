"""The split by content: what it promises to every class, and that names and order do not matter."""

import hashlib

import numpy as np
import pytest

from vitrail.data.split import split_by_content
from vitrail.data.stores import FileSource, MemorySource


def source(*images: tuple[int, bytes], names: list[str] | None = None) -> MemorySource:
    labels = np.array([label for label, _ in images], dtype=np.int64)
    classes = tuple(str(k) for k in range(labels.max() + 1))
    names = names or [f"{index}" for index in range(len(images))]
    return MemorySource(classes, labels, tuple(data for _, data in images), tuple(names))


def distinct(label: int, count: int) -> list[tuple[int, bytes]]:
    return [(label, f"{label}/{index}".encode()) for index in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held_out"),
    [(1, 0.2, 0), (2, 0.2, 1), (2, 0.9, 1), (3, 0.2, 1), (10, 0.2, 2), (10, 0.99, 9), (100, 0.15, 15)],
)
def test_each_class_gives_its_share_and_keeps_one(count, share, held_out):
    train, val = split_by_content(source(*distinct(0, count), *distinct(1, count)), share)
    assert len(val) == 2 * held_out
    assert sorted([*train, *val]) == list(range(2 * count))


def test_duplicates_fall_on_the_same_side():
    images = [image for image in distinct(0, 20) for _ in range(3)] + distinct(1, 5)
    data = source(*images)
    train, val = split_by_content(data, 0.3)
    assert {data.data[i] for i in train}.isdisjoint(data.data[i] for i in val)
    assert len(val) == 3 * 6 + 2  # shares count distinct images


def test_an_image_under_two_labels_is_never_measured():
    shared = [(0, b"same"), (1, b"same")]
    for extra in range(1, 8):
        data = source(*shared, *distinct(0, extra), *distinct(1, extra))
        train, val = split_by_content(data, 0.5)
        assert {0, 1} <= set(train.tolist())
        assert {int(data.labels[i]) for i in val} == {0, 1}


def test_the_split_follows_content_not_names_or_order():
    images = distinct(0, 30) + distinct(1, 30)
    first = source(*images)
    order = np.random.default_rng(0).permutation(len(images))
    second = source(*(images[i] for i in order), names=[f"renamed {i}" for i in order])
    held_out = [{data.data[i] for i in split_by_content(data, 0.2)[1]} for data in (first, second)]
    assert held_out[0] == held_out[1]


def test_the_rank_is_the_sha256_of_the_bytes():
    data = source(*distinct(0, 10), *distinct(1, 10))
    _, val = split_by_content(data, 0.2)
    by_hash = sorted(range(10), key=lambda i: hashlib.sha256(data.data[i]).hexdigest())
    assert [i for i in val if i < 10] == sorted(by_hash[:2])


def test_an_unreadable_image_is_ranked_by_its_name(tmp_path):
    names = tuple(f"missing-{i}.png" for i in range(10))
    data = FileSource(("a", "b"), np.array([0] * 5 + [1] * 5, dtype=np.int64), tmp_path, names)
    train, val = split_by_content(data, 0.2)
    assert (len(train), len(val)) == (8, 2)
