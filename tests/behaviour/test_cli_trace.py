"""`vitrail trace`: the numbers of one forward pass in a file; mistakes in one sentence, before the work."""

from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.cli import main
from vitrail.explain.tracefile import read_trace

Capture = pytest.CaptureFixture[str]


def test_the_file_holds_what_python_traces(model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    photo = photos / "red" / "red0.png"
    out = tmp_path / "deep" / "t.safetensors"
    assert main(["trace", str(model_folder), str(photo), "-o", str(out), "--parts", "attention,values"]) == 0
    stored = read_trace(out)
    classifier = vitrail.load(model_folder)
    logits, record = vitrail.trace(classifier.model, classifier.prepare(photo)[None])
    assert torch.equal(stored.trace.logits, logits)
    assert torch.equal(stored.trace.blocks[0].attention, record.blocks[0].attention)
    assert list(stored.trace.blocks[0].kept) == ["values", "attention"]
    assert torch.equal(stored.pixels, classifier.fit(photo))
    assert (stored.info.image, stored.info.model) == ("red0.png", model_folder.name)
    rows = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    best = classifier.predict(photo)[0]
    assert rows["prediction"] == f"{best.labels[0]} {100 * best.probabilities[0]:.1f} %"
    assert rows["blocks"] == "1, of each: values, attention"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["-o", "t.npz"], "--out should end in .safetensors, the format of a trace, found 't.npz'"),
        (["-o", "t.safetensors", "--parts", "atention"], "did you mean 'attention'"),
        (["-o", "t.safetensors", "--attention", "int4"], "int4"),
        ([], "--out"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    more: list[str], text: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["trace", str(model_folder), str(photos / "red" / "red0.png"), *more]) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_is_named(model_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, reason in (("text.jpg", "not an image, but text"), ("none.jpg", "no such file")):
        given = str(tmp_path / name)
        assert main(["trace", str(model_folder), given, "-o", str(tmp_path / "t.safetensors")]) == 2
        err = capsys.readouterr().err
        assert given in err and reason in err and err.count("\n") == 1
