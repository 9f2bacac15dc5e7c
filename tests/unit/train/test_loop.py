import math
from collections.abc import Sequence
from copy import deepcopy
from itertools import count

import pytest
import torch
from torch import nn

from vitrail.config import OptimConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.vit import ViT
from vitrail.train import loop
from vitrail.train.loop import find_precision, split, step_rng, step_seed, train_step, train_steps, update_average
from vitrail.train.loss import cross_entropy, make_loss
from vitrail.train.memory import is_out_of_memory
from vitrail.train.optim import in_head, make_optimizer
from vitrail.train.state import TrainState, new_average
from vitrail.types import Batch

CPU = torch.device("cpu")
TOY = ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_dim=32, classes=5)
OPTIM = OptimConfig(lr=1e-2, label_smoothing=0.1, clip=0.5)


def batch(images: int, seed: int = 0, dtype: torch.dtype = torch.float32, nan: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, 8, 8, generator=generator, dtype=dtype)
    labels = torch.randint(0, 5, (images,), generator=generator)
    return Batch(pixels * (math.nan if nan else 1.0), labels, torch.arange(images))


def cut(whole: Batch, sizes: Sequence[int]) -> list[Batch]:
    parts = zip(*(x.split(list(sizes)) for x in (whole.images, whole.labels, whole.index)), strict=True)
    return [Batch(*part) for part in parts]


def toy(optim: OptimConfig = OPTIM, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> TrainState:
    model = ViT(TOY.model_copy(update={"dropout": dropout, "stochastic_depth": dropout})).to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():  # no zero head and no zero biases: every gradient is alive from the first step
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=0.1)
    model.train()
    return TrainState(model, make_optimizer(model, TOY, optim), new_average(model) if optim.ema else None)


def weights(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def test_the_curve_does_not_depend_on_how_a_step_is_cut() -> None:
    curves, ends = [], []
    for sizes in ([64], [16, 16, 16, 16], [24, 24, 16]):
        torch.manual_seed(3)
        state = toy(dtype=torch.float64)
        curve = []
        for step in range(6):
            parts = cut(batch(64, seed=step, dtype=torch.float64), sizes)
            loss, norm, moved = train_step(state.model, state.optimizer, parts, 1e-3, OPTIM, "float32")
            assert moved
            curve.append([loss, norm])
        curves.append(curve)
        ends.append(weights(state))
    for curve, end in zip(curves[1:], ends[1:], strict=True):
        assert torch.tensor(curve).sub(torch.tensor(curves[0])).abs().max() < 5e-14
        # AdamW divides by the root of the second moment, which amplifies rounding where the gradient is near zero
        assert (end - ends[0]).abs().max() < 1e-10


def test_one_step_is_the_same_to_the_last_bits() -> None:
    found = []
    for sizes in ([64], [16, 16, 16, 16], [24, 24, 16]):
        torch.manual_seed(3)
        state = toy(dtype=torch.float64)
        parts = cut(batch(64, dtype=torch.float64), sizes)
        found.append(train_step(state.model, state.optimizer, parts, 1e-3, OPTIM, "float32")[0])
    assert max(found) - min(found) < 2e-15 * abs(found[0])


def test_a_mean_of_unequal_means_would_be_noticed() -> None:
    """The control of the two tests above: averaging micro-batch means shifts the loss far beyond their bounds."""
    state = toy(dtype=torch.float64)
    parts = cut(batch(64, dtype=torch.float64), [24, 24, 16])
    means = [cross_entropy(state.model(p.images), p.labels, 0.1).mean().item() for p in parts]
    whole = train_step(state.model, state.optimizer, parts, 1e-3, OPTIM, "float32")[0]
    assert abs(sum(means) / 3 - whole) > 1e-4


def test_the_step_is_adamw_on_the_clipped_mean_gradient() -> None:
    """Against torch's own optimiser driven by hand, with the group's rate and decay."""
    torch.manual_seed(3)
    state, twin = toy(dtype=torch.float64), None
    twin = ViT(TOY).double()
    twin.load_state_dict(state.model.state_dict())
    oracle = make_optimizer(twin, TOY, OPTIM)
    whole = batch(10, dtype=torch.float64)
    loss = nn.functional.cross_entropy(twin(whole.images), whole.labels, label_smoothing=0.1)
    loss.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in twin.parameters()))
    assert norm > 0.5, "the clip must bite here"
    for p in twin.parameters():
        p.grad.mul_(0.5 / norm)
    for group in oracle.param_groups:
        group["lr"] = 1e-3
    oracle.step()
    found = train_step(state.model, state.optimizer, [whole], 1e-3, OPTIM, "float32")
    assert found[0] == pytest.approx(loss.item(), rel=1e-13) and found[1] == pytest.approx(norm.item(), rel=1e-12)
    for ours, theirs in zip(state.model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7, rtol=0)  # clip_grad_norm_ adds 1e-6 to the norm
        assert ours.grad is None


