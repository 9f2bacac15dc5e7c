"""OpenVINO as an engine: the fastest on the x86 processors it was measured on (docs/benchmarks.md)."""

import sys
import threading
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.engines.program import INPUT, OUTPUT, capture, capture_resize
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


def resize_first(model: Any, config: Preprocess) -> Any:
    """The graph from images of any size (B rows cols 3): the resize of `config` before `model`, in float32 whatever the
    rest computes in, once the graph is written and read again: OpenVINO does not heed the marks of one in memory."""
    openvino = library()
    front = openvino.convert_model(capture_resize(config))
    front.reshape([-1, -1, -1, 3])
    front.inputs[0].get_tensor().set_names({INPUT})
    for node in front.get_ops():
        node.get_rt_info()["precise_0"] = ""  # OpenVINO's mark for what must not be computed in half precision
    fitted = front.outputs[0].get_node().input_value(0)
    for reader in model.inputs[0].get_target_inputs():
        reader.replace_source_output(fitted)
    return openvino.Model(model.get_results(), front.get_parameters(), "resized")


def write(model: Any, folder: Path) -> None:
    """The graph as two files in `folder`."""
    library().save_model(model, folder / GRAPH, compress_to_fp16=False)


class OpenVINOEngine:
    """Runs a graph that `write` wrote, in `precision`; int8 graphs compute the rest of their layers in bfloat16 where
    the processor can. `compiled` is a folder for what OpenVINO compiles, which then loads in a fraction of the time.

    A batch is shared out image by image among streams of one thread each, which never wait for one another; where it
    has fewer images than there are threads, all threads work on it together.
    """

    def __init__(self, graph: Path, name: str, precision: str, compiled: Path | None = None) -> None:
        self.name, self.graph = name, graph
        self.core = library().Core()
        self.threads = torch.get_num_threads()
        able = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not able:
            raise ConfigError("this processor has no bfloat16 arithmetic; choose the engine openvino-float32")
        self.options = {"INFERENCE_PRECISION_HINT": HINTS.get(precision, "bf16" if able else "f32")}
        if compiled is not None:
            self.options["CACHE_DIR"] = str(compiled)
        self.lock = threading.Lock()
        self.compiled: dict[int, Any] = {}  # number of streams -> compiled graph
        self.local = threading.local()  # requests: one holds one call at a time
        self.classes = int(self._compile(1).outputs[0].partial_shape[1].get_length())

    def __call__(self, pixels: UInt8[Tensor, "B *image"]) -> Logits:
        if not len(pixels):
            return torch.empty(0, self.classes)
        streams = self.threads if len(pixels) >= self.threads else 1
        requests = self._requests(streams)
        parts = [part for part in pixels.contiguous().tensor_split(streams) if len(part)]
        for request, part in zip(requests, parts, strict=False):
            request.start_async([part.numpy()], share_inputs=True)
        for request in requests[: len(parts)]:
            request.wait()
        return torch.cat([torch.from_numpy(r.get_output_tensor(0).data) for r in requests[: len(parts)]])

    def _requests(self, streams: int) -> list[Any]:
        held: dict[int, list[Any]] = self.local.__dict__.setdefault("held", {})
        if streams not in held:
            held[streams] = [self._compile(streams).create_infer_request() for _ in range(streams)]
        return held[streams]

    def _compile(self, streams: int) -> Any:
        with self.lock:
            if streams not in self.compiled:
                options = {**self.options, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": self.threads}
                try:
                    self.compiled[streams] = self.core.compile_model(str(self.graph), "CPU", options)
                except RuntimeError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise WeightsError(f"{self.graph} is not a graph that OpenVINO can run: {reason}") from error
            return self.compiled[streams]
