"""The import contract of the house, run as part of the suite, and shown able to fail."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package under `folder`/src with the contract of `folder`."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its contract, to be spoilt."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_the_contract_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "named"),
    [
        ("models/cost.py", "import vitrail.evaluate", "vitrail.models.cost -> vitrail.evaluate"),  # up
        ("data/decode.py", "import vitrail.weights", "vitrail.data.decode -> vitrail.weights"),  # sideways
        ("models/vit.py", "def later():\n    import torchvision", "vitrail.models.vit -> torchvision"),  # past the core
        ("ops/metrics.py", "import vitrail.report", "vitrail.ops.metrics -> vitrail.report"),
    ],
)
def test_a_forbidden_import_breaks_it(copy: Path, file: str, line: str, named: str) -> None:
    path = copy / "src" / "vitrail" / file
    path.write_text(path.read_text() + f"\n\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert named in done.stdout


def test_a_room_without_a_place_breaks_it(copy: Path) -> None:
    (copy / "src" / "vitrail" / "attic.py").write_text('"""A room that the contract does not know."""\n')
    done = lint(copy)
    assert done.returncode != 0
    assert "attic" in done.stdout + done.stderr


def test_every_layer_of_the_contract_is_a_room_or_waits_for_one() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    names = config["importlinter:contract:house"]["layers"].replace("|", "\n").split()
    for name in names:
        optional = name.startswith("(")
        room = ROOT / "src" / "vitrail" / name.strip("()")
        assert optional != (room.is_dir() or room.with_suffix(".py").is_file()), (
            f"{name}: a room that exists is not optional"
        )
