import math
from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import nn

from vitrail.config import OptimConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.vit import ViT
from vitrail.train import loop
from vitrail.train.loop import find_precision, split, step_rng, step_seed, train_step, train_steps, update_average
from vitrail.train.optim import make_optimizer
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
    means = [loop.cross_entropy(state.model(p.images), p.labels, 0.1).mean().item() for p in parts]
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
    ("able", "expected"),
    [
        ({}, "float32"),
        ({"avx2": True}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
    ],
)
def test_precision_follows_the_processor(able: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert find_precision("auto", CPU) == expected
    assert find_precision("float32", CPU) == "float32" and find_precision("bfloat16", CPU) == "bfloat16"


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
