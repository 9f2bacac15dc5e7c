"""ONNX and ONNX Runtime: the portable file, and an engine for it."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.engines.program import INPUT, OUTPUT, capture
from vitrail.errors import ConfigError, MissingExtra, WeightsError
from vitrail.models.fold import Folded
from vitrail.types import Logits

GRAPH = "model.onnx"
PROCESSOR = torch.device("cpu")
_DOMAINS = {"", "ai.onnx", "com.microsoft"}  # operators that come with ONNX Runtime; others would load a library


def write(folded: Folded, folder: Path, inside: Preprocess | None = None) -> None:
    """The graph as one file in `folder`, any number of images. `inside`: see `capture`."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(str(error.name), "onnx", "an ONNX file") from error
    program = capture(folded.float(), inside)
    with warnings.catch_warnings():  # the exporter warns of its own parts
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            (),
            str(folder / GRAPH),
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )


def quantize(folder: Path, out: Path) -> None:
    """int8 weights, a scale for each row, and activations quantised as they come: no calibration needed."""
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtra(str(error.name), "onnx", "the engine onnxruntime-int8") from error
    model = onnx.load(str(folder / GRAPH))
    del model.graph.value_info[:]  # shapes of the exporter, which the quantizer takes for contradictions
    onnx.save(model, str(out / GRAPH))
    quantize_dynamic(str(out / GRAPH), str(out / "int8.onnx"), per_channel=True, weight_type=QuantType.QInt8)
    (out / "int8.onnx").replace(out / GRAPH)


def check_file(path: Path) -> None:
    """Refuse a file of a stranger that names other files outside its folder, or operators of unknown libraries.
    WeightsError."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", "reading an ONNX file") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise WeightsError(f"{path} is not an ONNX file: {type(error).__name__}") from error
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and Path(entry.value).name != entry.value:
                raise WeightsError(f"{path} keeps weights outside its folder, in {entry.value!r}, which is refused")
    if odd := _domains(model.graph.node) - _DOMAINS:
        raise WeightsError(f"{path} needs operators of {', '.join(sorted(odd))}, whose code is not vitrail's to load")


def _domains(nodes: Iterable[Any]) -> set[str]:
    return {node.domain for node in nodes}


def providers(device: torch.device, available: Sequence[str]) -> list[str]:
    """What runs the graph, the first that can: CUDA on a graphics card, where ONNX Runtime's build has it."""
    on_card = device.type == "cuda" and "CUDAExecutionProvider" in available
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_card else ["CPUExecutionProvider"]


class ONNXRuntimeEngine:
    """Runs an ONNX file: on the processor, or on a graphics card where `device` is one and this build of ONNX Runtime
    has CUDA. ConfigError where it has and cannot start it."""

    def __init__(self, graph: Path, name: str, device: torch.device = PROCESSOR) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "onnx", "the engine onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            wanted = providers(device, onnxruntime.get_available_providers())
            self.session = onnxruntime.InferenceSession(str(graph), options, providers=wanted)
        except Exception as error:
            raise WeightsError(f"{graph} is not a graph that ONNX Runtime can run: {error}") from error
        if self.session.get_providers()[0] != wanted[0]:
            raise ConfigError(
                "this build of ONNX Runtime has CUDA but cannot start it: install the CUDA and cuDNN that it asks for, "
                "or choose another engine"
            )
        self.name = name

    def __call__(self, pixels: UInt8[Tensor, "B *image"]) -> Logits:
        (logits,) = self.session.run([OUTPUT], {INPUT: pixels.contiguous().numpy()})
        return torch.from_numpy(logits)
