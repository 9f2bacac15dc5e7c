"""Sums that must be exact, and representations with a known answer."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from architectures import KINDS, gap, make
from vitrail.errors import ConfigError
from vitrail.explain.cells import without
from vitrail.explain.decomposition import direct_logit_attribution, logit_lens, patch_lens
from vitrail.explain.perturbation import head_importance, occlusion
from vitrail.explain.representation import (
    attention_distance,
    attention_entropy,
    cka,
    outliers,
    patch_filters,
    position_similarity,
    prefix_mass,
    token_norms,
)
from vitrail.models.intervention import Intervention
from vitrail.models.trace import BlockTrace, Trace, trace

ONE_TOKEN = ["token", "scaled, gated", "hybrid"]


@pytest.mark.parametrize("kind", ONE_TOKEN)
def test_what_heads_and_mlps_add_sums_to_the_logits(kind: str) -> None:
    model, x = make(kind)
    found = direct_logit_attribution(model, x)
    assert found.heads.shape == (2, 3, 3, 7)
    assert gap(found.total(), model(x)) < 1e-10


def test_a_head_that_gives_nothing_is_attributed_nothing() -> None:
    model, x = make()
    with torch.no_grad():
        model.blocks[1].attention.out.weight[:, 8:16] = 0
    assert gap(direct_logit_attribution(model, x).heads[:, 1, 1], torch.zeros(())) == 0.0


@pytest.mark.parametrize("kind", ["gap", "distilled", "map"])
def test_heads_that_read_otherwise_are_refused(kind: str) -> None:
    model, x = make(kind)
    with pytest.raises(ConfigError, match="class token alone"):
        direct_logit_attribution(model, x)
    with pytest.raises(ConfigError, match="class token alone"):
        patch_lens(model, trace(model, x)[1])
    with pytest.raises(ConfigError, match="tanh"):
        direct_logit_attribution(*make("token", pre_logits=8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_ends_at_the_logits(kind: str) -> None:
    model, x = make(kind)
    lens = logit_lens(model, trace(model, x)[1])
    assert lens.shape == (4, 2, 7)
    assert gap(lens[-1], model(x)) < 1e-12
    off = Intervention(attention={1: "zero"}, mlp={1: "zero"})
    silent = logit_lens(model, trace(model, x, change=off)[1])
    if kind != "several blocks":  # whose head reads the block before, too
        assert torch.equal(silent[1], silent[2])


def test_the_lens_of_each_patch_is_the_head_s_answer_to_it() -> None:
    model, x = make("token", pre_logits=8)
    _, record = trace(model, x)
    lens = patch_lens(model, record)
    assert lens.shape == (4, 2, 24, 7)
    moved = record.blocks[1].after_mlp.clone()
    moved[:, 0] = moved[:, 1 + 5]
    assert gap(lens[2, :, 5], model.classify(model.pool(moved))) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_logits_without_patches_are_those_of_the_shorter_sequence(kind: str) -> None:
    model, x = make(kind)
    kept = torch.ones(2, 24, dtype=torch.bool)
    kept[0, [1, 7]], kept[1, [0, 23]] = False, False
    found = without(model, x, kept)
    for i, gone in enumerate(([1, 7], [0, 23])):
        assert gap(found[i : i + 1], trace(model, x[i : i + 1], change=Intervention(drop=gone))[0]) < 1e-10
        assert gap(without(model, x[i : i + 1], kept)[i], found[i]) < 1e-10  # one image, embedded once, for all rows
    assert gap(without(model, x, torch.ones(2, 24, dtype=torch.bool)), model(x)) < 1e-10
    many = torch.ones(40, 24, dtype=torch.bool)  # more than are computed at once
    many[torch.arange(40), torch.arange(40) % 24] = False
    assert gap(without(model, x[:1], many)[33], trace(model, x[:1], change=Intervention(drop=[33 % 24]))[0][0]) < 1e-10


def test_rows_that_keep_another_number_of_patches_are_refused() -> None:
    model, x = make()
    kept = torch.ones(2, 24, dtype=torch.bool)
    kept[0, 0] = False
    with pytest.raises(ValueError, match="as many patches"):
        without(model, x, kept)
    with pytest.raises(ValueError, match="one at least"):
        without(model, x, torch.zeros(2, 24, dtype=torch.bool))


def test_occlusion_is_what_the_logit_loses() -> None:
    model, x = make()
    found = occlusion(model, x, torch.tensor([3, 5])).flatten(1)
    for i, label in enumerate((3, 5)):
        without = trace(model, x[i : i + 1], change=Intervention(drop=[10]))[0][0, label]
        assert abs(float(found[i, 10]) - float((model(x)[i, label] - without).detach())) < 1e-10


def test_the_importance_of_a_head_is_what_the_logit_loses_by_its_mean() -> None:
    model, x = make()
    found = head_importance(model, x, torch.tensor([3, 5]))
    change = Intervention(heads={(1, 2): "mean"})
    lost = (model(x) - trace(model, x, change=change)[0]).detach()
    assert abs(float(found[1, 1, 2]) - float(lost[1, 5])) < 1e-10


def _record(attention: Tensor) -> Trace:
    model, x = make()
    _, record = trace(model, x[:1])
    return dataclasses.replace(record, blocks=(BlockTrace({"attention": attention}),))


def test_attention_distance_of_known_attention() -> None:
    model, x = make()  # 4 x 6 patches of 4 px
    tokens = model.config.tokens
    eye = torch.eye(tokens, dtype=torch.float64).expand(1, 3, -1, -1)
    assert gap(attention_distance(model, _record(eye)), torch.zeros(())) == 0.0
    even = torch.full((1, 3, tokens, tokens), 1 / tokens, dtype=torch.float64)
    pairs = [math.dist(a, b) for a in _points() for b in _points()]
    assert abs(float(attention_distance(model, _record(even))[0, 0, 0]) - sum(pairs) / len(pairs)) < 1e-10
    assert abs(float(prefix_mass(_record(even))[0, 0, 0]) - 1 / tokens) < 1e-12
    assert abs(float(attention_entropy(_record(even))[0, 0, 0]) - math.log(tokens)) < 1e-10
    assert gap(attention_entropy(_record(eye)), torch.zeros(())) < 1e-12
    found = attention_distance(model, trace(model, x)[1])
    assert found.shape == (2, 3, 3) and (found <= max(pairs)).all() and (found > 0).all()


def _points() -> list[tuple[int, int]]:
    return [(4 * row + 2, 4 * col + 2) for row in range(4) for col in range(6)]


def test_similarity_of_positions() -> None:
    for kind in ("token", "sines, no prefix"):
        model, _ = make(kind)
        found = position_similarity(model)
        assert gap(found.diag(), torch.ones(24, dtype=torch.float64)) < 1e-12 and gap(found, found.T) < 1e-12
    omega = 10_000 ** -(torch.arange(6, dtype=torch.float64) / 5)
    step = (3, 2)  # rows, cols apart
    expected = 0.5 * sum((omega * s).cos().mean() for s in step)
    a, b = 0 * 6 + 1, step[0] * 6 + 1 + step[1]
    assert abs(float(found[a, b] - expected)) < 1e-10
    with pytest.raises(ConfigError, match="rope"):
        position_similarity(make("rotary, registers")[0])


def test_filters_are_orthonormal_and_hold_the_whole_variance() -> None:
    model, _ = make()
    found = patch_filters(model, count=48)
    rows = found.components.flatten(1)
    assert gap(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64)) < 1e-8
    assert abs(float(found.variance.sum()) - 1) < 1e-10 and (found.variance.diff() <= 1e-12).all()
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()
    weight = model.patch_embedding.weight.detach().flatten(1)
    centred = weight - weight.mean(0)
    assert gap(centred @ rows.T @ rows, centred) < 1e-8
    with torch.no_grad():  # filters that are multiples of one: a single component
        model.patch_embedding.weight.copy_(torch.randn(24, 1, 1, 1) * torch.ones(1, 3, 4, 4))
    assert float(patch_filters(model).variance[0]) > 1 - 1e-10


def test_only_a_planted_token_stands_out_by_its_norm() -> None:
    model, x = make()
    norms = token_norms(trace(model, x)[1])
    planted = norms.clone()
    planted[0, 9] = norms[0].median() * 20
    assert not outliers(norms).any()
    assert outliers(planted).nonzero().tolist() == [[0, 9]]


def test_cka_of_known_representations() -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(64, d, dtype=torch.float64) for d in (20, 30))
    q, _ = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))
    assert abs(cka(x, x) - 1) < 1e-12
    assert abs(cka(x, y) - cka(2.5 * x @ q + 3.0, y)) < 1e-10  # rotation, scale and shift
    assert abs(cka(x @ torch.randn(20, 20, dtype=torch.float64), x) - 1) > 1e-2  # not any linear map
    assert abs(cka(x, y)) < 0.12  # independent: the biased estimator gives 0.28
    with pytest.raises(ValueError, match="at least 4"):
        cka(x[:3], y[:3])
