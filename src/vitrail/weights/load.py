"""Bytes -> verified -> format -> renamed -> resampled -> model; strict at every step."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError, config_error
from vitrail.models.catalog import find_model
from vitrail.models.vit import ViT
from vitrail.ops.grid import resample_positions
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import MODEL_FILE, Stored, read_stored
from vitrail.weights.fetch import locate
from vitrail.weights.formats.jax_npz import NPZ, NPZ_LINEN
from vitrail.weights.formats.timm import TIMM, read_preprocess
from vitrail.weights.rename import Format, Hints, Shapes, read_tensors

FORMATS: dict[str, Format] = {f.name: f for f in (TIMM, NPZ, NPZ_LINEN)}
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Loaded:
    """A model with what travels with its weights."""

    model: ViT
    preprocess: Preprocess
    labels: LabelSet | None
    record: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    source: str = ""


def load_weights(
    source: str | Path,
    model: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Loaded:
    """The model stored at `source`: a run folder, model folder, weights file or Hugging Face id.

    `model` names the architecture where a bare file does not tell it. Another `image_size` (rows, cols) resamples the
    positions by the rule of the format's own library; other `classes` put a new zero head on (ViT paper, section 3.2).
    Raises WeightsError or UnknownName.
    """
    path = locate(source)
    stored = read_stored(path) if path.is_dir() else Stored()
    file = path / MODEL_FILE if path.is_dir() else path
    named = find_model(model) if model is not None else None
    tensors = read_file(file)
    form, config = _recognise(tensors, stored, Hints(named, image_size, stored.description), file.name)
    if named is not None:
        _check_named(config, named, str(model), file.name)
    loaded = _build(tensors, form, config, file.name)
    loaded = resized(loaded, image_size or config.image_size, classes, form)
    preprocess = _preprocess(stored, form, config)
    labels = _labels(stored, form, config) if loaded.config.classes == config.classes else None
    if loaded.config.image_size != preprocess.size:
        preprocess = preprocess.model_copy(update={"size": loaded.config.image_size})
    return Loaded(loaded, preprocess, labels, stored.record, stored.licence, str(source))


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .npz file; no code in either can run. WeightsError on anything odd."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                tensors = {key.removeprefix("opt/target/"): torch.from_numpy(archive[key]) for key in archive.files}
        elif path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            raise WeightsError(f"{path.name} is neither .safetensors nor .npz, the only weight files that are read")
    except (SafetensorError, ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path.name} is not a sound {path.suffix} file: {str(error).splitlines()[0]}") from error
    odd = [f"{key} {tensor.dtype}" for key, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if odd:
        raise WeightsError(f"{path.name} holds tensors that are not floating point: {', '.join(odd)}")
    broken = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {', '.join(broken)}")
    return tensors


def _recognise(tensors: Mapping[str, Tensor], stored: Stored, hints: Hints, name: str) -> tuple[Format, ViTConfig]:
    """The one format whose markers the file has, and the architecture it holds."""
    if stored.config is not None:
        return TIMM, stored.config
    found = [f for f in FORMATS.values() if all(m in tensors for m in f.markers)]
    found = [f for f in found if not any(a in tensors for a in f.absent)]
    if len(found) != 1:
        known = ", ".join(f"{f.name} (by {', '.join(f.markers)})" for f in FORMATS.values())
        first = ", ".join(sorted(tensors)[:4])
        what = "more than one known format" if found else "no known format"
        raise WeightsError(f"the keys of {name} fit {what}; it begins {first}; known: {known}")
    shapes: Shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    try:
        return found[0], found[0].infer(shapes, hints)
    except ValidationError as error:
        raise WeightsError(f"{name} describes no possible model: {config_error(error, 'model')}") from error


def _check_named(found: ViTConfig, named: ViTConfig, model: str, name: str) -> None:
    fields = ("patch_size", "width", "depth", "heads", "mlp_dim")
    wrong = [
        f"{f} {getattr(found, f)} instead of {getattr(named, f)}"
        for f in fields
        if getattr(found, f) != getattr(named, f)
    ]
    if wrong:
        raise WeightsError(f"{name} does not hold a {model}: {', '.join(wrong)}")


def _build(tensors: Mapping[str, Tensor], form: Format, config: ViTConfig, name: str) -> ViT:
    with torch.device("meta"):
        model = ViT(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = read_tensors(tensors, form.rules(config), expected, name)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    return model.requires_grad_(True).eval()


@torch.no_grad()
def resized(model: ViT, image_size: tuple[int, int], classes: int | None, form: Format) -> ViT:
    """The same network for another image size or number of classes."""
    old, classes = model.config, model.config.classes if classes is None else classes
    if (image_size, classes) == (old.image_size, old.classes):
        return model
    try:
        config = ViTConfig(**{**old.model_dump(), "image_size": image_size, "classes": classes})
    except ValidationError as error:
        raise config_error(error, "model") from error
    state = model.state_dict()
    state["position_embedding"] = resample_positions(
        state["position_embedding"], old.grid, config.grid, prefix=old.prefix, rule=form.position_rule
    )
    new = ViT(config)
    if classes != old.classes:
        state |= {key: value for key, value in new.state_dict().items() if key.startswith("head.")}
        if not classes:
            state = {key: value for key, value in state.items() if not key.startswith("head.")}
    new.load_state_dict(state, strict=True)
    return new.eval()


def _preprocess(stored: Stored, form: Format, config: ViTConfig) -> Preprocess:
    if stored.preprocess is not None:
        return stored.preprocess
    if stored.description is None:
        return form.preprocess(config.image_size)
    try:
        return read_preprocess(stored.description, config.image_size)
    except ValidationError as error:
        raise WeightsError(
            f"config.json has an unusable pretrained_cfg: {config_error(error, 'pretrained_cfg')}"
        ) from error


def _labels(stored: Stored, form: Format, config: ViTConfig) -> LabelSet | None:
    """Stored names; else ImageNet's, where the source says so: published .npz heads of 1,000 classes are ImageNet's in
    the order of the WordNet ids, and timm tags such weights `in1k`."""
    if stored.labels is not None:
        return stored.labels
    tag = str(((stored.description or {}).get("pretrained_cfg") or {}).get("tag", ""))
    if config.classes == 1000 and (form.name.startswith("npz") or "in1k" in tag):
        return imagenet_labels()
    return None


@cache
def imagenet_labels() -> LabelSet:
    """ImageNet-1k: display names and WordNet ids in class order."""
    table = json.loads(files("vitrail.weights").joinpath("labels/imagenet1k.json").read_text("utf-8"))
    return LabelSet(tuple(table["names"]), tuple(table["ids"]))
