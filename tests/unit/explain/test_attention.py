"""What must hold of the maps from attention and gradients, on every kind of architecture."""

import pytest
import torch
from torch import Tensor

from architectures import KINDS, gap, make
from vitrail.explain import attention as maps
from vitrail.explain.catalog import METHODS, find
from vitrail.explain.gradient import grad_cam, integrate
from vitrail.models.trace import trace
from vitrail.models.vit import ViT

CLASSES = torch.tensor([3, 5])
SMOOTH = [name for name in METHODS if name not in ("rise", "smooth_gradient", "random")]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_gives_every_model_a_finite_map_of_its_grid(kind: str, name: str) -> None:
    model, x = make(kind)
    training = model.train().training
    found = find(name).method(model, x, CLASSES)
    assert found.shape == (2, *model.config.grid) and found.isfinite().all()
    assert not found.requires_grad
    assert float(found.flatten(1).std(dim=1).min()) > 0
    assert model.training is training


@pytest.mark.parametrize("name", SMOOTH)
def test_one_image_s_map_does_not_depend_on_the_others(name: str) -> None:
    model, x = make()
    method = find(name).method
    both, alone = method(model, x, CLASSES), method(model, x[1:], CLASSES[1:])
    assert gap(both[1:], alone) < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_the_class_may_come_out_of_inference_mode(name: str) -> None:
    """As that of `classifier.logits(x).argmax(1)` does."""
    model, x = make()
    with torch.inference_mode():
        classes = model(x).argmax(dim=1)
    method = find(name).method
    assert torch.equal(method(model, x, classes), method(model, x, classes.clone()))


@pytest.mark.parametrize("name", METHODS)
def test_the_table_says_truly_whether_the_class_matters(name: str) -> None:
    model, x = make()
    row = find(name)
    one, other = row.method(model, x, CLASSES), row.method(model, x, CLASSES + 1)
    assert (gap(one, other) > 1e-12) is row.asks


@pytest.mark.parametrize("name", [n for n in METHODS if n != "rise"])
def test_a_bias_on_the_head_changes_no_map(name: str) -> None:
    model, x = make()
    before = find(name).method(model, x, CLASSES)
    with torch.no_grad():
        model.head.bias += torch.arange(7) * 2.0  # type: ignore[union-attr]
    assert gap(find(name).method(model, x, CLASSES), before) < 1e-10


def _head_times(model: ViT, factor: float) -> None:
    with torch.no_grad():
        model.head.weight *= factor  # type: ignore[union-attr]
        model.head.bias *= factor  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["legrad", "grad_cam", "input_gradient", "integrated_gradients", "occlusion"])
def test_a_score_three_times_as_large_gives_a_map_three_times_as_large(name: str) -> None:
    model, x = make()
    before = find(name).method(model, x, CLASSES)
    _head_times(model, 3.0)
    assert gap(find(name).method(model, x, CLASSES), 3 * before) < 1e-10


def test_rollout_of_known_attention() -> None:
    tokens, depth = 7, 4
    one = torch.eye(tokens, dtype=torch.float64)[None]
    even = torch.full((1, tokens, tokens), 1 / tokens, dtype=torch.float64)
    assert gap(maps.product([maps.half_residual(one)] * 5), one) == 0.0
    rolled = maps.product([maps.half_residual(even)] * depth)
    assert gap(rolled, 2.0**-depth * one + (1 - 2.0**-depth) * even) < 1e-12
    attention = [torch.rand(1, tokens, tokens, dtype=torch.float64).softmax(-1) for _ in range(depth)]
    rolled = maps.product([maps.half_residual(a) for a in attention])
    assert gap(rolled.sum(-1), torch.ones(1, tokens, dtype=torch.float64)) < 1e-12 and (rolled >= 0).all()
    order = torch.randperm(tokens)
    moved = maps.product([maps.half_residual(a[:, order][:, :, order]) for a in attention])
    assert gap(moved, rolled[:, order][:, :, order]) < 1e-12


def test_rollout_takes_the_deepest_block_s_row() -> None:
    model, x = make()
    _, record = trace(model, x)
    row = torch.eye(record.tokens.shape[1], dtype=torch.float64)[0].expand(2, 1, -1)
    for block in reversed(record.blocks):
        row = 0.5 * row @ block.attention.mean(dim=1) + 0.5 * row
    assert gap(maps.rollout(model, x, CLASSES).flatten(1), row[:, 0, 1:]) < 1e-12


