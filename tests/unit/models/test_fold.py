"""The inference form computes what the network does: every saving is exact, shown in float64."""

import pytest
import torch

from architectures import KINDS, gap, make
from vitrail.config import Preprocess, ResNetConfig
from vitrail.data.preprocess import to_model
from vitrail.models.fold import fold
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT

PREPROCESS = Preprocess(size=(16, 24), mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4))
MORE = {
    "no biases": {"qkv_bias": False, "patch_bias": False, "head_has_bias": False},
    "no key bias": {"key_bias": False, "layer_scale": 0.1},
    "tanh layer": {"pre_logits": 11},
    "no head": {"classes": 0},
    "norm after the pool": {"pool": "map", "norm_after_pool": True},
    "rotary, normed queries": {"position": "rope", "qk_norm": True, "heads": 2},
    "dropout": {"dropout": 0.3, "stochastic_depth": 0.5},
    "norm before, no positions": {"norm_before": True, "position": "none"},
    "uncut patches": {"cut_patches": True, "patch_size": (5, 7)},
}


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    return (pixels.double() / 255 - mean) / std


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_the_inference_form_gives_the_same_logits(kind: str) -> None:
    model = make(kind)[0] if kind in KINDS else make(**MORE[kind])[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(normalised(pixels()))
        found = fold(model, PREPROCESS)(pixels())
    assert gap(found, expected) < 1e-9 * float(expected.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # the network is as it was


def test_a_resnet_too() -> None:
    torch.manual_seed(0)
    config = ResNetConfig(image_size=(16, 24), layers=(1, 1), width=32, groups=8, classes=5)
    model = ResNet(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        expected = model(normalised(pixels()))
        assert gap(fold(model, PREPROCESS)(pixels()), expected) < 1e-9 * float(expected.abs().max())


def test_what_is_folded_away_is_gone() -> None:
    model, _ = make("scaled, gated")
    folded = fold(model, PREPROCESS)
    names = {type(module).__name__ for module in folded.modules()}
    assert not names & {"Dropout", "LayerScale", "StochasticDepth"}
    left = [name for name, value in folded.named_parameters() if name.endswith(("norm1.weight", "norm2.bias"))]
    assert left == []


def test_one_wrong_fold_is_seen() -> None:
    """The bound above is far below what a forgotten bias of one norm would do."""
    model, _ = make()
    with torch.no_grad():
        expected = model(normalised(pixels()))
        model.blocks[1].norm2.bias.zero_()
        assert gap(fold(model, PREPROCESS)(pixels()), expected) > 1e-3


def test_float32_stays_float32() -> None:
    config = make()[0].config
    model = ViT(config).eval()
    folded = fold(model, PREPROCESS)
    with torch.no_grad():
        assert gap(folded(pixels()), model(to_model(pixels(), PREPROCESS))) < 1e-5
    assert folded(pixels()).dtype == torch.float32
