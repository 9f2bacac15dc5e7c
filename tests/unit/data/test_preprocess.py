"""The evaluation path equals torchvision's v2 bit for bit, and timm's up to the difference of two resizers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2

from pictures import noise, smooth
from vitrail.config import Preprocess
from vitrail.data.preprocess import centre_crop, covering_size, fit, preprocess, resize, to_model, window

SHAPES = [(375, 500), (500, 375), (224, 224), (100, 37), (31, 333), (600, 450), (257, 256)]


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def reference(config: Preprocess, short: int) -> v2.Compose:
    """torchvision's transforms for a square size."""
    mode = v2.InterpolationMode(config.interpolation)
    if config.resize == "squash":
        resized = v2.Resize((short, short), interpolation=mode, antialias=config.antialias)
    else:
        resized = v2.Resize(short, interpolation=mode, antialias=config.antialias)
    return v2.Compose(
        [
            resized,
            v2.CenterCrop(config.size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config.mean, config.std),
        ]
    )


def timm_eval(size: tuple[int, int], crop: float) -> Callable[[Image.Image], torch.Tensor]:
    """timm's evaluation transform, without normalisation."""
    return create_transform(
        (3, *size), is_training=False, interpolation="bicubic", crop_pct=crop, mean=(0, 0, 0), std=(1, 1, 1)
    )


@pytest.mark.parametrize("rows_cols", SHAPES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_equals_torchvision_exactly(rows_cols, interpolation, antialias, contiguous):
    pixels = tensor(noise(*rows_cols))
    pixels = pixels.contiguous() if contiguous else pixels
    for resize_rule, crop in (("shortest", 0.9), ("shortest", 1.0), ("squash", 1.0), ("squash", 0.875)):
        config = Preprocess(
            size=96, resize=resize_rule, crop=crop, interpolation=interpolation, antialias=antialias,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        )  # fmt: skip
        expected = reference(config, short=int(96 / crop))(pixels)
        assert torch.equal(preprocess(pixels, config), expected)


@pytest.mark.parametrize("rows_cols", SHAPES)
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (160, 96)])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_equals_timm_up_to_the_resizer(rows_cols, size, crop):
    pixels = noise(*rows_cols)
    theirs = timm_eval(size, crop)(Image.fromarray(pixels))
    ours = preprocess(tensor(pixels), Preprocess(size=size, crop=crop, mean=(0, 0, 0), std=(1, 1, 1)))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= 2 / 255 + 1e-6


def test_resizing_another_way_is_not_equal_to_timm():
    """The tolerance above tells a right resize from one without antialias."""
    pixels = noise(375, 500)
    theirs = timm_eval((96, 96), 0.9)(Image.fromarray(pixels))
    ours = preprocess(tensor(pixels), Preprocess(size=96, crop=0.9, antialias=False, mean=(0, 0, 0), std=(1, 1, 1)))
    assert (ours - theirs).abs().max().item() > 0.1


def test_to_model_is_the_formula_and_keeps_leading_axes():
    config = Preprocess(size=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = tensor(noise(4, 4))
    expected = (pixels.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.25, 2.0]
    ).view(3, 1, 1)
    assert torch.allclose(to_model(pixels, config).double(), expected, atol=1e-6)
    assert torch.equal(to_model(pixels[None].repeat(2, 1, 1, 1), config)[1], to_model(pixels, config))
    assert to_model(pixels, config).dtype == torch.float32
    assert to_model(pixels, config).is_contiguous()


def test_an_image_of_the_right_size_is_not_touched():
    pixels = tensor(noise(8, 8))
    assert torch.equal(fit(pixels, Preprocess(size=8, crop=1.0)), pixels)
    assert torch.equal(fit(pixels, Preprocess(size=8, resize="squash")), pixels)


def test_the_input_is_not_written_to():
    pixels = tensor(noise(30, 20))
    before = pixels.clone()
    preprocess(pixels, Preprocess(size=8))
    preprocess(pixels, Preprocess(size=20, resize="squash"))
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(
    ("size", "cover", "expected"),
    [
        ((375, 500), (248, 248), (248, 330)),  # 330.67 is truncated
        ((500, 375), (248, 248), (330, 248)),
        ((100, 100), (50, 50), (50, 50)),
        ((375, 500), (100, 300), (225, 300)),  # another shape: rounded, the wider need decides
        ((1, 1000), (10, 20), (10, 10000)),
    ],
)
def test_covering_size(size, cover, expected):
    assert covering_size(size, cover) == expected


