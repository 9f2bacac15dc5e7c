import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.ops.schedule import Schedule, ema_decay, multiplier

ALL: tuple[Schedule, ...] = ("cosine", "linear", "rsqrt", "wsd", "constant")


def curve(schedule: Schedule, steps: int, warmup: int = 0, cooldown: int = 0, final: float = 0.0) -> list[float]:
    return [
        multiplier(schedule, step, steps, warmup=warmup, cooldown=cooldown, timescale=3, final=final)
        for step in range(steps)
    ]


def test_cosine_by_hand() -> None:
    # warm-up 1/2, 2/2; then (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4
    expected = [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.1464466094067262]
    assert curve("cosine", 6, 2) == pytest.approx(expected, abs=1e-15)


def test_linear_by_hand() -> None:
    assert curve("linear", 6, 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25], abs=1e-15)
    assert curve("linear", 4, final=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4], abs=1e-15)


def test_rsqrt_by_hand() -> None:
    root2 = math.sqrt(0.5)  # three steps after the peak, timescale 3
    found = curve("rsqrt", 9, 2)
    assert found[:3] == [0.5, 1.0, 1.0] and found[5] == pytest.approx(root2, abs=1e-15)
    assert found[8] == pytest.approx(1 / math.sqrt(3), abs=1e-15)
    cooled = curve("rsqrt", 9, 2, cooldown=4)
    assert cooled[:6] == found[:6] and cooled[8] == pytest.approx(found[8] / 4, abs=1e-15)
    assert min(curve("rsqrt", 900, final=0.3)) == 0.3


def test_wsd_by_hand() -> None:
    assert curve("wsd", 8, 2, cooldown=4) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert curve("wsd", 8, 2, cooldown=4, final=0.2)[4:] == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_constant() -> None:
    assert curve("constant", 5, 2) == [0.5, 1.0, 1.0, 1.0, 1.0]


def big_vision(kind: str, step: int, steps: int, warmup: int, cooldown: int, end: float, timescale: int) -> float:
    """What big_vision/utils.py computes (create_learning_rate_schedule, base 1), in other words."""
    done = min(max((step - warmup) / (steps - warmup), 0.0), 1.0)
    value = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "linear": end + (1 - end) * (1 - done),
        "rsqrt": 1 / math.sqrt(1 + max(step - warmup, 0) / timescale),
    }[kind]
    value *= min(1.0, step / warmup) if warmup else 1.0
    return value * (min(1.0, (steps - step) / cooldown) if cooldown else 1.0)


@given(
    st.sampled_from(["cosine", "linear", "rsqrt"]),
    st.integers(2, 60),
    st.integers(0, 40),
    st.integers(0, 20),
    st.floats(0, 0.5),
)
def test_big_visions_rates_with_a_warmup_one_step_ahead(
    kind: Schedule, steps: int, warmup: int, cooldown: int, end: float
) -> None:
    warmup, end = min(warmup, steps - 1), end if kind == "linear" else 0.0
    cooldown = min(cooldown, steps - warmup) if kind == "rsqrt" else 0
    for step in range(steps):
        ours = multiplier(kind, step, steps, warmup=warmup, cooldown=cooldown, timescale=7, final=end)
        theirs = big_vision(kind, step + (step < warmup), steps, warmup, 0, end, 7)
        theirs *= min(1.0, (steps - step) / cooldown) if cooldown else 1.0
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_final_is_the_floor_of_the_cosine() -> None:
    assert multiplier("cosine", 999_999, steps=1_000_000, final=0.1) == pytest.approx(0.1, abs=1e-9)
    assert multiplier("cosine", 500_000, steps=1_000_000, final=0.1) == pytest.approx(0.55)


@pytest.mark.parametrize("schedule", ALL)
def test_without_warmup_the_first_step_has_the_peak_rate(schedule: Schedule) -> None:
    assert multiplier(schedule, 0, steps=10) == 1.0
    assert multiplier(schedule, 0, steps=100, warmup=10) == pytest.approx(0.1), "the first step is not wasted"


@pytest.mark.parametrize("schedule", ALL)
def test_a_warmup_longer_than_the_run_only_rises(schedule: Schedule) -> None:
    assert curve(schedule, 5, 10) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_our_mistake(step: int) -> None:
    with pytest.raises(ValueError, match=r"step must be in 0\.\.9"):
        multiplier("cosine", step, steps=10)


def test_ema_decay_ramps_up_to_its_value() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(90, 0.999) == pytest.approx(0.91)
    assert ema_decay(10_000, 0.999) == 0.999
    assert ema_decay(0, 0.05) == 0.05
