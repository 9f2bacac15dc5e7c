"""`vitrail train` when the machine fails under it: one sentence, exit code 2, and the same command ends as if nothing
had happened."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitrail.cli import main
from vitrail.train import run as run_module
from vitrail.train import state as state_module

Capture = pytest.CaptureFixture[str]
SETTINGS = ["width=8", "depth=1", "heads=1", "mlp_dim=8", "epochs=6", "batch_size=8", "precision=float32", "ema=0.9"]


def command(photos: Path, out: Path, workers: int) -> list[str]:
    changes = [part for text in (*SETTINGS, f"workers={workers}") for part in ("--set", text)]
    return ["train", str(photos), "--out", str(out), *changes]


def results(folder: Path) -> dict[str, Any]:
    """Kept weights, the newest checkpoint's tensors, and the metrics without their times."""
    newest = max((folder / "checkpoints").iterdir())
    manifest = json.loads((newest / "manifest.json").read_text())
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "state": {name: digest for name, digest in manifest.items() if name != "state.json"},
        "metrics": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
    }


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(command(photos, folder, 0)) == 0
    return results(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="signals and process ids as Linux has them")
def test_a_loader_process_that_is_killed(
    photos: Path, unbroken: dict[str, Any], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = run_module.log

    def killing(job: Any, step: Any, *more: Any) -> None:
        log(job, step, *more)
        if step.step == 3:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "log", killing)
        assert main(command(photos, tmp_path / "run", 2)) == 2
    err = capsys.readouterr().err
    *_, stopped, last = err.splitlines()
    assert "Traceback" not in err
    assert stopped.startswith("Stopped after step ") and stopped.endswith("The same command continues.")
    assert last.startswith(
        "vitrail: a process that reads images died (killed: Killed), as happens where memory runs out"
    )
    done = int(stopped.split()[3])
    assert done >= 3 and (tmp_path / "run" / "checkpoints" / f"step-{done:08d}").is_dir(), "no step is lost"
    assert main(command(photos, tmp_path / "run", 2)) == 0
    assert f"Continuing after step {done}." in capsys.readouterr().err
    assert results(tmp_path / "run") == unbroken


def full_from(k: int, real: Callable[..., None]) -> Callable[..., None]:
    """The k-th write (from 0) and all after it find the disk full, half of their bytes written."""
    written = iter(range(10**6))

    def write(path: Path, data: bytes) -> None:
        if next(written) < k:
            real(path, data)
        else:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    return write


@pytest.mark.parametrize("k", [0, 1, 4, 8])
def test_a_full_disk(
    k: int, photos: Path, unbroken: dict[str, Any], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In run.json (0), metrics.jsonl (1) and two checkpoints."""
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "write_synced", full_from(k, state_module.write_synced))
        assert main(command(photos, tmp_path / "run", 0)) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith("vitrail: cannot ") and "No space left on device" in last and "Traceback" not in err
    assert main(command(photos, tmp_path / "run", 0)) == 0
    assert results(tmp_path / "run") == unbroken


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_the_metrics(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    """The kernel's own refusal: what is appended to metrics.jsonl goes to a device that is always full."""
    run = tmp_path / "run"
    patched = run_module.Metrics.truncate

    def divert(self: Any, step: int) -> None:
        patched(self, step)
        self.path.unlink()
        self.path.symlink_to("/dev/full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module.Metrics, "truncate", divert)
        assert main(command(photos, run, 0)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"vitrail: cannot write {run / 'metrics.jsonl'}: No space left on device; make room, then run"
    )
