from typing import Any

import pytest
import torch
from torch import nn

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.build import build
from vitrail.models.resnet import Bottleneck
from vitrail.models.vit import EncoderBlock
from vitrail.train.state import new_average
from vitrail.train.wrap import wrap_blocks

SHAPE: dict[str, Any] = {"width": 8, "depth": 3, "heads": 2, "mlp_dim": 16, "classes": 3}
MODELS: dict[str, ViTConfig | ResNetConfig] = {
    "vit": ViTConfig(image_size=8, patch_size=4, dropout=0.2, stochastic_depth=0.3, **SHAPE),
    "rope": ViTConfig(image_size=8, patch_size=4, position="rope", pool="gap", dropout=0.2, **SHAPE),
    "hybrid": ViTConfig(image_size=16, patch_size=2, stem=ResNetConfig(layers=(1,), width=32), dropout=0.2, **SHAPE),
    "resnet": ResNetConfig(image_size=(32, 32), layers=(1, 2), width=32, classes=3),
}


def pair(name: str, dtype: torch.dtype, **how: bool) -> tuple[nn.Module, nn.Module]:
    """The model as it is, and wrapped, with the same weights, all of them alive."""
    plain, wrapped = build(MODELS[name]).to(dtype).train(), build(MODELS[name]).to(dtype).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=0.1)
    wrapped.load_state_dict(plain.state_dict())
    wrap_blocks(wrapped, **how)
    return plain, wrapped


def images(name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, *MODELS[name].image_size, generator=generator, dtype=dtype)


def gradients(model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(5)
    model(pixels).square().sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return [*found, torch.rand(1)]  # and the generator is left where it would be


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_gradients_are_the_same_bits_dropout_included(name: str) -> None:
    plain, wrapped = pair(name, torch.float64, compile=False, checkpointing=True)
    pixels = images(name, 4, torch.float64)
    calls: list[int] = []
    last = next(m for m in wrapped.modules() if isinstance(m, EncoderBlock | Bottleneck))
    next(last.children()).register_forward_hook(lambda *_: calls.append(1))
    for a, b in zip(gradients(plain, pixels), gradients(wrapped, pixels), strict=True):
        assert torch.equal(a, b)
    assert len(calls) == 2, "its forward pass ran again"


def test_recomputation_keeps_less() -> None:
    """Bytes that the backward pass keeps."""
    kept = []
    for model in pair("vit", torch.float32, compile=False, checkpointing=True):
        sizes: list[int] = []

        def pack(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(images("vit", 16, torch.float32)).sum()
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_names_values_and_copies_stay() -> None:
    plain, wrapped = pair("vit", torch.float32, compile=False, checkpointing=True)
    assert list(plain.state_dict()) == list(wrapped.state_dict())
    average, pixels = new_average(wrapped), images("vit", 2, torch.float32)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    assert torch.equal(average(pixels), plain.eval()(pixels)), "a copy computes with its own weights"


def test_nothing_is_wrapped_where_nothing_is_asked_for() -> None:
    _, wrapped = pair("vit", torch.float32, compile=False, checkpointing=False)
    assert not any("forward" in vars(module) for module in wrapped.modules())


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own look
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_compute_the_same(checkpointing: bool) -> None:
    plain, wrapped = pair("rope", torch.float32, compile=True, checkpointing=checkpointing)
    pixels = images("rope", 4, torch.float32)
    torch._dynamo.reset()  # what another test compiled is not used
    compiled_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for model in (plain, wrapped):  # compiled dropout draws other numbers
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    for a, b in zip(gradients(plain, pixels)[:-1], gradients(wrapped, pixels)[:-1], strict=True):
        assert torch.allclose(a, b, atol=1e-5 * max(1.0, a.abs().max().item()), rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > compiled_before


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own look
def test_blocks_share_their_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve rates of stochastic depth and four batch sizes need fewer variants than torch allows by default."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: plain_compile(function, backend=counter))
    config = MODELS["vit"].model_copy(update={"depth": 12})
    model = build(config).train()
    wrap_blocks(model, compile=True, checkpointing=False)
    for count in (4, 3, 2, 5):
        model(images("vit", count, torch.float32)).sum().backward()
    assert 0 < counter.frame_count <= 8
