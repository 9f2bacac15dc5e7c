"""The trace equals the fused forward, and its parts are the forward's own."""

import pytest
import torch

from vitrail.config import ViTConfig
from vitrail.models.trace import trace
from vitrail.models.vit import ViT

SMALL = ViTConfig(image_size=(16, 24), patch_size=(8, 8), width=24, depth=3, heads=3, mlp_dim=40, classes=7)


def make(**changes: object) -> tuple[ViT, torch.Tensor]:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SMALL.model_dump() | changes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model, torch.randn(2, 3, 16, 24, dtype=torch.float64)


OPTIONS = [{}, {"pool": "gap"}, {"pre_logits": 12}, {"qkv_bias": False}, {"depth": 1}, {"gelu": "tanh"}]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_traced_logits_equal_the_fused_path(changes: dict[str, object]) -> None:
    model, x = make(**changes)
    logits, record = trace(model, x)
    assert (logits - model(x)).abs().max() < 1e-12
    assert record.logits is logits
    assert len(record.blocks) == model.config.depth


def test_every_intermediate_is_the_forward_s_own() -> None:
    model, x = make()
    seen: dict[str, torch.Tensor] = {}
    for i, block in enumerate(model.blocks[:-1]):  # the last block of the fused path computes the class token only
        block.mlp.gelu.register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(f"hidden{i}", out))
        block.register_forward_hook(lambda _m, _a, out, i=i: seen.__setitem__(f"out{i}", out))
    model(x)
    fused = dict(seen)
    _, record = trace(model, x)
    for i in range(2):
        assert (record.blocks[i].mlp_hidden - fused[f"hidden{i}"]).abs().max() < 1e-12
        assert (record.blocks[i].after_mlp - fused[f"out{i}"]).abs().max() < 1e-12


def test_attention_rows_sum_to_one_and_mix_the_values() -> None:
    model, x = make()
    _, record = trace(model, x)
    entering = record.embedded
    for block, part in zip(model.blocks, record.blocks, strict=True):
        assert part.attention.shape == (2, 3, 7, 7)
        assert (part.attention.sum(-1) - 1).abs().max() < 1e-12
        mixed = block.attention.merge(part.attention @ part.values)
        assert (entering + mixed - part.after_attention).abs().max() < 1e-12
        entering = part.after_mlp
    assert torch.equal(record.tokens, model.norm(entering))
    assert torch.equal(record.class_token, record.tokens[:, 0])


def test_tracing_switches_dropout_off_and_leaves_the_mode_as_it_was() -> None:
    model, x = make(dropout=0.5, stochastic_depth=0.5)
    expected = model(x)
    model.train()
    assert (trace(model, x)[0] - expected).abs().max() < 1e-12
    assert model.training