def test_relevance_is_the_product_with_gradients_in_the_order_of_the_blocks() -> None:
    model, x = make()
    logits, record = trace(model, x[:1], gradients=True)
    gradients = torch.autograd.grad(logits[0, 3], [b.attention for b in record.blocks])
    r = torch.eye(record.tokens.shape[1], dtype=torch.float64)
    for block, gradient in zip(record.blocks, gradients, strict=True):
        r = r + (gradient * block.attention).clamp(min=0).mean(1)[0] @ r
    found = maps.relevance(model, x[:1], CLASSES[:1])
    assert gap(found.flatten(), r[0, 1:]) < 1e-12 and (r - torch.eye(len(r)) >= 0).all()
    backwards = torch.eye(len(r), dtype=torch.float64)
    for block, gradient in zip(record.blocks, reversed(gradients), strict=True):
        backwards = backwards + (gradient * block.attention).clamp(min=0).mean(1)[0] @ backwards
    assert gap(backwards[0, 1:], r[0, 1:]) > 0.01 * float(r[0, 1:].detach().norm())  # pairing matters


def test_without_gradient_relevance_is_blank() -> None:
    model, x = make()
    _head_times(model, 0.0)
    assert gap(maps.relevance(model, x, CLASSES), torch.zeros(())) == 0.0


def test_the_gradient_of_attention_is_that_of_the_heads_times_the_values() -> None:
    model, x = make()
    logits, record = trace(model, x, gradients=True)
    for block in record.blocks:
        a, o = torch.autograd.grad(logits[:, 3].sum(), [block.attention, block.heads], retain_graph=True)
        assert gap(a, o @ block.values.transpose(-1, -2)) < 1e-10


@pytest.mark.parametrize("kind", ["token", "gap", "distilled", "rotary, registers"])
def test_legrad_asks_each_block_for_the_class(kind: str) -> None:
    """The head of the mean of all tokens, where it reads the class token; of what it reads, where it pools patches."""
    model, x = make(kind)
    _, record = trace(model, x, gradients=True)
    expected = torch.zeros(2, 24, dtype=torch.float64)
    for block in record.blocks:
        tokens = block.after_mlp
        if kind in ("token", "distilled"):
            pooled = model.norm(tokens.mean(dim=1, keepdim=True))
            pooled = pooled.expand(-1, 2, -1) if kind == "distilled" else pooled[:, 0]
        else:
            patches = tokens[:, model.config.prefix :]
            after = model.config.norm_after_pool
            pooled = model.norm(patches.mean(dim=1)) if after else model.norm(patches).mean(dim=1)
        score = model.classify(pooled).gather(1, CLASSES[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, block.attention, retain_graph=True)
        expected += gradient.clamp(min=0).mean(dim=(1, 2))[:, model.config.prefix :] / 3
    assert gap(maps.legrad(model, x, CLASSES).flatten(1), expected) < 1e-12


def test_legrad_is_not_negative() -> None:
    model, x = make()
    assert (maps.legrad(model, x, CLASSES) >= 0).all()


def test_behind_the_last_block_patches_have_no_gradient_where_the_class_token_is_read() -> None:
    """Why Grad-CAM takes what the last block reads; at its output the map would be zero."""
    model, x = make()
    logits, record = trace(model, x, gradients=True)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), record.blocks[-1].after_mlp)
    assert gap(gradient[:, 1:], torch.zeros(())) == 0.0
    assert float(grad_cam(model, x, CLASSES).max()) > 0


def test_the_class_activation_map_of_a_pooled_model_is_its_logit() -> None:
    """The mean over patches of what the head makes of each, plus its bias, is the logit."""
    model, x = make("gap")
    _, record = trace(model, x)
    each = record.tokens @ model.head.weight[2]  # type: ignore[union-attr]
    assert gap(each.mean(dim=1) + model.head.bias[2], record.logits[:, 2]) < 1e-10  # type: ignore[union-attr]


def test_integrated_gradients_close_their_gap_with_more_steps() -> None:
    model, x = make()
    few, many = (integrate(model, x, CLASSES, steps) for steps in (4, 256))
    assert gap(few.change, many.change) == 0.0
    assert gap(many.map.sum(dim=(1, 2)) - many.change, many.gap) < 1e-10  # the patches cover the whole image
    assert float(many.gap.abs().max()) < 1e-3 * float(many.change.abs().max()) < float(few.change.abs().max())
    assert float(many.gap.abs().max()) < float(few.gap.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_with_which_the_head_reads_sum_to_one(kind: str) -> None:
    model, x = make(kind)
    weights = maps.read_weights(model, trace(model, x)[1])
    assert gap(weights.sum(dim=1), torch.ones(2, dtype=torch.float64)) < 1e-12 and (weights >= 0).all()


def test_the_read_weights_of_attention_pooling_are_its_attention() -> None:
    model, x = make("map")
    _, record = trace(model, x)
    pool = model.attention_pool
    assert pool is not None
    q, k, v = pool.project(record.tokens)
    looks = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    out: Tensor = pool.finish(pool.attention.merge(looks @ v))
    assert gap(out, record.pooled) < 1e-10
    assert gap(maps.read_weights(model, record), looks.mean(1)[:, 0]) < 1e-12
