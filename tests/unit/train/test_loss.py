import math

import pytest
import torch

from vitrail.config import OptimConfig
from vitrail.train.loss import balanced_weights, cross_entropy, make_loss, sigmoid_cross_entropy

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


ROWS = {  # what a batch may hold: indices, mixed rows, any number of classes
    "indices": torch.tensor([0, 2]),
    "mixed": torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64),
    "many": torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64),
}


def asked(logit: float, target: float) -> float:
    """Binary cross entropy of one question."""
    return target * math.log(1 + math.exp(-logit)) + (1 - target) * math.log(1 + math.exp(logit))


def test_sigmoid_by_hand() -> None:
    found = sigmoid_cross_entropy(LOGITS, ROWS["indices"])
    expected = [asked(2, 1) + asked(0, 0) + asked(-1, 0), 2 * asked(0.5, 0) + asked(0.5, 1)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    found = sigmoid_cross_entropy(LOGITS, ROWS["mixed"])
    assert found[0].item() == pytest.approx(asked(2, 0.25) + asked(0, 0.75) + asked(-1, 0), abs=1e-12)
    found = sigmoid_cross_entropy(LOGITS, ROWS["many"])
    expected = [asked(2, 1) + asked(0, 1) + asked(-1, 0), 3 * asked(0.5, 0)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_timms(smoothing: float) -> None:
    timm = pytest.importorskip("timm.loss")
    oracle = timm.BinaryCrossEntropy(smoothing=smoothing)
    loss = make_loss(OptimConfig(loss="bce", label_smoothing=smoothing))
    assert loss.of(LOGITS, ROWS["indices"]).mean().item() == pytest.approx(oracle(LOGITS, ROWS["indices"]).item())
    # timm smooths the labels before it mixes them, which comes to the same
    share = torch.nn.functional.one_hot(ROWS["indices"], 3).double() * (1 - smoothing) + smoothing / 3
    mixed, smooth = 0.7 * share + 0.3 * share.roll(1, 0), torch.tensor([[0.7, 0.0, 0.3], [0.3, 0.0, 0.7]])
    assert loss.of(LOGITS, smooth.double()).mean().item() == pytest.approx(oracle(LOGITS, mixed).item())


def test_bce_is_the_mean_and_sigmoid_the_sum() -> None:
    total = make_loss(OptimConfig(loss="sigmoid")).of(LOGITS, ROWS["mixed"])
    assert torch.allclose(make_loss(OptimConfig(loss="bce")).of(LOGITS, ROWS["mixed"]) * 3, total)
    assert torch.equal(total, sigmoid_cross_entropy(LOGITS, ROWS["mixed"]))


def test_smoothing_of_several_classes_keeps_their_number() -> None:
    found = sigmoid_cross_entropy(LOGITS, ROWS["many"], smoothing=0.3)
    high, low = 0.7 + 0.3 * 2 / 3, 0.3 * 2 / 3
    expected = [asked(2, high) + asked(0, high) + asked(-1, low), 3 * asked(0.5, 0)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_half_precision_questions_are_summed_in_single() -> None:
    found = sigmoid_cross_entropy(LOGITS.bfloat16(), ROWS["indices"])
    assert found.dtype == torch.float32
    expected = sigmoid_cross_entropy(LOGITS.bfloat16().double(), ROWS["indices"])
    assert torch.allclose(found.double(), expected, atol=1e-6, rtol=0)


def test_balanced_weights_are_scikit_learns() -> None:
    utils = pytest.importorskip("sklearn.utils.class_weight")
    numpy = pytest.importorskip("numpy")
    labels = [0] * 6 + [1] * 3 + [2]
    expected = utils.compute_class_weight("balanced", classes=numpy.arange(3), y=labels)
    assert balanced_weights([6, 3, 1]).tolist() == pytest.approx(expected.tolist(), abs=1e-15)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "bce"])
def test_with_balanced_weights_every_class_weighs_the_same(kind: str) -> None:
    """Over a whole data set with equal logits each class adds the same to the loss, and all of them what they did."""
    counts = [6, 3, 1]
    labels = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])
    logits = torch.zeros(10, 3, dtype=torch.float64)
    plain = make_loss(OptimConfig(loss=kind)).of(logits, labels)
    weighed = make_loss(OptimConfig(loss=kind, class_weights="balanced"), counts).of(logits, labels)
    shares = [weighed[labels == k].sum().item() for k in range(3)]
    assert shares == pytest.approx([plain.sum().item() / 3] * 3)
    assert [plain[labels == k].sum().item() for k in range(3)] != pytest.approx(shares)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_weights_of_soft_labels_are_those_of_their_classes(kind: str) -> None:
    loss = make_loss(OptimConfig(loss=kind, class_weights="balanced"), [6, 3, 1])
    hard = torch.tensor([1, 2])
    rows = torch.nn.functional.one_hot(hard, 3).double()
    assert torch.allclose(loss.of(LOGITS, hard), loss.of(LOGITS, rows), atol=1e-12, rtol=0)
    if kind == "sigmoid":
        weights = balanced_weights([6, 3, 1])
        found = loss.of(LOGITS, ROWS["many"]) / sigmoid_cross_entropy(LOGITS, ROWS["many"])
        assert found.tolist() == pytest.approx([(weights[0] + weights[1]).item() / 2, 1.0])


def test_logit_adjustment_by_hand() -> None:
    counts, tau = [6, 3, 1], 1.5
    loss = make_loss(OptimConfig(logit_adjustment=tau), counts)
    scores = [[x + tau * math.log(c / 10) for x, c in zip(row, counts, strict=True)] for row in LOGITS.tolist()]
    expected = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(scores, [0, 2], strict=True)]
    assert loss.of(LOGITS, ROWS["indices"]).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_loss_that_needs_counts_does_not_do_without() -> None:
    for counts in (None, [3, 0, 1]):
        with pytest.raises(ValueError, match="needs the number of training images of each class"):
            make_loss(OptimConfig(class_weights="balanced"), counts)
    assert make_loss(OptimConfig()).weights is None
