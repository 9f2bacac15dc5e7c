import pytest

from vitrail.ops.schedule import ema_decay, warmup_cosine


def test_values_by_hand() -> None:
    multipliers = [warmup_cosine(step, steps=6, warmup=2) for step in range(6)]
    # warm-up 1/2, 2/2; then (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4
    assert multipliers == pytest.approx([0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.1464466094067262], abs=1e-15)


def test_final_is_the_floor_of_the_cosine() -> None:
    last = warmup_cosine(999_999, steps=1_000_000, final=0.1)
    assert last == pytest.approx(0.1, abs=1e-9)
    assert warmup_cosine(500_000, steps=1_000_000, final=0.1) == pytest.approx(0.55)


def test_without_warmup_the_first_step_has_the_peak_rate() -> None:
    assert warmup_cosine(0, steps=10) == 1.0


def test_the_first_step_is_not_wasted() -> None:
    assert warmup_cosine(0, steps=100, warmup=10) == pytest.approx(0.1)


def test_a_warmup_longer_than_the_run_only_rises() -> None:
    multipliers = [warmup_cosine(step, steps=5, warmup=10) for step in range(5)]
    assert multipliers == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_our_mistake(step: int) -> None:
    with pytest.raises(ValueError, match=r"step must be in 0\.\.9"):
        warmup_cosine(step, steps=10)


def test_ema_decay_ramps_up_to_its_value() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(90, 0.999) == pytest.approx(0.91)
    assert ema_decay(10_000, 0.999) == 0.999
    assert ema_decay(0, 0.05) == 0.05
