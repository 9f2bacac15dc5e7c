"""Solved heads: scikit-learn's logistic regression, leave-one-out by refitting, what folding leaves alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from vitrail.errors import DataError, WeightsError
from vitrail.evaluate import head as rooms
from vitrail.evaluate.head import fit_head, head_logits, spared


def blobs(count: int = 90, width: int = 6, classes: int = 3, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, of features whose scales and means differ by far."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=random)
    x = centres[labels] + spread * torch.randn(count, width, generator=random)
    return (10 ** torch.linspace(-2, 2, width)) * (x + 3), labels


def scaled(x: Tensor) -> np.ndarray:
    return ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).numpy()


def test_logistic_is_scikit_learn_s_on_scaled_features_and_acts_on_raw_ones() -> None:
    x, labels = blobs()
    head = fit_head(x, labels, 3, "logistic")
    oracle = LogisticRegression(C=1 / (head.penalty * len(x)), tol=1e-10, max_iter=10_000)
    oracle.fit(scaled(x), labels.numpy())
    wanted = torch.from_numpy(oracle.predict_proba(scaled(x)))
    assert (head_logits(head, x).softmax(1) - wanted).abs().max() < 2e-5
    other = LogisticRegression(C=1 / (2 * head.penalty * len(x)), tol=1e-10, max_iter=10_000)
    other.fit(scaled(x), labels.numpy())  # the comparison notices another penalty
    assert (head_logits(head, x).softmax(1) - torch.from_numpy(other.predict_proba(scaled(x)))).abs().max() > 1e-3


def test_the_logistic_penalty_is_the_best_on_the_spared_fifth() -> None:
    x, labels = blobs(spread=3.0)
    held, z = spared(labels).numpy(), scaled(x)
    losses = {}
    for penalty in rooms.LOGISTIC_PENALTIES[:8]:
        fit = LogisticRegression(C=1 / (penalty * (~held).sum()), tol=1e-10, max_iter=10_000)
        fit.fit(z[~held], labels[~held].numpy())
        losses[penalty] = -fit.predict_log_proba(z[held])[np.arange(held.sum()), labels[held].numpy()].mean()
    assert fit_head(x, labels, 3, "logistic").penalty == min(losses, key=lambda p: losses[p])


def test_ridge_is_chosen_by_refitting_without_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = blobs(count=24, width=4)
    z, y = scaled(x), (2 * F.one_hot(labels, 3) - 1).double().numpy()
    choices = (1.0, 0.1, 0.01)
    monkeypatch.setattr(rooms, "RIDGE_PENALTIES", choices)
    errors = {}
    for penalty in choices:
        outside = []
        for i in range(len(z)):
            rest = np.arange(len(z)) != i
            outside.append(Ridge(alpha=penalty * len(z)).fit(z[rest], y[rest]).predict(z[i : i + 1])[0])
        errors[penalty] = ((y - np.array(outside)) ** 2).mean()
    head = fit_head(x, labels, 3, "ridge")
    assert head.penalty == min(errors, key=lambda p: errors[p])
    fit = torch.from_numpy(Ridge(alpha=head.penalty * len(z)).fit(z, y).predict(z))
    found = head_logits(head, x).double()
    ratio = found / fit  # all outputs scaled by one factor
    assert (ratio - ratio.median()).abs().max() < 1e-3 * ratio.median() and ratio.median() > 0


def test_ridge_outputs_are_scaled_to_be_read_as_logits() -> None:
    x, labels = blobs(count=300)
    logits = head_logits(fit_head(x, labels, 3, "ridge"), x)
    loss = F.cross_entropy(logits, labels)
    assert loss < F.cross_entropy(logits / 3, labels) and loss < F.cross_entropy(3 * logits, labels)


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_more_features_than_images_and_constant_features(method: rooms.Method) -> None:
    x, labels = blobs(count=20, width=40, classes=2)
    x[:, 3] = 7.0
    head = fit_head(x, labels, 2, method)
    assert bool(head.weight.isfinite().all()) and bool((head.weight[:, 3] == 0).all())
    assert (head_logits(head, x).argmax(1) == labels).float().mean() > 0.8


@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_a_class_without_images_is_never_predicted(method: rooms.Method) -> None:
    x, labels = blobs()
    with_gap = torch.where(labels == 2, 3, labels)  # class 2 of 4 is empty
    full, gap = fit_head(x, labels, 3, method), fit_head(x, with_gap, 4, method)
    wild = 5 * x
    assert not bool((head_logits(gap, x).argmax(1) == 2).any())
    assert torch.equal(gap.weight[[0, 1, 3]], full.weight) and torch.equal(gap.bias[[0, 1, 3]], full.bias)
    assert bool((head_logits(full, wild).argmax(1) == 2).any())


def test_the_spared_fifth_takes_from_every_class_that_can_spare_one() -> None:
    labels = torch.tensor([0] * 11 + [1] * 3 + [2])
    assert labels[spared(labels)].tolist() == [0, 0, 1]
    assert fit_head(torch.randn(2, 3), torch.tensor([0, 1]), 2, "logistic").penalty == rooms.UNCHOSEN


def test_the_same_features_give_the_same_bits() -> None:
    x, labels = blobs()
    for method in ("logistic", "ridge"):
        one, two = (fit_head(x, labels, 3, method) for _ in range(2))
        assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def test_what_cannot_be_fitted_is_a_sentence() -> None:
    x, labels = blobs()
    with pytest.raises(DataError, match="a head needs images to be fitted to, found none"):
        fit_head(x[:0], labels[:0], 3, "ridge")
    x[4, 2] = torch.nan
    with pytest.raises(WeightsError, match="the features of some images are not finite"):
        fit_head(x, labels, 3, "ridge")
