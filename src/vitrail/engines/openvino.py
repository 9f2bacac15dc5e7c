"""OpenVINO as an engine: the fastest on the x86 processors it was measured on (docs/benchmarks.md)."""

import sys
import threading
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines.program import INPUT, OUTPUT, capture
from vitrail.errors import ConfigError, MissingExtra, WeightsError
from vitrail.models.fold import Folded
from vitrail.types import Logits

GRAPH = "model.xml"  # its weights lie beside it, in model.bin
HINTS = {"float32": "f32", "bfloat16": "bf16"}


def library() -> Any:
    """The module `openvino`, with its and NNCF's reports to their makers switched off. MissingExtra."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino", "the engine openvino") from error
    return openvino


def convert(folded: Folded) -> Any:
    """OpenVINO's graph of a folded network, float32, with one input and one output, both named."""
    openvino = library()
    channels, (rows, cols) = folded.network.config.channels, folded.network.config.image_size
    model = openvino.convert_model(capture(folded.float()))
    model.reshape([-1, channels, rows, cols])
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    return model


def write(model: Any, folder: Path) -> None:
    """The graph as two files in `folder`."""
    library().save_model(model, folder / GRAPH, compress_to_fp16=False)


class OpenVINOEngine:
    """Runs a graph that `write` wrote, in `precision`; int8 graphs compute the rest of their layers in bfloat16 where
    the processor can. `compiled` is a folder for what OpenVINO compiles, which then loads in a fraction of the time."""

    def __init__(self, graph: Path, name: str, precision: str, compiled: Path | None = None) -> None:
        openvino = library()
        core = openvino.Core()
        able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not able:
            raise ConfigError("this processor has no bfloat16 arithmetic; choose the engine openvino-float32")
        options = {
            "INFERENCE_PRECISION_HINT": HINTS.get(precision, "bf16" if able else "f32"),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        if compiled is not None:
            options["CACHE_DIR"] = str(compiled)
        try:
            self.compiled = core.compile_model(str(graph), "CPU", options)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise WeightsError(f"{graph} is not a graph that OpenVINO can run: {reason}") from error
        self.name = name
        self.requests = threading.local()  # a request holds one call at a time

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        if not hasattr(self.requests, "one"):
            self.requests.one = self.compiled.create_infer_request()
        if not len(pixels):
            return torch.empty(0, int(self.compiled.outputs[0].partial_shape[1].get_length()))
        results = self.requests.one.infer([pixels.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(results[0])
