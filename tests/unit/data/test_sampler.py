"""Order and seeds: golden values, because a checkpoint of last year must resume on the same stream."""

import pytest
import torch

from vitrail.data.sampler import ClassTurns, batch_positions, batch_seed, class_counts, epoch_order, sample_seed
from vitrail.errors import DataError


def test_golden_order_and_seeds():
    assert epoch_order(10, seed=0, epoch=0).tolist() == [4, 1, 7, 2, 8, 3, 6, 9, 0, 5]
    assert batch_positions(3, 4, seed=1, step=1) == [(1, 1), (1, 0), (2, 0), (2, 1)]
    assert sample_seed(0, 0, 0) == 7238831667829611812
    assert batch_seed(0, 0) == 5248465528190386918


def test_every_argument_matters():
    base = epoch_order(50, 0, 0).tolist()
    assert base != epoch_order(50, 1, 0).tolist()
    assert base != epoch_order(50, 0, 1).tolist()
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(11) for i in range(11)}
    assert len(seeds) == 363  # 1/11 and 11/1 are told apart
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(0, 1, 2) != batch_seed(0, 1)


def test_the_caller_cannot_change_the_order():
    order = epoch_order(8, 3, 1)
    expected = order.tolist()
    order.zero_()
    assert epoch_order(8, 3, 1).tolist() == expected
    assert [index for _, index in batch_positions(8, 8, 3, 1)] == expected


def test_the_global_generator_is_not_touched():
    state = torch.get_rng_state()
    epoch_order(1000, 12, 34)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("n", "batch", "step"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_nonsense_is_refused(n, batch, step):
    with pytest.raises(ValueError, match="must be positive"):
        batch_positions(n, batch, 0, step)


LABELS = torch.tensor([0, 0, 0, 0, 1, 2, 2])
GOLDEN = [(0, 0), (0, 5), (0, 4), (0, 2), (0, 6), (1, 4), (1, 6), (2, 4), (0, 3)]  # (pass of its class, index)


def test_balanced_golden():
    turns = ClassTurns(LABELS, ("a", "b", "c"), seed=0)
    assert turns.positions(9, 0) == GOLDEN


def test_balanced_seeds_matter():
    streams = [ClassTurns(LABELS, ("a", "b", "c"), seed).positions(30, 0) for seed in range(3)]
    assert streams[0] != streams[1] != streams[2]


def test_a_class_without_images_cannot_take_its_turn():
    with pytest.raises(DataError) as error:
        ClassTurns(LABELS, ("a", "b", "c", "d", "e"), seed=0)
    assert str(error.value) == (
        "balanced classes need a training image of each, found none of 'd', 'e': add some, or leave these out"
    )
    assert class_counts(LABELS, ("a", "b", "c")) == [4, 1, 2]


@pytest.mark.parametrize(("batch", "step"), [(0, 0), (1, -1)])
def test_balanced_nonsense_is_refused(batch, step):
    with pytest.raises(ValueError, match="must be positive"):
        ClassTurns(LABELS, ("a", "b", "c"), 0).positions(batch, step)
