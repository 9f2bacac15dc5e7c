"""From one published layout to another: what the target holds is written, what it cannot hold is refused by name.

A conversion is first a draft beside the place that was asked for. The draft is read back by the same code that reads
everybody's files, so what is said to be lost is what a reader of the files alone no longer finds. Whether the draft
computes the same is another room's question (evaluate/parity.py), which then publishes or discards it.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import ConfigError, StorageError, UnknownName, WeightsError
from vitrail.models.build import Network, build
from vitrail.models.catalog import ModelConfig
from vitrail.types import LabelSet
from vitrail.weights.card import model_card
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.files import MODEL_FILE
from vitrail.weights.load import FORMATS, Loaded, load_weights, model_shapes
from vitrail.weights.processor import nearest
from vitrail.weights.rename import Format, usual, write_tensors

TARGETS: dict[str, tuple[str, ...]] = {  # what a user names -> the layouts tried, in this order
    "vitrail": (),
    "timm": ("timm",),
    "transformers": (
        *("transformers-vit", "transformers-deit", "transformers-dinov2", "transformers-dinov3"),
        *("transformers-clip", "transformers-siglip", "transformers-siglip-classifier"),
    ),
    "npz": ("npz",),
    "npz-linen": ("npz-linen",),
    "big_vision": ("big_vision",),
    "torchvision": ("torchvision",),
    "dinov2": ("dinov2", "dinov2-classifier"),
    "dinov3": ("dinov3",),
    "open_clip": ("open_clip",),
}
_ARCHIVES = ("npz", "npz-linen", "big_vision")
# Fields that another value can stand for without another tensor, and the values that a target may want instead.
REPLACEABLE: dict[str, tuple[Any, ...]] = {
    "gelu": ("exact", "tanh", "quick"),
    "norm_eps": (1e-6, 1e-5, 1e-12),
    "norm_after_pool": (False, True),
}
LOSSES = ("labels", "preprocess", "passengers", "licence", "image_size", "pre_logits", *REPLACEABLE)
# Fields that a layout may have only at True: it then holds zeros, which compute the same.
_GROWING = ("position_registers", "qkv_bias", "key_bias", "patch_bias", "head_has_bias")
_IDLE = ("dropout", "stochastic_depth", "patch_dropout", "initialisation", "position_std", "head_bias", "position_rule")


@dataclass(frozen=True)
class Draft:
    """A written conversion that is not yet where it was asked for. `config` is that of the network in it, and
    `losses` say what it lacks, by name; all of them were allowed."""

    path: Path
    out: Path
    form: str
    config: ModelConfig
    losses: Mapping[str, str]


def write_draft(loaded: Loaded, out: Path, to: str, allowed: Iterable[str] = ()) -> Draft:
    """Write `loaded` in the layout of `to`, with its preprocessing and labels, beside `out`.

    Raises UnknownName for a target or a loss that there is none of, ConfigError where `out` is taken or of the wrong
    kind, WeightsError naming what the target cannot hold and is not `allowed` to lose, StorageError.
    """
    allowed = tuple(allowed)
    check_request(out, to, allowed)
    path = out.with_name(f".new-{out.name}")
    _remove(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        form, written = _write(loaded, path, to, allowed)
        losses, found = _losses(loaded, path, written, to)
        changed = {name: getattr(found, name) for name in losses if name in REPLACEABLE}
        if missing := [name for name in losses if name not in allowed]:
            raise WeightsError(f"{to} cannot hold {'; nor '.join(losses[m] for m in missing)}{_remedy(missing)}")
    except OSError as error:
        _remove(path)
        raise StorageError(f"cannot write {out}: {error.strerror or error}; choose another place") from error
    except BaseException:
        _remove(path)
        raise
    return Draft(path, out, form, written.model_copy(update=changed), losses)


def publish(draft: Draft) -> None:
    """Put a draft where it was asked for. StorageError."""
    try:
        os.rename(draft.path, draft.out)
    except OSError as error:
        discard(draft)
        raise StorageError(f"cannot write {draft.out}: {error.strerror or error}; choose another place") from error


def discard(draft: Draft) -> None:
    """Remove a draft."""
    _remove(draft.path)


def with_losses(model: Network, config: ModelConfig) -> Network:
    """The model with the fields of `config` that a conversion had to change; the same tensors."""
    state = model.state_dict()
    with torch.device("meta"):
        changed = build(config)
    keys = changed.state_dict().keys()
    changed.load_state_dict({key: value for key, value in state.items() if key in keys}, strict=True, assign=True)
    return changed.train(model.training)


def check_request(out: Path, to: str, allowed: Iterable[str]) -> None:
    """UnknownName for a target or a loss that there is none of, ConfigError where `out` is taken or of the wrong kind:
    what can be told before anything is read."""
    for name in allowed:
        if name not in LOSSES:
            raise UnknownName("loss", name, LOSSES)
    if to not in TARGETS:
        raise UnknownName("target", to, TARGETS)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already and is not overwritten: choose another place")
    if to in _ARCHIVES and out.suffix != ".npz":
        raise ConfigError(f"{to} is one file: name it with .npz, found {out.name!r}")
    if to not in _ARCHIVES and out.suffix in (".npz", ".safetensors"):
        raise ConfigError(f"{to} is a folder, whose weights lie in {MODEL_FILE}: leave out the ending of {out.name!r}")


class _NoPlace(Exception):
    """A layout cannot hold a model, because of so many of its fields."""

    def __init__(self, reason: str, fields: int) -> None:
        super().__init__(reason)
        self.fields = fields


def _write(loaded: Loaded, path: Path, to: str, allowed: Sequence[str]) -> tuple[str, ModelConfig]:
    """The name of the format written, and the network that it holds."""
    model, config = loaded.model, loaded.model.config
    if to == "vitrail":
        record = {**loaded.record, "licence": loaded.licence, "started_from": loaded.source}
        riding = (loaded.passengers_of, loaded.passengers)
        write_model_folder(path, model, loaded.preprocess, loaded.labels, record, passengers=riding)
        return "vitrail", config
    form, held, files = _choose(loaded, to, allowed)
    if held != config:
        model = with_losses(model, held)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = form.finish(write_tensors(state, form.rules(held)) | _riding(loaded, form, held))
    if to in _ARCHIVES:
        with path.open("wb") as file:
            write: Any = np.savez  # its stub takes the names of arrays for its own options
            write(file, **{key: tensor.numpy() for key, tensor in tensors.items()})
        return form.name, held
    path.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path / MODEL_FILE, {"format": "pt"})
    for name, table in files.items():
        (path / name).write_text(json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    record = {**loaded.record, "licence": loaded.licence, "started_from": loaded.source}
    library = to if to in ("timm", "transformers", "open_clip", "torchvision") else "vitrail"
    labels = loaded.labels if held.classes == config.classes else None
    (path / "README.md").write_text(model_card(held, labels, record, library=library), "utf-8")
    return form.name, held


def _choose(loaded: Loaded, to: str, allowed: Sequence[str]) -> tuple[Format, ModelConfig, dict[str, dict[str, Any]]]:
    """The first layout of the target that holds the model, the network as it holds it, and the files beside it.

    WeightsError with the reason of the layout that comes closest.
    """
    reasons: list[tuple[int, str]] = []  # the fewer fields stand in the way, the closer
    for config in _variants(loaded.model.config, allowed):
        labels = loaded.labels if config.classes == loaded.model.config.classes else None
        for name in TARGETS[to]:
            form = FORMATS[name]
            try:
                return form, config, _files(form, config, loaded.preprocess, labels, "preprocess" in allowed)
            except _NoPlace as error:
                reasons.append((error.fields, str(error)))
    reason = min(reasons)[1]
    named = [name for name in LOSSES if re.search(rf"\b{name}\b", reason) and name not in allowed]
    raise WeightsError(reason + _remedy(named))


def _remedy(missing: Sequence[str]) -> str:
    """What to do about what a target cannot hold, as the end of a sentence."""
    if not missing or any(name not in LOSSES for name in missing):
        return "; convert to vitrail, which holds everything"
    return f"; lose it with {' '.join(f'--allow-loss {name}' for name in missing)}, or convert to vitrail"


def _variants(config: ModelConfig, allowed: Sequence[str]) -> Iterator[ModelConfig]:
    """The config, then those with fields replaced that may be, the fewest first."""
    yield config
    if not isinstance(config, ViTConfig):
        return
    if config.pre_logits and "pre_logits" in allowed:  # the head reads it, so both go: what is left gives features
        yield from _variants(config.model_copy(update={"pre_logits": None, "classes": 0}), allowed)
    names = [name for name in REPLACEABLE if name in allowed]
    values = [[getattr(config, n), *(v for v in REPLACEABLE[n] if v != getattr(config, n))] for n in names]
    combinations = itertools.product(*values)
    ranked = sorted(combinations, key=lambda row: sum(v != getattr(config, n) for n, v in zip(names, row, strict=True)))
    for row in ranked[1:]:
        yield config.model_copy(update=dict(zip(names, row, strict=True)))


def _files(
    form: Format, config: ModelConfig, preprocess: Preprocess, labels: LabelSet | None, any_pixels: bool
) -> dict[str, dict[str, Any]]:
    """The files that the format's library wants beside the tensors. Raises _NoPlace naming what it cannot hold."""
    ruled = {rule.ours for rule in form.rules(config)} if _ruled(form, config) else set()
    shapes = model_shapes(config).keys()
    if odd := sorted({_part(name) for name in shapes - ruled}):
        raise _NoPlace(f"{form.name} cannot hold {', '.join(odd)}", 100 + len(odd))
    if odd := sorted({_part(name) for name in ruled - shapes}):
        raise _NoPlace(f"{form.name} cannot hold a model without {', '.join(odd)}", 100 + len(odd))
    if form.companions is None:
        return {}
    try:
        return form.companions(config, preprocess, labels)
    except WeightsError as reason:
        others = [nearest(preprocess)[0], usual(form, config)]
        for other in others:
            try:
                files = form.companions(config, other, labels)
            except WeightsError:
                continue
            if any_pixels:
                return files
            words = "; ".join(nearest(preprocess)[1]) or _in_words(preprocess)
            raise _NoPlace(f"{form.name} cannot hold the preprocess of these weights ({words})", 0) from None
        raise _NoPlace(str(reason), 1 + str(reason).count("=")) from None


