"""The training stream, for every size of data, batch, start and number of workers.

Every image comes exactly once an epoch, every batch is full, and a run that resumes sees the rest of the stream.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pictures import encode, noise
from vitrail.config import AugmentConfig, DataConfig, Preprocess
from vitrail.data.loader import EvaluationPass, TrainLoader
from vitrail.data.sampler import ClassTurns, batch_positions, epoch_order
from vitrail.data.stores import MemorySource
from vitrail.types import Batch

sizes, batches, seeds = st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31 - 1)


@settings(deadline=None)  # a shared machine stalls now and then
@given(sizes, seeds, st.integers(0, 1000))
def test_an_epoch_is_a_permutation(n, seed, epoch):
    assert sorted(epoch_order(n, seed, epoch).tolist()) == list(range(n))


@settings(deadline=None)
@given(sizes, batches, seeds, st.integers(1, 30))
def test_every_image_comes_once_an_epoch_and_every_batch_is_full(n, batch_size, seed, steps):
    stream = [batch_positions(n, batch_size, seed, step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in stream)
    flat = [position for batch in stream for position in batch]
    assert [epoch for epoch, _ in flat] == [at // n for at in range(len(flat))]
    counts = Counter(flat)
    assert set(counts.values()) == {1}
    for epoch in range(len(flat) // n):
        assert [index for e, index in flat if e == epoch] == epoch_order(n, seed, epoch).tolist()


@settings(deadline=None)
@given(sizes, batches, seeds, st.integers(0, 10**6))
def test_a_step_does_not_depend_on_the_steps_before_it(n, batch_size, seed, step):
    """Resuming at any step gives the suffix of the stream."""
    at = step * batch_size
    expected = []
    while len(expected) < batch_size:
        epoch, offset = divmod(at + len(expected), n)
        expected += [(epoch, index) for index in epoch_order(n, seed, epoch)[offset:].tolist()]
    assert batch_positions(n, batch_size, seed, step) == expected[:batch_size]


@settings(deadline=None)
@given(sizes, seeds)
def test_cutting_the_stream_into_other_batches_keeps_its_order(n, seed):
    whole = batch_positions(n, 60, seed, 0)
    for batch_size in (1, 7, 20):
        parts = [p for step in range(-(-60 // batch_size)) for p in batch_positions(n, batch_size, seed, step)]
        assert parts[:60] == whole


@st.composite
def labelled(draw):
    """(labels of every class at least once, number of classes)."""
    counts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    return torch.tensor(draw(st.permutations(labels))), len(counts)


def turns(data, seed):
    labels, classes = data
    return ClassTurns(labels, tuple(map(str, range(classes))), seed)


@settings(deadline=None)
@given(labelled(), seeds, st.integers(0, 100))
def test_balanced_classes_take_turns(data, seed, place):
    """Counts differ by at most one after any number of places."""
    labels, classes = data
    stream = [turns(data, seed).positions(1, at)[0] for at in range(place + 1)]
    counts = Counter(labels[index].item() for _, index in stream)
    assert max(counts.values()) - min(counts[k] for k in range(classes)) <= 1
    for start in range(0, place + 1 - classes, classes):
        assert {labels[index].item() for _, index in stream[start : start + classes]} == set(range(classes))


@settings(deadline=None)
@given(labelled(), seeds)
def test_balanced_passes_hold_every_image_of_the_class_once(data, seed):
    labels, classes = data
    passes = 3
    longest = int(torch.bincount(labels).max())
    stream = turns(data, seed).positions(classes * longest * passes, 0)
    for k in range(classes):
        members = torch.nonzero(labels == k).flatten().tolist()
        of_class = [(number, index) for number, index in stream if labels[index] == k]
        for number in range(passes):
            assert sorted(index for n, index in of_class if n == number) == members
        assert len(set(of_class)) == len(of_class), "no variation of an image comes twice"


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), seeds, st.integers(0, 3))
def test_a_balanced_epoch_of_equal_classes_is_every_image_once(classes, each, seed, epoch):
    data = torch.arange(classes).repeat(each), classes
    stream = turns(data, seed).positions(classes * each, epoch)
    assert sorted(index for _, index in stream) == list(range(classes * each))


@settings(deadline=None)
@given(labelled(), batches, seeds, st.integers(0, 10**6))
def test_a_balanced_step_does_not_depend_on_the_steps_before_it(data, batch_size, seed, step):
    used = turns(data, seed)
    used.positions(batch_size, step + 3)  # what it keeps must not matter
    expected = [turns(data, seed).positions(1, step * batch_size + i)[0] for i in range(batch_size)]
    assert used.positions(batch_size, step) == expected


def source(n: int) -> MemorySource:
    labels = np.arange(n, dtype=np.int64) % 3
    data = tuple(encode(noise(6 + i % 3, 7, i)) for i in range(n))
    return MemorySource(("a", "b", "c"), labels, data, tuple(str(i) for i in range(n)))


def loader(n: int, batch_size: int, seed: int, workers: int, **augment: object) -> TrainLoader:
    config = AugmentConfig(**({"rotate": 10.0, "shift": 0.1, "mixup": 0.3, "cutmix": 1.0} | augment))
    return TrainLoader(source(n), Preprocess(size=8), config, DataConfig(batch_size=batch_size, workers=workers), seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_balanced_stream_reaches_the_batches(workers):
    """Classes a, b and c have 4, 4 and 3 images; resuming and workers change nothing."""
    config = DataConfig(batch_size=4, workers=workers, sampler="balanced")

    def stream(start: int, stop: int) -> list[Batch]:
        plain = AugmentConfig(rotate=10.0)
        return list(TrainLoader(source(11), Preprocess(size=8), plain, config, 3).batches(start, stop))

    whole = stream(0, 9)
    assert same(whole[5:], stream(5, 9))
    assert torch.cat([batch.labels for batch in whole]).bincount().tolist() == [12, 12, 12]
    expected = ClassTurns(torch.arange(11) % 3, ("a", "b", "c"), 3).positions(36, 0)
    assert torch.cat([batch.index for batch in whole]).tolist() == [index for _, index in expected]
    shuffled = list(loader(11, 4, 3, 0, mixup=0.0, cutmix=0.0).batches(0, 9))
    assert torch.cat([batch.labels for batch in shuffled]).bincount().tolist() != [12, 12, 12]


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
        for a, b in zip(one, two, strict=True)
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.integers(0, 12), st.integers(0, 5))
def test_resuming_gives_the_rest_of_the_stream_bit_for_bit(n, batch_size, seed, start, steps):
    stream = list(loader(n, batch_size, seed, 0).batches(0, start + steps))
    resumed = list(loader(n, batch_size, seed, 0).batches(start, start + steps))
    assert same(stream[start:], resumed)
    again = loader(n, batch_size, seed, 0)
    assert same(stream[start:], [b for step in range(start, start + steps) for b in again.batches(step, step + 1)])


@settings(max_examples=8, deadline=None)  # each starts up to eight processes
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.integers(0, 12), st.integers(0, 4), st.data())
def test_resuming_with_any_number_of_workers_gives_the_rest_of_the_stream(n, batch_size, seed, start, steps, data):
    before, after = (data.draw(st.integers(0, 4), label=when) for when in ("workers before", "workers after"))
    stream = list(loader(n, batch_size, seed, before).batches(0, start + steps))
    assert same(stream[start:], list(loader(n, batch_size, seed, after).batches(start, start + steps)))
    flat = torch.cat([batch.index for batch in stream] or [torch.empty(0, dtype=torch.int64)])
    for epoch in flat[: len(flat) // n * n].reshape(-1, n):
        assert sorted(epoch.tolist()) == list(range(n)), "every image once an epoch"


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_workers_do_not_change_a_bit(workers, start):
    expected = list(loader(11, 4, 3, 0, randaugment_layers=1).batches(start, start + 6))
    torch.manual_seed(workers)  # the caller's generator must not matter
    assert same(expected, list(loader(11, 4, 3, workers, randaugment_layers=1).batches(start, start + 6)))
    assert not same(expected, list(loader(11, 4, 4, 0, randaugment_layers=1).batches(start, start + 6)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 25))
def test_evaluation_counts_every_image_once(n, batch_size):
    passes = EvaluationPass(source(n), Preprocess(size=8), batch_size, workers=0)
    batches = list(passes)
    assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(n))
    assert all(len(batch.images) == len(batch.labels) == len(batch.index) <= batch_size for batch in batches)
    assert len(batches) == len(passes)


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_is_the_same_with_workers(workers):
    assert same(
        list(EvaluationPass(source(10), Preprocess(size=8), 3, workers=0)),
        list(EvaluationPass(source(10), Preprocess(size=8), 3, workers=workers)),
    )
