"""3-Augment and colour jitter do what the published code asks of Pillow and torchvision."""

import random

import pytest
import torch
from PIL import ImageEnhance, ImageOps

from pictures import noise
from vitrail.data.three_augment import color_jitter, three_augment, to_image, to_pixels

PIXELS = torch.from_numpy(noise(20, 30, 2)).permute(2, 0, 1)
IMAGE = to_image(PIXELS)


def test_pixels_go_to_pillow_and_back() -> None:
    assert (IMAGE.height, IMAGE.width) == (20, 30)
    assert torch.equal(to_pixels(IMAGE), PIXELS)


def test_one_of_three_with_even_odds() -> None:
    grey, solarized = to_pixels(IMAGE.convert("L").convert("RGB")), to_pixels(ImageOps.solarize(IMAGE))
    assert torch.equal(solarized, torch.where(PIXELS < 128, PIXELS, 255 - PIXELS))
    counts = {"grey": 0, "solarize": 0, "blur": 0}
    for seed in range(300):
        found = three_augment(PIXELS, random.Random(seed))
        kind = "grey" if torch.equal(found, grey) else "solarize" if torch.equal(found, solarized) else "blur"
        counts[kind] += 1
    assert all(75 < count < 125 for count in counts.values())


def test_the_blur_has_a_standard_deviation_of_up_to_two_pixels() -> None:
    """Of a white dot, the variance along a row is the square of the radius."""
    dot = torch.zeros(3, 25, 25, dtype=torch.uint8)
    dot[:, 12, 12] = 255
    found = [three_augment(dot, random.Random(seed)) for seed in range(200)]
    blurred = [x[0].float() for x in found if (x > 0).sum() > 1 and x.max() not in (0, 127)]
    across = torch.arange(25.0) - 12
    deviations = [((x.sum(0) * across**2).sum() / x.sum()).sqrt().item() for x in blurred]
    assert len(deviations) > 30 and 1.5 < max(deviations) <= 2.1 and min(deviations) < 0.6


def test_jitter_keeps_to_its_strength_and_orders() -> None:
    """On grey pixels only brightness shows, and contrast only where there is more than one grey."""
    flat = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    values = [color_jitter(flat, 0.3, random.Random(seed)) for seed in range(300)]
    assert all(len(x.unique()) == 1 for x in values)
    greys = [x[0, 0, 0].item() for x in values]
    assert 69 <= min(greys) < 75 and 125 < max(greys) <= 130
    assert torch.equal(color_jitter(PIXELS, 0.0, random.Random(0)), PIXELS)


@pytest.mark.parametrize("seed", range(4))
def test_jitter_is_pillows_enhancement(seed: int) -> None:
    rng = random.Random(seed)
    factors = [rng.uniform(0.6, 1.4) for _ in range(3)]
    image = IMAGE
    for kind in rng.sample(range(3), 3):
        image = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[kind](image).enhance(factors[kind])
    assert torch.equal(color_jitter(PIXELS, 0.4, random.Random(seed)), to_pixels(image))
