"""The benchmark of training steps runs and reports what it promises; its small variant, whose ratios mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


@pytest.mark.slow
def test_the_small_variant_writes_every_ratio(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [sys.executable, "-P", str(PROGRAM), "--small", "--one-thread", "--pairs", "3", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["threads"] == 1
    case = json.loads(out.read_text())["cases"]["tiny"]
    assert case["ratio_to_vitrail"]["vitrail"]["median"] == 1.0
    assert {len(seconds) for seconds in case["seconds"].values()} == {3}
    assert case["ratio_to_vitrail"]["matrix products alone"]["median"] > 0
    assert "timm takes" in done.stdout
