"""The training step and the loop around it, whole. Nothing is hidden: no callbacks, no engine.

Axes: B images of a step, b images of a micro-batch, K classes.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitrail.config import OptimConfig
from vitrail.errors import ConfigError
from vitrail.ops.schedule import ema_decay, multiplier
from vitrail.train.loss import Objective, make_loss
from vitrail.train.memory import OutOfMemory, is_out_of_memory
from vitrail.train.optim import in_head
from vitrail.train.state import TrainState
from vitrail.types import Batch

Precision = Literal["float32", "bfloat16", "float16"]
COMPUTED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEAST_GAIN, TURNS = 1.2, 8  # of bfloat16 on a processor, and the turns in which it is found
SCALE_STEPS = 2000  # good steps after which float16's loss scale doubles


@dataclass(frozen=True)
class Step:
    """What one step did."""

    step: int  # steps finished, this one included
    loss: float  # mean over the step's images, nats
    lr: float  # before layer-wise scaling
    gradient_norm: float  # global, before clipping
    images: int
    skipped: bool  # loss or gradient was not finite: the weights are as before
    index: Tensor  # positions of the images in the source (B)
    parts: int  # micro-batches it was cut into


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lr: float,
    config: OptimConfig,
    precision: Precision,
    objective: Objective | None = None,
    loss_scale: float = 1.0,
) -> tuple[float, float, bool]:
    """One optimiser step over the micro-batches `batches`: (loss, gradient norm, whether the weights moved).

    Each micro-batch adds the sum of its images' losses divided by the images of the whole step, so the loss and the
    gradient do not depend on how the step was cut, equal parts or not. `objective` gives the losses; by default the
    recipe's loss on the labels. A loss or gradient that is not finite leaves the weights and the optimiser untouched;
    so does OutOfMemory. `loss_scale` keeps small gradients above float16's least number on their way back.
    """
    objective = objective or make_loss(config)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    images, losses = sum(len(batch.images) for batch in batches), []
    try:
        for batch in batches:
            half = precision != "float32"
            with torch.autocast(batch.images.device.type, COMPUTED[precision] if half else None, enabled=half):
                part = objective(model, batch).sum() / images
            (part if loss_scale == 1.0 else part * loss_scale).backward()
            losses.append(part.detach().double())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        optimizer.zero_grad()
        raise OutOfMemory from error
    moving = [parameter for parameter in model.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in moving if parameter.grad is not None]
    if loss_scale != 1.0:
        for gradient in gradients:
            gradient.div_(loss_scale)
    total = nn.utils.get_total_norm(gradients)
    *parts, norm = torch.stack([*losses, total.double()]).tolist()  # the one place where a device is waited for
    finite = math.isfinite(loss := sum(parts)) and math.isfinite(norm)
    if finite:
        if config.clip is not None:
            nn.utils.clip_grads_with_norm_(moving, config.clip, total)
        optimizer.step()
    optimizer.zero_grad()
    return loss, norm, finite


def train_steps(
    state: TrainState,
    batches: Iterable[Batch],
    steps: int,
    config: OptimConfig,
    seed: int,
    precision: Precision,
    objective: Objective | None = None,
) -> Iterator[Step]:
    """Train `state` on `batches`, which begin at step `state.step` of `steps`; yields after every step, where the
    caller may log, evaluate, save or stop.

    ConfigError after `max_skipped` steps in a row without a finite loss, and where one image does not fit in memory.
    """
    device = next(state.model.parameters()).device
    objective = objective or make_loss(config, device=device)
    head_alone: bool | None = None
    for batch in batches:
        state.model.train()  # the caller may have evaluated in between
        if head_alone is not (state.step < config.head_steps):
            head_alone = state.step < config.head_steps
            freeze_body(state, head_alone)
        lr = config.lr * rate(config, state.step, steps)
        loss, norm, moved = step_that_fits(state, batch, lr, config, seed, precision, objective, device)
        if moved and state.average is not None:
            update_average(state.average, state.model, ema_decay(state.step - state.skipped, config.ema))
        if precision == "float16":
            adapt_loss_scale(state, moved)
        state.step += 1
        state.skipped += not moved
        state.skipped_in_row = 0 if moved else state.skipped_in_row + 1
        parts = min(len(batch.images), micro_batches(state, config))
        yield Step(state.step, loss, lr, norm, len(batch.images), not moved, batch.index, parts)
        if state.skipped_in_row >= config.max_skipped:
            raise ConfigError(
                f"the loss or its gradient was not finite in {config.max_skipped} steps in a row, up to step "
                f"{state.step}: lower optim.lr (now {config.lr:g}) or set precision=float32 (now {precision})"
            )


def step_that_fits(
    state: TrainState,
    batch: Batch,
    lr: float,
    config: OptimConfig,
    seed: int,
    precision: Precision,
    objective: Objective,
    device: torch.device,
) -> tuple[float, float, bool]:
    """`train_step` on the batch; where memory runs out, the same step again in micro-batches of half the size, which
    stays so for the rest of the run. ConfigError where one image alone does not fit."""
    scale = state.loss_scale if precision == "float16" else 1.0
    while True:
        parts = micro_batches(state, config)
        try:
            with step_rng(seed, state.step, device):
                pieces = split(batch, parts, device)
                return train_step(state.model, state.optimizer, pieces, lr, config, precision, objective, scale)
        except OutOfMemory as error:
            if parts >= len(batch.images):
                rows, cols = batch.images.shape[-2:]
                raise ConfigError(
                    f"a training step needs memory for one image at least, and one of {rows} x {cols} px does not fit "
                    f"({device}): set checkpointing=true, or choose a smaller model or image_size"
                ) from error
        state.halvings += 1  # out of the except clause: what the failed attempt held is free by now
        if device.type == "cuda":
            torch.cuda.empty_cache()


def micro_batches(state: TrainState, config: OptimConfig) -> int:
    """Micro-batches a step is cut into: as set, doubled whenever memory ran out."""
    return config.accumulate * 2**state.halvings


def rate(config: OptimConfig, step: int, steps: int) -> float:
    """Multiplier of the peak learning rate at `step` of 0 .. steps - 1."""
    return multiplier(
        config.schedule,
        step,
        steps,
        warmup=config.warmup_steps,
        cooldown=config.cooldown_steps,
        timescale=config.timescale,
        final=config.final_lr / config.lr,
    )


def freeze_body(state: TrainState, frozen: bool) -> None:
    """Let the head alone learn, or everything that the optimiser holds. What is frozen is not differentiated, and the
    optimisers pass over it: its moments begin with its first step."""
    held = {parameter for group in state.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in state.model.named_parameters():
        if parameter in held:
            parameter.requires_grad_(in_head(name) or not frozen)


def adapt_loss_scale(state: TrainState, moved: bool) -> None:
    """Halve float16's loss scale after a step that overflowed, down to 1; double it after 2,000 that did not
    (Micikevicius et al. 2018, section 3.2)."""
    state.scaled_steps = state.scaled_steps + 1 if moved else 0
    if not moved:
        state.loss_scale = max(1.0, state.loss_scale / 2)
    elif state.scaled_steps == SCALE_STEPS:
        state.loss_scale, state.scaled_steps = state.loss_scale * 2, 0


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


def find_precision(wish: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device) -> Precision:
    """`auto` is bfloat16 where it is worth it: on a CUDA device that computes in it, and on an x86 processor with
    AVX512-BF16 or AMX that multiplies faster in it than in float32, which is tried. Without such instructions bfloat16
    is emulated, many times slower (measured on AVX2: 100 times), and not tried."""
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "float32"
    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    has = able.get("avx512_bf16") or able.get("amx_bf16")
    return "bfloat16" if has and bfloat16_gain() > LEAST_GAIN else "float32"


@cache
def bfloat16_gain() -> float:
    """How many times as fast this processor multiplies in bfloat16 as in float32: the best of some turns of each, so
    that other programs do not decide. A Xeon whose tiles are switched off has the instructions and takes twice as long
    in them (docs/log.md)."""
    squares = [torch.ones(768, 768, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    best = [math.inf, math.inf]
    for _ in range(TURNS):
        for kind, square in enumerate(squares):
            begun = perf_counter()
            nn.functional.linear(square, square)
            best[kind] = min(best[kind], perf_counter() - begun)
    return best[0] / best[1]
