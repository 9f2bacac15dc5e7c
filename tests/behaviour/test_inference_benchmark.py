"""benchmarks/inference.py runs, and its figures follow from its seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "inference.py"
SIDES = ["vitrail openvino-float32", "timm eager float32", "OpenVINO float32 on timm's export"]


def run(*arguments: str, out: Path) -> dict[str, object]:
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_the_comparison_runs(tmp_path: Path) -> None:
    (case,) = run("--sides", *SIDES, out=tmp_path / "out.json")["cases"]  # type: ignore[misc]
    seconds = case["seconds"]
    assert set(case["sides"]) == set(SIDES) and all(len(s) == 2 for s in seconds.values())
    claim = case["claims"]["vitrail openvino-float32 over timm eager float32"]
    ratios = sorted(b / a for a, b in zip(seconds[SIDES[0]], seconds[SIDES[1]], strict=True))
    assert claim["median"] == pytest.approx(sum(ratios) / 2)


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_not_measured(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert run("--device", "cuda", out=tmp_path / "out.json")["cases"] == "not measured: there is no GPU"
