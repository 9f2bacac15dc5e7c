"""torch as an engine: the folded network as it stands, or compiled; in float32, bfloat16, float16 or float8."""

import shutil

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines.float8 import check_card, in_float8
from vitrail.errors import ConfigError
from vitrail.models.fold import Folded
from vitrail.types import Logits


class TorchEngine:
    """`compiled`: by torch.compile, once for each number of images that it is given; on a GPU with CUDA graphs."""

    def __init__(self, folded: Folded, name: str, precision: str, device: torch.device, compiled: bool = False) -> None:
        if precision == "float16" and device.type == "cpu":
            raise ConfigError("float16 is for graphics cards; on a processor choose bfloat16 or float32")
        self.name, self.device = name, device
        if precision == "float8":
            check_card(name, device)
            self.network = in_float8(folded.to(device, torch.bfloat16))
        else:
            self.network = folded.to(device, getattr(torch, precision))
        self.run = self.network
        if compiled:
            check_compiler(name, device)
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.run = torch.compile(self.network, mode=mode, dynamic=False)  # type: ignore[assignment]

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        return self.run(pixels.to(self.device)).float().cpu()


def check_compiler(name: str, device: torch.device) -> None:
    """ConfigError where torch could not compile for the processor."""
    if device.type == "cpu" and not any(shutil.which(program) for program in ("c++", "g++", "clang++", "cl")):
        raise ConfigError(f"the engine {name} compiles, which needs a C++ compiler (g++ or clang++): install one")
