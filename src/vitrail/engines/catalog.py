"""Engines by name, and the Classifier that runs on one.

A name is a family and a precision, as in `openvino-bfloat16`; a family alone means float32. `auto` is whatever engine
that is installed was fastest on this machine (engines/trial.py).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines import aoti, onnxruntime, openvino
from vitrail.engines.cache import cached, network_key
from vitrail.engines.resize import Framed
from vitrail.engines.torch import TorchEngine
from vitrail.errors import ConfigError, MissingExtra, UnknownName, WeightsError
from vitrail.inference import Classifier, Engine
from vitrail.models.build import weights_sha256
from vitrail.models.fold import Folded, fold
from vitrail.weights.files import read_json

MANIFEST = "vitrail-export.json"  # of an exported folder
AUTO = "auto"


@dataclass(frozen=True)
class Row:
    """An engine. `package` is what must be installed beside torch, `extra` what brings it. `trial`: whether `auto`
    considers it, which neither an approximation is nor what takes a minute to build."""

    family: str
    precision: str
    package: str | None = None
    extra: str = ""
    trial: bool = False

    @property
    def installed(self) -> bool:
        return self.package is None or find_spec(self.package) is not None


def _rows() -> dict[str, Row]:
    rows = [
        Row("torch", "float32", trial=True),
        Row("torch", "bfloat16", trial=True),
        Row("torch", "float16"),
        Row("torch", "float8"),
        Row("compiled", "float32"),
        Row("compiled", "bfloat16"),
        Row("compiled", "float16"),
        Row("compiled", "float8"),
        Row("openvino", "float32", "openvino", "openvino", trial=True),
        Row("openvino", "bfloat16", "openvino", "openvino", trial=True),
        Row("openvino", "int8", "nncf", "openvino"),
        Row("onnxruntime", "float32", "onnxruntime", "onnx", trial=True),
        Row("onnxruntime", "int8", "onnxruntime", "onnx"),
        Row("aoti", "float32"),
        Row("aoti", "bfloat16"),
    ]
    return {f"{row.family}-{row.precision}": row for row in rows}


ENGINES: Mapping[str, Row] = _rows()
FAMILIES = tuple(dict.fromkeys(row.family for row in ENGINES.values()))


def on_trial() -> list[str]:
    """The engines that `auto` chooses from on this machine."""
    return [name for name, row in ENGINES.items() if row.trial and row.installed]


def find_engine(engine: str, precision: str | None = None) -> str:
    """The name of a row, from a name, or a family with a precision. UnknownName."""
    name = engine if engine in ENGINES else f"{engine}-{precision or 'float32'}"
    if name not in ENGINES or (engine in ENGINES and precision not in (None, ENGINES[engine].precision)):
        raise UnknownName("engine", name if precision else engine, (AUTO, *FAMILIES, *ENGINES))
    return name


def load(
    source: str | Path,
    model: str | None = None,
    device: str | None = None,
    *,
    engine: str | Path = "torch",
    precision: str | None = None,
    calibrate: str | Path | None = None,
    merge: int = 0,
) -> Classifier:
    """The Classifier of a run folder, model folder, weights file (with `model` naming the architecture) or Hugging
    Face id.

    `engine` computes its logits: `torch`, the default, is the network itself and exact; a name or family of ENGINES;
    `auto`, the fastest installed here, which may compute in bfloat16 (cosine of the logits at least 0.999); or a folder
    that `vitrail export` wrote for these very weights. `precision` completes a family. `calibrate`: photos, for int8.
    `merge`: tokens that merge into others in each block (ToMe), an approximation on any engine but the default's.
    Raises WeightsError, UnknownName, ConfigError or MissingExtra.
    """
    from vitrail.inference import load as load_classifier

    return with_engine(load_classifier(source, model, device), engine, precision, calibrate, merge)


def with_engine(
    classifier: Classifier,
    engine: str | Path = "torch",
    precision: str | None = None,
    calibrate: str | Path | None = None,
    merge: int = 0,
) -> Classifier:
    """The classifier, on an engine; see `load`."""
    if (Path(engine) / MANIFEST).is_file():
        classifier.engine = open_export(Path(engine), classifier)
    elif str(engine) == AUTO:
        from vitrail.engines.trial import fastest

        classifier.engine = make_engine(fastest(classifier), classifier, merge=merge)
    elif (name := find_engine(str(engine), precision)) != "torch-float32" or merge:
        pixels = None
        if calibrate is not None:
            from vitrail.engines.calibration import calibration_pixels

            pixels = calibration_pixels(classifier, calibrate)
        classifier.engine = make_engine(name, classifier, pixels, merge)
    else:
        classifier.engine = None
    return classifier


def make_engine(
    name: str, classifier: Classifier, calibration: UInt8[Tensor, "N 3 H W"] | None = None, merge: int = 0
) -> Engine:
    """The engine `name` (a row of ENGINES) for a classifier's network, from the cache where it was built before.
    `calibration`: pixels that `fit` prepared, for openvino-int8. `merge`: see `load`. MissingExtra, ConfigError."""
    row = ENGINES[name]
    if not row.installed:
        raise MissingExtra(str(row.package), row.extra, f"the engine {name}")
    if row.family in ("torch", "compiled"):
        folded = fold(classifier.model, classifier.preprocess, merge)
        return TorchEngine(folded, name, row.precision, classifier.device, row.family == "compiled")
    return _BUILDERS[row.family](_Plan(name, row.precision, classifier, calibration, merge))


@dataclass(frozen=True)
class _Plan:
    """An engine to be built, or found in the cache."""

    name: str
    precision: str
    classifier: Classifier
    calibration: UInt8[Tensor, "N 3 H W"] | None
    merge: int

    def folded(self) -> Folded:
        model = self.classifier.model
        if next(model.parameters()).device.type != "cpu":
            model = deepcopy(model).cpu()
        return fold(model, self.classifier.preprocess, self.merge)

    def key(self, graph: str, seen: str = "") -> str:
        """Of the cache; `seen`: a hash of what it was calibrated on."""
        shown = self.classifier.preprocess.model_dump(mode="json")
        about = {"graph": graph, "preprocess": shown, "merge": self.merge, "seen": seen}
        return network_key(self.classifier.model, about)


def _openvino(plan: _Plan) -> Engine:
    openvino.library()
    if plan.precision != "int8":
        folder = cached(plan.key("openvino"), lambda new: openvino.write(openvino.convert(plan.folded()), new))
        compiled = folder / f"compiled-{plan.precision}"
        return openvino.OpenVINOEngine(folder / openvino.GRAPH, plan.name, plan.precision, compiled)
    if (pixels := plan.calibration) is None:
        raise ConfigError(
            "the engine openvino-int8 must see photos to choose its scales: give calibrate=, or write it once with "
            "`vitrail export MODEL OUT --to openvino --precision int8 --calibrate PHOTOS` and name OUT as the engine"
        )
    from vitrail.engines.quantize import quantize

    seen = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
    folder = cached(
        plan.key("openvino-int8-symmetric", seen),
        lambda new: openvino.write(quantize(openvino.convert(plan.folded()), pixels), new),
    )
    return openvino.OpenVINOEngine(folder / openvino.GRAPH, plan.name, plan.precision, folder / "compiled")


def _onnxruntime(plan: _Plan) -> Engine:
    folder = cached(plan.key("onnx"), lambda new: onnxruntime.write(plan.folded(), new))
    if plan.precision == "int8":
        whole = folder
        folder = cached(plan.key("onnx-int8"), lambda new: onnxruntime.quantize(whole, new))
    return onnxruntime.ONNXRuntimeEngine(folder / onnxruntime.GRAPH, plan.name, plan.classifier.device)


def _aoti(plan: _Plan) -> Engine:
    folder = cached(plan.key(plan.name), lambda new: aoti.write(plan.folded(), new, plan.precision))
    return aoti.AOTIEngine(folder / aoti.PACKAGE, plan.name)


_BUILDERS: Mapping[str, Callable[[_Plan], Engine]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "aoti": _aoti,
}


def open_export(folder: Path, classifier: Classifier) -> Engine:
    """The engine in a folder that `vitrail export` wrote, checked to be of these weights and this preprocessing.
    WeightsError."""
    engine, table = open_folder(folder, classifier.device)
    own = weights_sha256(classifier.model), json.loads(classifier.preprocess.model_dump_json())
    if (table.get("weights_sha256"), table.get("preprocess")) != own:
        raise WeightsError(f"{folder} was exported from other weights or preprocessing than this model's")
    return Framed(engine, classifier.preprocess) if table.get("resize") == "inside" else engine


def open_folder(folder: Path, device: torch.device = onnxruntime.PROCESSOR) -> tuple[Engine, Mapping[str, Any]]:
    """The engine in an exported folder, whose files are those it was written with, and its manifest. Where that says
    that the resize is inside, the engine takes images (B rows cols 3) of any size. `device`: a graphics card for those
    that can run on one. WeightsError."""
    from vitrail.weights.checkpoint import sha256

    table = read_json(folder / MANIFEST)
    try:
        target, precision, files = str(table["target"]), str(table["precision"]), dict(table["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / MANIFEST} is not usable: it lacks or mistypes {error}") from error
    for name, digest in files.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != digest:
            raise WeightsError(f"{folder / name} is not the file that was exported; the folder is damaged or edited")
    name = f"{target}-{precision}"
    if target == "openvino" and openvino.GRAPH in files:
        return openvino.OpenVINOEngine(folder / openvino.GRAPH, name, precision), table
    if target == "onnx" and onnxruntime.GRAPH in files:
        onnxruntime.check_file(folder / onnxruntime.GRAPH)
        return onnxruntime.ONNXRuntimeEngine(folder / onnxruntime.GRAPH, name, device), table
    if target == "aoti" and aoti.PACKAGE in files:
        return aoti.AOTIEngine(folder / aoti.PACKAGE, name), table
    raise WeightsError(f"{folder} holds a {target!r} export, which is no engine; engines: openvino, onnx, aoti")