def _ruled(form: Format, config: ModelConfig) -> bool:
    """Whether the rules of a format, which are for Vision Transformers, can be asked at all."""
    return isinstance(config, ViTConfig) or form.name == "vitrail"


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to, in words of the config where it has them."""
    part = re.sub(r"^blocks\.\d+\.", "", name).removesuffix(".weight").removesuffix(".bias").removesuffix(".gamma")
    words = {
        "scale1": "layer_scale",
        "scale2": "layer_scale",
        "attention.q_norm": "qk_norm",
        "attention.k_norm": "qk_norm",
    }
    return words.get(part, part.partition(".")[0] if part.startswith(("stem", "stages", "attention_pool")) else part)


def _riding(loaded: Loaded, form: Format, config: ModelConfig) -> dict[str, Tensor]:
    """The passengers that a file of this format has seats for: those of its own family, under the same names."""
    riding: dict[str, Tensor] = {}
    if _family(loaded.passengers_of) == _family(form.name):
        riding = {k: t for k, t in loaded.passengers.items() if any(re.fullmatch(p, k) for p in form.passengers)}
    if form.name in ("dinov2", "dinov2-classifier", "dinov3"):  # its code asks for a mask token, and begins with zeros
        key = form.passengers[0].replace("\\", "")
        riding.setdefault(key, torch.zeros(1, config.width))
    return riding


def _family(name: str) -> str:
    return re.sub(r"-(v5|old|linen|classifier|visual)$", "", name)


def _losses(loaded: Loaded, path: Path, written: ModelConfig, to: str) -> tuple[dict[str, str], ModelConfig]:
    """What of the source a reader of the written files does not find: name -> words; and the network he finds."""
    losses: dict[str, str] = {}
    try:
        back = load_weights(path, as_stored=True)
    except WeightsError as error:  # the JAX codes' files do not tell a size that is not square
        try:
            back = load_weights(path, image_size=written.image_size, as_stored=True)
        except WeightsError:
            raise WeightsError(f"{to} cannot hold this model so that it can be read again: {error}") from error
        losses["image_size"] = f"image_size={written.image_size}, which nothing in it tells"
    ours, theirs = loaded.model.config, back.model.config
    for name, value in _function(ours).items():
        other = _function(theirs).get(name, value)  # idle there
        if other != value and not (name in _GROWING and value is False):
            losses[name] = f"{name}={value!r}, which becomes {other!r}"
    if "pre_logits" in losses:
        losses["pre_logits"] = "pre_logits, with which the head goes too"
        losses.pop("classes", None)
    elif loaded.labels is not None and (back.labels is None or back.labels.names != loaded.labels.names):
        losses["labels"] = f"labels ({len(loaded.labels)} names of classes)"
    elif loaded.labels is not None and back.labels is not None and back.labels.multilabel != loaded.labels.multilabel:
        losses["labels"] = "that an image may have several classes (their names remain)"
    elif loaded.labels is not None and loaded.labels.ids is not None and back.labels != loaded.labels:
        losses["labels"] = "labels' ids (their names remain)"
    if not _same_pixels(loaded.preprocess, back.preprocess):
        before, after = _in_words(loaded.preprocess, back.preprocess), _in_words(back.preprocess, loaded.preprocess)
        losses["preprocess"] = f"preprocess ({before}), which becomes {after}"
    if gone := sorted(loaded.passengers.keys() - back.passengers.keys()):
        shown = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        losses["passengers"] = f"passengers (tensors that classification does not use: {shown})"
    if loaded.licence and loaded.licence != back.licence:
        losses["licence"] = f"licence ({loaded.licence})"
    return losses, theirs


def _function(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config that change what the network computes."""
    fields = {name: value for name, value in config if name not in _IDLE}
    if isinstance(config, ViTConfig):
        idle = {
            "norm_after_pool": config.pool == "token",
            "distillation_head": not config.distillation_token,
            "position_prefix": config.position != "learned" or not config.heading,
            "position_registers": not config.registers or config.position != "learned",
            "rope_base": config.position != "rope",
            "gelu": config.mlp == "swiglu" and config.pool != "map",
            "key_bias": not config.qkv_bias,
            "head_has_bias": not config.classes,
        }
        fields = {name: value for name, value in fields.items() if not idle.get(name)}
        fields["layer_scale"] = config.layer_scale is not None  # its value is an initial one
    return {**fields, "classes": config.classes}


def _same_pixels(a: Preprocess, b: Preprocess) -> bool:
    """Whether two preprocessings do the same: shares of a crop may be written differently."""
    same = a.model_copy(update={"crop": b.crop}) == b
    return same and [int(s / a.crop) for s in a.size] == [int(s / b.crop) for s in b.size]


def _in_words(p: Preprocess, other: Preprocess | None = None) -> str:
    """The preprocessing; of it what `other` does otherwise."""
    parts = {
        "resize": "squashed" if p.resize == "squash" else "resized",
        "size": f"{' x '.join(map(str, p.size))} px",
        "crop": f"crop {p.crop:.4g}",
        "interpolation": p.interpolation,
        "antialias": "antialiased" if p.antialias else "not antialiased",
        "odd_margin": "odd margins down" if p.odd_margin == "down" else "odd margins even",
        "mean": f"mean {p.mean}",
        "std": f"std {p.std}",
    }
    odd = [name for name in parts if other is None or getattr(p, name) != getattr(other, name)]
    return ", ".join(parts[name] for name in odd)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(NotADirectoryError):
            path.unlink(missing_ok=True)
