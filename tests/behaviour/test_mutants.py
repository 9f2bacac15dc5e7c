"""Eight ways to get a Vision Transformer subtly wrong; the suite must notice each.

A copy of the package is changed in one place, and the fast tests of the model run against that copy. The copy's path is
asserted inside those runs: tests that import another copy would pass every mutant.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vitrail

ROOT = Path(__file__).parents[2]
SUITE = ["tests/golden/test_jax.py", "tests/unit/models", "tests/unit/ops/test_grid.py", "tests/parity/test_timm.py"]
MUTANTS = {
    "norm after attention": (
        "models/vit.py",
        "self.attention(self.norm1(x), queries, rotation)",
        "self.norm1(self.attention(x, queries, rotation))",
    ),
    "class token last": (
        "models/vit.py",
        "torch.cat([*(token.expand(len(x), -1, -1) for token in parts), x], dim=1)",
        "torch.cat([x, *(token.expand(len(x), -1, -1) for token in parts)], dim=1)",
    ),
    "patches by column": (
        "models/vit.py",
        "self.patch_embedding(x).flatten(2).transpose(1, 2)",
        "self.patch_embedding(x).transpose(2, 3).flatten(2).transpose(1, 2)",
    ),
    "the other GELU": ("models/layers.py", '"tanh" if config.gelu == "tanh" else "none"', '"tanh"'),
    "another eps": (
        "models/vit.py",
        "self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)",
        "self.norm2 = nn.LayerNorm(config.width, eps=1e-5)",
    ),
    "no attention scale": (
        "models/layers.py",
        "F.scaled_dot_product_attention(q, k, v, scale=scale)",
        "F.scaled_dot_product_attention(q, k, v, scale=1.0)",
    ),
    "norms swapped": ("models/vit.py", "self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))"),
    "heads on the wrong axis": (
        "models/layers.py",
        "x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)",
        "x.unflatten(-1, (parts, -1, self.heads)).permute(2, 0, 4, 1, 3)",
    ),
}


def survives(source: Path, folder: Path) -> bool:
    """Whether the suite passes against the package in `source`; fails the test where it ran against another one."""
    (folder / "conftest_path.py").write_text(
        "import pathlib, vitrail\n"
        f"assert pathlib.Path(vitrail.__file__).is_relative_to({str(source)!r}), vitrail.__file__\n"
        "def pytest_terminal_summary(terminalreporter):\n"
        "    terminalreporter.write_line(f'package under test: {vitrail.__file__}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{folder}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not compile and not slow"]
    command += ["-p", "conftest_path", *SUITE]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert f"package under test: {source}" in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
    assert result.returncode in (0, 1), result.stdout[-2000:] + result.stderr[-2000:]  # 1: tests failed; else it broke
    return result.returncode == 0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    package = Path(vitrail.__file__).parent
    shutil.copytree(package, tmp_path / "src" / "vitrail", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_still_fits_the_source(name: str) -> None:
    """Fast, so that a change of the model cannot leave a mutant behind that changes nothing."""
    file, right, wrong = MUTANTS[name]
    text = (Path(vitrail.__file__).parent / file).read_text("utf-8")
    assert text.count(right) == 1 and wrong not in text.replace(right, "")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the whole suite of the model, on a machine that may be busy
def test_the_unchanged_copy_passes(copy: Path, tmp_path: Path) -> None:
    """The control: what kills the mutants is the change, not the copying."""
    assert survives(copy, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_kills_the_mutant(name: str, copy: Path, tmp_path: Path) -> None:
    file, right, wrong = MUTANTS[name]
    path = copy / "vitrail" / file
    path.write_text(path.read_text("utf-8").replace(right, wrong), "utf-8")
    assert not survives(copy, tmp_path), f"the mutant {name!r} lives"
