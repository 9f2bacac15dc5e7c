"""transformers' preprocessor_config.json, both ways."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from vitrail.config import Preprocess
from vitrail.errors import WeightsError

_RESAMPLE: Mapping[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP = Preprocess(
    crop=1.0,
    odd_margin="down",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
# Classes that resize, crop and normalise in the one way read here: whether a number as size means a square to them (or
# the shorter side), whether they crop unless told, and their values of missing fields.
_KINDS: Mapping[str, tuple[bool, bool, Preprocess]] = {
    "ViT": (True, False, Preprocess(resize="squash", interpolation="bilinear")),
    "DINOv3ViT": (True, False, Preprocess(resize="squash", interpolation="bilinear", **_IMAGENET)),
    "DeiT": (True, True, Preprocess(resize="squash", crop=0.875, odd_margin="down")),
    "Siglip": (False, False, Preprocess(resize="squash")),
    "CLIP": (False, True, _CLIP),
    "Bit": (False, True, _CLIP),
}


def read_processor(processor: Mapping[str, Any], default: Preprocess) -> Preprocess:
    """What transformers would do to an image. Fields that are missing, or null, are those of the class that the file
    names, or `default`'s. Raises WeightsError where no Preprocess does the same."""
    processor = {field: value for field, value in processor.items() if value is not None}
    for field, value in {"do_resize": True, "do_rescale": True, "do_pad": False}.items():
        if processor.get(field, value) is not value:
            raise WeightsError(f"preprocessor_config.json has {field}={processor[field]!r}; only {value} is read")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise WeightsError(f"preprocessor_config.json has rescale_factor={processor['rescale_factor']!r}, not 1/255")
    square, crops, default = _kind(processor, default)
    resized, shortest = _resized(processor.get("size"), square, default)
    cropped = resized
    if processor.get("do_center_crop", crops):
        cropped = _sides(processor.get("crop_size"), "crop_size") or default.size
    elif shortest:
        raise WeightsError("preprocessor_config.json keeps the shape of an image without a crop; models take one size")
    if shortest and cropped[0] != cropped[1]:
        raise WeightsError(f"preprocessor_config.json crops {cropped} out of images resized by their shorter side")
    resample = processor.get("resample")
    if resample is not None and resample not in _RESAMPLE:
        raise WeightsError(f"preprocessor_config.json has resample={resample!r}; known: {_RESAMPLE}")
    normalised = processor.get("do_normalize", True)  # its default in every one of these classes
    return Preprocess(
        size=cropped,
        resize="shortest" if shortest else "squash",
        crop=share(cropped, resized, default.crop),
        interpolation=default.interpolation if resample is None else _RESAMPLE[resample],
        odd_margin="down" if shortest or cropped != resized else "even",
        mean=tuple(processor.get("image_mean", default.mean)) if normalised else (0.0, 0.0, 0.0),
        std=tuple(processor.get("image_std", default.std)) if normalised else (1.0, 1.0, 1.0),
    )


def nearest(preprocess: Preprocess) -> tuple[Preprocess, tuple[str, ...]]:
    """The closest that transformers can do to an image, and in words what is lost by that."""
    changes: dict[str, object] = {}
    losses = []
    if not preprocess.antialias and preprocess.interpolation != "nearest":
        changes["antialias"] = True
        losses.append("images are resized with antialiasing instead of without")
    margins = [math.floor(side / preprocess.crop) - side for side in preprocess.size]
    differs = preprocess.resize == "shortest" or any(margin % 4 == 3 for margin in margins)
    if preprocess.odd_margin == "even" and differs:
        changes["odd_margin"] = "down"
        losses.append("a crop with an odd margin is rounded down instead of to even, by at most one pixel")
    return preprocess.model_copy(update=changes), tuple(losses)


def write_processor(preprocess: Preprocess) -> dict[str, Any]:
    """A preprocessor_config.json with which transformers does the same. Raises WeightsError where it cannot."""
    if losses := nearest(preprocess)[1]:
        raise WeightsError(f"transformers cannot prepare images as this model wants them: {'; '.join(losses)}")
    rows, cols = (math.floor(side / preprocess.crop) for side in preprocess.size)
    size: dict[str, int] = {"height": rows, "width": cols}
    if preprocess.resize == "squash":
        kind = "ViTImageProcessor" if (rows, cols) == preprocess.size else "DeiTImageProcessor"
    else:
        if rows != cols or preprocess.size[0] != preprocess.size[1]:
            raise WeightsError(
                f"transformers cannot keep the shape of an image that is to cover {rows} x {cols} pixels"
            )
        kind, size = "BitImageProcessor", {"shortest_edge": rows}
    table: dict[str, Any] = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": size,
        "resample": next(code for code, name in _RESAMPLE.items() if name == preprocess.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if kind != "ViTImageProcessor":
        crop = {"height": preprocess.size[0], "width": preprocess.size[1]}
        table |= {"do_center_crop": True, "crop_size": crop}
    return table


def _kind(processor: Mapping[str, Any], default: Preprocess) -> tuple[bool, bool, Preprocess]:
    """Whether a number as size means a square, whether it crops unless told, and the values of missing fields."""
    name = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    if name is None:
        return default.resize == "squash", "crop_size" in processor or "size" not in processor, default
    kind = str(name).removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _KINDS:
        raise WeightsError(f"preprocessor_config.json names the {name}; read are those of {', '.join(_KINDS)}")
    return _KINDS[kind]


def _resized(size: object, square: bool, default: Preprocess) -> tuple[tuple[int, int], bool]:
    """(rows, cols) that an image is resized to, and whether that is the shorter side alone."""
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        sides = _sides(size["shortest_edge"], "size")
        return sides or default.size, True
    sides = _sides(size, "size")
    if sides is None:
        rows, cols = (math.floor(side / default.crop) for side in default.size)
        return (rows, cols), default.resize == "shortest"
    return sides, isinstance(size, int) and not square


def _sides(value: object, name: str) -> tuple[int, int] | None:
    """A size as (rows, cols), given as one number or by name."""
    if value is None:
        return None
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        rows, cols = value["height"], value["width"]
        if isinstance(rows, int) and isinstance(cols, int):
            return rows, cols
    raise WeightsError(f"preprocessor_config.json has {name}={value!r}; a number, a height and width, or shortest_edge")


def share(cropped: tuple[int, int], resized: tuple[int, int], usual: float) -> float:
    """A `crop` for which floor(cropped / crop) is `resized` on both sides, the usual one if it is."""
    share = cropped[0] / resized[0] if 0 < cropped[0] <= resized[0] else 1.0
    for candidate in (usual, share, math.nextafter(share, 0.0), math.nextafter(share, 1.0)):
        if all(math.floor(c / candidate) == r for c, r in zip(cropped, resized, strict=True)):
            return candidate
    raise WeightsError(f"preprocessor_config.json crops {cropped} pixels out of {resized}, which is not one share")