def test_rates_follow_schedule_and_layers() -> None:
    state = toy(OptimConfig(lr=1e-2, warmup_steps=2, layer_decay=0.5))
    lrs = [s.lr for s in train_steps(state, [batch(4)] * 4, 4, OptimConfig(lr=1e-2, warmup_steps=2), 0, "float32")]
    assert lrs == pytest.approx([5e-3, 1e-2, 1e-2, 5e-3])
    assert {g["lr"] for g in state.optimizer.param_groups} == {5e-3, 2.5e-3, 1.25e-3, 6.25e-4}


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    state = toy(OPTIM.model_copy(update={"ema": 0.9}))
    before, average = weights(state), [p.clone() for p in state.average.parameters()]
    batches = [batch(4, nan=True), batch(4)]
    first, second = train_steps(state, batches, 2, OPTIM, 0, "float32"), None
    step = next(first)
    assert step.skipped and math.isnan(step.loss)
    assert torch.equal(weights(state), before) and not state.optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(average, state.average.parameters(), strict=True))
    second = next(first)
    assert not second.skipped and not torch.equal(weights(state), before)
    assert (state.step, state.skipped, state.skipped_in_row) == (2, 1, 0)


def test_ten_bad_steps_in_a_row_stop_with_a_sentence() -> None:
    state = toy()
    batches = [batch(4)] * 3 + [batch(4, nan=True)] * 20
    with pytest.raises(ConfigError) as error:
        list(train_steps(state, batches, 23, OPTIM, 0, "float32"))
    assert str(error.value) == (
        "the loss or its gradient was not finite in 10 steps in a row, up to step 13: "
        "lower optim.lr (now 0.01) or set precision=float32 (now float32)"
    )
    assert torch.isfinite(weights(state)).all()


def test_how_many_bad_steps_stop_a_run_can_be_set() -> None:
    optim = OPTIM.model_copy(update={"max_skipped": 2})
    with pytest.raises(ConfigError, match="not finite in 2 steps in a row, up to step 3: "):
        list(train_steps(toy(optim), [batch(4)] + [batch(4, nan=True)] * 3, 4, optim, 0, "float32"))


def test_a_step_tells_which_images_it_had() -> None:
    (step,) = train_steps(toy(), [batch(4, nan=True)], 1, OPTIM, 0, "float32")
    assert step.skipped and step.index.tolist() == [0, 1, 2, 3]


def test_nine_bad_steps_in_a_row_do_not_stop() -> None:
    state = toy()
    batches = ([batch(4, nan=True)] * 9 + [batch(4)]) * 2
    assert len(list(train_steps(state, batches, 20, OPTIM, 0, "float32"))) == 20
    assert state.skipped == 18


def test_what_a_step_draws_depends_on_seed_and_step_only() -> None:
    saved = {}
    ends = []
    for start in (0, 3):  # the second run continues from the first one's third step, in another generator state
        state = toy(dropout=0.5)
        if start:
            state.model.load_state_dict(saved["model"])
            state.optimizer.load_state_dict(saved["optimizer"])
            state.step = start
        torch.manual_seed(start)
        for done in train_steps(state, [batch(4, seed=i) for i in range(start, 6)], 6, OPTIM, 5, "float32"):
            torch.rand(done.step)  # the caller draws in between
            if done.step == 3:
                saved = deepcopy({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()})
        ends.append(weights(state))
    assert torch.equal(*ends)
    other = toy(dropout=0.5)
    list(train_steps(other, [batch(4, seed=i) for i in range(6)], 6, OPTIM, 6, "float32"))
    assert not torch.equal(ends[0], weights(other)), "another seed must draw otherwise"


