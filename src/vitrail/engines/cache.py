"""What engines built for a model on this machine, kept in the user's cache so that it is built once.

A folder's name is a hash of all that its content depends on: weights, preprocessing, engine, versions, processor. It is
written beside and renamed, so a folder that is there is whole. $VITRAIL_CACHE or $XDG_CACHE_HOME/vitrail move it.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vitrail.models.build import Network, weights_sha256
from vitrail.report import processor

PACKAGES = ("vitrail", "torch", "openvino", "nncf", "onnx", "onnxruntime")
_FORM = 1  # of what is kept; another number after a change of the inference form


def cache_folder() -> Path:
    """Where engines keep what they built."""
    if own := os.environ.get("VITRAIL_CACHE"):
        return Path(own) / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrail" / "engines"


def versions() -> dict[str, str]:
    """Of the packages that engines are made of; those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine_print() -> dict[str, Any]:
    """What a speed, or native code, depends on: the processor with its instruction sets, the versions."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return {
        "processor": processor(torch.device("cpu")),
        "instructions": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def network_key(model: Network, about: Mapping[str, Any]) -> str:
    """A hash of a network, this machine and whatever else is given, as JSON."""
    table = {
        "form": _FORM,
        "weights": weights_sha256(model),
        "config": model.config.model_dump(mode="json"),
        "machine": machine_print(),
        **about,
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]


def cached(key: str, build: Callable[[Path], None]) -> Path:
    """The folder of `key`, built by `build(folder)` where it is not there. Where the cache cannot be written, a
    temporary folder that lives as long as the process."""
    folder = cache_folder() / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    except OSError:
        new = folder = Path(tempfile.mkdtemp(prefix="vitrail-engine-"))
    try:
        build(new)
        if new != folder:
            _publish(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder


def _publish(new: Path, folder: Path) -> None:
    try:
        os.rename(new, folder)
    except OSError:  # another process was first: what it built is the same
        if not folder.is_dir():
            raise
        shutil.rmtree(new, ignore_errors=True)


def read_table(path: Path) -> Mapping[str, Any] | None:
    """A JSON table of the cache; None where there is none, or it is damaged."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None
