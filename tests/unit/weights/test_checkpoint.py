"""The model folder is published whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import StorageError, WeightsError
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import read_record, write_model_folder
from vitrail.weights.load import load_weights

CONFIG = ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=12, depth=1, heads=3, mlp_dim=16, classes=2)


def write(folder: Path, version: int) -> None:
    torch.manual_seed(version)
    write_model_folder(folder, ViT(CONFIG), Preprocess(size=(8, 8)), LabelSet(("a", "b")), {"version": version})


def test_a_folder_holds_what_the_ecosystem_needs(tmp_path: Path) -> None:
    write(tmp_path / "model", 1)
    names = sorted(p.name for p in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json", "vitrail.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    table = json.loads((tmp_path / "model" / "vitrail.json").read_text())
    assert sorted(table["sha256"]) == names[:-1]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "num_classes" not in config["model_args"], "transformers would refuse the folder"


def test_the_card_names_data_licence_and_start_and_escapes_class_names(tmp_path: Path) -> None:
    record = {
        "licence": "apache-2.0",
        "started_from": "deit",
        "data": {"name": "f", "splits": {"train": 3}, "fingerprint": "ab"},
    }
    write_model_folder(tmp_path / "m", ViT(CONFIG), Preprocess(size=(8, 8)), LabelSet(("<img x>", "a|b")), record)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "license: apache-2.0" in card and "started from `deit`" in card and "3 train" in card
    assert "<img" not in card and "&lt;img x&gt;" in card and "a\\|b" in card


@pytest.mark.parametrize("k", range(1, 40))
def test_whatever_call_fails_a_whole_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    """The k-th open, fsync, mkdir or rename says the disk is full; for large k the save succeeds."""
    folder = tmp_path / "model"
    write(folder, 1)
    calls = 0

    def failing(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == k:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "open", "mkdir"):
            patch.setattr(os, name, failing(getattr(os, name)))
        patch.setattr(Path, "write_text", failing(Path.write_text))
        try:
            write(folder, 2)
            saved = 2
        except StorageError as error:
            assert str(error) == f"the model could not be saved in {folder}: No space left on device"
            saved = None
    found = read_record(folder)["version"]
    assert found == saved if saved else found in (1, 2)
    load_weights(folder)
    if k == 39:
        assert saved == 2, "the sweep must reach a save that succeeds"


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"the model could not be saved in .*file/model: Not a directory"):
        write(tmp_path / "file" / "model", 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "should be a JSON table, found list"),
        ('{"model": {"kind": "vit"}}', "lacks or mistypes 'labels'"),
        ('{"model": {"kind": "mlp"}}', "holds a 'mlp' model; known: vit, resnet"),
        ('{"sha256": {"../x": "00"}}', "damaged or edited"),
    ],
)
def test_a_broken_record_is_one_sentence(tmp_path: Path, edit: str, message: str) -> None:
    write(tmp_path / "model", 1)
    (tmp_path / "model" / "vitrail.json").write_text(edit)
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / "model")
