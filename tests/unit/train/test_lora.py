import copy

import pytest
import torch
from torch import Tensor

from vitrail.config import LoraConfig, OptimConfig, ResNetConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT
from vitrail.train.lora import add_low_rank, count_trained, merged
from vitrail.train.optim import decays, layer_of, make_optimizer

TOY = ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp_dim=24, classes=3)
IMAGES = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def toy(config: ViTConfig = TOY) -> ViT:
    """A float64 model of random weights, head and biases included, in evaluation mode."""
    model = ViT(config).double().eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def updated(config: LoraConfig, model: ViT | None = None) -> ViT:
    """The model with updates as after some training: B is no longer zero."""
    model = toy() if model is None else model
    add_low_rank(model, config, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith(".0.b"):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_the_first_step_sees_the_weights_as_they_are() -> None:
    plain, model = toy(), toy()
    add_low_rank(model, LoraConfig(rank=2, targets="all"), seed=0)
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert not torch.equal(updated(LoraConfig(rank=2))(IMAGES), plain(IMAGES))  # the control


def test_the_update_is_alpha_over_rank_times_b_a_for_each_of_query_key_and_value() -> None:
    """Equation 3, with the projections of a block written out one by one."""
    plain, model = toy(), updated(LoraConfig(rank=2, alpha=6.0))
    layer, w = model.blocks[1].attention.qkv, plain.blocks[1].attention.qkv.weight
    low = layer.parametrizations["weight"][0]
    assert low.a.shape == (3 * 2, 16) and low.b.shape == (3 * 16, 2)
    for i in range(3):
        a, b, part = low.a[2 * i : 2 * i + 2], low.b[16 * i : 16 * i + 16], slice(16 * i, 16 * i + 16)
        torch.testing.assert_close(layer.weight[part], w[part] + 6.0 / 2 * b @ a, rtol=0, atol=1e-14)
    out = model.blocks[1].attention.out
    low = out.parametrizations["weight"][0]
    expected = plain.blocks[1].attention.out.weight + 3.0 * low.b @ low.a
    torch.testing.assert_close(out.weight, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize(
    "more",
    [{}, {"mlp": "swiglu"}, {"distillation_token": True}, {"pool": "map"}, {"key_bias": False, "layer_scale": 0.1}],
)
def test_merged_weights_compute_the_same(targets: str, more: dict[str, object]) -> None:
    config = ViTConfig.model_validate(TOY.model_dump() | {"class_token": more.get("pool") != "map"} | more)
    model = updated(LoraConfig.model_validate({"rank": 3, "targets": targets}), toy(config))
    plain = merged(model)
    assert sorted(plain.state_dict()) == sorted(ViT(config).state_dict()), "a plain model"
    torch.testing.assert_close(plain(IMAGES), model(IMAGES), rtol=0, atol=1e-12)
    assert not torch.allclose(plain(IMAGES), toy(config)(IMAGES), atol=1e-3)
    changed = {
        key.rpartition(".")[0].partition(".")[2].partition(".")[2]
        for key, value in plain.state_dict().items()
        if not torch.equal(value, toy(config).state_dict()[key])
    }
    assert changed == {"attention.qkv", "attention.out"} | ({"mlp.fc1", "mlp.fc2"} if targets == "all" else set())


def test_merging_leaves_the_model_and_its_average_as_they_were() -> None:
    """They share a class, from which torch would take the updates off both."""
    model = updated(LoraConfig(rank=2))
    average, expected = copy.deepcopy(model), model(IMAGES)
    merged(average)
    assert torch.equal(model(IMAGES), expected) and torch.equal(average(IMAGES), expected)
    plain = toy()
    assert merged(plain) is plain


def test_only_the_updates_and_the_heads_move() -> None:
    model = toy(TOY.model_copy(update={"distillation_token": True}))
    add_low_rank(model, LoraConfig(rank=2), seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, model.config, OptimConfig(lr=0.1))
    for _ in range(2):  # in the first, A's gradient is zero as B is
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        model(IMAGES).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    low_rank = {name for name in before if name.endswith((".0.a", ".0.b"))}
    assert len(low_rank) == 2 * 2 * TOY.depth
    assert moved == low_rank | {
        f"{head}.{kind}" for head in ("head", "distillation_head") for kind in ("weight", "bias")
    }
    assert count_trained(model) == sum(before[name].numel() for name in moved)
    assert {layer_of(name, model.config) for name in low_rank} == {1, 2}, "the layers of their blocks"
    assert all(decays(name, before[name]) for name in low_rank)


def test_the_noise_is_gaussian_of_the_size_of_the_authors_code_and_follows_the_seed() -> None:
    def noise(seed: int) -> Tensor:
        model = ViT(TOY.model_copy(update={"width": 192, "heads": 3}))
        add_low_rank(model, LoraConfig(rank=32), seed)
        return model.blocks[0].attention.qkv.parametrizations["weight"][0].a.detach()

    assert noise(0).std().item() == pytest.approx((3 * 192) ** -0.5, rel=0.02)
    assert 0.001 < (noise(0).abs() > 3 * noise(0).std()).float().mean() < 0.005  # a Gaussian has 0.0027, a uniform none
    assert torch.equal(noise(0), noise(0)) and not torch.equal(noise(0), noise(1))


def test_in_half_precision_the_update_keeps_its_digits() -> None:
    model = updated(LoraConfig(rank=2)).float()
    layer = model.blocks[0].attention.qkv
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)


def test_mistakes() -> None:
    with pytest.raises(
        ConfigError, match=r"lora\.rank should be at most 16, a side of this model's matrices, found 17"
    ):
        add_low_rank(toy(), LoraConfig(rank=17), seed=0)
    resnet = ResNet(ResNetConfig(image_size=32, layers=(1,), width=32, classes=3))
    with pytest.raises(ConfigError, match="for the attention of a Vision Transformer, and this model is a ResNet"):
        add_low_rank(resnet, LoraConfig(rank=2), seed=0)
