"""float8: the products that a card would compute, on the processor, which computes the same operator slowly; and who is
told that there is no such card. On a card itself none of this was run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.engines.catalog import make_engine
from vitrail.engines.float8 import LARGEST, Float8Linear, check_card, in_float8, scaled
from vitrail.engines.trial import pictures
from vitrail.errors import ConfigError
from vitrail.inference import Classifier, load
from vitrail.models.fold import fold
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT
from vitrail.types import LabelSet


def network(**changes: object) -> Classifier:
    fields = {"image_size": (32, 32), "patch_size": (8, 8), "width": 64, "depth": 3, "heads": 4, "mlp_dim": 128}
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**fields, "classes": 5, **changes})).eval()
    for parameter in model.parameters():  # a new head is zero
        parameter.data.normal_(std=0.1)
    return Classifier(model, Preprocess(size=(32, 32)), LabelSet(names=tuple("abcde")), device="cpu")


def test_a_row_is_scaled_to_the_range_of_float8() -> None:
    rows = torch.tensor([[1e-3, -2e-3, 0.0], [300.0, -7e4, 1.0], [0.0, 0.0, 0.0]])
    values, scale = scaled(rows)
    assert values.dtype == torch.float8_e4m3fn and scale.shape == (3, 1)
    assert values.float().abs().amax(dim=1).tolist() == [LARGEST, LARGEST, 0.0]
    near = values.float() * scale
    assert float((near - rows).abs().max(dim=1).values[0]) <= 2e-3 / 16  # four significant bits
    assert near[2].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_product_of_what_was_rounded(bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 128, bias=bias), torch.randn(2, 5, 64)
    layer = Float8Linear(linear)
    (a, b), (c, d) = scaled(x.flatten(0, 1)), scaled(linear.weight.detach())
    expected = (a.double() * b) @ (c.double() * d).t() + (linear.bias.bfloat16().double() if bias else 0)
    found = layer(x.bfloat16().float())
    assert found.dtype == torch.bfloat16 and found.shape == (2, 5, 128)
    assert torch.allclose(found.double(), expected.unflatten(0, (2, 5)), atol=0.05, rtol=0.02)
    exact = linear(x).detach()
    error = float((found.float() - exact).norm() / exact.norm())
    assert 0.005 < error < 0.06


def test_logits_stay_close_and_three_layers_a_block_are_float8() -> None:
    classifier = network()
    folded = in_float8(fold(classifier.model, classifier.preprocess).to(torch.bfloat16))
    assert sum(isinstance(m, Float8Linear) for m in folded.modules()) == 3 * 3
    pixels = pictures(classifier, 8)
    with torch.inference_mode():
        found, exact = folded(pixels).float(), classifier.scores(pixels)
    assert float((found - exact).abs().max()) > 0
    assert float(nn.functional.cosine_similarity(found, exact).min()) > 0.99


@pytest.mark.compile
def test_it_compiles_as_one_graph() -> None:
    classifier = network()
    folded = in_float8(fold(classifier.model, classifier.preprocess).to(torch.bfloat16))
    pixels = pictures(classifier, 2)
    with torch.inference_mode():
        found = torch.compile(folded, fullgraph=True, dynamic=False)(pixels).float()
        assert float(nn.functional.cosine_similarity(found, folded(pixels).float()).min()) > 0.99


def test_layers_that_a_card_does_not_take_are_refused() -> None:
    odd = network(mlp_dim=120)
    with pytest.raises(ConfigError, match="a multiple of 16 wide, and one is 120"):
        in_float8(fold(odd.model, odd.preprocess))
    resnet = ResNet(ResNetConfig(image_size=(32, 32), layers=(1,), width=32, groups=8, classes=2))
    with pytest.raises(ConfigError, match="for a ResNet choose bfloat16"):
        in_float8(fold(resnet, Preprocess(size=(32, 32))))


def test_a_processor_and_an_older_card_are_told(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"compute capability 8\.9"):
        make_engine("torch-float8", load(model_folder))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match="choose bfloat16"):
        check_card("torch-float8", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_card("torch-float8", torch.device("cuda"))
