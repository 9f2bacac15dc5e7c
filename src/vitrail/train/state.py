"""What a run must remember to continue bit for bit, and its publication on disk: whole or not at all, never pickled.

    checkpoints/step-00000120/weights.safetensors    model; of one with frozen weights (LoRA), what trains
                              average.safetensors    averaged weights, where the recipe keeps them
                              moments.safetensors    the optimiser's tensors, `<key>/<parameter>`
                              state.json             step, counters, what the run is (record)
                              manifest.json          sha256 of each of the others

Frozen weights are those that the run starts from, so only their sha256 is kept, and compared. No generator state and no
loader state: both are pure functions of (seed, step).
"""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor
from torch.optim import Optimizer

from vitrail.errors import StorageError
from vitrail.models.build import Network

KEPT = 2  # newest checkpoints that stay
MANIFEST, STATE = "manifest.json", "state.json"
WEIGHTS, AVERAGE, MOMENTS = "weights.safetensors", "average.safetensors", "moments.safetensors"
UNFINISHED, DISCARDED = ".tmp-", ".old-"
COUNTERS = ("step", "skipped", "skipped_in_row", "halvings", "loss_scale", "scaled_steps")  # of TrainState


@dataclass
class TrainState:
    """A run between two steps. `step` counts finished steps, skipped ones included."""

    model: Network
    optimizer: Optimizer
    average: Network | None = None  # exponential moving average of the weights, always in evaluation mode
    step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    halvings: int = 0  # of the micro-batch, each for want of memory
    loss_scale: float = 2.0**16  # of the backward pass in float16
    scaled_steps: int = 0  # since the loss scale last changed

    @property
    def result(self) -> Network:
        """The weights that are evaluated and kept: the averaged ones where there are any."""
        return self.model if self.average is None else self.average


class DamagedCheckpoint(Exception):
    """A checkpoint folder that cannot be trusted, and why; the reader goes back to an older one."""