def test_the_callers_generator_is_left_alone() -> None:
    state = toy(dropout=0.5)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    list(train_steps(state, [batch(4)] * 2, 2, OPTIM, 0, "float32"))
    assert torch.equal(torch.rand(3), expected)


def test_step_streams_differ() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)
    draws = []
    for step in (0, 1, 0):
        with step_rng(0, step, CPU):
            draws.append(torch.rand(2))
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])


def test_training_mode_is_restored_after_an_evaluation_in_between() -> None:
    state = toy()
    for _ in train_steps(state, [batch(4)] * 2, 2, OPTIM, 0, "float32"):
        assert state.model.training
        state.model.eval()


def test_average_by_hand() -> None:
    fast, slow = nn.Linear(2, 1), nn.Linear(2, 1)
    nn.init.constant_(fast.weight, 1.0)
    nn.init.constant_(slow.weight, 0.0)
    update_average(slow, fast, 0.75)
    update_average(slow, fast, 0.75)
    assert slow.weight.tolist() == [[0.4375, 0.4375]]


def test_averaged_weights_are_the_result() -> None:
    optim = OPTIM.model_copy(update={"ema": 0.9})
    state = toy(optim)
    list(train_steps(state, [batch(4)] * 3, 3, optim, 0, "float32"))
    assert state.result is state.average and not state.average.training
    assert not torch.equal(weights(state), torch.cat([p.flatten() for p in state.average.parameters()]))


@pytest.mark.parametrize(("images", "parts", "sizes"), [(64, 4, [16] * 4), (10, 4, [3, 3, 2, 2]), (2, 4, [1, 1])])
def test_split(images: int, parts: int, sizes: list[int]) -> None:
    pieces = split(batch(images), parts, CPU)
    assert [len(p.images) for p in pieces] == sizes
    assert torch.equal(torch.cat([p.index for p in pieces]), torch.arange(images))


@pytest.mark.parametrize(
    ("able", "gain", "expected"),
    [
        ({}, 2.0, "float32"),
        ({"avx2": True}, 2.0, "float32"),
        ({"avx512_bf16": True}, 2.0, "bfloat16"),
        ({"amx_bf16": True}, 2.0, "bfloat16"),
        ({"avx512_bf16": True}, 0.5, "float32"),  # a Xeon whose tiles are switched off
    ],
)
def test_precision_follows_the_processor(
    able: dict[str, bool], gain: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    monkeypatch.setattr(loop, "bfloat16_gain", lambda: gain)
    assert find_precision("auto", CPU) == expected
    assert find_precision("float32", CPU) == "float32" and find_precision("bfloat16", CPU) == "bfloat16"


def test_the_gain_of_bfloat16_is_measured() -> None:
    assert 0 < loop.bfloat16_gain() < 100
    assert loop.bfloat16_gain() == loop.bfloat16_gain()  # one answer a process


def test_an_older_torch_that_does_not_tell_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert find_precision("auto", CPU) == "float32"


def test_bfloat16_computes_in_it_and_keeps_single_precision_weights() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(3)
        state = toy()
        seen: list[torch.dtype] = []
        state.model.head.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.dtype))
        losses[precision] = train_step(state.model, state.optimizer, [batch(8)], 1e-3, OPTIM, precision)[0]
        assert seen == [getattr(torch, precision)]
        assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)


def test_the_schedule_of_the_recipe_is_followed() -> None:
    optim = OptimConfig(lr=1e-2, schedule="wsd", warmup_steps=1, cooldown_steps=2, final_lr=2e-3)
    lrs = [s.lr for s in train_steps(toy(optim), [batch(4)] * 5, 5, optim, 0, "float32")]
    assert lrs == pytest.approx([1e-2, 1e-2, 1e-2, 1e-2, 6e-3])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "bce"])
def test_the_loss_of_the_recipe_is_followed(loss: str) -> None:
    optim = OPTIM.model_copy(update={"loss": loss, "clip": None})
    state = toy(optim, dtype=torch.float64)
    whole = batch(6, dtype=torch.float64)
    expected = make_loss(optim).of(state.model(whole.images), whole.labels).mean()
    gradients = torch.autograd.grad(expected, list(state.model.parameters()))
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    found = train_step(state.model, state.optimizer, cut(whole, [4, 2]), 1e-3, optim, "float32")
    assert found[:2] == pytest.approx((expected.item(), norm), rel=1e-12)


