"""The trace of one image as one safetensors file: what vitrail, other programs and the page in a browser can read
without the model. docs/trace.md has the layout.

Axes: T tokens (prefix, then patches), P patches, S patches in the sequence, h heads, d channels of one, M MLP, D width,
K classes. The file has no axis for images: it holds one.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.config import Config, Preprocess, Size, ViTConfig
from vitrail.data.preprocess import to_model
from vitrail.errors import ImageError, WeightsError, config_error
from vitrail.inference import Classifier
from vitrail.models.intervention import Intervention
from vitrail.models.trace import NOTHING, PARTS, BlockTrace, Trace, trace
from vitrail.models.vit import ViT
from vitrail.report import whole_file
from vitrail.types import ImageLike, Pixels
from vitrail.weights.files import read_headers, read_metadata

Precision: TypeAlias = Literal["uint8", "float16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("uint8", "float16", "float32")
KEY = "vitrail.trace"  # of the metadata
TOP = 5  # classes named in `predictions`
LEVELS = 255  # uint8: a row's largest attention is 255, so an entry is off by at most its row's largest / 510


class Guess(Config):
    """One of the most probable classes."""

    index: Annotated[int, Field(ge=0)]
    label: str
    probability: Annotated[float, Field(ge=0.0, le=1.0)]
    logit: float


class TraceInfo(Config):
    """What a trace is of. `size`: (rows, cols) of the photo before preprocessing; `parts`: of the blocks, in order."""

    version: Literal[1] = 1
    vitrail: str = metadata.version("vitrail")
    model: str
    image: str
    size: Size
    config: ViTConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    predictions: tuple[Guess, ...]
    parts: tuple[str, ...]
    attention: Precision = "float32"
    patches: PositiveInt  # in the sequence: fewer than the grid has where some were dropped


@dataclass(frozen=True)
class StoredTrace:
    """A trace of one image with all it takes to understand it. `pixels` are what the model saw, before they were
    normalised."""

    info: TraceInfo
    pixels: Pixels
    trace: Trace


def capture(
    classifier: Classifier,
    image: ImageLike,
    *,
    parts: Collection[str] = PARTS,
    change: Intervention = NOTHING,
    model: str = "",
    name: str | None = None,
) -> StoredTrace:
    """The trace of one image. `model`, `name`: what the two are called in the file; the image's by default by its file.

    Raises ImageError for an unreadable image, and what `trace` raises.
    """
    try:
        pixels = classifier.pixels(image)
    except ImageError as error:
        raise ImageError(error.reason, str(image) if isinstance(image, str | Path) else name) from error
    fitted = classifier.fit(pixels)
    network, weight = classifier.model, next(classifier.model.parameters())
    inputs = to_model(fitted, classifier.preprocess)[None].to(weight.device, weight.dtype)
    logits, record = trace(network, inputs, parts=parts, change=change)
    assert isinstance(network, ViT)  # or trace has said that there is nothing to trace
    info = TraceInfo(
        model=model,
        image=name if name is not None else str(image) if isinstance(image, str | Path) else "image",
        size=(pixels.shape[1], pixels.shape[2]),
        config=network.config,
        preprocess=classifier.preprocess,
        labels=classifier.labels.names,
        predictions=guesses(classifier, logits[0]),
        parts=tuple(p for p in PARTS if p in parts),
        patches=len(record.places),
    )
    return StoredTrace(info, fitted, record)


def guesses(classifier: Classifier, logits: Float[Tensor, " K"], top: int = TOP) -> tuple[Guess, ...]:
    """The `top` most probable classes, the first the most."""
    shares, names = classifier.probabilities(logits[None].cpu())[0], classifier.labels.names
    values, places = shares.topk(min(top, len(shares)))
    rows = zip(places.tolist(), values.tolist(), strict=True)
    return tuple(
        Guess(index=i, label=names[i], probability=min(value, 1.0), logit=float(logits[i])) for i, value in rows
    )


def write_trace(path: str | Path, stored: StoredTrace, attention: Precision = "float32") -> None:
    """Write the file, whole or not at all. `attention`: how the attention of the blocks is kept; as uint8 an entry is
    off by at most its row's largest / 510, as float16 by 0.05 % of itself. Raises StorageError."""
    info = stored.info.model_copy(update={"attention": attention})
    tensors = {"pixels": stored.pixels, "places": stored.trace.places.to(torch.int32)}
    for name, value in _plain(stored.trace).items():
        part = name.rpartition(".")[2]
        if name.startswith("blocks.") and part == "attention" and attention == "uint8":
            tensors[name], tensors[f"{name}_scale"] = to_levels(value)
        elif name.startswith("blocks.") and part == "attention" and attention == "float16":
            tensors[name] = value.half()
        else:
            tensors[name] = value
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    ready["pooled"] = ready["pooled"].clone()  # of a class token, a view of `tokens`, which the format would refuse
    with whole_file(Path(path)) as temporary:
        try:
            save_file(ready, temporary, metadata={KEY: info.model_dump_json()})  # `save` holds the bytes twice over
        except SafetensorError as error:
            raise OSError(0, str(error).rpartition("I/O error: ")[2]) from error


