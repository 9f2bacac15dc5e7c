import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.errors import ConfigError, StorageError
from vitrail.train.folder import Metrics, finish_run, open_run

RUN: dict[str, Any] = {"identity": {"recipe": {"optim": {"lr": 0.1}}, "data": "f1", "weights": None}, "seed": 0}


def test_a_run_begins_and_is_found_again(tmp_path: Path) -> None:
    begun = open_run(tmp_path / "a" / "run", RUN)
    assert begun["finished"] is None and begun["started"].endswith("+00:00")
    assert open_run(tmp_path / "a" / "run", {**RUN, "more": 1}) == begun


def test_a_finished_run_stays(tmp_path: Path) -> None:
    finish_run(tmp_path, open_run(tmp_path, RUN), {"steps": 3})
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["finished"] and stored["steps"] == 3
    with pytest.raises(ConfigError, match="is finished and is not overwritten: choose another --out to train again"):
        open_run(tmp_path, RUN)


def test_other_settings_and_other_data_are_named(tmp_path: Path) -> None:
    open_run(tmp_path, RUN)
    other = {**RUN, "identity": {"recipe": {"optim": {"lr": 0.2}}, "data": "f2", "weights": None}}
    with pytest.raises(ConfigError) as error:
        open_run(tmp_path, other)
    assert str(error.value) == (
        f"the run in {tmp_path} was started differently (recipe.optim.lr 0.1, now 0.2; data f1, now f2): "
        "give what it was started with to continue it, or another --out, or --accept-changes to go on like this"
    )


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(StorageError, match="holds other files and no run: choose another --out"):
        open_run(tmp_path, RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": {}}', "no json"])
def test_a_record_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StorageError, match=r"run\.json is not the record of a run: choose another --out"):
        open_run(tmp_path, RUN)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory; choose another --out"):
        open_run(tmp_path / "file" / "run", RUN)
    with pytest.raises(StorageError, match="choose another --out"):
        open_run(tmp_path / "file", RUN)


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    for step in (1, 2, 3):
        metrics.append({"step": step, "loss": 1.0})
    metrics.append({"step": 3, "val_top1": 0.5})
    metrics.append({"step": 4, "loss": 1.0})
    assert metrics.scored == {3}
    metrics.truncate(3)
    assert [row["step"] for row in Metrics(tmp_path).rows()] == [1, 2, 3, 3] and metrics.scored == {3}
    metrics.truncate(2)
    assert [row["step"] for row in metrics.rows()] == [1, 2] and metrics.scored == set()


def test_a_line_that_a_kill_cut_is_left_out(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.append({"step": 1, "loss": 1.0})
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert Metrics(tmp_path).rows() == [{"step": 1, "loss": 1.0}]
    metrics.truncate(2)
    metrics.append({"step": 2})
    assert [row["step"] for row in metrics.rows()] == [1, 2]


def test_metrics_that_cannot_be_written(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.path.mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl: Is a directory"):
        metrics.append({"step": 1})