def test_a_small_image_is_padded_with_black_on_all_sides():
    pixels = torch.full((3, 2, 3), 9, dtype=torch.uint8)
    padded = centre_crop(pixels, (5, 5))
    assert padded.shape == (3, 5, 5)
    assert padded[0].nonzero().tolist() == [[r, c] for r in (1, 2) for c in (1, 2, 3)]


@pytest.mark.parametrize("rows_cols", [(1, 50_000), (50_000, 1), (3, 40_001)])
def test_a_sliver_of_an_image_stays_small(rows_cols):
    """Covering 224 pixels with a 1 x 50,000 image would make 11 million columns; its middle alone is resized."""
    pixels = tensor(np.broadcast_to(np.uint8(77), (*rows_cols, 3)))
    config = Preprocess(size=224, crop=1.0)
    result = fit(pixels, config)
    assert result.shape == (3, 224, 224)
    assert (result == 77).all()


def test_the_middle_of_a_sliver_is_its_centre():
    image = np.zeros((4, 1001, 3), dtype=np.uint8)
    image[:, 499:502] = 200  # three columns about the centre, column 500
    result = fit(tensor(image), Preprocess(size=12, crop=1.0, interpolation="nearest"))
    lit = result[0, 0].nonzero().flatten().tolist()
    whole = v2.functional.center_crop(v2.functional.resize(tensor(image), [12], v2.InterpolationMode.NEAREST), [12, 12])
    assert lit == whole[0, 0].nonzero().flatten().tolist()


def test_nearest_never_invents_a_value():
    pixels = tensor(noise(30, 30) // 128 * 255)
    assert set(resize(pixels, (17, 11), "nearest").unique().tolist()) <= {0, 255}


def test_bicubic_overshoot_is_clamped():
    step = np.zeros((20, 20, 3), dtype=np.uint8)
    step[:, 10:] = 255
    values = resize(tensor(step), (40, 40), "bicubic")
    assert values[0, 0, :10].max() < 30 and values[0, 0, -10:].min() > 225


def test_smooth_photos_keep_their_mean():
    pixels = smooth(300, 400)
    ours = fit(tensor(pixels), Preprocess(size=100, resize="squash")).float()
    assert abs(ours.mean().item() - pixels.mean()) < 1


def test_a_squash_shows_the_whole_image_unless_a_crop_is_asked_for():
    assert Preprocess(resize="squash").crop == 1.0
    assert Preprocess(resize="squash", crop=0.875).crop == 0.875
    assert Preprocess().crop == 0.9


@pytest.mark.parametrize(("height", "width"), [(3, 8), (8, 3), (12, 8), (8, 5), (3, 3)])
def test_an_odd_margin_is_rounded_to_even_or_down(height, width):
    pixels = tensor(noise(height, width))
    assert torch.equal(centre_crop(pixels, (5, 5)), v2.CenterCrop((5, 5))(pixels))
    if min(height, width) >= 5:
        top, left = (height - 5) // 2, (width - 5) // 2
        assert torch.equal(centre_crop(pixels, (5, 5), floor=True), pixels[:, top : top + 5, left : left + 5])
    assert (8 - 5) % 4 == 3, "a margin whose two roundings differ"


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (100, 37), (31, 333), (20, 2000)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_window_is_what_the_crop_keeps(shape: tuple[int, int], resize: str, size: tuple[int, int]) -> None:
    """An image whose colours tell where each pixel lies shows at its borders what the window says."""
    config = Preprocess(size=size, crop=0.8, resize=resize, interpolation="bilinear")
    rows, cols = shape
    y = torch.linspace(0, 255, rows)[:, None].expand(shape)
    x = torch.linspace(0, 255, cols)[None].expand(shape)
    seen = fit(torch.stack([y, x, y]).round().to(torch.uint8), config).float()
    found = window(shape, config)
    top, left, bottom, right = found.box
    assert found.resized[0] >= size[0] and found.resized[1] >= size[1]
    for side, length, first, last in ((0, rows, top, bottom), (1, cols, left, right)):
        pixel = (last - first) / size[side]
        line = seen[0][:, 0] if side == 0 else seen[1][0]
        for value, place in ((line[0], first + pixel / 2), (line[-1], last - pixel / 2)):
            expected = float(place - 0.5) / (length - 1) * 255
            assert abs(float(value) - expected) < 1.5 + 255 / length, (side, value, expected)


def test_the_window_of_an_image_that_is_padded_goes_beyond_it() -> None:
    found = window((40, 10), Preprocess(size=(20, 20), crop=1.0, resize="squash"))
    assert found.box == (0.0, 0.0, 40.0, 10.0)
    assert window((3, 900), Preprocess(size=(4, 4), crop=1.0)).box == (0.0, 448.5, 3.0, 451.5)