def new_average(model: Network) -> Network:
    """A copy of the model to hold averaged weights."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def save_checkpoint(folder: Path, state: TrainState, record: Mapping[str, Any]) -> Path:
    """Publish `state` as `folder`/step-XXXXXXXX, then drop all but the newest two.

    Everything is written and synced under another name, verified by reading it back, and only then renamed: after a
    kill or a full disk at any moment the newest published checkpoint is whole. StorageError where the system refuses.
    """
    target = folder / f"step-{state.step:08d}"
    counters = {name: getattr(state, name) for name in COUNTERS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        if not is_whole(target):  # whole: resumed here and stopped again at once; a state is a function of its step
            table = {**counters, "frozen": frozen_sha256(state), "record": dict(record)}
            publish(target, {**_tensor_files(state), STATE: _json(table)})
        for old in checkpoints(folder)[KEPT:]:
            _discard(old)
    except OSError as error:
        raise StorageError(
            f"cannot save the checkpoint of step {state.step} in {folder}: {error.strerror or error}; "
            f"make room or allow writing there, then run the same command to continue from the last checkpoint"
        ) from error
    except DamagedCheckpoint as error:
        raise StorageError(
            f"the checkpoint of step {state.step} in {folder} did not read back as written ({error}): "
            f"the disk may be failing, continue on another one"
        ) from error
    return target


def publish(target: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder `target` appear with `files` and their manifest, complete and synced; OSError otherwise."""
    unfinished = target.with_name(UNFINISHED + target.name)
    unfinished.mkdir()
    manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    try:
        for name, data in [*files.items(), (MANIFEST, _json(manifest))]:
            write_synced(unfinished / name, data)
        sync_folder(unfinished)
        verify(unfinished)
        if target.exists():  # damaged, or the run would not have gone back before it
            _discard(target)
        os.replace(unfinished, target)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
        raise
    sync_folder(target.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole: a reader sees the old bytes or the new ones. OSError otherwise."""
    unfinished = path.with_name(UNFINISHED + path.name)
    write_synced(unfinished, data)
    os.replace(unfinished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder; nothing to do where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def verify(checkpoint: Path) -> None:
    """DamagedCheckpoint unless every file of the manifest is there with its sha256."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        for name, wanted in manifest.items():
            if hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() != wanted:
                raise DamagedCheckpoint(f"{name} is not as written")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{Path(error.filename).name} is missing") from error
    except (ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{MANIFEST} is not as written") from error


def is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint is there and as written."""
    try:
        verify(checkpoint)
    except DamagedCheckpoint:
        return False
    return True


def resume(folder: Path, state: TrainState, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """Load the newest whole checkpoint of `folder` into `state` and return its record; None where there is none.

    Damaged checkpoints are passed over, and `tell` hears which and why. StorageError where one cannot be read at all.
    """
    for checkpoint in checkpoints(folder):
        try:
            return load_checkpoint(checkpoint, state)
        except DamagedCheckpoint as error:
            tell(f"Passed over the checkpoint {checkpoint}: {error}.")
        except OSError as error:
            raise StorageError(f"cannot read the checkpoint {checkpoint}: {error.strerror or error}") from error
    return None


def load_checkpoint(checkpoint: Path, state: TrainState) -> dict[str, Any]:
    """Load one checkpoint into `state` (all of it or nothing) and return its record; DamagedCheckpoint otherwise."""
    verify(checkpoint)
    try:
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        saved = json.loads(files[STATE])
        counters = {name: saved[name] for name in COUNTERS}
        weights, moments = tensors_of(files[WEIGHTS]), tensors_of(files[MOMENTS])
        average = tensors_of(files[AVERAGE]) if state.average is not None else {}
    except (KeyError, ValueError, SafetensorError) as error:
        raise DamagedCheckpoint(f"cannot be parsed: {error}") from error
    pairs = [(state.model, weights)] + ([] if state.average is None else [(state.average, average)])
    still = frozen(state)
    for module, tensors in pairs:
        _check_names(*({k: v for k, v in table.items() if k not in still} for table in (module.state_dict(), tensors)))
    if saved.get("frozen") not in (None, frozen_sha256(state)):
        raise DamagedCheckpoint("it was made with other frozen weights")
    names = {parameter: name for name, parameter in state.model.named_parameters()}
    groups = {names[parameter]: group for group in state.optimizer.param_groups for parameter in group["params"]}
    foreign = sorted(key for key in moments if key.partition("/")[2] not in groups)
    if foreign:
        raise DamagedCheckpoint(f"moments of unknown parameters: {', '.join(foreign)}")
    for module, tensors in pairs:
        module.load_state_dict(tensors, strict=not still)  # older versions kept frozen ones too
    state.optimizer.state.clear()
    for parameter, name in names.items():
        for kind in sorted(key.partition("/")[0] for key in moments if key.partition("/")[2] == name):
            counts = kind == "step" and not groups[name].get("fused")  # torch too keeps such a step on the CPU
            tensor = moments[f"{kind}/{name}"]
            state.optimizer.state[parameter][kind] = tensor if counts else tensor.to(parameter.device)
    for name, value in counters.items():
        setattr(state, name, value)
    record: dict[str, Any] = saved["record"]
    return record


def sweep(folder: Path) -> None:
    """Remove what a killed run left half written or half deleted."""
    for pattern in (UNFINISHED, DISCARDED):
        for path in folder.glob(f"{pattern}*"):
            shutil.rmtree(path)


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """One hash over names, types, shapes and bytes of tensors: equal exactly where every bit is."""
    return hashlib.sha256(bytes_of(_plain(tensors))).hexdigest()


def frozen(state: TrainState) -> frozenset[str]:
    """Names of the parameters that the optimiser does not hold: they never change."""
    held = {parameter for group in state.optimizer.param_groups for parameter in group["params"]}
    return frozenset(name for name, parameter in state.model.named_parameters() if parameter not in held)


def frozen_sha256(state: TrainState) -> str | None:
    """One hash over the frozen weights; None where there are none."""
    still, tensors = frozen(state), state.model.state_dict()
    return state_sha256({name: tensors[name] for name in still}) if still else None


def _tensor_files(state: TrainState) -> dict[str, bytes]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    moments = {
        f"{kind}/{names[parameter]}": value
        for parameter, values in state.optimizer.state.items()
        for kind, value in values.items()
    }
    still = frozen(state)

    def learned(model: Network) -> bytes:
        return bytes_of(_plain({name: tensor for name, tensor in model.state_dict().items() if name not in still}))

    files = {WEIGHTS: learned(state.model), MOMENTS: bytes_of(_plain(moments))}
    if state.average is not None:
        files[AVERAGE] = learned(state.average)
    return files


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, sorted by name, so that equal states give equal bytes."""
    return {name: torch.clone(tensors[name].detach()).cpu().contiguous() for name in sorted(tensors)}


def _check_names(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if wrong := sorted(wanted.keys() ^ found.keys()):
        raise DamagedCheckpoint(f"missing or unknown tensors: {', '.join(wrong)}")
    for name, tensor in sorted(found.items()):
        if tensor.shape != wanted[name].shape:
            raise DamagedCheckpoint(f"{name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")


def _discard(path: Path) -> None:
    """Take a published folder away: renamed first, so that a half-deleted one is never taken for a checkpoint."""
    discarded = path.with_name(DISCARDED + path.name)
    os.replace(path, discarded)
    shutil.rmtree(discarded)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
