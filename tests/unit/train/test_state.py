import errno
import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from vitrail.config import OptimConfig, ViTConfig
from vitrail.errors import StorageError
from vitrail.models.vit import ViT
from vitrail.train import loop
from vitrail.train import state as module
from vitrail.train.loop import Precision, train_steps
from vitrail.train.optim import make_optimizer
from vitrail.train.state import (
    DamagedCheckpoint,
    TrainState,
    checkpoints,
    load_checkpoint,
    new_average,
    replace_file,
    resume,
    save_checkpoint,
    state_sha256,
)
from vitrail.types import Batch

TOY = ViTConfig(image_size=4, patch_size=2, width=8, depth=2, heads=2, mlp_dim=8, classes=3, dropout=0.1)
OPTIM = OptimConfig(lr=1e-2, ema=0.9)
STEPS = 8


def new(optim: OptimConfig = OPTIM, config: ViTConfig = TOY) -> TrainState:
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(0))
    return TrainState(model, make_optimizer(model, config, optim), new_average(model) if optim.ema else None)


def advance(state: TrainState, until: int, optim: OptimConfig = OPTIM, precision: Precision = "float32") -> TrainState:
    generator = torch.Generator()
    batches = [
        Batch(torch.randn(4, 3, 4, 4, generator=generator.manual_seed(i)), torch.arange(4) % 3, torch.arange(4))
        for i in range(state.step, until)
    ]
    for _ in train_steps(state, batches, STEPS, optim, 0, precision):
        pass
    return state


def digest(state: TrainState) -> tuple[str, ...]:
    return tuple(state_sha256(module.tensors_of(data)) for data in module._tensor_files(state).values())


def listen() -> tuple[list[str], Callable[[str], None]]:
    heard: list[str] = []
    return heard, heard.append


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    unbroken = advance(new(), STEPS)
    save_checkpoint(tmp_path, advance(new(), 3), {"seconds": 1.5})
    heard, tell = listen()
    state = new()
    assert resume(tmp_path, state, tell) == {"seconds": 1.5}
    assert (state.step, heard) == (3, [])
    assert digest(advance(state, STEPS)) == digest(unbroken)
    assert digest(advance(new(), 3)) != digest(unbroken)


