import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from vitrail.config import OptimConfig, ResNetConfig, ViTConfig
from vitrail.models.build import build
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT
from vitrail.train.optim import (
    Group,
    check_groups,
    decays,
    freeze_blocks,
    in_head,
    layer_of,
    make_optimizer,
    parameter_groups,
)
from vitrail.train.optimizers import Lamb, Lion, Muon

CONFIG = ViTConfig(
    image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp_dim=16, classes=3, pre_logits=8
)  # every part a ViT can have
OPTIM = OptimConfig(lr=1.0, weight_decay=0.3, layer_decay=0.5)


def block(i: int, kind: str) -> tuple[str, ...]:
    return tuple(f"blocks.{i}.{layer}.{kind}" for layer in ("attention.qkv", "attention.out", "mlp.fc1", "mlp.fc2"))


def plain(i: int) -> tuple[str, ...]:
    return (
        *(f"blocks.{i}.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")),
        *block(i, "bias"),
    )


GOLDEN = {  # name: (members, lr_scale, weight_decay)
    "layer0.plain": (("class_token", "position_embedding", "patch_embedding.bias"), 0.125, 0.0),
    "layer0.decay": (("patch_embedding.weight",), 0.125, 0.3),
    "layer1.plain": (plain(0), 0.25, 0.0),
    "layer1.decay": (block(0, "weight"), 0.25, 0.3),
    "layer2.plain": (plain(1), 0.5, 0.0),
    "layer2.decay": (block(1, "weight"), 0.5, 0.3),
    "layer3.plain": (("norm.weight", "norm.bias", "pre_logits.bias", "head.bias"), 1.0, 0.0),
    "layer3.decay": (("pre_logits.weight", "head.weight"), 1.0, 0.3),
}


def test_which_parameter_falls_where() -> None:
    groups = parameter_groups(ViT(CONFIG).named_parameters(), CONFIG, OPTIM)
    assert [group.name for group in groups] == list(GOLDEN)
    for group in groups:
        members, lr_scale, weight_decay = GOLDEN[group.name]
        assert (set(group.parameters), group.lr_scale, group.weight_decay) == (set(members), lr_scale, weight_decay)


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_every_parameter_is_in_the_optimiser_once(pool: str) -> None:
    model = ViT(CONFIG.model_copy(update={"pool": pool}))
    optimizer = make_optimizer(model, CONFIG, OPTIM)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {group["lr_scale"] for group in optimizer.param_groups} == {0.125, 0.25, 0.5, 1.0}


RESNET = ResNetConfig(image_size=(32, 32), layers=(1, 2), width=32, classes=3)
HYBRID = ViTConfig(
    image_size=16,
    patch_size=2,
    width=8,
    depth=2,
    heads=2,
    mlp_dim=16,
    classes=3,
    stem=ResNetConfig(layers=(1,), width=32),
)
WIDE = ViTConfig(
    image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=16, classes=3, distillation_token=True, registers=2,
    norm_before=True, layer_scale=1e-5, key_bias=False,
)  # fmt: skip
MAP = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=16, classes=3, pool="map")


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (RESNET, {"root.weight": 0, "root_norm.bias": 0, "stages.0.0.conv1.weight": 1, "stages.1.1.norm3.weight": 2,
                  "head.weight": 3}),
        (HYBRID, {"stem.root.weight": 0, "stem.stages.0.0.conv2.weight": 1, "patch_embedding.weight": 2,
                  "class_token": 2, "blocks.0.norm1.weight": 3, "blocks.1.mlp.fc2.bias": 4, "head.bias": 5}),
        (WIDE, {"registers": 0, "distillation_token": 0, "norm_before.weight": 0, "blocks.0.scale1.gamma": 1,
                "blocks.0.attention.qv_bias": 1, "distillation_head.weight": 2}),
        (MAP, {"attention_pool.probe": 2, "attention_pool.mlp.fc1.weight": 2}),
    ],
    ids=["resnet", "hybrid", "wide", "map"],
)  # fmt: skip
def test_layers_of_other_models(config: ViTConfig | ResNetConfig, places: dict[str, int]) -> None:
    model = build(config)
    make_optimizer(model, config, OPTIM)  # every parameter has a layer
    last = max(places.values())
    assert {name: layer_of(name, config) for name in places} == places
    for group in parameter_groups(model.named_parameters(), config, OPTIM):
        for name in group.parameters:
            assert group.lr_scale == 0.5 ** (last - layer_of(name, config))
    offsets = ("registers", "distillation_token", "class_token", "position_embedding", "attention_pool.probe")
    assert not any(decays(name, p) for name, p in model.named_parameters() if name in offsets)


def test_without_layer_decay_all_layers_learn_alike() -> None:
    groups = parameter_groups(ViT(CONFIG).named_parameters(), CONFIG, OptimConfig())
    assert {group.lr_scale for group in groups} == {1.0}


