import math

import pytest
import torch

from vitrail.train.loss import cross_entropy

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], dtype=torch.float64)


def test_indices_by_hand() -> None:
    log_sum = math.log(math.exp(2) + 1 + math.exp(-1))
    found = cross_entropy(LOGITS, torch.tensor([0, 2]))
    assert found.tolist() == pytest.approx([log_sum - 2, math.log(3)], abs=1e-12)


def test_soft_labels_by_hand() -> None:
    labels = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    log_sum = math.log(math.exp(2) + 1 + math.exp(-1))
    assert cross_entropy(LOGITS, labels).tolist() == pytest.approx([log_sum - 0.25 * 2, math.log(3)], abs=1e-12)


def test_smoothing_moves_a_share_to_the_uniform_distribution() -> None:
    hard = torch.tensor([0, 2])
    soft = torch.full((2, 3), 0.1 / 3, dtype=torch.float64)
    soft[0, 0] += 0.9
    soft[1, 2] += 0.9
    smoothed = cross_entropy(LOGITS, hard, smoothing=0.1)
    assert torch.allclose(smoothed, cross_entropy(LOGITS, soft), atol=1e-12, rtol=0)
    assert not torch.allclose(smoothed, cross_entropy(LOGITS, hard))
    one_hot = torch.nn.functional.one_hot(hard, 3).double()
    assert torch.allclose(smoothed, cross_entropy(LOGITS, one_hot, smoothing=0.1), atol=1e-12, rtol=0)


def test_half_precision_logits_are_summed_in_single() -> None:
    found = cross_entropy(LOGITS.bfloat16(), torch.tensor([0, 2]))
    assert found.dtype == torch.float32
    expected = cross_entropy(LOGITS.bfloat16().double(), torch.tensor([0, 2]))
    assert torch.allclose(found.double(), expected, atol=1e-6, rtol=0)


def test_float32_labels_serve_double_logits() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert cross_entropy(LOGITS, labels).dtype == torch.float64
