"""The model folder: config.json (timm's keys), model.safetensors, preprocessor_config.json (transformers'), README.md
(model card) and vitrail.json (everything exactly, with the sha256 of the other files). timm and transformers load it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.errors import StorageError, WeightsError, config_error
from vitrail.models.build import Network
from vitrail.models.catalog import ModelConfig
from vitrail.types import MULTILABEL, LabelSet
from vitrail.weights.card import model_card, read_licence
from vitrail.weights.files import MODEL_FILE, followed, read_json
from vitrail.weights.formats.native import NATIVE
from vitrail.weights.formats.timm import TIMM
from vitrail.weights.rename import write_tensors
from vitrail.weights.timm_config import describe, label_fields, pretrained_cfg

RECORD_FILE = "vitrail.json"
PASSENGERS_FILE = "passengers.safetensors"  # what a file of another layout held beside the model
_KINDS: dict[type[ModelConfig], str] = {ViTConfig: "vit", ResNetConfig: "resnet"}


@dataclass(frozen=True)
class Stored:
    """What a model folder says beside the tensors. `config` is None where only timm's config.json (`description`) is
    there."""

    config: ModelConfig | None = None
    form: str | None = None  # the format of its tensors, where vitrail.json says it
    preprocess: Preprocess | None = None
    labels: LabelSet | None = None
    record: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    description: Mapping[str, Any] | None = None  # config.json; under `open_clip`, its own
    processor: Mapping[str, Any] | None = None  # transformers' preprocessor_config.json
    passengers_of: str | None = None  # the format of the file that they rode in


def write_model_folder(
    folder: Path,
    model: Network,
    preprocess: Preprocess,
    labels: LabelSet | None,
    record: Mapping[str, Any],
    *,
    passengers: tuple[str, Mapping[str, Tensor]] = ("", {}),
) -> None:
    """Write the model folder atomically: an older one stays whole until the new one is on the disk.

    `record` is JSON: recipe, metrics, data, `licence` and source of the weights it started from. `passengers`: a format
    and what else its file held (see Loaded). Raises StorageError where the disk is full or the place cannot be written.
    """
    assert labels is None or len(labels) == model.config.classes
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _write_files(new, model, preprocess, labels, record, passengers)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        _fsync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if not folder.exists() and old.exists():
            os.rename(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        raise StorageError(f"the model could not be saved in {folder}: {error.strerror or error}") from error


def _write_files(
    folder: Path,
    model: Network,
    preprocess: Preprocess,
    labels: LabelSet | None,
    record: Mapping[str, Any],
    passengers: tuple[str, Mapping[str, Tensor]],
) -> None:
    config = model.config
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    description = describe(config, preprocess)
    form = NATIVE if description is None else TIMM
    save_file(write_tensors(state, form.rules(config)), folder / MODEL_FILE, metadata={"format": "pt"})
    # safetensors opens files for their owner alone; a model is as readable as what lies beside it
    (folder / MODEL_FILE).chmod(0o666 & ~_umask())
    if passengers[1]:
        save_file({key: tensor.contiguous() for key, tensor in passengers[1].items()}, folder / PASSENGERS_FILE)
        (folder / PASSENGERS_FILE).chmod(0o666 & ~_umask())
    names = label_fields(labels)
    _write_json(folder / "config.json", {**(description or {"architecture": "vitrail"}), **names})
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "TimmWrapperImageProcessor",
            "architecture": (description or {}).get("architecture", "vitrail"),
            "pretrained_cfg": pretrained_cfg(config, preprocess),
        },
    )
    (folder / "README.md").write_text(
        model_card(config, labels, record, library="timm" if description else "vitrail"), "utf-8"
    )
    _write_json(
        folder / RECORD_FILE,
        {
            "version": 1,
            "format": form.name,
            "model": {"kind": _KINDS[type(config)], **config.model_dump(mode="json")},
            "preprocess": preprocess.model_dump(mode="json"),
            "labels": _labels_table(labels),
            "passengers_of": passengers[0] if passengers[1] else None,
            "record": dict(record),
            "sha256": {p.name: sha256(p) for p in sorted(folder.iterdir())},
        },
    )
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def read_stored(folder: Path) -> Stored:
    """What a model folder says; verifies the sha256 of its files where vitrail.json lists them. WeightsError."""
    try:
        if (folder / RECORD_FILE).is_file():
            return _read_record(folder)
        description = read_beside(folder)
        if (folder / "config.json").is_file():
            description |= read_json(folder / "config.json")
        licence = read_licence(folder)
        if not description:
            return Stored(licence=licence)
        processor = _read_processor(folder)
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read: {error.strerror or error}") from error
    names = description.get("label_names")
    multilabel = description.get("problem_type") == MULTILABEL
    labels = LabelSet(tuple(map(str, names)), multilabel=multilabel) if isinstance(names, list) else None
    table = description.get("pretrained_cfg")
    if isinstance(table, Mapping) and isinstance(table.get("license"), str):
        licence = table["license"]
    return Stored(labels=labels, licence=licence, description=description, processor=processor)


def read_beside(folder: Path) -> dict[str, Any]:
    """What open_clip tells beside its weights, under `open_clip`, where it does."""
    path = folder / "open_clip_config.json"
    return {"open_clip": read_json(path)} if path.is_file() else {}


def _read_processor(folder: Path) -> dict[str, Any] | None:
    """How transformers would prepare images: a file of its own, or a part of the file of a model with text."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        part = read_json(folder / "processor_config.json").get("image_processor")
        return part if isinstance(part, dict) else None
    return None


def read_record(folder: Path) -> dict[str, Any]:
    """The record that a run stored with its model."""
    return read_stored(folder).record


def _read_record(folder: Path) -> Stored:
    table = read_json(folder / RECORD_FILE)
    for name, digest in table.get("sha256", {}).items():
        path = folder / name
        if path.parent != folder or not path.is_file() or sha256(followed(path)) != digest:
            raise WeightsError(
                f"{path} is not the file that {RECORD_FILE} was written with; the folder is damaged or edited"
            )
    try:
        model = dict(table["model"])
        kinds = {name: kind for kind, name in _KINDS.items()}
        if (kind := kinds.get(model.pop("kind"))) is None:
            raise WeightsError(
                f"{folder / RECORD_FILE} holds a {table['model']['kind']!r} model; known: {', '.join(kinds)}"
            )
        labels = _read_labels(table["labels"])
        return Stored(
            config=kind(**model),
            form=str(table["format"]),
            preprocess=Preprocess(**table["preprocess"]),
            labels=labels,
            passengers_of=table.get("passengers_of"),
            record=table["record"],
            licence=table["record"].get("licence"),
        )
    except ValidationError as error:
        raise WeightsError(f"{folder / RECORD_FILE} is not usable: {config_error(error, RECORD_FILE)}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder / RECORD_FILE} is not usable: it lacks or mistypes {error}") from error


def _labels_table(labels: LabelSet | None) -> dict[str, list[str] | bool | None] | None:
    if labels is None:
        return None
    ids = None if labels.ids is None else list(labels.ids)
    return {"names": list(labels.names), "ids": ids, "multilabel": labels.multilabel}


def _read_labels(table: Mapping[str, Any] | None) -> LabelSet | None:
    if table is None:
        return None
    ids = table["ids"]
    multilabel = bool(table.get("multilabel"))  # folders of older versions do not say: one class an image
    return LabelSet(tuple(table["names"]), None if ids is None else tuple(ids), multilabel)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
