"""What the package offers, what it imports, and that the tests look at this checkout."""

import ast
import importlib
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import vitrail

ROOT = Path(__file__).parents[2]

PUBLIC = ["Classifier", "Predictor", "ViT", "evaluate", "load", "trace", "train"]

BLOCKED = ("torchvision", "matplotlib", "pyarrow", "sklearn", "timm", "transformers", "scipy", "pandas")

BLOCK = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))  # None: neither `import` nor `find_spec` sees it
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `program` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)


def test_the_tests_import_this_checkout() -> None:
    assert Path(vitrail.__file__).resolve().parent == (ROOT / "src" / "vitrail").resolve()


def test_public_names_are_these() -> None:
    assert vitrail.__all__ == PUBLIC
    for name in PUBLIC:
        assert callable(getattr(vitrail, name)), name
        assert name in dir(vitrail)


def test_public_names_stay_callable_after_their_rooms_are_imported() -> None:
    program = (
        "import vitrail.train, vitrail.evaluate, vitrail; assert callable(vitrail.train) and callable(vitrail.evaluate)"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_import_vitrail_is_light() -> None:
    done = python("import sys, vitrail; print([m for m in ('torch', 'numpy', 'PIL', 'pydantic') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_import_of_inference_reaches_the_core_only() -> None:
    program = f"import sys, vitrail.inference; print([m for m in {BLOCKED!r} if m in sys.modules])"
    assert python(program).stdout.strip() == "[]"


def test_the_block_is_real() -> None:
    done = python(BLOCK + "import torchvision")
    assert done.returncode == 1
    assert "import of torchvision halted" in done.stderr


def test_models_needs_the_core_only() -> None:
    done = python(BLOCK + "from vitrail.cli import main; sys.exit(main(['models', '--json']))")
    assert done.returncode == 0, done.stderr
    assert {"Ti/16", "B/16"} <= {row["name"] for row in json.loads(done.stdout)}


def test_predict_needs_the_core_only(model_folder: Path, photos: Path) -> None:
    program = BLOCK + "from vitrail.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(program, "predict", str(model_folder), str(photos), "--json", "-")
    assert done.returncode == 0, done.stderr
    assert all(row["error"] is None for row in json.loads(done.stdout))


def test_inspecting_and_loading_do_not_wait_for_the_compiler(model_folder: Path) -> None:
    """Its import takes a second; drawing numbers for tensors that have none would cause it, as the last line shows."""
    program = (
        "import sys, torch, vitrail; from vitrail.cli import main; main(['inspect', sys.argv[1]])\n"
        "vitrail.load(sys.argv[1]); print('torch._dynamo' in sys.modules)\n"
        "with torch.device('meta'): torch.nn.init.normal_(torch.empty(1))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = python(program, str(model_folder))
    assert done.stdout.splitlines()[-2:] == ["False", "True"], done.stderr


def test_a_missing_extra_is_one_sentence_with_the_pip_command() -> None:
    program = BLOCK + "from vitrail.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(program, "train", "digits")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'vitrail[train]'" in done.stderr


def test_every_declared_dependency_is_pinned() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = importlib.import_module("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines if line and line[0] != "#"}
    wanted = [Requirement(r) for r in (*project["dependencies"], *chain(*project["optional-dependencies"].values()))]
    for requirement in wanted:
        if requirement.name != "vitrail":
            pin = pins[canonicalize_name(requirement.name)]
            (version,) = pin.specifier
            assert version.operator == "==" and requirement.specifier.contains(version.version), (
                f"{requirement} | {pin}"
            )


def test_everything_imported_is_declared() -> None:
    names = {
        "torch",
        "safetensors",
        "PIL",
        "numpy",
        "pydantic",
        "cyclopts",
        "yaml",
        "huggingface_hub",
        "jinja2",
        "jaxtyping",
    }
    extras = {"torchvision", "matplotlib", "pyarrow", "sklearn", "cleanlab"}
    extras |= {"openvino", "nncf", "onnx", "onnxruntime", "onnxscript"}
    compared = {"timm", "transformers", "open_clip"}  # with conversions, where they are installed: see libraries.py
    brought = {"rich", "markupsafe"}  # by cyclopts and by jinja2, which are made of them
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    foreign = found - sys.stdlib_module_names - {"vitrail"}
    assert foreign <= names | extras | compared | brought, foreign - names - extras - compared - brought
