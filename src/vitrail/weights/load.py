"""Bytes -> verified -> format -> renamed -> resampled -> model; strict at every step."""

import json
import math
import re
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

from vitrail.config import Preprocess
from vitrail.errors import WeightsError, config_error
from vitrail.models.build import Network, build
from vitrail.models.catalog import ModelConfig, find_model
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import MODEL_FILE, Stored, read_beside, read_stored
from vitrail.weights.fetch import locate
from vitrail.weights.formats.big_vision import BIG_VISION
from vitrail.weights.formats.dinov2 import DINOV2, DINOV2_CLASSIFIER
from vitrail.weights.formats.hf_clip import HF_CLIP, HF_CLIP_BARE
from vitrail.weights.formats.hf_dinov2 import HF_DINOV2, HF_DINOV2_MEMORY
from vitrail.weights.formats.hf_dinov3 import HF_DINOV3, HF_DINOV3_MEMORY
from vitrail.weights.formats.hf_siglip import HF_SIGLIP, HF_SIGLIP_BARE, HF_SIGLIP_CLASSIFIER
from vitrail.weights.formats.hf_vit import HF_DEIT, HF_DEIT_MEMORY, HF_VIT, HF_VIT_MEMORY
from vitrail.weights.formats.jax_npz import NPZ, NPZ_LINEN
from vitrail.weights.formats.native import NATIVE
from vitrail.weights.formats.openai_clip import OPEN_CLIP, OPEN_CLIP_VISUAL
from vitrail.weights.formats.timm import TIMM, TIMM_IN_OPEN_CLIP
from vitrail.weights.formats.torchvision import TORCHVISION, TORCHVISION_OLD
from vitrail.weights.huggingface import label_names
from vitrail.weights.rename import Format, Hints, Shapes, claims, read_tensors
from vitrail.weights.resize import resized

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(TIMM, NPZ, NPZ_LINEN, BIG_VISION, NATIVE),
        *(HF_VIT, HF_VIT_MEMORY, HF_DEIT, HF_DEIT_MEMORY),
        *(HF_DINOV2, HF_DINOV2_MEMORY, HF_DINOV3, HF_DINOV3_MEMORY),
        *(TORCHVISION, TORCHVISION_OLD, DINOV2, DINOV2_CLASSIFIER, OPEN_CLIP, OPEN_CLIP_VISUAL, TIMM_IN_OPEN_CLIP),
        *(HF_CLIP, HF_CLIP_BARE, HF_SIGLIP, HF_SIGLIP_BARE, HF_SIGLIP_CLASSIFIER),
    )
}
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_IMAGENET = ("npz", "npz-linen", "big_vision", "torchvision", "torchvision-old")  # whose 1,000 classes are in its order
_LARGEST = 64 * 2**30  # bytes an archive may unpack to


@dataclass(frozen=True)
class Loaded:
    """A model with what travels with its weights. `passengers` are tensors of the file that classification does not
    use (a mask token, say), under the file's own names; `form` is the name of the file's format."""

    model: Network
    preprocess: Preprocess
    labels: LabelSet | None
    record: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    source: str = ""
    form: str = ""
    passengers: Mapping[str, Tensor] = field(default_factory=dict)


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
    stored = read_stored(path) if path.is_dir() else Stored(description=read_beside(path.parent) or None)
    file = path / MODEL_FILE if path.is_dir() else path
    named = find_model(model) if model is not None else None
    form, tensors = _recognise(read_file(file), stored, file.name)
    riding = {key for key in tensors if any(re.fullmatch(pattern, key) for pattern in form.passengers)}
    _check_floating({key: tensor for key, tensor in tensors.items() if key not in riding}, file.name)
    config = stored.config or _infer(form, tensors, Hints(named, image_size, stored.description), file.name)
    if named is not None:
        _check_named(config, named, str(model), file.name)
    network = _build({k: t for k, t in tensors.items() if k not in riding}, form, config, file.name)
    network = resized(network, image_size=image_size, classes=classes)
    preprocess = _preprocess(stored, form, config)
    if network.config.image_size != preprocess.size:
        preprocess = preprocess.model_copy(update={"size": network.config.image_size})
    return Loaded(
        model=network,
        preprocess=preprocess,
        labels=_labels(stored, form, config) if network.config.classes == config.classes else None,
        record=stored.record,
        licence=stored.licence,
        source=str(source),
        form=form.name,
        passengers={key: tensors[key] for key in sorted(riding)},
    )


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .npz file; no code in either can run. WeightsError on anything odd."""
    try:
        if path.suffix == ".npz":
            tensors = _read_npz(path)
        elif path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            raise WeightsError(f"{path.name} is neither .safetensors nor .npz, the only weight files that are read")
    except (SafetensorError, ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path.name} is not a sound {path.suffix} file: {str(error).splitlines()[0]}") from error
    broken = [key for key, t in tensors.items() if t.dtype in _DTYPES and not bool(torch.isfinite(t).all())]
    if broken:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {', '.join(broken)}")
    return tensors


def _check_floating(tensors: Mapping[str, Tensor], name: str) -> None:
    odd = [f"{key} {tensor.dtype}" for key, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if odd:
        raise WeightsError(f"{name} holds tensors that are not floating point: {', '.join(odd)}")


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of an archive, whose sizes are checked before anything is unpacked; bfloat16 arrives as 2-byte void."""
    tensors = {}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array, not an archive")
        assert archive.zip is not None
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
        if sum(sizes.values()) > _LARGEST:
            raise ValueError(f"it unpacks to {sum(sizes.values()) / 2**30:.0f} GiB; the most is {_LARGEST // 2**30}")
        for key in archive.files:
            with archive.zip.open(f"{key}.npy") as member:
                version = np.lib.format.read_magic(member)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(member)
            if dtype.hasobject:
                raise ValueError(f"{key} holds Python objects, which are never read")
            if math.prod(shape) * dtype.itemsize > sizes[key]:
                raise ValueError(f"{key} claims the shape {shape}, more than the {sizes[key]} bytes stored")
            array = archive[key]
            if array.dtype.kind == "V" and array.dtype.itemsize == 2:
                tensors[key] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            else:
                tensors[key] = torch.from_numpy(array)
    return tensors


