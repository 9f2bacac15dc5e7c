"""Metrics against scikit-learn, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as oracle
from torch import Tensor

from vitrail.ops import metrics


@pytest.fixture
def scored() -> tuple[Tensor, Tensor]:
    """Logits of 300 images over 7 classes, and labels of which none is the last class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 6, (300,), generator=generator)
    logits = 1.5 * torch.randn(300, 7, generator=generator, dtype=torch.float64)
    logits[torch.arange(300), labels] += 1.5
    return logits, labels


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_topk_agrees_with_scikit_learn(scored: tuple[Tensor, Tensor], k: int) -> None:
    logits, labels = scored
    if k == 7:
        assert metrics.topk(logits, labels, k) == 1.0
    else:
        expected = oracle.top_k_accuracy_score(labels, logits, k=k, labels=range(7))
        assert metrics.topk(logits, labels, k) == pytest.approx(expected, abs=1e-15)


def test_equal_logits_rank_by_index() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]]).expand(4, 4)
    assert metrics.ranks(logits, torch.arange(4)).tolist() == [2, 0, 1, 3]
    assert metrics.topk(torch.zeros(4, 4), torch.arange(4), 1) == 0.25


def test_rank_zero_is_the_arg_max_even_where_logits_are_equal() -> None:
    logits = torch.randint(0, 3, (500, 6), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.randint(0, 6, (500,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(metrics.ranks(logits, labels) == 0, logits.argmax(1) == labels)


def test_nll_agrees_with_scikit_learn(scored: tuple[Tensor, Tensor]) -> None:
    logits, labels = scored
    expected = oracle.log_loss(labels, logits.softmax(1), labels=range(7))
    assert metrics.nll(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_nll_in_closed_form() -> None:
    labels = torch.tensor([0, 1, 2])
    assert metrics.nll(torch.zeros(3, 10), labels) == pytest.approx(math.log(10), rel=1e-15)
    # Far beyond the range of exp: the certain and right answer costs exactly nothing, the wrong one its whole margin.
    assert metrics.losses(torch.tensor([[1e5, 0.0], [1e5, 0.0]]), torch.tensor([0, 1])).tolist() == [0.0, 1e5]
    assert math.copysign(1, metrics.nll(torch.tensor([[1e5, 0.0]]), torch.tensor([0]))) == 1  # not minus zero


def test_brier_agrees_with_scikit_learn(scored: tuple[Tensor, Tensor]) -> None:
    logits, labels = scored
    shares = metrics.probabilities(logits)
    expected = oracle.brier_score_loss(labels, shares, labels=range(7), scale_by_half=False)
    assert metrics.brier(shares, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_in_closed_form() -> None:
    shares = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert metrics.squared_errors(shares, torch.tensor([0, 0, 0])).tolist() == [0.0, 0.5, 2.0]


def test_ece_by_hand() -> None:
    # Bin (0.6, 0.7]: confidence 0.65, accuracy 1/2. Bin (0.9, 1]: confidence 0.95, all right. Ten bins.
    shares = torch.tensor([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05], [0.95, 0.05]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0])
    assert metrics.ece(shares, labels, bins=10) == pytest.approx(0.5 * 0.15 + 0.5 * 0.05, abs=1e-15)


def test_ece_agrees_with_a_plain_loop(scored: tuple[Tensor, Tensor]) -> None:
    logits, labels = scored
    shares = metrics.probabilities(logits).numpy()
    sure, right = shares.max(1), shares.argmax(1) == labels.numpy()
    expected = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert metrics.ece(torch.from_numpy(shares), labels) == pytest.approx(expected, rel=1e-12)


def test_a_bin_holds_its_upper_edge_and_the_first_holds_zero() -> None:
    edges = torch.tensor([0.0, 1 / 15, 1 / 3, 1 / 3 + 1e-12, 1.0], dtype=torch.float64)
    bins = metrics.reliability(edges, torch.ones(5, dtype=torch.bool))
    assert {i: b.count for i, b in enumerate(bins) if b.count} == {0: 2, 4: 1, 5: 1, 14: 1}
    assert (bins[1].confidence, bins[1].accuracy) == (None, None)
    assert (bins[0].low, bins[14].high) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (161, 200), (487, 517), (1, 100000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wilson_agrees_with_scipy(successes: int, n: int, level: float) -> None:
    low, high = metrics.wilson(successes, n, level)
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-13), pytest.approx(expected.high, abs=1e-13))


def test_wilson_at_its_ends() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    assert metrics.wilson(0, 9)[0] == 0.0
    assert metrics.wilson(9, 9)[1] == 1.0
    with pytest.raises(ValueError, match="successes must lie between 0 and n: 10 of 9"):
        metrics.wilson(10, 9)


def test_confusion_agrees_with_scikit_learn(scored: tuple[Tensor, Tensor]) -> None:
    logits, labels = scored
    predicted = logits.argmax(1)
    expected = oracle.confusion_matrix(labels, predicted, labels=range(7))
    assert np.array_equal(metrics.confusion(predicted, labels, 7), expected)


def test_confusion_rows_are_true_classes() -> None:
    assert metrics.confusion(torch.tensor([1, 1]), torch.tensor([0, 0]), 2).tolist() == [[0, 2], [0, 0]]


def test_per_class_and_macro_agree_with_scikit_learn(scored: tuple[Tensor, Tensor]) -> None:
    logits, labels = scored
    predicted = logits.argmax(1)
    scores = metrics.per_class(metrics.confusion(predicted, labels, 7))
    precision, recall, f1, support = oracle.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=np.nan
    )
    for i, score in enumerate(scores):
        assert score.support == support[i]
        assert score.precision == pytest.approx(precision[i], rel=1e-15)
        assert score.f1 == pytest.approx(f1[i], rel=1e-15)
        assert score.recall == (None if i == 6 else pytest.approx(recall[i], rel=1e-15))
    held = range(6)
    expected = oracle.precision_recall_fscore_support(labels, predicted, labels=held, average="macro")[:3]
    assert metrics.macro(scores) == pytest.approx(expected, rel=1e-14)
    with pytest.warns(UserWarning, match="not in y_true"):
        balanced = oracle.balanced_accuracy_score(labels, predicted)
    assert metrics.macro(scores)[1] == pytest.approx(balanced, rel=1e-14)


def test_an_undefined_share_is_none_and_not_zero() -> None:
    # Class 0 is never predicted, class 1 is never true, class 2 is neither.
    scores = metrics.per_class(metrics.confusion(torch.tensor([1, 1]), torch.tensor([0, 0]), 3))
    assert [(s.precision, s.recall, s.f1) for s in scores] == [(None, 0.0, 0.0), (0.0, None, 0.0), (None, None, None)]
    assert metrics.macro(scores) == (None, 0.0, 0.0)
    assert metrics.macro(scores[2:]) == (None, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_logits_are_widened_before_anything_is_computed(
    scored: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    narrow, labels = scored[0].to(dtype), scored[1]
    wide = narrow.double()
    assert metrics.nll(narrow, labels) == metrics.nll(wide, labels)
    assert metrics.topk(narrow, labels, 3) == metrics.topk(wide, labels, 3)
    assert torch.equal(metrics.probabilities(narrow), wide.softmax(1))
    assert metrics.probabilities(narrow).dtype == torch.float64


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a mean over no images is undefined"):
        metrics.nll(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="a mean over no images is undefined"):
        metrics.ece(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_a_mean_is_exact() -> None:
    # In any order of a plain float64 sum the ones are lost beside 1e16.
    assert metrics.mean(torch.tensor([1e16, 1.0, 1.0, -1e16], dtype=torch.float64)) == 0.5
