"""DeiT III's 3-Augment and colour jitter on uint8 images, by Pillow as in the published code (facebookresearch/deit,
augment.py, which is torchvision on Pillow images)."""

import random

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitrail.types import Pixels

RADIUS = (0.1, 2.0)  # of the blur: the standard deviation, in pixels
_ENHANCE = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def three_augment(pixels: Pixels, rng: random.Random) -> Pixels:
    """One of grey, solarize (255 - x from 128 up) and Gaussian blur, with even odds, always
    (Touvron et al. 2022, "DeiT III: Revenge of the ViT", section 3.3)."""
    image = to_image(pixels)
    kind = rng.randrange(3)
    if kind == 0:
        image = image.convert("L").convert("RGB")
    elif kind == 1:
        image = ImageOps.solarize(image)
    else:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*RADIUS)))
    return to_pixels(image)


def color_jitter(pixels: Pixels, strength: float, rng: random.Random) -> Pixels:
    """Brightness, contrast and saturation in random order, each by a factor of 1 - strength to 1 + strength."""
    image = to_image(pixels)
    factors = [rng.uniform(1 - strength, 1 + strength) for _ in _ENHANCE]
    for kind in rng.sample(range(3), 3):
        image = _ENHANCE[kind](image).enhance(factors[kind])
    return to_pixels(image)


def to_image(pixels: Pixels) -> Image.Image:
    """The pixels as a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy(force=True))


def to_pixels(image: Image.Image) -> Pixels:
    """An RGB image as uint8 (3 H W)."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
