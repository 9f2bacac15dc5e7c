"""Step -> multiplier, as pure floats: no state, so a resumed run needs nothing but its step."""

import math


def warmup_cosine(step: int, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Multiplier of the peak learning rate at `step` of 0 .. steps - 1.

    Linear warm-up over the first `warmup` steps, then half a cosine from 1 down to `final` (vit_jax/utils.py,
    create_learning_rate_schedule). One departure: warm-up starts at 1 / warmup instead of 0, so that the first step
    is not wasted. The value `final` itself would be reached at step `steps`, which is never run.
    A warm-up as long as the run or longer never reaches the cosine.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must be in 0..{steps - 1}: {step}")
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights after `step` earlier updates: min(decay, (1 + step) / (10 + step)).

    The ramp keeps a short run from averaging in its random start (TensorFlow, ExponentialMovingAverage, num_updates).
    """
    return min(decay, (1 + step) / (10 + step))
