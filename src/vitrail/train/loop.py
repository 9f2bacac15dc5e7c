"""The training step and the loop around it, whole. Nothing is hidden: no callbacks, no engine.

Axes: B images of a step, b images of a micro-batch, K classes.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from vitrail.config import OptimConfig
from vitrail.errors import ConfigError
from vitrail.ops.schedule import ema_decay, warmup_cosine
from vitrail.train.loss import cross_entropy
from vitrail.train.state import TrainState
from vitrail.types import Batch

Precision = Literal["float32", "bfloat16"]
MOST_SKIPPED = 10  # steps in a row without a finite loss and gradient after which training stops


@dataclass(frozen=True)
class Step:
    """What one step did."""

    step: int  # steps finished, this one included
    loss: float  # mean over the step's images, nats
    lr: float  # before layer-wise scaling
    gradient_norm: float  # global, before clipping
    images: int
    skipped: bool  # loss or gradient was not finite: the weights are as before


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lr: float,
    config: OptimConfig,
    precision: Precision,
) -> tuple[float, float, bool]:
    """One optimiser step over the micro-batches `batches`: (loss, gradient norm, whether the weights moved).

    Each micro-batch adds the sum of its images' losses divided by the images of the whole step, so the loss and the
    gradient do not depend on how the step was cut, equal parts or not. A loss or gradient that is not finite leaves
    the weights and the optimiser untouched.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    images, loss = sum(len(batch.images) for batch in batches), 0.0
    for batch in batches:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(batch.images)  # b K
        part = cross_entropy(logits, batch.labels, config.label_smoothing).sum() / images
        part.backward()
        loss += part.item()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf))
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return loss, norm, finite


def train_steps(
    state: TrainState, batches: Iterable[Batch], steps: int, config: OptimConfig, seed: int, precision: Precision
) -> Iterator[Step]:
    """Train `state` on `batches`, which begin at step `state.step` of `steps`; yields after every step, where the
    caller may log, evaluate, save or stop.

    Ten steps in a row without a finite loss raise ConfigError.
    """
    device = next(state.model.parameters()).device
    for batch in batches:
        state.model.train()  # the caller may have evaluated in between
        lr = config.lr * warmup_cosine(state.step, steps, config.warmup_steps, config.final_lr / config.lr)
        with step_rng(seed, state.step, device):
            parts = split(batch, config.accumulate, device)
            loss, norm, moved = train_step(state.model, state.optimizer, parts, lr, config, precision)
        if moved and state.average is not None:
            update_average(state.average, state.model, ema_decay(state.step - state.skipped, config.ema))
        state.step += 1
        state.skipped += not moved
        state.skipped_in_row = 0 if moved else state.skipped_in_row + 1
        yield Step(state.step, loss, lr, norm, len(batch.images), not moved)
        if state.skipped_in_row >= MOST_SKIPPED:
            raise ConfigError(
                f"the loss or its gradient was not finite in {MOST_SKIPPED} steps in a row, up to step {state.step}: "
                f"lower optim.lr (now {config.lr:g}) or set precision=float32 (now {precision})"
            )


def split(batch: Batch, parts: int, device: torch.device) -> list[Batch]:
    """The batch in `parts` micro-batches on `device`; sizes differ by one where the number does not divide, and there
    are fewer parts where there are fewer images."""
    pieces = (x.to(device).tensor_split(parts) for x in (batch.images, batch.labels, batch.index))
    return [Batch(*piece) for piece in zip(*pieces, strict=True) if len(piece[0])]


def step_seed(seed: int, step: int) -> int:
    """Seed of everything drawn inside step `step` of run `seed`."""
    return int.from_bytes(hashlib.blake2b(f"step/{seed}/{step}".encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def step_rng(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Dropout and stochastic depth draw from a stream that only (seed, step) decides, so no generator state has to be
    saved; the caller's own stream continues afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(step_seed(seed, step))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(step_seed(seed, step))
        yield


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, parameter by parameter."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)


def find_precision(wish: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """`auto` is bfloat16 where the processor computes in it: a CUDA device that says so, or an x86 processor with
    AVX512-BF16 or AMX. Elsewhere bfloat16 is emulated, many times slower than float32 (measured on AVX2: 100 times)."""
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "float32"
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
