"""Ahead-of-time compiled packages (torch.export, AOTInductor). A package is native code, so only one that was built by
this user on this machine is ever loaded: its hash must stand in the cache."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines.cache import cache_folder, machine_print, read_table
from vitrail.engines.program import capture
from vitrail.engines.torch import check_compiler
from vitrail.errors import StorageError, WeightsError
from vitrail.models.fold import Folded
from vitrail.types import Logits

PACKAGE = "model.pt2"


def write(folded: Folded, folder: Path, precision: str) -> None:
    """Compile a folded network into `folder` and note that this machine built it."""
    import torch._inductor

    check_compiler(f"aoti-{precision}", torch.device("cpu"))
    program = capture(folded.to(getattr(torch, precision)))
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / PACKAGE))
    _note(folder / PACKAGE)


class AOTIEngine:
    """Runs a package that `write` wrote on this machine; WeightsError for any other."""

    def __init__(self, package: Path, name: str) -> None:
        import torch._inductor

        entry = (read_table(_book()) or {}).get(_digest(package))
        if entry is None or entry != machine_print():
            raise WeightsError(
                f"{package} is native code that was not built on this machine by vitrail as it is installed, so it is "
                "not loaded; export the model again here"
            )
        self.name = name
        self.run: Any = torch._inductor.aoti_load_package(str(package))

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        return self.run(pixels.contiguous()).float()


def _book() -> Path:
    return cache_folder() / "built-here.json"


def _note(package: Path) -> None:
    from vitrail.report import write_text

    entries = {**(read_table(_book()) or {}), _digest(package): machine_print()}
    try:
        write_text(_book(), json.dumps(entries, indent=1) + "\n")
    except StorageError as error:
        raise StorageError(f"a compiled package needs a cache that can be written: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