RULES = {
    "sgd": OptimConfig(lr=1e-2, optimizer="sgd", nesterov=True),
    "sgd without momentum": OptimConfig(lr=1e-2, optimizer="sgd", momentum=0.0),
    "lamb": OptimConfig(lr=1e-2, optimizer="lamb", layer_decay=0.7),
    "lion": OptimConfig(lr=1e-3, optimizer="lion", schedule="rsqrt", cooldown_steps=2),
    "muon": OptimConfig(lr=1e-2, optimizer="muon", schedule="linear"),
    "head first": OptimConfig(lr=1e-2, head_steps=4, loss="bce"),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("at", [3, 5])
def test_every_optimiser_continues_bit_for_bit(name: str, at: int, tmp_path: Path) -> None:
    optim = RULES[name]
    unbroken = advance(new(optim), STEPS, optim)
    save_checkpoint(tmp_path, advance(new(optim), at, optim), {})
    state = new(optim)
    resume(tmp_path, state, print)
    assert digest(advance(state, STEPS, optim)) == digest(unbroken)
    if optim.optimizer != "sgd" or optim.momentum:  # the control: the moments were needed
        forgetful = new(optim)
        resume(tmp_path, forgetful, print)
        forgetful.optimizer.state.clear()
        assert digest(advance(forgetful, STEPS, optim)) != digest(unbroken)


def test_float16_continues_with_its_loss_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SCALE_STEPS", 4)  # so that it matters how long ago the scale changed

    def scaled() -> TrainState:
        state = new()
        state.loss_scale = 2.0**9
        return state

    unbroken = advance(scaled(), STEPS, precision="float16")
    assert (unbroken.loss_scale, unbroken.skipped) == (2.0**11, 0)
    save_checkpoint(tmp_path, advance(scaled(), 3, precision="float16"), {})
    state = new()
    resume(tmp_path, state, print)
    assert (state.loss_scale, state.scaled_steps) == (2.0**9, 3)
    assert digest(advance(state, STEPS, precision="float16")) == digest(unbroken)
    assert (state.loss_scale, state.scaled_steps) == (unbroken.loss_scale, unbroken.scaled_steps)


def test_a_smaller_micro_batch_is_remembered(tmp_path: Path) -> None:
    """With dropout the split decides what is drawn, so a run continues with the split it had."""

    def limited(state: TrainState) -> TrainState:
        def full(module: object, args: tuple[torch.Tensor]) -> None:
            if len(args[0]) > 2:
                raise torch.OutOfMemoryError("out of memory")

        state.model.register_forward_pre_hook(full)
        return state

    unbroken = advance(limited(new()), STEPS)
    save_checkpoint(tmp_path, advance(limited(new()), 3), {})
    state = new()  # and with room for all
    resume(tmp_path, state, print)
    assert state.halvings == 1
    assert digest(advance(state, STEPS)) == digest(unbroken)
    assert digest(advance(new(), STEPS)) != digest(unbroken)


def test_without_average_there_is_no_file_for_it(tmp_path: Path) -> None:
    optim = OptimConfig()
    saved = save_checkpoint(tmp_path, advance(new(optim), 2, optim), {})
    assert sorted(p.name for p in saved.iterdir()) == [
        "manifest.json", "moments.safetensors", "state.json", "weights.safetensors",
    ]  # fmt: skip
    state = new(optim)
    resume(tmp_path, state, print)
    assert state.result is state.model


def test_a_checkpoint_before_any_moment_exists(tmp_path: Path) -> None:
    """All steps so far were skipped: the optimiser holds nothing yet."""
    save_checkpoint(tmp_path, new(), {})
    state = new()
    assert resume(tmp_path, state, print) == {} and not state.optimizer.state


def test_counters_travel(tmp_path: Path) -> None:
    state = new()
    values = dict(zip(module.COUNTERS, (7, 4, 2, 3, 0.5, 9), strict=True))
    for name, value in values.items():
        setattr(state, name, value)
    save_checkpoint(tmp_path, state, {})
    found = new()
    resume(tmp_path, found, print)
    assert {name: getattr(found, name) for name in module.COUNTERS} == values


def test_nothing_is_pickled(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, advance(new(), 2), {})
    assert {p.suffix for p in saved.iterdir()} == {".safetensors", ".json"}


def test_the_newest_two_stay(tmp_path: Path) -> None:
    state = new()
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, advance(state, step), {})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004", "step-00000003"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_saving_where_one_was_resumed_changes_nothing(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, advance(new(), 2), {"first": True})
    stamp = (saved / "state.json").stat().st_mtime_ns
    assert save_checkpoint(tmp_path, advance(new(), 2), {"first": False}) == saved
    assert (saved / "state.json").stat().st_mtime_ns == stamp


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, advance(new(), 2), {})
    (saved / "weights.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, advance(new(), 2), {})
    module.verify(saved)


def test_no_checkpoints(tmp_path: Path) -> None:
    assert resume(tmp_path / "absent", new(), print) is None
    assert resume(tmp_path, new(), print) is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda c: flip(c / "weights.safetensors"), "weights.safetensors is not as written"),
    "truncated": (lambda c: os.truncate(c / "moments.safetensors", 100), "moments.safetensors is not as written"),
    "empty": (lambda c: (c / "average.safetensors").write_bytes(b""), "average.safetensors is not as written"),
    "no file": (lambda c: (c / "state.json").unlink(), "state.json is missing"),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest cut": (lambda c: os.truncate(c / "manifest.json", 20), "manifest.json is not as written"),
    "manifest odd": (lambda c: (c / "manifest.json").write_text("[1]"), "manifest.json is not as written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(kind: str, tmp_path: Path) -> None:
    damage, reason = DAMAGE[kind]
    state = new()
    save_checkpoint(tmp_path, advance(state, 2), {})
    expected = digest(state)
    newest = save_checkpoint(tmp_path, advance(state, 4), {})
    damage(newest)
    heard, tell = listen()
    found = new()
    assert resume(tmp_path, found, tell) is not None
    assert heard == [f"Passed over the checkpoint {newest}: {reason}."]
    assert found.step == 2 and digest(found) == expected


def reseal(checkpoint: Path, name: str, data: bytes) -> None:
    """Change a file and its hash: damage that only the contents show."""
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest[name] = module.hashlib.sha256(data).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path: Path) -> None:
    wide = TOY.model_copy(update={"width": 16})
    saved = save_checkpoint(tmp_path, new(config=wide), {})
    state = new()
    before = digest(state)
    with pytest.raises(DamagedCheckpoint, match=r"blocks\.0\.attention\.out\.bias is \(16,\), not \(8,\)"):
        load_checkpoint(saved, state)
    assert digest(state) == before
    deep = save_checkpoint(tmp_path / "deep", new(config=TOY.model_copy(update={"depth": 3})), {})
    with pytest.raises(DamagedCheckpoint, match=r"missing or unknown tensors: blocks\.2\.attention\.out\.bias, "):
        load_checkpoint(deep, state)


def test_contents_that_do_not_parse_are_damage(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, advance(new(), 2), {})
    reseal(saved, "weights.safetensors", b"not a tensor file")
    with pytest.raises(DamagedCheckpoint, match="cannot be parsed"):
        load_checkpoint(saved, new())


