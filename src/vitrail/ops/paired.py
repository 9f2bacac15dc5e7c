"""Two classifiers on the same images: is the difference of their scores more than chance?

Only the images count on which exactly one of the two is right: `first` of them by the first classifier, `second` by the
second, out of `n` images in all. The difference is (first - second) / n.
"""

import math
from collections.abc import Callable
from statistics import NormalDist


def mcnemar(first: int, second: int) -> float:
    """Two-sided p-value of the exact test that both are right equally often (McNemar 1947, by the binomial
    distribution): how probable a split at least as uneven would be if each such image fell to either with chance 1/2.

    1 where there are no such images. Exact integers until the last division.
    """
    if min(first, second) < 0:
        raise ValueError(f"counts cannot be negative: {first} and {second}")
    n, ways, tail = first + second, 1, 0
    for i in range(min(first, second) + 1):
        tail += ways
        ways = ways * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2**n)


def difference_interval(first: int, second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two paired shares, -1 to 1: the score interval of Tango (1998).

    It holds every difference that the score test (McNemar's at 0) does not reject. Unlike a bootstrap or the normal
    approximation it keeps a width where the two never disagree, and it stays inside -1..1.
    """
    if min(first, second) < 0 or first + second > n or not n:
        raise ValueError(f"{first} and {second} must be parts of at least one image: {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)

    def accepted(difference: float) -> bool:
        # The likeliest chance of "only the second is right" under this difference: the larger root of a quadratic.
        linear = (2 * n - first + second) * difference - first - second
        constant = -second * difference * (1 - difference)
        likeliest = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * likeliest + difference * (1 - difference))
        return (first - second - n * difference) ** 2 <= z * z * max(0.0, variance)

    centre = (first - second) / n
    return _edge(accepted, centre, -1.0), _edge(accepted, centre, 1.0)


def _edge(accepted: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `accepted` ends between a value inside and the border of what is possible."""
    if accepted(outside):
        return outside
    for _ in range(80):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if accepted(middle) else (inside, middle)
    return inside
