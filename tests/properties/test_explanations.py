"""Properties that hold of every explanation, whatever the architecture; here those of several methods at once, and:

patch embedding is linear, patches fold back         tests/unit/ops/test_grid.py
trace equals the fused pass, interventions           tests/unit/models/test_trace.py, test_intervention.py
rollout, relevance, LeGrad, Grad-CAM, gradients      tests/unit/explain/test_attention.py
logit lens, attribution, distances, filters, CKA     tests/unit/explain/test_exact.py
deletion, insertion, SaCo, sanity, pointing, overlap tests/unit/explain/test_faithfulness.py
a ResNet's methods                                   tests/unit/explain/test_resnet.py
"""

import pytest
import torch

from architectures import KINDS, gap, make
from vitrail.explain import attention as maps
from vitrail.explain import faithfulness as measure
from vitrail.explain.catalog import METHODS
from vitrail.explain.cells import BASELINES, answers
from vitrail.explain.representation import attention_distance
from vitrail.models.intervention import Intervention
from vitrail.models.trace import trace

CLASSES = torch.tensor([3, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_a_share_and_its_heads_sum_to_what_is_added(kind: str) -> None:
    model, x = make(kind)
    _, record = trace(model, x)
    entering = record.embedded
    for block, part in zip(model.blocks, record.blocks, strict=True):
        assert gap(part.attention.sum(-1), torch.ones(())) < 1e-12 and (part.attention >= 0).all()
        assert gap(part.attention @ part.values, part.heads) < 1e-10
        weight = block.attention.out.weight.unflatten(1, (model.config.heads, -1))  # D h d
        each = torch.einsum("bhtd,ohd->bhto", part.heads, weight)
        added = block.scale1(each.sum(dim=1) + block.attention.out.bias)
        assert gap(entering + added, part.after_attention) < 1e-10
        entering = part.after_mlp


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_shares_everything_among_the_tokens(kind: str) -> None:
    """With what goes to the prefix tokens the map is one."""
    model, x = make(kind)
    _, record = trace(model, x)
    mixing = maps.product([maps.half_residual(b.attention.mean(dim=1)) for b in record.blocks])
    row = (maps.read_weights(model, record)[:, None] @ mixing)[:, 0]
    assert gap(row.sum(dim=1), torch.ones(())) < 1e-10 and (row >= 0).all()
    assert gap(maps.rollout(model, x, CLASSES).flatten(1), row[:, model.config.prefix :]) < 1e-12


@pytest.mark.parametrize("name", ["attention", "rollout", "gradient_rollout", "relevance", "legrad", "grad_cam"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_that_have_no_sign_are_not_negative(kind: str, name: str) -> None:
    model, x = make(kind)
    assert not METHODS[name].signed
    assert (METHODS[name].method(model, x, CLASSES) >= 0).all()


@pytest.mark.parametrize("name", ["attention", "rollout", "relevance", "grad_cam", "occlusion"])
def test_without_positions_a_map_goes_where_its_patches_go(name: str) -> None:
    model, x = make()
    with torch.no_grad():
        model.position_embedding.zero_()  # type: ignore[union-attr]
    order = torch.randperm(24)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]  # B C P 4 4
    moved = patches.unflatten(2, (4, 6)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    before, after = (METHODS[name].method(model, images, CLASSES).flatten(1) for images in (x, moved))
    assert gap(after, before[:, order]) < 1e-10


def test_gradient_rollout_pairs_each_block_with_its_own_gradient() -> None:
    model, x = make()
    logits, record = trace(model, x[:1], gradients=True)
    gradients = torch.autograd.grad(logits[0, 3], [b.attention for b in record.blocks])

    def rolled(ordered: tuple[torch.Tensor, ...]) -> torch.Tensor:
        result = torch.eye(25, dtype=torch.float64)
        for block, gradient in zip(record.blocks, ordered, strict=True):
            kept = (gradient * block.attention.detach()).mean(1)[0].clamp(min=0)
            mixing = kept + torch.eye(25)
            result = (mixing / mixing.sum(-1, keepdim=True)) @ result
        assert gap(result.sum(-1), torch.ones(())) < 1e-12
        return result[0, 1:]

    found = maps.gradient_rollout(model, x[:1], CLASSES[:1], discard=0.0).flatten()
    assert gap(found, rolled(gradients)) < 1e-12
    assert gap(found, rolled(gradients[::-1])) > 1e-4  # what hooks that fire backwards would give


def test_attention_distance_is_in_pixels() -> None:
    model, x = make()
    _, record = trace(model, x)
    wide, _ = make("token", patch_size=(8, 8), image_size=(32, 48))
    assert gap(attention_distance(wide, record), 2 * attention_distance(model, record)) < 1e-10


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_curves_of_a_model_that_does_not_look_are_flat(baseline: str) -> None:
    model, x = make()
    with torch.no_grad():
        for block in model.blocks:  # the class token hears of no patch
            block.attention.out.weight.zero_()
    sure = answers(model, x).softmax(1).gather(1, CLASSES[:, None])[:, 0]
    random = measure.random_map(model, x, CLASSES)
    found = measure.curves(model, x, CLASSES, random, baseline)  # type: ignore[arg-type]
    assert gap(found.deletion_auc, sure) < 1e-10 and gap(found.insertion_auc, sure) < 1e-10
    other = trace(model, x, change=Intervention(drop=[1, 2]))[0].softmax(1).gather(1, CLASSES[:, None])[:, 0]
    assert gap(other, sure) < 1e-10


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].asks and n not in ("rise", "gradient_rollout")])
def test_a_class_that_nothing_speaks_for_has_a_blank_map(name: str) -> None:
    model, x = make()
    with torch.no_grad():
        model.head.weight[3].zero_()  # type: ignore[union-attr]
    found = METHODS[name].method(model, x[:1], torch.tensor([3]))
    assert float(found.abs().max()) < 1e-12
    assert float(METHODS[name].method(model, x[:1], torch.tensor([4])).abs().max()) > 1e-6


@pytest.mark.parametrize("how", ["autocast", "the model itself"])
@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("random", "rise", "occlusion")])
@pytest.mark.parametrize("kind", ["token", "gap", "map", "rotary, registers"])
def test_maps_in_bfloat16_are_those_in_float32(kind: str, name: str, how: str) -> None:
    """Within 3 % of the map's norm; bfloat16 keeps 8 bits, and rounds a number by up to 0.4 %."""
    model, x = make(kind)
    model, x = model.float(), x.float()
    exact = METHODS[name].method(model, x, CLASSES)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = METHODS[name].method(model, x, CLASSES)
    else:
        found = METHODS[name].method(model.bfloat16(), x.bfloat16(), CLASSES)
    error = (found.float() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert float(error.max()) < 0.03, error