def test_foreign_moments_are_damage(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, advance(new(), 2), {})
    reseal(saved, "moments.safetensors", module.bytes_of({"exp_avg/elsewhere": torch.ones(1)}))
    state = new()
    with pytest.raises(DamagedCheckpoint, match=r"moments of unknown parameters: exp_avg/elsewhere"):
        load_checkpoint(saved, state)
    assert not state.optimizer.state


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may run after it."""


def fail_at(patch: pytest.MonkeyPatch, k: int, fault: Callable[[], BaseException]) -> None:
    """The k-th write, fsync or replace (from 1) raises; a write that fails leaves half of its bytes."""
    operations = count(1)
    write, fsync, replace = module.write_synced, os.fsync, os.replace

    def torn_write(path: Path, data: bytes) -> None:
        if next(operations) == k:
            path.write_bytes(data[: len(data) // 2])
            raise fault()
        write(path, data)

    def failing(real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            if next(operations) == k:
                raise fault()
            real(*args)

        return call

    patch.setattr(module, "write_synced", torn_write)
    patch.setattr(os, "fsync", failing(fsync))
    patch.setattr(os, "replace", failing(replace))


FAULTS: dict[str, Callable[[], BaseException]] = {
    "ENOSPC": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "EIO": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "kill": Killed,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_of_a_save_leaves_a_whole_newest_checkpoint(kind: str, tmp_path: Path) -> None:
    """The k-th operation fails, for k = 1, 2, ... until the save succeeds."""
    states = [advance(new(), step) for step in (1, 2, 3)]
    before, after = digest(states[1]), digest(states[2])
    base = tmp_path / "base"
    for state in states[:2]:
        save_checkpoint(base, state, {})
    outcomes = []
    for k in range(1, 100):
        folder = tmp_path / str(k)
        shutil.copytree(base, folder)
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, k, FAULTS[kind])
            try:
                save_checkpoint(folder, states[2], {})
                outcomes.append("saved")
            except (StorageError, Killed) as error:
                outcomes.append(type(error).__name__)
                if kind != "kill":
                    assert str(error).startswith(f"cannot save the checkpoint of step 3 in {folder}: ")
                    assert os.strerror(getattr(errno, kind)) in str(error)
        found = new()
        heard, tell = listen()
        resume(folder, found, tell)
        assert heard == [], "what is published is whole"
        assert digest(found) == (before if found.step == 2 else after)
        save_checkpoint(folder, states[2], {})  # and the run goes on from there
        assert [p.name for p in sorted(folder.iterdir())] == ["step-00000002", "step-00000003"]
        if outcomes[-1] == "saved":
            break
    assert outcomes[-1] == "saved" and len(outcomes) > 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_ends_at_any_operation_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    """The process is gone at the k-th operation (no handler runs, no file is flushed), for k = 1, 2, ... until none."""
    states = [advance(new(), step) for step in (1, 2, 3)]
    before, after = digest(states[1]), digest(states[2])
    base = tmp_path / "base"
    for state in states[:2]:
        save_checkpoint(base, state, {})
    codes = []
    for k in range(1, 100):
        folder = tmp_path / str(k)
        shutil.copytree(base, folder)
        if (child := os.fork()) == 0:
            try:
                torch.set_num_threads(1)
                fail_at(pytest.MonkeyPatch(), k, lambda: os._exit(9))
                save_checkpoint(folder, states[2], {})
            finally:
                os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        found = new()
        heard, tell = listen()
        resume(folder, found, tell)
        assert heard == [] and digest(found) == (before if found.step == 2 else after)
        save_checkpoint(folder, states[2], {})  # and the run goes on from there
        assert [p.name for p in sorted(folder.iterdir())] == ["step-00000002", "step-00000003"]
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and set(codes[:-1]) == {9} and len(codes) > 12
    assert found.step == 3


def test_a_failed_save_gives_its_room_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, advance(new(), 1), {})
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 3, FAULTS["ENOSPC"])
        with pytest.raises(StorageError):
            save_checkpoint(tmp_path, advance(new(), 2), {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_returns_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.write_synced

    def lossy(path: Path, data: bytes) -> None:
        write(path, data[:-1] + b"?" if path.name == "weights.safetensors" else data)

    save_checkpoint(tmp_path, advance(new(), 1), {})
    monkeypatch.setattr(module, "write_synced", lossy)
    with pytest.raises(StorageError, match=r"step 2 .* did not read back as written \(weights.safetensors is not"):
        save_checkpoint(tmp_path, advance(new(), 2), {})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied; make room or allow writing there"):
        save_checkpoint(tmp_path, new(), {})


def test_a_folder_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="cannot save the checkpoint of step 0"):
        save_checkpoint(tmp_path / "checkpoints", new(), {})


def test_replace_file_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    replace_file(path, b"old")
    for k in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, k, FAULTS["ENOSPC"])
            with pytest.raises(OSError):
                replace_file(path, b"new")
        assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_state_sha256_sees_every_bit() -> None:
    one = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2, 2)}
    assert state_sha256(one) == state_sha256({"b": one["b"].clone(), "a": one["a"].clone()})
    assert state_sha256(one) != state_sha256({**one, "a": torch.tensor([-0.0, 1.0])})
    assert state_sha256(one) != state_sha256({**one, "b": torch.ones(4)})