def test_an_objective_replaces_the_loss_on_labels() -> None:
    """What distillation adds comes in here: any loss of each image, from the model and the batch."""

    def zero_is_best(model: nn.Module, part: Batch) -> torch.Tensor:
        return model(part.images).square().sum(dim=1)

    state = toy()
    losses = [s.loss for s in train_steps(state, [batch(8)] * 20, 20, OPTIM, 0, "float32", zero_is_best)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_loss_with_class_weights_is_not_forgotten() -> None:
    with pytest.raises(ValueError, match="needs the number of training images of each class"):
        list(train_steps(toy(), [batch(4)], 1, OPTIM.model_copy(update={"class_weights": "balanced"}), 0, "float32"))


def bodies(state: TrainState) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n, p in state.model.named_parameters() if not in_head(n)])


def test_the_head_alone_learns_in_its_steps() -> None:
    optim = OPTIM.model_copy(update={"head_steps": 2})
    state = toy(optim)
    body, head = bodies(state), state.model.head.weight.detach().clone()
    backward: list[bool] = []
    state.model.blocks[0].register_forward_hook(lambda module, args, out: backward.append(out.requires_grad))
    moved = []
    for _ in train_steps(state, [batch(4)] * 4, 4, optim, 0, "float32"):
        moved.append(not torch.equal(bodies(state), body))
        assert not torch.equal(state.model.head.weight, head)
    assert moved == [False, False, True, True]
    assert backward == [False, False, True, True], "what is frozen is not differentiated"


def test_head_steps_are_a_function_of_the_step() -> None:
    """Continued in another process, where nothing is frozen yet, at each step."""
    optim = OPTIM.model_copy(update={"head_steps": 2})
    batches = [batch(4, seed=i) for i in range(4)]
    torch.manual_seed(3)
    whole = toy(optim)
    list(train_steps(whole, batches, 4, optim, 0, "float32"))
    for at in (1, 2, 3):
        torch.manual_seed(3)
        first, second = toy(optim), toy(optim)
        list(train_steps(first, batches[:at], 4, optim, 0, "float32"))
        second.model.load_state_dict(first.model.state_dict())
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.step = at
        list(train_steps(second, batches[at:], 4, optim, 0, "float32"))
        assert torch.equal(weights(second), weights(whole))


def test_what_was_frozen_before_stays_frozen_after_head_steps() -> None:
    optim = OPTIM.model_copy(update={"head_steps": 1})
    model = ViT(TOY)
    model.patch_embedding.requires_grad_(False)
    state = TrainState(model, make_optimizer(model, TOY, optim))
    before = model.patch_embedding.weight.clone()
    list(train_steps(state, [batch(4)] * 3, 3, optim, 0, "float32"))
    assert torch.equal(model.patch_embedding.weight, before) and not model.patch_embedding.weight.requires_grad
    assert model.blocks[0].mlp.fc1.weight.requires_grad


