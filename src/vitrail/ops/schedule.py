"""Step -> multiplier, as pure floats: no state, so a resumed run needs nothing but its step."""

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "rsqrt", "wsd", "constant"]


def multiplier(
    schedule: Schedule,
    step: int,
    steps: int,
    *,
    warmup: int = 0,
    cooldown: int = 0,
    timescale: int = 10_000,
    final: float = 0.0,
) -> float:
    """Multiplier of the peak learning rate at `step` of 0 .. steps - 1: linear warm-up over the first `warmup` steps,
    then the schedule from 1 on.

    - cosine: half a cosine down to `final` (vit_jax/utils.py, create_learning_rate_schedule)
    - linear: a line down to `final` (the same; ViT paper, table 3)
    - rsqrt: 1 / sqrt(1 + t / timescale) after t steps, never below `final` (Zhai et al. 2022, big_vision/utils.py)
    - wsd: the peak, until the cool-down (warm-up, stable, decay: Hu et al. 2024, MiniCPM)
    - constant: the peak

    Over the last `cooldown` steps the distance to `final` is multiplied by what is left of them, as in big_vision.
    One departure from both sources: warm-up starts at 1 / warmup instead of 0, so that the first step is not wasted.
    The value `final` itself would be reached at step `steps`, which is never run. A warm-up as long as the run or
    longer never reaches the schedule.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must be in 0..{steps - 1}: {step}")
    if step < warmup:
        value = (step + 1) / warmup
    elif schedule == "cosine":
        value = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    elif schedule == "linear":
        value = final + (1.0 - final) * (1.0 - (step - warmup) / (steps - warmup))
    elif schedule == "rsqrt":
        value = max(final, 1.0 / math.sqrt(1.0 + (step - warmup) / timescale))
    else:
        value = 1.0
    left = steps - step
    return value if left >= cooldown else final + (value - final) * left / cooldown


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights after `step` earlier updates: min(decay, (1 + step) / (10 + step)).

    The ramp keeps a short run from averaging in its random start (TensorFlow, ExponentialMovingAverage, num_updates).
    """
    return min(decay, (1 + step) / (10 + step))
