"""open_clip_config.json, which open_clip keeps beside its weights: the image tower it describes, and preprocessing."""

from collections.abc import Mapping
from typing import Any

from vitrail.config import Preprocess
from vitrail.errors import WeightsError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's


def model_of(description: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The tables `model_cfg` and its `vision_cfg`, or None where there is no such file."""
    table = (description or {}).get("open_clip")
    if table is None:
        return None
    model = table.get("model_cfg", table)  # the files in open_clip itself are that table alone
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(vision, Mapping):
        raise WeightsError("open_clip_config.json has no vision_cfg")
    return model, vision


def image_size_of(vision: Mapping[str, Any]) -> tuple[int, int] | None:
    """image_size as (rows, cols)."""
    size = vision.get("image_size")
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    return int(size[0]), int(size[1])


def default_preprocess(size: tuple[int, int]) -> Preprocess:
    """OpenAI's: the shorter side to the size, the centre, its own mean and deviation."""
    return Preprocess(size=size, crop=1.0, mean=MEAN, std=STD)


def read_preprocess(description: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    """The evaluation that open_clip would run for this file, at `size`."""
    table = (description.get("open_clip") or {}).get("preprocess_cfg") or {}
    mode = table.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise WeightsError(f"open_clip_config.json has the resize_mode {mode!r}; known: shortest, squash")
    mean, std = table.get("mean", MEAN), table.get("std", STD)
    kind = table.get("interpolation", "bicubic")
    return Preprocess(size=size, resize=mode, crop=1.0, interpolation=kind, mean=tuple(mean), std=tuple(std))


def write_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    """The table `preprocess_cfg`, the inverse of `read_preprocess`. Raises WeightsError where it cannot say it."""
    if preprocess.crop != 1.0:
        raise WeightsError(f"open_clip cannot hold a resize to more than the crop (crop={preprocess.crop})")
    return {
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
    }