class Small:
    """A memory for `most` images: the model's forward pass fails beyond it, as torch does."""

    def __init__(self, model: nn.Module, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.most, self.error, self.sizes = most, error, []
        model.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor]) -> None:
        self.sizes.append(len(args[0]))
        if len(args[0]) > self.most:
            raise self.error("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(error: type[Exception]) -> None:
    batches = [batch(10, seed=i, dtype=torch.float64) for i in range(3)]
    plain, small = toy(dtype=torch.float64), toy(dtype=torch.float64)
    small.model.load_state_dict(plain.model.state_dict())
    memory = Small(small.model, 4, error)
    expected = list(train_steps(plain, batches, 3, OPTIM, 0, "float32"))
    found = list(train_steps(small, batches, 3, OPTIM, 0, "float32"))
    assert memory.sizes == [10, 5, 3, 3, 2, 2, *[3, 3, 2, 2] * 2], "tried once, then known"
    assert small.halvings == 2 and [s.parts for s in found] == [4, 4, 4] and [s.parts for s in expected] == [1, 1, 1]
    for a, b in zip(found, expected, strict=True):
        assert (a.loss, a.gradient_norm, a.images) == pytest.approx((b.loss, b.gradient_norm, 10), rel=1e-12)
    assert (weights(small) - weights(plain)).abs().max() < 1e-10


def test_out_of_memory_in_the_middle_of_a_step_starts_it_over() -> None:
    """The gradient of the parts that did fit must not be counted twice."""
    plain, small = toy(dtype=torch.float64), toy(dtype=torch.float64)
    small.model.load_state_dict(plain.model.state_dict())
    optim = OPTIM.model_copy(update={"accumulate": 2})
    calls = count()

    def second_fails(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    small.model.register_forward_pre_hook(second_fails)
    whole = batch(8, dtype=torch.float64)
    (expected,) = train_steps(plain, [whole], 1, optim, 0, "float32")
    (found,) = train_steps(small, [whole], 1, optim, 0, "float32")
    assert found.parts == 4
    assert (found.loss, found.gradient_norm) == pytest.approx((expected.loss, expected.gradient_norm), rel=1e-12)


def test_one_image_that_does_not_fit_is_a_sentence() -> None:
    state = toy()
    Small(state.model, 0)
    before = weights(state)
    with pytest.raises(ConfigError) as error:
        list(train_steps(state, [batch(3)], 1, OPTIM, 0, "float32"))
    assert str(error.value) == (
        "a training step needs memory for one image at least, and one of 8 x 8 px does not fit (cpu): "
        "set checkpointing=true, or choose a smaller model or image_size"
    )
    assert torch.equal(weights(state), before) and all(p.grad is None for p in state.model.parameters())


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    state = toy()
    state.model.register_forward_pre_hook(lambda module, args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        list(train_steps(state, [batch(3)], 1, OPTIM, 0, "float32"))
    assert state.halvings == 0


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_float16_scales_the_backward_pass_and_nothing_else() -> None:
    """The scale is a power of two: in single precision it changes no bit of the step."""
    found = []
    for scale in (1.0, 2.0**16):
        torch.manual_seed(3)
        state = toy()
        seen: list[float] = []
        state.model.head.weight.register_hook(lambda g, seen=seen: seen.append(g.norm().item()))
        step = train_step(state.model, state.optimizer, [batch(8)], 1e-3, OPTIM, "float32", None, scale)
        found.append((*step, weights(state), seen[0]))
    (*a, plain, small), (*b, scaled, large) = found
    assert a == b and torch.equal(plain, scaled) and large == pytest.approx(small * 2**16, rel=1e-6)


def test_float16_trains_and_keeps_single_precision_weights() -> None:
    torch.manual_seed(3)
    state = toy()
    seen: list[torch.dtype] = []
    state.model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    losses = [s.loss for s in train_steps(state, [batch(8)] * 10, 10, OPTIM, 0, "float16")]
    assert set(seen) == {torch.float16} and all(p.dtype == torch.float32 for p in state.model.parameters())
    assert losses[-1] < losses[0] and (state.loss_scale, state.scaled_steps, state.skipped) == (2.0**16, 10, 0)


def test_the_loss_scale_halves_at_an_overflow_and_doubles_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SCALE_STEPS", 3)
    state = toy()
    state.loss_scale = 8.0
    batches = [batch(4, nan=i in (0, 1, 5)) for i in range(9)]
    scales = [state.loss_scale for _ in train_steps(state, batches, 9, OPTIM, 0, "float16")]
    assert scales == [4.0, 2.0, 2.0, 2.0, 4.0, 2.0, 2.0, 2.0, 4.0]
    for _ in train_steps(toy_at(state, 1.0), [batch(4, nan=True)], 9, OPTIM, 0, "float16"):
        assert state.loss_scale == 1.0


def toy_at(state: TrainState, loss_scale: float) -> TrainState:
    state.step, state.loss_scale = 0, loss_scale
    return state


def test_a_gradient_that_overflows_is_skipped_at_a_smaller_scale_it_is_not() -> None:
    state = toy()
    state.loss_scale = 2.0**40  # far beyond the 65,504 of float16
    steps = list(train_steps(state, [batch(8)] * 3, 3, OPTIM.model_copy(update={"max_skipped": 99}), 0, "float16"))
    assert all(s.skipped and math.isfinite(s.loss) for s in steps) and state.loss_scale == 2.0**37
    state.loss_scale = 2.0**10
    (step,) = train_steps(toy_at(state, 2.0**10), [batch(8)], 3, OPTIM, 0, "float16")
    assert not step.skipped
