"""Every option of the model: its cost, its trace, its gradients, and the shortcut through the last block."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.cost import flops, parameters
from vitrail.models.trace import trace
from vitrail.models.vit import ViT

SMALL: dict[str, Any] = {"image_size": (16, 24), "patch_size": (8, 8), "width": 24, "depth": 3, "heads": 3}
SMALL |= {"mlp_dim": 40, "classes": 7}
GAP = {"pool": "gap", "class_token": False}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"channels": 1, "patch_size": (4, 8)},
    {"image_size": (19, 30), "cut_patches": True},
    {"stem": ResNetConfig(image_size=(16, 24), layers=(1, 1), width=32), "patch_size": (1, 1)},
    {"classes": 0},
    GAP,
    GAP | {"class_token": True},
    GAP | {"class_token": True, "norm_after_pool": True, "registers": 2},
    {"norm_after_pool": True},
    {"pool": "map", "class_token": False},
    {"pool": "map", "class_token": True, "registers": 2, "norm_after_pool": True},
    {"pool": "map", "class_token": False, "mlp": "swiglu", "qk_norm": True, "key_bias": False},
    {"pool": "token_gap"},
    {"pool": "token_gap", "registers": 2, "pre_logits": 12},
    {"pool": "token_gap", "registers": 2, "pool_blocks": 2},
    {"distillation_token": True},
    {"distillation_token": True, "registers": 2, "head_has_bias": False},
    {"distillation_token": True, "distillation_head": False, "pre_logits": 12},
    {"registers": 3},
    {"registers": 3, "position_registers": True},
    {"registers": 3, "position_prefix": False},
    GAP | {"registers": 3, "position_registers": True},
    {"position_prefix": False},
    {"pre_logits": 12},
    {"head_has_bias": False},
    {"position": "sincos2d"},
    {"position": "none"},
    {"position": "rope"},
    {"position": "rope", "registers": 2, "rope_base": 10.0, "qk_norm": True},
    {"position": "rope", "key_bias": False},
    {"gelu": "tanh"},
    {"gelu": "quick"},
    {"mlp": "swiglu"},
    {"norm_eps": 1e-3},
    {"qkv_bias": False},
    {"key_bias": False},
    {"qk_norm": True},
    {"layer_scale": 0.1},
    {"norm_before": True, "patch_bias": False},
    {"patch_bias": False},
    {"depth": 1},
    {"dropout": 0.1, "stochastic_depth": 0.1, "patch_dropout": 0.5},  # off outside training
]


def make(**changes: Any) -> ViT:
    """A float64 model with random-normal weights, since initial ones hide swapped layers."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SMALL | changes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def images(model: ViT, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.config.channels, *model.config.image_size, generator=generator, dtype=torch.float64)


def all_tokens(model: ViT, x: Tensor) -> Tensor:
    """The logits with the last block computed for every token."""
    every, turn = [model.embed(x)], model.rotation(x)
    for block in model.blocks:
        every.append(block(every[-1], rotation=turn))
    return model.classify(model.pool(every[-1], every[1:-1]))


def without_effect(model: ViT) -> dict[str, Tensor]:
    """Parameters (name -> where) whose gradient is zero: what adds the same to every key, which a softmax over the keys
    does not see. Rotation turns it by the place of the key, and a norm after it stretches it by the key."""
    config, found = model.config, {}
    thirds = torch.arange(3 * config.width) // config.width == 1
    if config.position != "rope":
        if config.qk_norm:
            every = torch.ones(config.width // config.heads, dtype=torch.bool)
            found = {f"blocks.{i}.attention.k_norm.bias": every for i in range(config.depth)}
        elif config.qkv_bias and config.key_bias:
            found = {f"blocks.{i}.attention.qkv.bias": thirds for i in range(config.depth)}
    if config.pool == "map":  # neither rotated nor normed
        found["attention_pool.attention.qkv.bias"] = thirds
    return found


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_the_cost_is_that_of_the_model(changes: dict[str, Any]) -> None:
    config = ViTConfig(**SMALL | changes)
    with torch.device("meta"):
        model = ViT(config)
    assert parameters(config) == sum(p.numel() for p in model.parameters())
    assert 0 < flops(config, all_tokens=False) <= flops(config)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_the_operations_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    config = ViTConfig(**SMALL | changes)
    with torch.device("meta"):
        model, x = ViT(config).eval(), torch.empty(1, config.channels, *config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
    assert counter.get_total_flops() == flops(config, all_tokens=False)


@pytest.mark.parametrize("position", ["rope", "sincos2d"])
def test_a_model_without_numbers_leaves_none_without_for_others(position: str) -> None:
    """Angles are kept for all models of a configuration: those of one that ran on the meta device are of use to all."""
    changes = {"position": position, "rope_base": 31.0, "width": 48}  # of no other test
    config = ViTConfig(**SMALL | changes)
    with torch.device("meta"):
        ViT(config)(torch.empty(1, config.channels, *config.image_size))
    assert torch.isfinite(make(**changes)(images(make(**changes)))).all()


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
@torch.no_grad()
def test_the_trace_and_the_full_last_block_give_the_forward_s_logits(changes: dict[str, Any]) -> None:
    model = make(**changes)
    x = images(model)
    expected = model(x)
    logits, record = trace(model, x)
    assert expected.std() > 0.05
    assert (logits - expected).abs().max() < 1e-12
    assert (all_tokens(model, x) - expected).abs().max() < 1e-12
    assert record.embedded.shape[1] == record.tokens.shape[1] == model.config.tokens
    for block in record.blocks:
        assert (block.attention.sum(dim=-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_a_gradient_reaches_every_number_but_those_that_a_softmax_does_not_see(changes: dict[str, Any]) -> None:
    model = make(**changes)
    x = images(model)
    logits = model(x)
    mix = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad((logits * mix).sum(), list(model.parameters())),
            strict=True,
        )
    )
    blind = without_effect(model)
    for name, gradient in gradients.items():
        if model.stem is not None and name.startswith(("stem.", "patch_embedding.weight")):
            # rectifiers may stop the gradient of a single number, and features may be zero everywhere
            assert gradient.abs().max() > 1e-9, f"no gradient reaches {name}"
        elif name in blind:
            assert gradient[blind[name]].abs().max() < 1e-12, f"a gradient reaches {name}"
            assert (gradient[~blind[name]] != 0).all(), f"no gradient reaches some of {name}"
        else:
            assert (gradient != 0).all(), f"no gradient reaches some of {name}"


def test_every_option_is_tried() -> None:
    initial = {"initialisation", "head_bias", "position_std"}  # of what a model starts from
    resize = {"position_rule"}
    assert {name for changes in OPTIONS for name in SMALL | changes} == set(ViTConfig.model_fields) - initial - resize


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "token", "class_token": False}, "need class_token=True"),
        ({"pool_blocks": 2}, "pool_blocks goes with pool='token_gap'"),
        ({"pool": "token_gap", "pool_blocks": 13}, "pool_blocks goes with pool='token_gap', at most depth"),
        ({"pool": "gap", "class_token": False, "distillation_token": True}, "need class_token=True"),
        ({"distillation_token": True, "pre_logits": 12}, "no pre_logits"),
        ({"position": "rope", "width": 30}, "multiple of 4"),
        ({"position": "sincos2d", "width": 30}, "multiple of 4"),
        ({"position": "rope", "patch_dropout": 0.1}, "patch_dropout does not go with position='rope'"),
        ({"registers": 1, "position_registers": True, "position_prefix": False}, "goes with position_prefix=True"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig(**SMALL | changes)
