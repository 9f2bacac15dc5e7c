"""Every code block of README.md and docs/ is run, in order, by the real command line on small data."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from behaviour.documents import OTHER_NUMBERS, Block, blocks, plain
from vitrail.train import train

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
BEGIN_WITHOUT_MODEL = ("README.md", "train.md")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


def run_block(block: Block, folder: Path) -> str:
    """Run a block in `folder` with this Python's programs first on the path; its stdout. Fails on any other exit code
    than 0, and on a bash block whose commands fail halfway."""
    command = (
        ["bash", "-euo", "pipefail", "-c", block.text]
        if block.language == "bash"
        else [sys.executable, "-c", block.text]
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"line {block.line}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def play(page: Path, folder: Path, *, slow: bool, shared: Path | None) -> int:
    """Run the page's blocks in order and compare the outputs it shows; returns how many ran.

    Without `slow` a page stops being followed at its first slow block: later blocks may need what it makes.
    """
    out, ran = "", 0
    for block in blocks(page.read_text()):
        if block.mark.startswith("output"):
            same = block.mark != OTHER_NUMBERS
            seen = {plain(line, numbers=same) for line in out.splitlines()} | {"", "..."}
            missing = [line for line in block.text.splitlines() if plain(line, numbers=same) not in seen]
            assert missing == [], f"{page.name}, line {block.line}: not printed by the block before:\n{out}"
        elif block.runs:
            if "slow" in block.mark and not slow:
                break
            if "shared" in block.mark and shared is None:
                pytest.skip(f"{page.name}, line {block.line}: the real photos are not beside this checkout")
            out = run_block(block, folder)
            ran += 1
    return ran


@pytest.fixture(scope="session")
def supplies(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Photos in class folders, one more photo, and a model that was trained on them."""
    folder = tmp_path_factory.mktemp("supplies")
    for kind, name in (("red", "rose"), ("green", "fern"), ("blue", "violet")):
        shutil.copytree(photos / kind, folder / "photos" / name)
    shutil.copy(photos / "red" / "red0.png", folder / "photo.png")
    train(folder / "photos", out=folder / "runs" / "photos", overrides=["epochs=60"], notify=lambda news: None)
    return folder


@pytest.fixture
def desk(tmp_path: Path, supplies: Path, request: pytest.FixtureRequest) -> Path:
    """What a page's reader has at hand. The pages that train have no model yet."""
    shutil.copytree(supplies, tmp_path, dirs_exist_ok=True)
    page = getattr(request.node, "callspec", None) and request.node.callspec.params.get("page")
    if page and page.name in BEGIN_WITHOUT_MODEL:
        shutil.rmtree(tmp_path / "runs")
    weights = ROOT.parent / "shared" / "weights" / "deit_tiny_patch16_224"
    if weights.is_dir():
        (tmp_path / weights.name).symlink_to(weights)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_can_be_followed(page: Path, desk: Path) -> None:
    play(page, desk, slow=False, shared=None)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- run: slow" in p.read_text()], ids=lambda p: p.name)
def test_a_page_can_be_followed_to_its_end(page: Path, desk: Path, request: pytest.FixtureRequest) -> None:
    needed = "needs shared" in page.read_text()
    assert play(page, desk, slow=True, shared=request.getfixturevalue("shared") if needed else None) > 0


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [p.name for p in DOCS if p.name != "index.md" and f"({p.name})" not in index] == []


def test_links_and_pictures_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_draws_every_file_of_the_package() -> None:
    """The tree has one line a file or folder; a new room is not finished before it stands there."""
    text = (ROOT / "README.md").read_text()
    source = ROOT / "src" / "vitrail"
    parts = [p for p in source.iterdir() if not p.name.startswith("__")] + [
        p for folder in source.iterdir() if folder.is_dir() for p in folder.glob("*.py") if p.name != "__init__.py"
    ]
    names = {p.name for p in parts if "__pycache__" not in p.parts and p.name != "py.typed"}
    assert sorted(name for name in names if name not in text) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```\nls\n```\n", "needs a mark"),
        ("```json\n{}\n```\n", "needs a mark"),
        ("<!-- skip -->\n```bash\nls\n```\n", "unknown mark 'skip'"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "unknown mark"),
        ("<!-- run: slow -->\n```json\n{}\n```\n", "cannot be run"),
        ("<!-- output -->\n```\nx\n```\n", "the output of nothing"),
    ],
)
def test_no_block_goes_unnoticed(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        blocks(text)


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nvitrail trian photos\n```\n",
        "```bash\nfalse\ntrue\n```\n",
        "```python\nraise SystemExit(1)\n```\n",
        "```bash\necho top-1 97.1\n```\n\n<!-- output -->\n```\ntop-5 97.1\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(text: str, desk: Path) -> None:
    page = desk / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        play(page, desk, slow=False, shared=None)


def test_output_may_be_said_to_differ_in_its_numbers(desk: Path) -> None:
    page = desk / "page.md"
    text = "```bash\necho '| top-1   98.61 %'\n```\n\n<!-- output -->\n```\ntop-1 97.2 %\n```\n"
    page.write_text(text.replace("output", OTHER_NUMBERS))
    assert play(page, desk, slow=False, shared=None) == 1
    page.write_text(text)
    with pytest.raises(AssertionError):
        play(page, desk, slow=False, shared=None)
