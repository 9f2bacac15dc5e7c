"""Paired comparisons: against SciPy, against the definition by search, at the borders."""

import math

import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from vitrail.ops.paired import difference_interval, mcnemar


@pytest.mark.parametrize("pair", [(0, 1), (1, 5), (3, 3), (12, 2), (40, 60), (700, 800)])
def test_mcnemar_is_the_binomial_test(pair: tuple[int, int]) -> None:
    assert mcnemar(*pair) == pytest.approx(binomtest(pair[0], sum(pair)).pvalue, rel=1e-9)
    assert mcnemar(*pair) == mcnemar(*reversed(pair))


def test_mcnemar_without_disagreement_and_with_much() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == 2 / 2**5
    assert 0 < mcnemar(4000, 4600) < 1e-9
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def score(first: int, second: int, n: int, difference: float) -> float:
    """Tango's statistic with the likeliest nuisance parameter found by search instead of by the quadratic."""

    def surprise(q: float) -> float:
        parts = (first, q + difference), (second, q), (n - first - second, 1 - 2 * q - difference)
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in parts if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (first - second - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize("case", [(12, 2, 50), (2, 12, 50), (7, 7, 359), (1, 9, 359), (300, 100, 1000)])
def test_the_ends_are_where_the_score_test_begins_to_reject(case: tuple[int, int, int]) -> None:
    low, high = difference_interval(*case)
    assert score(*case, low) == pytest.approx(1.959964, abs=2e-3)
    assert score(*case, high) == pytest.approx(-1.959964, abs=2e-3)
    assert low < (case[0] - case[1]) / case[2] < high


def test_it_is_antisymmetric_and_keeps_a_width_without_disagreement() -> None:
    low, high = difference_interval(12, 2, 50)
    assert difference_interval(2, 12, 50) == pytest.approx((-high, -low), abs=1e-12)
    low, high = difference_interval(0, 0, 100)
    z2 = 1.959964**2  # no disagreement: n d^2 <= z^2 d (1 - d) and so d <= z^2 / (n + z^2)
    assert (low, high) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), rel=1e-5)


@pytest.mark.parametrize("case", [(1, 0, 1), (0, 1, 1), (10, 0, 10), (0, 10, 10), (5, 5, 10)])
def test_it_stays_inside_what_is_possible(case: tuple[int, int, int]) -> None:
    low, high = difference_interval(*case)
    assert -1 <= low <= (case[0] - case[1]) / case[2] <= high <= 1


@pytest.mark.parametrize("case", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_what_cannot_be_is_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="parts of at least one image"):
        difference_interval(*case)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    """Exactly, over every outcome of 40 images: the chance that the interval holds the true difference."""
    n, p, q = 40, 0.15, 0.05
    held = 0.0
    for first in range(n + 1):
        for second in range(n + 1 - first):
            chance = math.comb(n, first) * math.comb(n - first, second) * p**first * q**second
            chance *= (1 - p - q) ** (n - first - second)
            if chance > 1e-9:
                low, high = difference_interval(first, second, n)
                held += chance * (low <= p - q <= high)
    assert 0.93 < held < 0.98
