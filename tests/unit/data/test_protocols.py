"""Protocols do to an image what the code behind the published numbers does."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_weight

from vitrail.config import Preprocess
from vitrail.data.preprocess import fit, resize
from vitrail.data.protocols import PROTOCOLS, by_protocol
from vitrail.errors import UnknownName
from vitrail.weights.catalog import CATALOG

SIZES = [(300, 400), (500, 333), (257, 300), (90, 120)]


def picture(rows: int, cols: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, rows, cols), generator=torch.Generator().manual_seed(rows), dtype=torch.uint8)


def averaged(pixels: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Mean over the part of the image that each new pixel stands for, counted in steps of a hundredth of it."""
    steps = 100
    y = ((np.arange(rows * steps) + 0.5) * pixels.shape[1] / (rows * steps)).astype(int)
    x = ((np.arange(cols * steps) + 0.5) * pixels.shape[2] / (cols * steps)).astype(int)
    fine = pixels[:, y][:, :, x].astype(np.float64)
    return fine.reshape(3, rows, steps, cols, steps).mean(axis=(2, 4))


@pytest.mark.parametrize(("old", "new"), [((30, 40), (12, 17)), ((30, 40), (15, 20)), ((12, 9), (20, 23))])
def test_area_is_the_mean_of_what_a_pixel_covers(old: tuple[int, int], new: tuple[int, int]) -> None:
    pixels = picture(*old)
    found = resize(pixels, new, "area")
    assert found.dtype == torch.uint8 and found.shape == (3, *new)
    assert np.abs(found.numpy() - averaged(pixels.numpy(), *new)).max() < 0.5 + 1.0  # the steps miss an edge by 1 %


def test_area_of_whole_pixels_is_exact() -> None:
    pixels = picture(64, 96)
    expected = pixels.float().unflatten(1, (16, 4)).unflatten(3, (24, 4)).mean(dim=(2, 4)).round().to(torch.uint8)
    assert torch.equal(resize(pixels, (16, 24), "area"), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "ViT_B_16_Weights.IMAGENET1K_V1",
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
        "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1",
    ],
)
def test_torchvision_s_protocol_is_that_of_its_weights(name: str, size: tuple[int, int]) -> None:
    theirs = get_weight(name).transforms()
    ours = PROTOCOLS["torchvision"]((CATALOG[name].image_size, CATALOG[name].image_size))
    assert (ours.mean, ours.std) == (tuple(theirs.mean), tuple(theirs.std))
    pixels = picture(*size)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())  # what its evaluation script opens
    expected = theirs(image).mul(torch.tensor(theirs.std)[:, None, None]).add(torch.tensor(theirs.mean)[:, None, None])
    differences = (fit(pixels, ours).float() - expected.mul(255)).abs()
    # Pillow rounds between rows and columns, torch does not; an enlarged image (518 px) has more pixels where it shows
    assert differences.max() < 3.01 and differences.mean() < 0.02


@pytest.mark.parametrize(
    ("name", "side", "resized", "whole"),
    [
        ("gvt-squash", 224, 224, True),
        ("gvt-squash", 384, 384, True),
        ("bv-crop", 224, 256, False),
        ("bv-crop", 384, 448, False),
        ("timm", 224, 248, False),
        ("timm", 384, 384, False),
        ("torchvision", 224, 256, False),
        ("torchvision", 512, 512, False),
    ],
)
def test_the_numbers_of_the_table(name: str, side: int, resized: int, whole: bool) -> None:
    """vit_jax and big_vision's pp strings, timm's crop_pct, torchvision's resize_size."""
    found = PROTOCOLS[name]((side, side))
    assert int(side / found.crop) == resized
    assert (found.resize == "squash") == whole
    kinds = {"gvt-squash": "bilinear", "bv-crop": "area", "timm": "bicubic"}
    assert found.interpolation == kinds.get(name, "bilinear" if side == 224 else "bicubic")
    assert found.antialias == (name != "gvt-squash")
    assert fit(picture(500, 400), found).shape == (3, side, side)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_model_s_own_scale_of_pixels_stays(name: str) -> None:
    weights = Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    found = by_protocol(name, weights)
    assert (found.size, found.mean, found.std) == (weights.size, weights.mean, weights.std)


def test_an_unknown_protocol_names_the_known() -> None:
    with pytest.raises(UnknownName, match=r"unknown protocol 'gvt'\. Choices: gvt-squash, bv-crop, timm, torchvision"):
        by_protocol("gvt", Preprocess())


def test_every_published_number_has_a_protocol_that_can_be_run() -> None:
    assert {row.protocol for row in CATALOG.values()} - {None} <= set(PROTOCOLS)