def _recognise(tensors: Mapping[str, Tensor], stored: Stored, name: str) -> tuple[Format, Mapping[str, Tensor]]:
    """The one format whose markers the file has, and the tensors under the keys of its rules."""
    if stored.form is not None:
        if stored.form not in FORMATS:
            raise WeightsError(f"vitrail.json names the format {stored.form!r}; known: {', '.join(FORMATS)}")
        return FORMATS[stored.form], tensors
    prepared = {f.name: f.prepare(tensors) for f in FORMATS.values()}
    found = [f for f in FORMATS.values() if claims(f, prepared[f.name])]
    if len(found) == 1:
        return found[0], prepared[found[0].name]
    first = ", ".join(sorted(tensors)[:4])
    if found:
        raise WeightsError(f"the keys of {name} fit more than one format ({', '.join(f.name for f in found)}); {first}")
    known = ", ".join(f"{f.name} (by {', '.join(f.markers)})" for f in FORMATS.values())
    raise WeightsError(f"the keys of {name} fit no known format; it begins {first}; known: {known}")


def _infer(form: Format, tensors: Mapping[str, Tensor], hints: Hints, name: str) -> ModelConfig:
    shapes: Shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    try:
        return form.infer(shapes, hints)
    except ValidationError as error:
        raise WeightsError(f"{name} describes no possible model: {config_error(error, 'model')}") from error


def _check_named(found: ModelConfig, named: ModelConfig, model: str, name: str) -> None:
    fields = ("patch_size", "width", "depth", "heads", "mlp_dim", "layers")
    wrong = [
        f"{f} {getattr(found, f, 'none')} instead of {getattr(named, f)}"
        for f in fields
        if hasattr(named, f) and getattr(found, f, None) != getattr(named, f)
    ]
    if wrong:
        raise WeightsError(f"{name} does not hold a {model}: {', '.join(wrong)}")


def _build(tensors: Mapping[str, Tensor], form: Format, config: ModelConfig, name: str) -> Network:
    with torch.device("meta"):
        model = build(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = read_tensors(tensors, form.rules(config), expected, name)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    return model.requires_grad_(True).eval()


def _preprocess(stored: Stored, form: Format, config: ModelConfig) -> Preprocess:
    if stored.preprocess is not None:
        return stored.preprocess
    try:
        if stored.processor is not None and form.read_processor is not None:
            return form.read_processor(stored.processor)
    except ValidationError as error:
        raise WeightsError(f"preprocessor_config.json is not usable: {config_error(error, 'it')}") from error
    if stored.description is None or form.read_description is None:
        return form.preprocess(config.image_size)
    try:
        return form.read_description(stored.description, config.image_size)
    except ValidationError as error:
        raise WeightsError(f"config.json is not usable: {config_error(error, 'pretrained_cfg')}") from error


def _labels(stored: Stored, form: Format, config: ModelConfig) -> LabelSet | None:
    """Stored names; else ImageNet's, where the source says so: published .npz heads of 1,000 classes are ImageNet's in
    the order of the WordNet ids, and timm tags such weights `in1k`."""
    if stored.labels is not None:
        return stored.labels
    if (names := label_names(stored.description or {}, config.classes)) is not None:
        return LabelSet(names)
    tag = str(((stored.description or {}).get("pretrained_cfg") or {}).get("tag", ""))
    if config.classes == 1000 and (form.name in _IMAGENET or "in1k" in tag):
        return imagenet_labels()
    return None


@cache
def imagenet_labels() -> LabelSet:
    """ImageNet-1k: display names and WordNet ids in class order."""
    table = json.loads(files("vitrail.weights").joinpath("labels/imagenet1k.json").read_text("utf-8"))
    return LabelSet(tuple(table["names"]), tuple(table["ids"]))
