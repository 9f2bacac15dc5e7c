"""The sink against a stand-in for TensorBoard's writer, and against TensorBoard itself where it is installed."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pictures import class_folders
from vitrail.errors import MissingExtra
from vitrail.train import job as job_module
from vitrail.train.progress import Progress
from vitrail.train.run import train
from vitrail.train.sinks import TAGS, TensorBoard, check_tensorboard

ROW = {"step": 3, "epoch": 0.5, "lr": 1e-3, "seconds": 2.0, "loss": 1.5, "gradient_norm": 0.7}


class Writer:
    """Keeps the calls it gets; dies at the one called `fatal`."""

    made: "list[Writer]" = []  # noqa: RUF012
    fatal = ""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.calls: list[tuple[Any, ...]] = [("folder", folder), ("purge_step", purge_step)]
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self._call("add_scalar", tag, value, step)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str, *values: Any) -> None:
        if name == Writer.fatal:
            raise OSError("No space\nleft on device")
        self.calls.append((name, *values))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr(Writer, "fatal", "")
    monkeypatch.setattr(job_module, "check_tensorboard", lambda: None)
    return Writer


def test_a_row_becomes_curves_at_its_step(stand_in: type[Writer], tmp_path: Path) -> None:
    told: list[str] = []
    sink = TensorBoard(tmp_path, 2, told.append)
    sink.append(ROW)
    sink.append({"step": 4, "val_top1": 0.5, "val_nll": 1.1, "val_images": 9, "seconds": 3.0})
    sink.append({"step": 5, "lr": 1e-3, "skipped": True})
    sink.close()
    sink.append(ROW)  # nothing after the end
    assert stand_in.made[0].calls == [
        ("folder", str(tmp_path / "tensorboard")), ("purge_step", 3),
        ("add_scalar", "train/loss", 1.5, 3), ("add_scalar", "train/gradient_norm", 0.7, 3),
        ("add_scalar", "train/lr", 1e-3, 3),
        ("add_scalar", "held-out/top1", 0.5, 4), ("add_scalar", "held-out/nll", 1.1, 4), ("flush",),
        ("add_scalar", "train/lr", 1e-3, 5), ("close",),
    ]  # fmt: skip
    assert told == []


@pytest.mark.parametrize("fatal", ["add_scalar", "flush", "close"])
def test_a_dead_sink_is_told_once(fatal: str, stand_in: type[Writer], tmp_path: Path) -> None:
    stand_in.fatal = fatal
    told: list[str] = []
    sink = TensorBoard(tmp_path, 0, told.append)
    for _ in range(2):
        sink.append({**ROW, "val_top1": 0.5})
    sink.close()
    assert told == [
        "TensorBoard's events end here (OSError: No space left on device); training goes on and metrics.jsonl has "
        "every number."
    ]


def test_a_missing_package_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtra, match=r"tensorboard=true needs the package tensorboard: pip install 'vitrail\[tenso"
    ):
        check_tensorboard()
    data = class_folders(tmp_path / "zoo", {"train/ape": 2, "train/bee": 2, "val/ape": 1, "val/bee": 1})
    with pytest.raises(MissingExtra):
        train(data, out=tmp_path / "run", overrides=["tensorboard=true"], notify=lambda news: None)
    assert not (tmp_path / "run").exists()


TINY = ("width=8", "depth=1", "heads=1", "mlp_dim=8", "batch_size=4", "epochs=3", "precision=float32")


def test_a_run_goes_on_with_or_without_its_sink(stand_in: type[Writer], tmp_path: Path) -> None:
    """The events are no part of what a run is: switching them on or off, or losing them, changes nothing."""
    data = class_folders(tmp_path / "zoo", {"train/ape": 6, "train/bee": 6, "val/ape": 1, "val/bee": 1})

    def stop(news: Progress) -> None:
        if (news.kind, news.step) == ("step", 4):
            raise KeyboardInterrupt

    def run(out: str, *more: str, notify: Any = lambda news: None) -> str:
        folder = train(data, out=tmp_path / out, overrides=[*TINY, *more], notify=notify).folder
        return (folder / "model" / "model.safetensors").read_bytes().hex()

    plain = run("plain")
    assert not (tmp_path / "plain" / "tensorboard").exists() and stand_in.made == []
    with pytest.raises(KeyboardInterrupt):
        run("events", "tensorboard=true", notify=stop)
    assert run("events", "tensorboard=true") == plain
    first, second = (writer.calls for writer in stand_in.made)
    assert ("purge_step", 1) in first and ("purge_step", 4) in second, "the checkpoint of step 3 is where it goes on"
    losses = [call[3] for call in second if call[:2] == ("add_scalar", "train/loss")]
    assert losses == [4, 5, 6, 7, 8, 9] and second[-1] == ("close",)
    stand_in.fatal = "add_scalar"
    told: list[str] = []
    lost = run("lost", "tensorboard=true", notify=lambda n: told.append(n.text) if n.kind == "message" else None)
    assert lost == plain and len(told) == 1
    with pytest.raises(KeyboardInterrupt):
        run("off", "tensorboard=true", notify=stop)
    assert run("off") == plain


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_reads_a_continued_run_as_an_unbroken_one(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, stop in ((0, 6), (3, 9)):  # the second sitting begins after step 3
        sink = TensorBoard(tmp_path, step, pytest.fail)
        for at in range(step + 1, stop + 1):
            sink.append({**ROW, "step": at, "loss": at / 10 + step})
        sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = [(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")]
    assert read == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 3.4), (5, 3.5), (6, 3.6), (7, 3.7), (8, 3.8), (9, 3.9)]
    assert set(events.Tags()["scalars"]) <= set(TAGS.values())