def to_levels(rows: Float[Tensor, "*S T"]) -> tuple[UInt8[Tensor, "*S T"], Float[Tensor, "*S"]]:
    """Rows of attention as whole numbers 0..255 and what one step of each row is worth (see `from_levels`)."""
    step = rows.amax(dim=-1) / LEVELS
    return (rows / step[..., None]).round().clamp(0, LEVELS).to(torch.uint8), step


def from_levels(levels: UInt8[Tensor, "*S T"], step: Float[Tensor, "*S"]) -> Float[Tensor, "*S T"]:
    """Attention, each entry off by at most half a step of its row."""
    return levels * step[..., None]


def read_trace(path: str | Path) -> StoredTrace:
    """The trace in a file, as `trace` gives it (B is 1), in float32 on the CPU.

    Nothing in the file is believed: metadata, names, types and shapes must be those that its own configuration calls
    for. Raises WeightsError.
    """
    path = Path(path)
    info = _info(path.name, read_metadata(path))
    found = read_headers(path)
    expected = _layout(path.name, info, found)
    wrong = [
        f"{name} is {tuple(found[name].shape)} {_kind(found[name].dtype)}, not {shape} {_kind(kind)}"
        for name, (shape, kind) in expected.items()
        if name in found and (tuple(found[name].shape) != shape or found[name].dtype != kind)
    ]
    wrong += [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} has no place in a trace" for name in found if name not in expected]
    if wrong:
        raise WeightsError(f"{path.name} is not a trace of its own model: {'; '.join(wrong[:5])}")
    tensors = load_file(path)
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {', '.join(broken[:5])}")
    places = tensors["places"].long()
    if not bool((places.diff() > 0).all()) or not 0 <= int(places[0]) <= int(places[-1]) < info.config.patches:
        raise WeightsError(f"{path.name} names places outside its grid of {info.config.patches} patches")
    return StoredTrace(info, tensors["pixels"], _assemble(info, tensors, places))


def _plain(record: Trace) -> dict[str, Tensor]:
    """The record's tensors by their names in the file, in float32, without the axis of images."""
    if len(record.logits) != 1:
        raise ValueError(f"a trace file holds one image, found {len(record.logits)}")
    whole = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    named = {name: value for name, value in whole.items() if isinstance(value, Tensor) and name != "places"}
    if record.pre_logits is record.pooled:  # no tanh layer
        named.pop("pre_logits")
    for index, block in enumerate(record.blocks):
        named |= {f"blocks.{index}.{part}": value for part, value in block.kept.items()}
    return {name: value[0].float() for name, value in named.items()}


