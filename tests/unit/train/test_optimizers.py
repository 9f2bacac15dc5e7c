"""LAMB, Lion and Muon against the formulas of the papers, written out here in numpy, and against timm and torch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.train.optimizers import NEWTON_SCHULZ, RMS_OF_ADAMW, Lamb, Lion, Muon, orthogonal, trust_ratio

LR, BETAS, EPS, DECAY = 0.05, (0.9, 0.95), 1e-6, 0.1
Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any]], np.ndarray]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps(optimizer: torch.optim.Optimizer, weight: Tensor, count: int = 5) -> list[np.ndarray]:
    """The weight after each step on gradients 0, 1, ..."""
    seen = []
    for step in range(count):
        weight.grad = random(*weight.shape, seed=step).to(weight.dtype)
        optimizer.step()
        seen.append(weight.detach().numpy().copy())
    return seen


def by_hand(rule: Rule, weight: Tensor, count: int = 5) -> list[np.ndarray]:
    x, memory, seen = weight.detach().numpy().copy(), {"t": 0}, []
    for step in range(count):
        memory["t"] += 1
        x = rule(x, random(*weight.shape, seed=step).numpy(), memory)
        seen.append(x)
    return seen


def lamb_rule(x: np.ndarray, g: np.ndarray, memory: dict[str, Any], decay: float, adapt: bool) -> np.ndarray:
    """Algorithm 2 of the paper, with phi(z) = z."""
    t, (b1, b2) = memory["t"], BETAS
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    r = (memory["m"] / (1 - b1**t)) / (np.sqrt(memory["v"] / (1 - b2**t)) + EPS)
    u = r + decay * x
    ratio = np.linalg.norm(x) / np.linalg.norm(u) if adapt else 1.0
    return x - LR * ratio * u


def lion_rule(x: np.ndarray, g: np.ndarray, memory: dict[str, Any]) -> np.ndarray:
    """Algorithm 2 of the paper."""
    (b1, b2), m = BETAS, memory.get("m", np.zeros_like(g))
    update = np.sign(b1 * m + (1 - b1) * g)
    memory["m"] = b2 * m + (1 - b2) * g
    return x - LR * (update + DECAY * x)


def group(weight: Tensor, **more: Any) -> list[dict[str, Any]]:
    return [{"params": [weight], "weight_decay": DECAY, **more}]


def close(found: list[np.ndarray], expected: list[np.ndarray], bound: float = 1e-12) -> bool:
    return all(np.abs(a - b).max() < bound for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("decay", "adapt"), [(0.0, True), (DECAY, True), (0.0, False)])
def test_lamb_is_the_papers_algorithm(decay: float, adapt: bool) -> None:
    weight = random(4, 3, seed=99).requires_grad_()
    expected = by_hand(lambda x, g, m: lamb_rule(x, g, m, decay, adapt), weight)
    wrong = by_hand(lambda x, g, m: lamb_rule(x, g, m, decay, not adapt), weight)
    optimizer = Lamb([{"params": [weight], "weight_decay": decay, "adapt": adapt}], LR, BETAS, EPS)
    found = steps(optimizer, weight)
    assert close(found, expected) and not close(found, wrong, 1e-3)


def test_lamb_is_timms_where_both_scale() -> None:
    timm = pytest.importorskip("timm.optim")
    ours, theirs = random(4, 3, seed=99).requires_grad_(), random(4, 3, seed=99).requires_grad_()
    oracle = timm.Lamb([theirs], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, max_grad_norm=None)
    assert close(steps(Lamb(group(ours), LR, BETAS, EPS), ours), steps(oracle, theirs))


def test_trust_ratio() -> None:
    assert trust_ratio(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])) == 2.5
    assert trust_ratio(torch.zeros(2), torch.ones(2)) == 1.0, "a head of zeros must be able to leave zero"
    assert trust_ratio(torch.ones(2), torch.zeros(2)) == 1.0


def test_lion_is_the_papers_algorithm() -> None:
    weight = random(4, 3, seed=99).requires_grad_()
    expected = by_hand(lion_rule, weight)
    assert close(steps(Lion(group(weight), LR, BETAS), weight), expected)


def test_lion_is_timms() -> None:
    timm = pytest.importorskip("timm.optim")
    ours, theirs = random(4, 3, seed=99).requires_grad_(), random(4, 3, seed=99).requires_grad_()
    oracle = timm.Lion([theirs], lr=LR, betas=BETAS, weight_decay=DECAY)
    assert close(steps(Lion(group(ours), LR, BETAS), ours), steps(oracle, theirs))


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3)])
def test_newton_schulz_is_its_polynomial_on_the_singular_values(shape: tuple[int, int]) -> None:
    a, b, c = NEWTON_SCHULZ
    matrices = torch.stack([random(*shape, seed=1), 100 * random(*shape, seed=2)])
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = a * s + b * s**3 + c * s**5
        assert torch.allclose(found, u @ s.diag() @ v, atol=1e-12, rtol=0)


def test_newton_schulz_brings_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonal(random(1, 32, 64, seed=0))[0])
    assert values.min() > 0.6 and values.max() < 1.25
    assert torch.linalg.svdvals(random(32, 64, seed=0)).max() > 10


def muon_rule(x: np.ndarray, g: np.ndarray, memory: dict[str, Any], parts: int) -> np.ndarray:
    """Momentum as in torch.optim.Muon, Nesterov, one matrix at a time; equation 4 of Liu et al. for the size."""
    momentum = 0.9
    memory["m"] = momentum * memory.get("m", 0.0) + (1 - momentum) * g
    ahead = (1 - momentum) * g + momentum * memory["m"]
    rows = []
    for part in np.split(ahead, parts):
        a, b, c = NEWTON_SCHULZ
        y = part / np.linalg.norm(part)
        for _ in range(5):
            y = a * y + b * (y @ y.T) @ y + c * (y @ y.T) @ (y @ y.T) @ y
        rows.append(0.2 * math.sqrt(max(part.shape)) * y)
    return x - LR * (np.concatenate(rows) + DECAY * x)


@pytest.mark.parametrize("parts", [1, 3])
def test_muon_by_hand_and_each_fused_matrix_by_itself(parts: int) -> None:
    weight = random(12, 4, seed=99).requires_grad_()
    expected = by_hand(lambda x, g, m: muon_rule(x, g, m, parts), weight)
    wrong = by_hand(lambda x, g, m: muon_rule(x, g, m, 4 - parts), weight)
    found = steps(Muon(group(weight, matrices=parts), LR, 0.9, BETAS, EPS), weight)
    assert close(found, expected) and not close(found, wrong, 1e-2)


def test_muon_is_torchs_but_for_its_bfloat16() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    ours, theirs = random(16, 24, seed=9).float().requires_grad_(), random(16, 24, seed=9).float().requires_grad_()
    oracle = torch.optim.Muon([theirs], lr=LR, weight_decay=DECAY, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    found = steps(Muon(group(ours, matrices=1), LR, 0.9, BETAS, EPS), ours)
    expected = steps(oracle, theirs)
    moved = np.abs(expected[-1] - random(16, 24, seed=9).numpy()).mean()
    difference = np.abs(found[-1] - expected[-1]).mean()
    assert difference < 0.02 * moved  # bfloat16 has three digits


def test_muon_takes_kernels_as_matrices() -> None:
    kernel = random(4, 3, 2, 2, seed=1).requires_grad_()
    flat = kernel.detach().flatten(1).clone().requires_grad_()
    kernel.grad, flat.grad = random(4, 3, 2, 2, seed=2), random(4, 3, 2, 2, seed=2).flatten(1)
    for weight in (kernel, flat):
        Muon(group(weight, matrices=1), LR, 0.9, BETAS, EPS).step()
    assert torch.equal(kernel.flatten(1), flat)


def test_the_size_of_muons_update_is_adamws() -> None:
    """Root mean square 0.2 for a matrix of any shape, up to what Newton-Schulz leaves."""
    for shape in ((32, 32), (64, 16)):
        weight = torch.zeros(*shape, dtype=torch.float64, requires_grad=True)
        weight.grad = random(*shape, seed=3)
        Muon([{"params": [weight], "matrices": 1}], 1.0, 0.9, BETAS, EPS).step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(RMS_OF_ADAMW, rel=0.2)


def test_muon_leaves_the_rest_to_adamw() -> None:
    hidden, bias = random(4, 4, seed=0).requires_grad_(), random(4, seed=1).requires_grad_()
    twin = bias.detach().clone().requires_grad_()
    groups = [{"params": [hidden], "matrices": 1}, {"params": [bias], "weight_decay": DECAY, "matrices": 0}]
    optimizer = Muon(groups, LR, 0.9, BETAS, EPS)
    oracle = torch.optim.AdamW([twin], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for step in range(3):
        hidden.grad, bias.grad, twin.grad = random(4, 4, seed=step), random(4, seed=step), random(4, seed=step)
        for group_ in optimizer.param_groups:
            group_["lr"] = LR / 2
        oracle.param_groups[0]["lr"] = LR / 2
        optimizer.step()
        oracle.step()
    assert torch.allclose(bias, twin, atol=1e-15, rtol=0)
    assert set(optimizer.state) == {hidden, bias}, "one table for both"


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: Lamb(groups, LR, BETAS, EPS),
        lambda groups: Lion(groups, LR, BETAS),
        lambda groups: Muon(groups, LR, 0.9, BETAS, EPS),
    ],
    ids=["lamb", "lion", "muon"],
)
def test_every_state_is_a_tensor_and_frozen_parameters_have_none(make: Callable[..., torch.optim.Optimizer]) -> None:
    moving, frozen = random(4, 4, seed=0).requires_grad_(), random(4, 4, seed=1).requires_grad_()
    optimizer = make([{"params": [moving, frozen], "matrices": 1}])
    before = frozen.detach().clone()
    moving.grad = random(4, 4, seed=2)
    optimizer.step()
    assert set(optimizer.state) == {moving} and torch.equal(frozen, before)
    assert all(isinstance(value, Tensor) for value in optimizer.state[moving].values())
