"""Bytes -> verified -> format -> renamed -> resampled -> model; strict at every step."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from vitrail.config import Preprocess, ResNetConfig
from vitrail.errors import WeightsError, config_error
from vitrail.models.build import Network, build
from vitrail.models.catalog import MODELS, ModelConfig, find_model
from vitrail.types import MULTILABEL, LabelSet
from vitrail.weights.catalog import published
from vitrail.weights.checkpoint import PASSENGERS_FILE, Stored, read_beside, read_stored
from vitrail.weights.fetch import locate
from vitrail.weights.files import FLOATS, MODEL_FILE, followed, read_file, read_headers, weights_of
from vitrail.weights.formats.big_vision import BIG_VISION
from vitrail.weights.formats.dinov2 import DINOV2, DINOV2_CLASSIFIER
from vitrail.weights.formats.dinov3 import DINOV3
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
from vitrail.weights.rename import Format, HeadsNotTold, Hints, Shapes, check_shapes, claims, read_tensors, usual
from vitrail.weights.resize import resized

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        *(TIMM, NPZ, NPZ_LINEN, BIG_VISION, NATIVE),
        *(HF_VIT, HF_VIT_MEMORY, HF_DEIT, HF_DEIT_MEMORY),
        *(HF_DINOV2, HF_DINOV2_MEMORY, HF_DINOV3, HF_DINOV3_MEMORY),
        *(
            TORCHVISION,
            TORCHVISION_OLD,
            DINOV2,
            DINOV2_CLASSIFIER,
            DINOV3,
            OPEN_CLIP,
            OPEN_CLIP_VISUAL,
            TIMM_IN_OPEN_CLIP,
        ),
        *(HF_CLIP, HF_CLIP_BARE, HF_SIGLIP, HF_SIGLIP_BARE, HF_SIGLIP_CLASSIFIER),
    )
}
_IMAGENET = ("npz", "npz-linen", "big_vision", "torchvision", "torchvision-old")  # whose 1,000 classes are in its order


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
    passengers_of: str = ""  # the name of the format that they rode in
    stored_size: tuple[int, int] | None = None  # the image size (rows, cols) of the file, where it was resampled


@dataclass(frozen=True)
class Found:
    """What a source holds, before its numbers are read. `riding` are the keys of its passengers; `assumed` is what
    nothing in it tells, so that its library's usual value stands there."""

    file: Path
    stored: Stored
    form: Format
    config: ModelConfig
    preprocess: Preprocess
    labels: LabelSet | None
    riding: frozenset[str]
    dtypes: frozenset[str]
    assumed: tuple[str, ...] = ()
    patch_size: tuple[int, int] | None = None  # FlexiViT's, where the kernel in the file is of another


def load_weights(
    source: str | Path,
    model: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
    as_stored: bool = False,
) -> Loaded:
    """The model stored at `source`: a run folder, model folder, weights file or Hugging Face id.

    `model` names the architecture where a bare file does not tell it. Another `image_size` (rows, cols) resamples the
    positions by the rule of the format's own library; other `classes` put a new zero head on (ViT paper, section 3.2).

    Some files want images of another size than their positions are for: DINOv2's, of 518 px, are shown 224 by
    transformers, which resamples the positions each time. The model takes the images' size then, resampled once in the
    same way; `as_stored` leaves its positions, and `preprocess` tells the size that they go to. Raises WeightsError or
    UnknownName.
    """
    found = identify(source, model, image_size)
    stored, form, config = found.stored, found.form, found.config
    tensors = read_file(found.file)
    tensors = dict(form.prepare(tensors)) if stored.form is None else tensors
    network = _build({k: t for k, t in tensors.items() if k not in found.riding}, form, config, found.file.name)
    preprocess = found.preprocess if image_size is None else found.preprocess.model_copy(update={"size": image_size})
    if found.patch_size is not None:  # FlexiViT: as it is run, whoever asks
        network = resized(network, image_size=preprocess.size, patch_size=found.patch_size)
    network = resized(network, image_size=None if as_stored else preprocess.size, classes=classes)
    return Loaded(
        model=network,
        preprocess=preprocess,
        labels=found.labels if network.config.classes == config.classes else None,
        record=stored.record,
        licence=stored.licence,
        source=str(source),
        form=form.name,
        passengers=_passengers(found, tensors),
        passengers_of=stored.passengers_of or form.name,
        stored_size=None if network.config.image_size == config.image_size else config.image_size,
    )


def identify(source: str | Path, model: str | None = None, image_size: tuple[int, int] | None = None) -> Found:
    """What is stored at `source`, from the headers of its files alone; see `load_weights`. Raises WeightsError for what
    cannot be loaded, but for numbers that are not finite."""
    path = locate(source)
    stored = read_stored(path) if path.is_dir() else Stored(description=read_beside(path.parent) or None)
    file = (weights_of(path) or path / MODEL_FILE) if path.is_dir() else path
    named = find_model(model) if model is not None else None
    form, tensors = _recognise(read_headers(file), stored, file.name)
    riding = {key for key in tensors if any(re.fullmatch(pattern, key) for pattern in form.passengers)}
    driving = {key: tensor for key, tensor in tensors.items() if key not in riding}
    odd = [f"{key} {tensor.dtype}" for key, tensor in driving.items() if tensor.dtype not in FLOATS]
    if odd:
        raise WeightsError(f"{file.name} holds tensors that are not floating point: {', '.join(odd)}")
    shapes: Shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    try:
        config = stored.config or _infer(form, shapes, Hints(named, image_size, stored.description), file.name)
        if named is not None:
            _check_named(config, named, str(model), file.name)
        check_shapes({key: shapes[key] for key in driving}, form.rules(config), model_shapes(config), file.name)
        preprocess, told = _preprocess(stored, form, config)
        labels = _with_ids(_labels(stored, form, config))
    except (TypeError, KeyError, AttributeError, IndexError, ArithmeticError, ValueError) as error:
        if stored.description is None:
            raise
        raise WeightsError(f"config.json beside {file.name} is not usable: {type(error).__name__}: {error}") from error
    row = None if Path(source).exists() else published(str(source))
    patch = None
    if row is not None:
        stored = stored if stored.licence is not None else replace(stored, licence=row.licence)
        told, preprocess = True, row.pixels or preprocess
        if row.patch_size is not None:
            patch = (row.patch_size, row.patch_size)
            config = config.model_copy(update={"position_rule": "flexivit"})
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in driving.values()}
    learned = isinstance(config, ResNetConfig) or config.position in ("learned", "none")
    sized = learned or image_size is not None or stored.config is not None or stored.description is not None
    assumed = tuple(name for name, known in {"image size": sized, "preprocessing": told}.items() if not known)
    found = Found(file, stored, form, config, preprocess, labels, frozenset(riding), frozenset(dtypes))
    return replace(found, assumed=assumed, patch_size=patch)


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


