"""The same network for another image, patch, number of channels or of classes."""

from typing import Any

import pytest
import torch

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.build import Network, build
from vitrail.ops.grid import average_channels
from vitrail.weights.resize import resized

SMALL = {"image_size": (16, 24), "patch_size": (8, 8), "width": 24, "depth": 2, "heads": 3, "mlp_dim": 40, "classes": 3}
STEM = ResNetConfig(image_size=(16, 24), layers=(1,), width=32)
NETWORKS: dict[str, ViTConfig | ResNetConfig] = {
    "plain": ViTConfig(**SMALL),
    "hybrid": ViTConfig.model_validate({**SMALL, "stem": STEM, "patch_size": (1, 1)}),
    "resnet": STEM.model_copy(update={"classes": 3}),
}


def network(name: str) -> Network:
    torch.manual_seed(0)
    model = build(NETWORKS[name]).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def images(channels: int, rows: int = 16, cols: int = 24) -> torch.Tensor:
    return torch.randn(2, channels, rows, cols, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 12])
def test_equal_channels_embed_as_before(channels: int) -> None:
    """The stated rule: each new channel has the mean of the old kernels, times old / new."""
    model = network("plain")
    grey = images(1)
    changed = resized(model, channels=channels)
    assert changed.config.channels == channels
    assert (changed(grey.expand(-1, channels, -1, -1)) - model(grey.expand(-1, 3, -1, -1))).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["hybrid", "resnet"])
def test_the_kernel_of_a_resnet_is_averaged_and_standardised_again(name: str) -> None:
    """Standardised kernels do not keep their scale, so that equal channels come out in proportion: norms follow."""
    model = network(name)
    changed = resized(model, channels=4)
    key = "root.weight" if name == "resnet" else "stem.root.weight"
    assert changed.config.channels == 4 and changed.state_dict()[key].shape[1] == 4
    assert torch.equal(changed.state_dict()[key], average_channels(model.state_dict()[key], 4))
    assert changed(images(4)).shape == (2, 3)


def test_three_channels_of_one_kernel_differ_and_averaging_takes_the_difference() -> None:
    colour = images(3)
    model = network("plain")
    assert (resized(resized(model, channels=1), channels=3)(colour) - model(colour)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_another_image_size_and_other_classes(name: str) -> None:
    model = network(name)
    wide = resized(model, image_size=(32, 16), classes=5)
    assert wide.config.image_size == (32, 16)
    assert wide(images(3, 32, 16)).shape == (2, 5)
    assert wide.head is not None and not wide.head.weight.any(), "a new head says nothing yet"
    assert wide.head.weight.dtype == torch.float64


def test_an_enlarged_patch_sees_an_enlarged_image_as_before() -> None:
    """FlexiViT's pseudo-inverse: exact where patches and image grow together."""
    model = network("plain")
    large = resized(model, patch_size=(16, 16), image_size=(32, 48))
    assert large.config.grid == model.config.grid
    x = images(3)
    assert (large(_patchwise(x)) - model(x)).abs().max() < 1e-9


def _patchwise(x: torch.Tensor) -> torch.Tensor:
    """Each 8 x 8 patch enlarged to 16 x 16 on its own."""
    rows = [torch.cat([_twice(patch) for patch in row.split(8, dim=3)], dim=3) for row in x.split(8, dim=2)]
    return torch.cat(rows, dim=2)


def _twice(patch: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(patch, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet", {"patch_size": (4, 4)}, "a ResNet has no patches to resize"),
        ("plain", {"image_size": (17, 24)}, "image_size must be a multiple of patch_size: 17 rows / 8"),
        ("plain", {"channels": 0}, "channels: should be greater than 0, found 0"),
        ("plain", {"patch_size": (5, 8)}, "image_size must be a multiple of patch_size: 16 rows / 5"),
    ],
)
def test_an_impossible_change_is_a_sentence(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resized(network(name), **changes)


def test_nothing_changed_is_the_same_model() -> None:
    model = network("plain")
    assert resized(model, image_size=(16, 24), channels=3, classes=3) is model
