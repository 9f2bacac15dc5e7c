"""The benchmark of faithfulness goes on where it was stopped, and tells every method from random maps."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pictures import class_folders
from programs import program
from vitrail.config import Preprocess, ViTConfig
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder


@pytest.mark.slow
def test_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ViTConfig(image_size=(16, 16), patch_size=(4, 4), width=16, depth=12, heads=2, mlp_dim=16, classes=2)
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(2))  # type: ignore[union-attr]
    write_model_folder(tmp_path / "model", model, Preprocess(size=(16, 16)), LabelSet(("a", "b")), {})
    photos, out = class_folders(tmp_path / "photos", {"a": 12, "b": 12}, size=16), tmp_path / "out.jsonl"
    arguments = ["faithfulness", str(photos), str(tmp_path / "model"), "--batches", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark = program("faithfulness")
    benchmark.main()
    lines = out.read_text().splitlines()
    names = [json.loads(line)["name"] for line in lines]
    assert len(names) == len(set(names)) == 2 * (len(benchmark.METHODS) - 1 + len(benchmark.RANDOM)) + 1
    whole = capsys.readouterr().out
    out.write_text("\n".join(lines[:7]) + "\n")
    benchmark.main()
    again = out.read_text().splitlines()
    assert again[:7] == lines[:7] and len(again) == len(lines)
    shown = capsys.readouterr().out
    assert f"| {len(benchmark.RANDOM)} random maps |" in shown and "| occlusion |" in shown
    assert [row for row in shown.splitlines() if row.startswith("| rollout | 0.")] == [
        row for row in whole.splitlines() if row.startswith("| rollout | 0.")
    ]