def _infer(form: Format, shapes: Shapes, hints: Hints, name: str) -> ModelConfig:
    try:
        return form.infer(shapes, hints)
    except HeadsNotTold as error:
        fits = " or ".join(_fitting(form, shapes, hints))
        remedy = f"say --model {fits}, whose sizes it has" if fits else "its library's config.json beside it would tell"
        raise WeightsError(f"{error}; {remedy}") from error
    except ValidationError as error:
        raise WeightsError(f"{name} describes no possible model: {config_error(error, 'model')}") from error


def _fitting(form: Format, shapes: Shapes, hints: Hints) -> list[str]:
    """The names of the models that a file without heads may hold."""
    names = []
    for name, row in MODELS.items():
        with contextlib.suppress(WeightsError, ValidationError):
            _check_named(form.infer(shapes, replace(hints, model=row)), row, name, "")
            names.append(name)
    return names


def _check_named(found: ModelConfig, named: ModelConfig, model: str, name: str) -> None:
    fields = ("patch_size", "width", "depth", "heads", "mlp_dim", "layers")
    wrong = [
        f"{f} {getattr(found, f, 'none')} instead of {getattr(named, f)}"
        for f in fields
        if hasattr(named, f) and getattr(found, f, None) != getattr(named, f)
    ]
    stems = [getattr(config, "stem", None) is not None for config in (found, named)]
    if stems[0] != stems[1]:
        wrong.append("a ResNet stem" if stems[0] else "no ResNet stem")
    if wrong:
        raise WeightsError(f"{name} does not hold a {model}: {', '.join(wrong)}")


def _passengers(found: Found, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the file that the model does not use, or of the file in which a model folder keeps another's."""
    riding = {key: tensors[key] for key in sorted(found.riding)}
    kept = found.file.with_name(PASSENGERS_FILE)
    return riding | (read_file(followed(kept)) if found.stored.passengers_of and kept.is_file() else {})


def model_shapes(config: ModelConfig) -> Shapes:
    """The shape of every tensor of a model."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build(config).state_dict().items()}


def _build(tensors: Mapping[str, Tensor], form: Format, config: ModelConfig, name: str) -> Network:
    with torch.device("meta"):
        model = build(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = read_tensors(tensors, form.rules(config), expected, name)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    return model.requires_grad_(True).eval()


def _preprocess(stored: Stored, form: Format, config: ModelConfig) -> tuple[Preprocess, bool]:
    """How images are prepared, and whether the source tells it; else its library's usual way."""
    if stored.preprocess is not None:
        return stored.preprocess, True
    try:
        if stored.processor is not None and form.read_processor is not None:
            return form.read_processor(stored.processor), True
    except ValidationError as error:
        raise WeightsError(f"preprocessor_config.json is not usable: {config_error(error, 'it')}") from error
    if stored.description is None or form.read_description is None:
        return usual(form, config), False
    try:
        return form.read_description(stored.description, config.image_size), True
    except ValidationError as error:
        raise WeightsError(f"config.json is not usable: {config_error(error, 'pretrained_cfg')}") from error


def _labels(stored: Stored, form: Format, config: ModelConfig) -> LabelSet | None:
    """Stored names; else ImageNet's, where the source says so: published .npz heads of 1,000 classes are ImageNet's in
    the order of the WordNet ids, and timm tags such weights `in1k`."""
    if stored.labels is not None:
        return stored.labels
    description = stored.description or {}
    if (names := label_names(description, config.classes)) is not None:
        return LabelSet(names, multilabel=description.get("problem_type") == MULTILABEL)
    tag = str(((stored.description or {}).get("pretrained_cfg") or {}).get("tag", ""))
    if config.classes == 1000 and (form.name in _IMAGENET or "in1k" in tag):
        return imagenet_labels()
    return None


def _with_ids(labels: LabelSet | None) -> LabelSet | None:
    """The labels with WordNet ids where they are ImageNet's in its order: other libraries store names alone, and each
    calls one or two classes otherwise."""
    if labels is None or labels.ids is not None or len(labels) != 1000:
        return labels
    known = imagenet_labels()
    pairs = zip(labels.names, known.names, strict=True)
    alike = sum(a.split(",")[0].casefold() == b.split(",")[0].casefold() for a, b in pairs)
    return replace(labels, ids=known.ids) if alike >= 990 else labels


@cache
def imagenet_labels() -> LabelSet:
    """ImageNet-1k: display names and WordNet ids in class order."""
    table = json.loads(files("vitrail.weights").joinpath("labels/imagenet1k.json").read_text("utf-8"))
    return LabelSet(tuple(table["names"]), tuple(table["ids"]))
