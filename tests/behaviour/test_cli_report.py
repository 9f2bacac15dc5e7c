"""`vitrail report`: two real runs, in the terminal, as JSON and as a page."""

import json
from pathlib import Path

import pytest

from pictures import class_folders
from vitrail.cli import main
from vitrail.evaluate.comparison_report import Comparison
from vitrail.train import train

Capture = pytest.CaptureFixture[str]
TINY = ["width=8", "depth=1", "heads=2", "mlp_dim=8", "batch_size=8", "precision=float32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `short` and `long` on the same images."""
    folder = tmp_path_factory.mktemp("runs")
    data = class_folders(folder / "zoo", {f"{s}/{c}": n for s, n in (("train", 8), ("val", 5)) for c in ("ape", "bee")})
    for name, epochs in (("short", 1), ("long", 6)):
        train(data, out=folder / name, overrides=[*TINY, f"epochs={epochs}"], notify=lambda news: None)
    return folder


def test_text_json_and_page(runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(runs / "short"), str(runs / "long")]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("report   comparison.html\n")
    assert "| A   | short" in out and "B against A:" in out and "| epochs " in out
    assert max(len(line) for line in out.splitlines() if line.startswith("|")) <= 80
    page = Path("comparison.html").read_text()
    assert "short" in page and "long" in page
    assert main(["report", str(runs / "short"), str(runs / "long"), "--json", "-"]) == 0
    comparison = Comparison.model_validate(json.loads(capsys.readouterr().out))
    assert comparison.differences[0].images == 10
    (d,) = comparison.differences
    a, b = (run.scores for run in comparison.runs)
    assert a and b and d.difference == pytest.approx(b.top1 - a.top1)


def test_json_alone_writes_no_page(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(runs / "short"), "--json", "one.json"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["one.json"]
    assert "It names the right class" in capsys.readouterr().out
    assert main(["report", str(runs / "short"), "--html", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["{runs}/shrt"],
            "a run is a folder that `vitrail train` made, but '{runs}/shrt' does not exist; did you mean",
        ),
        (["{runs}/zoo"], "a run is a folder that `vitrail train` made, but '{runs}/zoo' has no run.json"),
        (["{runs}/short", "{runs}/short"], "a run can be compared with others only, but '{runs}/short' is named twice"),
        (["{runs}/short", "--html", "{runs}"], "cannot write {runs}: it is a folder; name a file"),
        ([], "RUN is missing"),
    ],
)
def test_a_mistake_is_one_sentence(runs: Path, capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert main(["report", *(a.format(runs=runs) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: " + sentence.format(runs=runs)), err
    assert err.count("\n") == 1
