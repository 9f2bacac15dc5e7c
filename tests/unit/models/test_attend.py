"""Attention by either way gives the same numbers, as far as the precision allows."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.models import layers
from vitrail.models.layers import attend


def inputs(dtype: torch.dtype, queries: int = 50, tokens: int = 50) -> list[torch.Tensor]:
    """Queries, keys and values whose attention is neither even nor on one token alone."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, queries, 16), (2, 3, tokens, 16), (2, 3, tokens, 16))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def error(found: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Largest error of output and gradients, each relative to the size of what it should be."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, right, strict=True))


def with_gradients(how: object, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    assert callable(how)
    out = how(*parts)
    generator = torch.Generator().manual_seed(1)
    gradients = torch.autograd.grad(out, parts, torch.randn(out.shape, generator=generator).to(out))
    return [out.detach(), *gradients]


@pytest.mark.parametrize("queries", [50, 1])
def test_the_written_out_attention_errs_little_more_than_the_fused(queries: int) -> None:
    rounded = inputs(torch.bfloat16, queries)
    exact = [part.detach().double().requires_grad_() for part in rounded]
    right = with_gradients(F.scaled_dot_product_attention, exact)
    written = error(with_gradients(attend, rounded), right)
    fused = error(with_gradients(F.scaled_dot_product_attention, rounded), right)
    assert written < 2 * fused  # its scores are rounded to bfloat16 as well
    assert written < 0.02

    def unscaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(2, 3)).softmax(-1) @ v

    assert error(with_gradients(unscaled, rounded), right) > 0.1  # the control


def test_other_precisions_and_many_tokens_take_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []
    fused = F.scaled_dot_product_attention

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        calls.append(q.dtype)
        return fused(q, k, v)

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", counted)
    attend(*inputs(torch.bfloat16))
    assert calls == []
    attend(*inputs(torch.float32))
    attend(*inputs(torch.float64))
    monkeypatch.setattr(layers, "WRITTEN_OUT", 49)
    attend(*inputs(torch.bfloat16))
    assert calls == [torch.float32, torch.float64, torch.bfloat16]
