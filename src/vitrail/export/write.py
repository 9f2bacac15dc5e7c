"""`vitrail export`: the graph from uint8 pixels to logits as a folder that other programs run, with its proof.

Written beside the place that was asked for and moved there after it passed; where it fails, nothing is left.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.config import Preprocess
from vitrail.engines import aoti, onnxruntime, openvino
from vitrail.engines.cache import versions
from vitrail.engines.calibration import calibration_pixels
from vitrail.engines.catalog import MANIFEST
from vitrail.engines.quantize import quantize
from vitrail.engines.resize import check_inside
from vitrail.errors import ConfigError, GateError, StorageError, UnknownName
from vitrail.export.card import export_card
from vitrail.export.verify import APPROXIMATE, Verification, images_to_show, verify
from vitrail.inference import Classifier, load
from vitrail.models.build import weights_sha256
from vitrail.models.fold import Folded, fold
from vitrail.weights.checkpoint import sha256

TARGETS: Mapping[str, tuple[str, ...]] = {  # what a user names -> its precisions, the usual one first
    "onnx": ("float32", "int8"),
    "openvino": ("bfloat16", "float32", "int8"),
    "aoti": ("bfloat16", "float32"),
}
CONVERTED = ("timm", "transformers")  # written by `vitrail convert`, with its own proof


@dataclass(frozen=True)
class Job:
    """What is asked for."""

    classifier: Classifier
    target: str
    precision: str
    calibrate: str | Path | None
    merge: int
    resize_inside: bool

    def folded(self) -> Folded:
        """The network as it is exported."""
        return fold(self.classifier.model, self.classifier.preprocess, self.merge)

    @property
    def inside(self) -> Preprocess | None:
        """By what the graph resizes, where it does."""
        return self.classifier.preprocess if self.resize_inside else None


def export(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    model: str | None = None,
    precision: str | None = None,
    calibrate: str | Path | None = None,
    check: str | Path | None = None,
    merge: int = 0,
    resize_inside: bool = False,
) -> Verification:
    """Write `source` for another runtime into the new folder `out`, and prove it in a fresh process.

    `calibrate`: photos that choose the scales of OpenVINO's int8. `check`: images (labelled, best) for the comparison;
    without it those of `calibrate`, or random pictures. `merge`: tokens that merge into others in each block, at the
    gates of int8. `resize_inside`: the graph takes decoded images of any size and resizes them itself. Raises GateError
    where the export is too far from the model, ConfigError, StorageError, MissingExtra, and what `load` raises.
    """
    folder = Path(out)
    precision = _precision(to, precision)
    if to == "openvino" and precision == "int8" and calibrate is None:
        raise ConfigError("int8 for OpenVINO needs photos to choose its scales: give --calibrate PHOTOS")
    if to == "aoti" and resize_inside:
        raise ConfigError("--resize-inside goes with onnx and openvino: AOTInductor takes ten times as long to resize")
    if folder.exists():
        raise StorageError(f"{folder} exists; name a new folder or remove it")
    classifier = load(source, model, "cpu")
    if resize_inside:
        check_inside(classifier.preprocess)
    shown = images_to_show(classifier, check if check is not None else calibrate, resize_inside)
    new = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        job = Job(classifier, to, precision, calibrate, merge, resize_inside)
        _WRITERS[to](job, new)
        _write_manifest(job, new)
        found = verify(new, classifier, shown, to, precision, APPROXIMATE if merge else None, resize_inside)
        if not found.passed:
            raise GateError(f"the export to {to} in {precision} was removed: {'; '.join(found.failures)}")
        _write_json(new / "verify.json", found.table())
        (new / "README.md").write_text(export_card(classifier, found, str(source)), "utf-8")
        os.rename(new, folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise StorageError(f"the export could not be written at {folder}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return found


def _precision(to: str, precision: str | None) -> str:
    if to not in TARGETS:
        raise UnknownName("target", to, (*TARGETS, *CONVERTED))
    if precision is None:
        return TARGETS[to][0]
    if precision not in TARGETS[to]:
        raise UnknownName(f"precision of {to}", precision, TARGETS[to])
    return precision


def _write_openvino(job: Job, folder: Path) -> None:
    openvino.library()
    graph = openvino.convert(job.folded())
    if job.precision == "int8" and job.calibrate is not None:
        graph = quantize(graph, calibration_pixels(job.classifier, job.calibrate))
    if job.inside is not None:
        graph = openvino.resize_first(graph, job.inside)
    openvino.write(graph, folder)


def _write_onnx(job: Job, folder: Path) -> None:
    onnxruntime.write(job.folded(), folder, job.inside)
    if job.precision == "int8":
        onnxruntime.quantize(folder, folder)


def _write_aoti(job: Job, folder: Path) -> None:
    aoti.write(job.folded(), folder, job.precision)


_WRITERS: Mapping[str, Callable[[Job, Path], None]] = {
    "openvino": _write_openvino,
    "onnx": _write_onnx,
    "aoti": _write_aoti,
}


def _write_manifest(job: Job, folder: Path) -> None:
    classifier, labels = job.classifier, job.classifier.labels
    _write_json(folder / "labels.json", {"names": labels.names, "ids": labels.ids})
    _write_json(folder / "preprocess.json", classifier.preprocess.model_dump(mode="json"))
    _write_json(
        folder / MANIFEST,
        {
            "version": 1,
            "target": job.target,
            "precision": job.precision,
            "merge": job.merge,
            "resize": "inside" if job.resize_inside else "outside",
            "weights_sha256": weights_sha256(classifier.model),
            "classes": len(labels),
            "preprocess": classifier.preprocess.model_dump(mode="json"),
            "calibrated_on": None if job.calibrate is None else Path(job.calibrate).name,
            "versions": versions(),
            "sha256": {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file()},
        },
    )


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