def _info(name: str, beside: Mapping[str, str]) -> TraceInfo:
    if KEY not in beside:
        raise WeightsError(f"{name} is not a trace: its metadata have no {KEY!r}; `vitrail trace` writes one")
    try:
        table = json.loads(beside[KEY])
        info = TraceInfo.model_validate(table)
    except ValidationError as error:
        raise WeightsError(f"{name} is not a trace that is read: {config_error(error, 'trace')}") from error
    except (ValueError, RecursionError, TypeError) as error:
        raise WeightsError(f"{name} is not a trace that is read: its metadata are no JSON table") from error
    odd = [p for p in info.parts if p not in PARTS]
    if odd or len(set(info.parts)) < len(info.parts):
        raise WeightsError(f"{name} names the parts {', '.join(info.parts)}; parts are {', '.join(PARTS)}")
    if len(info.labels) != info.config.classes or any(g.index >= len(info.labels) for g in info.predictions):
        raise WeightsError(f"{name} names {len(info.labels)} classes of {info.config.classes}")
    if info.patches > info.config.patches or info.preprocess.size != info.config.image_size:
        raise WeightsError(f"{name} has other sizes than its own configuration")
    return info


def _layout(name: str, info: TraceInfo, found: Collection[str]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor that the file must hold."""
    config, single = info.config, torch.float32
    t, width, d = config.prefix + info.patches, config.width, config.width // config.heads
    per_head, stream = (config.heads, t, d), (t, width)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(PARTS, stream) | dict.fromkeys(
        ("queries", "keys", "values", "heads"), per_head
    )
    shapes |= {"attention": (config.heads, t, t), "mlp_hidden": (t, config.mlp_dim)}
    kinds = {"uint8": torch.uint8, "float16": torch.float16, "float32": single}
    pooled = (config.pooled,) if not config.distilled else (config.heading, config.pooled)
    layout = {
        "pixels": ((3, *config.image_size), torch.uint8),
        "places": ((info.patches,), torch.int32),
        "patches": ((config.patches, width), single),
        "embedded": (stream, single),
        "tokens": (stream, single),
        "pooled": (pooled, single),
        "logits": ((config.classes,), single),
    }
    if config.pre_logits is not None:
        layout["pre_logits"] = ((config.pre_logits,), single)
    if config.stem is not None:
        layout["stem"] = ((config.stem.features, *config.stem.grid), single)
    if config.pool == "map":
        layout["pool_attention"] = ((config.heads, 1, info.patches), single)
    scaled = info.attention == "uint8" and "attention" in info.parts
    if len(found) != len(layout) + config.depth * (len(info.parts) + scaled):  # before a depth is believed
        raise WeightsError(f"{name} holds {len(found)} tensors, other than its {config.depth} blocks call for")
    for index in range(config.depth):
        for part in info.parts:
            kind = kinds[info.attention] if part == "attention" else single
            layout[f"blocks.{index}.{part}"] = (shapes[part], kind)
        if scaled:
            layout[f"blocks.{index}.attention_scale"] = ((config.heads, t), single)
    return layout


def _assemble(info: TraceInfo, tensors: Mapping[str, Tensor], places: Tensor) -> Trace:
    blocks = []
    for index in range(info.config.depth):
        kept = {part: tensors[f"blocks.{index}.{part}"] for part in info.parts}
        if "attention" in kept and info.attention == "uint8":
            kept["attention"] = from_levels(kept["attention"], tensors[f"blocks.{index}.attention_scale"])
        blocks.append(BlockTrace({part: value[None].float() for part, value in kept.items()}))
    one = {name: value[None] for name, value in tensors.items() if "." not in name}
    return Trace(
        stem=one.get("stem"),
        patches=one["patches"],
        embedded=one["embedded"],
        blocks=tuple(blocks),
        tokens=one["tokens"],
        pool_attention=one.get("pool_attention"),
        pooled=one["pooled"],
        pre_logits=one.get("pre_logits", one["pooled"]),
        logits=one["logits"],
        places=places,
        prefix=info.config.prefix,
    )


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