def test_frozen_parameters_are_left_out() -> None:
    model = ViT(CONFIG)
    model.patch_embedding.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), CONFIG, OPTIM)
    assert not any(name.startswith("patch_embedding") for group in groups for name in group.parameters)
    make_optimizer(model, CONFIG, OPTIM)


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (CONFIG, ("patch_embedding", "class_token", "position_embedding", "blocks.0.")),
        (RESNET, ("root", "stages.0.")),
        (HYBRID, ("stem", "patch_embedding", "class_token", "position_embedding", "blocks.0.")),
    ],
    ids=["vit", "resnet", "hybrid"],
)
def test_frozen_blocks_stay_with_all_before_them(config: ViTConfig | ResNetConfig, first: tuple[str, ...]) -> None:
    model = build(config)
    freeze_blocks(model, config, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    freeze_blocks(model, config, 1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(first)}
    blocks = model.stages if isinstance(model, ResNet) else model.blocks
    differentiated = []
    for block in (blocks[0], blocks[1]):
        block.register_forward_hook(lambda module, args, out: differentiated.append(out.requires_grad))
    model.train()(torch.rand(2, 3, *config.image_size))
    assert differentiated == [False, True], "the backward pass ends there"
    freeze_blocks(model, config, 2)
    kept = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert kept == (
        {"head"} if config is RESNET else {"norm", "head"} | ({"pre_logits"} if config is CONFIG else set())
    )


@pytest.mark.parametrize("name", ["adapter.weight", "blocks.2.norm1.weight", "blocks.x.norm1.weight", "blocks"])
def test_a_parameter_without_a_layer_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' belongs to no layer"):
        layer_of(name, CONFIG)


def test_a_module_the_table_does_not_know_stops_the_run() -> None:
    model = ViT(CONFIG)
    model.adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'adapter\.weight' belongs to no layer"):
        make_optimizer(model, CONFIG, OPTIM)


def test_groups_must_cover_everything_exactly_once() -> None:
    named = [("a", torch.ones(2, requires_grad=True)), ("b", torch.ones(2, requires_grad=True))]
    check_groups([Group("all", ("a", "b"), 1.0, 0.0)], named)
    with pytest.raises(ValueError, match=r"held twice \['a'\], missing \['b'\], unknown \['c'\]"):
        check_groups([Group("x", ("a", "c"), 1.0, 0.0), Group("y", ("a",), 1.0, 0.0)], named)


KINDS = {"adamw": AdamW, "sgd": SGD, "lamb": Lamb, "lion": Lion, "muon": Muon}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("config", [CONFIG, RESNET, HYBRID], ids=["vit", "resnet", "hybrid"])
def test_rates_and_decay_of_groups_hold_for_every_optimiser(name: str, config: ViTConfig | ResNetConfig) -> None:
    """One step without a gradient of the loss: what moves is what decays, by rate times lr_scale times decay."""
    torch.manual_seed(0)
    model = build(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.0)
    optimizer = make_optimizer(model, config, OPTIM.model_copy(update={"optimizer": name, "momentum": 0.0}))
    assert isinstance(optimizer, KINDS[name])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    top = max(layer_of(key, config) for key in before)
    for key, parameter in model.named_parameters():
        rate = 0.01 * 0.5 ** (top - layer_of(key, config))
        factor = 1 - rate * (1.0 if name == "lamb" else 0.3)  # LAMB's update has the length of the weight
        expected = before[key] * (factor if decays(key, parameter) else 1.0)
        assert torch.allclose(parameter, expected, atol=1e-12, rtol=0), key


def test_which_matrices_muon_moves() -> None:
    def found(config: ViTConfig | ResNetConfig) -> dict[int, set[str]]:
        groups = parameter_groups(build(config).named_parameters(), config, OptimConfig(optimizer="muon"))
        return {n: {name for g in groups if g.matrices == n for name in g.parameters} for n in (1, 2, 3)}

    def hidden(i: int) -> set[str]:
        return {f"blocks.{i}.{layer}.weight" for layer in ("attention.out", "mlp.fc1", "mlp.fc2")}

    fused = {f"blocks.{i}.attention.qkv.weight" for i in range(2)}
    assert found(CONFIG) == {1: hidden(0) | hidden(1), 2: set(), 3: fused}
    gated = {f"blocks.{i}.mlp.fc1.weight" for i in range(2)}
    swiglu = found(CONFIG.model_copy(update={"mlp": "swiglu"}))
    assert swiglu == {1: (hidden(0) | hidden(1)) - gated, 2: gated, 3: fused}
    pooled = found(MAP)
    assert "attention_pool.mlp.fc1.weight" in pooled[1] and "attention_pool.attention.qkv.weight" in pooled[3]
    kernels = found(HYBRID)[1]
    assert "stem.stages.0.0.conv1.weight" in kernels and "stem.root.weight" not in kernels
    assert not {"patch_embedding.weight", "head.weight", "position_embedding"} & set().union(*found(HYBRID).values())
    assert not any(g.matrices for g in parameter_groups(ViT(CONFIG).named_parameters(), CONFIG, OptimConfig()))


def test_heads() -> None:
    names = [name for name, _ in ViT(WIDE).named_parameters() if in_head(name)]
    assert names == ["head.weight", "head.bias", "distillation_head.weight", "distillation_head.bias"]
