"""The model: options, the class-token shortcut, initial weights, dropout and stochastic depth."""

import math

import pytest
import torch

from vitrail.config import ViTConfig
from vitrail.models.vit import StochasticDepth, ViT

SMALL = ViTConfig(image_size=(16, 24), patch_size=(8, 8), width=24, depth=3, heads=3, mlp_dim=40, classes=7)


def make(**changes: object) -> ViT:
    """A float64 model with random-normal weights, since initial ones hide swapped layers."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SMALL.model_dump() | changes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def images(model: ViT, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.config.channels, *model.config.image_size, generator=generator, dtype=torch.float64)


def all_tokens_logits(model: ViT, x: torch.Tensor) -> torch.Tensor:
    tokens = model.embed(x)
    for block in model.blocks:
        tokens = block(tokens)
    return model.classify(model.pool(tokens))


@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "gap"}, {"pre_logits": 12}, {"qkv_bias": False}, {"gelu": "tanh"}, {"depth": 1}, {"channels": 1}],
    ids=str,
)
def test_computing_only_the_class_token_in_the_last_block_changes_nothing(changes: dict[str, object]) -> None:
    model = make(**changes)
    x = images(model)
    assert (model(x) - all_tokens_logits(model, x)).abs().max() < 1e-12


def test_the_last_block_computes_one_query_and_one_mlp_row() -> None:
    model = make()
    rows = []
    model.blocks[-1].mlp.fc1.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[1]))
    model(images(model))
    assert rows == [1]


@pytest.mark.parametrize("changes", [{}, {"pool": "gap"}, {"pre_logits": 12}], ids=str)
def test_the_gradient_is_the_same_through_the_shortcut(changes: dict[str, object]) -> None:
    model = make(**changes)
    x = images(model)
    names = [name for name, _ in model.named_parameters()]
    short = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    full = torch.autograd.grad(all_tokens_logits(model, x).square().sum(), list(model.parameters()))
    for name, a, b in zip(names, short, full, strict=True):
        assert (a - b).abs().max() < 1e-9, name
        assert a.abs().max() > 0 or "qkv.bias" in name, f"no gradient reaches {name}"


def test_the_gelu_and_eps_options_change_the_numbers() -> None:
    base = make()
    x = images(base)
    assert (base(x) - make(gelu="tanh")(x)).abs().max() > 1e-9
    assert (base(x) - make(norm_eps=1e-3)(x)).abs().max() > 1e-9


def test_a_patch_token_sees_only_its_own_pixels() -> None:
    model = make()
    x = images(model, 1)
    changed = x.clone()
    changed[..., 8:, 16:] += 1.0  # the last patch of the 2 x 3 grid
    moved = (model.embed(x) - model.embed(changed)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False] * 6 + [True]


def test_permuting_patches_changes_nothing_without_positions_only() -> None:
    model = make()
    x = images(model, 1)
    left_right = torch.cat([x[..., 16:], x[..., 8:16], x[..., :8]], dim=-1)
    assert (model(x) - model(left_right)).abs().max() > 1e-3
    with torch.no_grad():
        model.position_embedding.zero_()
    assert (model(x) - model(left_right)).abs().max() < 1e-12


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 16, 24\), found \(1, 3, 24, 16\)"):
        make()(torch.zeros(1, 3, 24, 16, dtype=torch.float64))


def test_initial_weights_follow_the_original_code() -> None:
    model = ViT(ViTConfig(width=192, depth=2, heads=3, mlp_dim=768, pre_logits=96, head_bias=-10.0)).requires_grad_(
        False
    )
    model.reset(torch.Generator().manual_seed(0))
    block = model.blocks[1]
    bound = math.sqrt(6 / (192 + 192))
    for part in block.attention.qkv.weight.chunk(3):  # each of q, k, v, not the fused matrix
        assert part.abs().max() == pytest.approx(bound, rel=1e-3)
        assert part.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert block.attention.out.weight.abs().max() == pytest.approx(bound, rel=1e-3)
    assert block.mlp.fc1.weight.abs().max() == pytest.approx(math.sqrt(6 / (192 + 768)), rel=1e-3)
    assert block.mlp.fc1.bias.std() == pytest.approx(1e-6, rel=0.1)
    assert block.attention.qkv.bias.abs().max() == 0
    assert model.patch_embedding.weight.std() == pytest.approx(math.sqrt(1 / 768), rel=0.02)
    assert model.pre_logits is not None and model.head is not None and model.class_token is not None
    assert model.pre_logits.weight.std() == pytest.approx(math.sqrt(1 / 192), rel=0.02)
    assert model.position_embedding.std() == pytest.approx(0.02, rel=0.02)
    assert model.class_token.abs().max() == model.head.weight.abs().max() == 0
    assert (model.head.bias == -10.0).all()


def test_initial_weights_depend_on_the_generator_alone_and_blocks_differ() -> None:
    one, two = ViT(SMALL), ViT(SMALL)
    one.reset(torch.Generator().manual_seed(3))
    torch.rand(5)
    two.reset(torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.blocks[0].attention.qkv.weight, one.blocks[1].attention.qkv.weight)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_images() -> None:
    torch.manual_seed(0)
    drop = StochasticDepth(0.25).train()
    out = drop(torch.ones(20_000, 1, 3))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out == out[:, :, :1]).all()
    assert out.mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drop.eval()(out), out)


def test_stochastic_depth_in_closed_form() -> None:
    """A branch is kept 0 or 1 / (1 - rate) times, so its variance is rate / (1 - rate); branches of one block and
    images of one batch are drawn apart."""
    torch.manual_seed(1)
    drop = StochasticDepth(0.4).train()
    one, two = (drop(torch.ones(20_000, 1, 1)).flatten() for _ in range(2))
    assert one.var() == pytest.approx(0.4 / 0.6, rel=0.03)
    assert (one * two).mean() == pytest.approx(1.0, abs=0.03)  # E[a] E[b]: 1 / 0.6 were they one draw
    assert (one[1:] * one[:-1]).mean() == pytest.approx(1.0, abs=0.03)


def test_stochastic_depth_grows_linearly_with_depth() -> None:
    model = ViT(ViTConfig(**SMALL.model_dump() | {"stochastic_depth": 0.2}))
    assert [block.stochastic_depth.rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])


def test_dropout_acts_in_training_only() -> None:
    model = make(dropout=0.5)
    x = images(model)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (20, 24)}, "image_size must be a multiple of patch_size: 20 rows / 8"),
        ({"image_size": (16, 20)}, "image_size must be a multiple of patch_size: 20 cols / 8"),
        ({"heads": 5}, "width must be a multiple of heads: 24 / 5"),
    ],
)
def test_impossible_architectures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig(**SMALL.model_dump() | changes)


@pytest.mark.compile
def test_a_compiled_model_gives_the_same_logits() -> None:
    model = make()
    x = images(model)
    assert (torch.compile(model)(x) - model(x)).abs().max() < 1e-12
