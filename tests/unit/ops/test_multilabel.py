"""Scores where an image may have several classes: against worked cases, scikit-learn, and each other."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from vitrail.ops.multilabel import (
    Counts,
    average_precision,
    bootstrap_interval,
    count,
    mean_average_precision,
    named,
    set_losses,
)


def random_case(images: int, classes: int, levels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits on a few levels, so that many are equal, and truth that they tell something of."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(images, classes, generator=generator) < 0.3
    truth[0], truth[1] = True, False
    noise = torch.rand(images, classes, generator=generator)
    return ((noise + 0.4 * truth) * levels).round(), truth


def test_average_precision_by_hand():
    # Ranked: hit, miss, hit. Precisions at the hits: 1 and 2/3.
    logits, truth = torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[True], [False], [True]])
    assert average_precision(logits, truth).tolist() == [pytest.approx((1 + 2 / 3) / 2, abs=1e-15)]
    # All equal: one place, where the share of hits is that of chance.
    assert average_precision(torch.zeros(4, 1), torch.tensor([[True], [False], [False], [False]])).tolist() == [0.25]


@pytest.mark.parametrize(("levels", "seed"), [(3, 0), (10, 1), (10**6, 2)])
def test_average_precision_is_scikit_learns(levels: int, seed: int):
    logits, truth = random_case(60, 7, levels, seed)
    expected = [average_precision_score(truth[:, k].numpy(), logits[:, k].numpy()) for k in range(7)]
    assert average_precision(logits, truth).tolist() == pytest.approx(expected, abs=1e-12)
    worse = average_precision(-logits, truth).tolist()
    assert worse != pytest.approx(expected, abs=0.05)


def test_weights_are_copies():
    logits, truth = random_case(20, 4, 5, 3)
    times = torch.arange(20) % 3
    copies = [torch.repeat_interleave(x, times, dim=0) for x in (logits, truth)]
    weighed = average_precision(logits, truth, times.double()).tolist()
    assert weighed == pytest.approx(average_precision(*copies).tolist())


def test_classes_without_images_are_left_out_of_the_mean():
    logits, truth = random_case(30, 3, 100, 4)
    truth[:, 1] = False
    each = average_precision(logits, truth)
    assert math.isnan(float(each[1]))
    assert mean_average_precision(logits, truth) == pytest.approx(float(each[[0, 2]].mean()))
    assert mean_average_precision(logits, torch.zeros_like(truth)) is None
    assert bootstrap_interval(logits, torch.zeros_like(truth)) is None


def test_the_order_of_images_changes_nothing():
    logits, truth = random_case(40, 5, 6, 5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = average_precision(logits[order], truth[order]).tolist()
    assert shuffled == pytest.approx(average_precision(logits, truth).tolist(), abs=1e-14)


def test_the_interval_holds_the_value_and_shrinks_with_images():
    small, large = random_case(50, 4, 1000, 6), random_case(800, 4, 1000, 6)
    widths = []
    for logits, truth in (small, large):
        interval = bootstrap_interval(logits, truth)
        value = mean_average_precision(logits, truth)
        assert interval is not None and value is not None
        assert interval[0] < value < interval[1]
        assert interval == bootstrap_interval(logits, truth)
        widths.append(interval[1] - interval[0])
    assert widths[1] < widths[0] / 2


def test_losses_are_those_of_the_whole_set():
    logits, truth = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[True, False]])
    assert set_losses(logits, truth).tolist() == [pytest.approx(-math.log(0.5 * 0.25))]
    assert set_losses(logits, ~truth).tolist() == [pytest.approx(-math.log(0.5 * 0.75))]


def test_counts_and_threshold():
    logits = torch.tensor([[0.0, -1.0], [2.0, 3.0], [-2.0, 1.0]])
    given = named(logits, 0.5)
    assert given.tolist() == [[True, False], [True, True], [False, True]]  # even odds count as named
    truth = torch.tensor([[True, False], [False, True], [True, True]])
    first, second = count(given, truth)
    assert (first, second) == (Counts(2, 2, 1), Counts(2, 2, 2))
    assert (first.precision, first.recall, first.f1, second.f1) == (0.5, 0.5, 0.5, 1.0)
    assert Counts(0, 0, 0).f1 is None
