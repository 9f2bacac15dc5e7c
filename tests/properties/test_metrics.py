"""What holds for every classifier and every set of images."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.ops import metrics

Scored = tuple[Tensor, Tensor]


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    """Logits of 1 to 40 images over 2 to 9 classes, at times with equal values or far apart, and labels."""
    images, classes = draw(st.integers(1, 40)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 30.0, 1e4]))
    logits = scale * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        logits = logits.round()  # equal logits
    return logits, torch.randint(0, classes, (images,), generator=generator)


def numbers(logits: Tensor, labels: Tensor) -> tuple[object, ...]:
    """Every score."""
    classes = logits.shape[1]
    shares = metrics.probabilities(logits)
    matrix = metrics.confusion(logits.argmax(1), labels, classes)
    return (
        *(metrics.topk(logits, labels, k) for k in range(1, classes + 1)),
        metrics.nll(logits, labels),
        metrics.brier(shares, labels),
        metrics.ece(shares, labels),
        metrics.per_class(matrix),
        metrics.macro(metrics.per_class(matrix)),
    )


@settings(deadline=None)
@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_changes_no_bit(data: Scored, random: object) -> None:
    logits, labels = data
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert numbers(logits[order], labels[order]) == numbers(logits, labels)


@settings(deadline=None)
@given(scored(), st.integers(1, 40))
def test_the_cut_into_batches_changes_no_bit(data: Scored, size: int) -> None:
    logits, labels = data
    parts = list(zip(logits.split(size), labels.split(size), strict=True))
    assert torch.equal(torch.cat([metrics.ranks(*p) for p in parts]), metrics.ranks(logits, labels))
    assert metrics.mean(torch.cat([metrics.losses(*p) for p in parts])) == metrics.nll(logits, labels)


@settings(deadline=None)
@given(scored())
def test_bounds(data: Scored) -> None:
    logits, labels = data
    n, classes = logits.shape
    shares = metrics.probabilities(logits)
    tops = [metrics.topk(logits, labels, k) for k in range(1, classes + 1)]
    assert tops == sorted(tops)
    assert tops[-1] == 1
    assert metrics.nll(logits, labels) >= 0
    assert 0 <= metrics.brier(shares, labels) <= 2 + 1e-12
    assert 0 <= metrics.ece(shares, labels) <= 1
    bins = metrics.reliability(shares.max(1).values, metrics.ranks(logits, labels) < 1)
    assert sum(b.count for b in bins) == n
    assert all(b.low < b.confidence <= b.high + 1e-15 for b in bins if b.confidence is not None)
    matrix = metrics.confusion(logits.argmax(1), labels, classes)
    assert matrix.sum() == n
    assert matrix.diagonal().sum() == round(tops[0] * n)
    for score in metrics.per_class(matrix):
        shares_of_class = (score.precision, score.recall, score.f1)
        assert all(0 <= s <= 1 for s in shares_of_class if s is not None)
        if score.precision and score.recall:
            assert score.f1 is not None
            assert min(score.precision, score.recall) - 1e-12 <= score.f1 <= max(score.precision, score.recall) + 1e-12


@settings(deadline=None)
@given(scored())
def test_a_perfect_predictor(data: Scored) -> None:
    logits, labels = data
    sure = torch.full_like(logits, -1e9)
    sure[torch.arange(len(labels)), labels] = 1e9
    shares = metrics.probabilities(sure)
    assert metrics.topk(sure, labels, 1) == 1
    assert metrics.nll(sure, labels) == metrics.brier(shares, labels) == metrics.ece(shares, labels) == 0
    scores = metrics.per_class(metrics.confusion(sure.argmax(1), labels, logits.shape[1]))
    assert all((s.precision, s.recall, s.f1) == ((1, 1, 1) if s.support else (None, None, None)) for s in scores)
    assert metrics.macro(scores) == (1, 1, 1)


@settings(deadline=None)
@given(scored())
def test_guessing_evenly(data: Scored) -> None:
    logits, labels = data
    even, classes = torch.zeros_like(logits), logits.shape[1]
    assert math.isclose(metrics.nll(even, labels), math.log(classes), rel_tol=1e-14)
    assert math.isclose(metrics.brier(metrics.probabilities(even), labels), 1 - 1 / classes, rel_tol=1e-12)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_an_interval_holds_the_share_and_shrinks_with_more_images(counts: tuple[int, int], level: float) -> None:
    successes, n = counts
    low, high = metrics.wilson(successes, n, level)
    assert 0 <= low <= successes / n <= high <= 1
    more = metrics.wilson(4 * successes, 4 * n, level)
    assert more[1] - more[0] < high - low
    mirrored = metrics.wilson(n - successes, n, level)
    assert math.isclose(mirrored[0], 1 - high, abs_tol=1e-12)
    assert math.isclose(mirrored[1], 1 - low, abs_tol=1e-12)
