"""Evaluation protocols: how the publishers of a number showed the images of ImageNet to their models.

The same weights differ by up to half a point between protocols, so a score is comparable to a published one only where
the protocol is the same. A protocol says how an image is resized and cropped. The mean and the deviation that scale its
pixels stay those of the weights: a model sees nothing but noise under others.

Everywhere in vitrail a resized pixel is rounded to a whole number; the JAX codes keep fractions (gvt-squash) or cut
them off (bv-crop), which moves a pixel by less than one of 255. JPEGs are decoded whole, however large.
"""

from collections.abc import Callable

from vitrail.config import Preprocess
from vitrail.errors import UnknownName

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = 384  # sides from which the protocols crop less


def gvt_squash(size: tuple[int, int]) -> Preprocess:
    """The whole image, its shape not kept, bilinear without antialiasing (google-research/vision_transformer,
    vit_jax/input_pipeline.py, whose pp.resize is read by nothing)."""
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear", antialias=False)


def bv_crop(size: tuple[int, int]) -> Preprocess:
    """The shorter side to 8/7 of the input (7/6 from 384 px: 448) by averaging areas, then the centre
    (google-research/big_vision: resize_small, central_crop). The longer side is rounded down here, there to the
    nearest."""
    crop = 6 / 7 if max(size) >= LARGE else 0.875
    return Preprocess(size=size, crop=crop, interpolation="area", odd_margin="down")


def timm(size: tuple[int, int]) -> Preprocess:
    """The centre 9/10 (all of it from 384 px), bicubic: timm's crop_pct of AugReg and DeiT weights. Others' may differ:
    what their config.json says is done without a protocol."""
    return Preprocess(size=size, crop=1.0 if max(size) >= LARGE else 0.9)


def torchvision(size: tuple[int, int]) -> Preprocess:
    """The shorter side to 8/7 of the input, bilinear, then the centre; above 224 px no crop and bicubic, as the
    fine-tuned SWAG weights were. L/16 at 224 px, alone, was published with 242 px instead of 256."""
    if max(size) > 224:
        return Preprocess(size=size, crop=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Preprocess(size=size, crop=0.875, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)


PROTOCOLS: dict[str, Callable[[tuple[int, int]], Preprocess]] = {
    "gvt-squash": gvt_squash,
    "bv-crop": bv_crop,
    "timm": timm,
    "torchvision": torchvision,
}


def by_protocol(name: str, weights: Preprocess) -> Preprocess:
    """The protocol called `name` for weights with this preprocessing. UnknownName with close matches."""
    if name not in PROTOCOLS:
        raise UnknownName("protocol", name, PROTOCOLS)
    shown = {"mean": weights.mean, "std": weights.std, "jpeg": "full"}
    return PROTOCOLS[name](weights.size).model_copy(update=shown)
