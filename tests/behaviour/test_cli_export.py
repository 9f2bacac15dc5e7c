"""`vitrail export` and `vitrail benchmark` as a user types them."""

import json
from pathlib import Path

import pytest

from vitrail.cli import DONE, MISTAKE, main
from vitrail.inference import load
from vitrail.weights.checkpoint import write_model_folder


def test_benchmark_shows_a_table_and_writes_it(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    arguments = ["benchmark", str(model_folder), "--engines", "torch", "--engines", "openvino-int8"]
    assert main([*arguments, "--rounds", "2", "--batch", "2", "--images", str(photos), "--json", str(out)]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t")[:3] == ["engine", "img/s", "quartiles"]
    assert lines[1].startswith("torch-float32\t") and " of 24\t" in lines[1]
    assert lines[2].startswith("openvino-int8\t–\tthe engine openvino-int8 must see photos")
    assert lines[3] == "fastest whose logits are alike: torch-float32"
    table = json.loads(out.read_text())
    assert table["fastest"] == "torch-float32" and len(table["engines"][0]["seconds"]) == 2
    assert table["engines"][0]["cosine"] > 0.999999 and table["engines"][1]["images_per_second"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["benchmark", "MODEL", "--engines", "openvin"], "unknown engine 'openvin'; did you mean 'openvino'"),
        (["benchmark", "MODEL", "--rounds", "1"], "--rounds at least 2"),
        (["benchmark", "MODEL", "--engines", "torch", "--merge", "-1"], "should be 0 or more"),
        (["predict", "MODEL", "PHOTO", "--engine", "tensorrt"], "unknown engine 'tensorrt'"),
        (["predict", "MODEL", "PHOTO", "--engine", "openvino-int8"], "must see photos"),
        (["export", "MODEL", "OUT", "--to", "coreml"], "unknown target 'coreml'"),
        (["export", "MODEL", "OUT", "--to", "timm", "--precision", "int8"], "--precision does not go with --to timm"),
        (["export", "MODEL", "OUT", "--to", "timm", "--resize-inside"], "--resize-inside does not go with --to timm"),
        (["export", "MODEL", "OUT", "--to", "aoti", "--resize-inside"], "--resize-inside goes with onnx and openvino"),
        (["export", "NEAREST", "OUT", "--to", "onnx", "--resize-inside"], "by nearest pixels cannot be inside"),
        (["export", "MODEL", "MODEL", "--to", "onnx"], "exists; name a new folder"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    sentence: str,
    model_folder: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nearest = tmp_path / "nearest"
    model = load(model_folder)
    preprocess = model.preprocess.model_copy(update={"interpolation": "nearest"})
    write_model_folder(nearest, model.model, preprocess, model.labels, {})
    names = {"MODEL": model_folder, "NEAREST": nearest, "PHOTO": photos / "red" / "red0.png", "OUT": tmp_path / "out"}
    assert main([str(names.get(word, word)) for word in arguments]) == MISTAKE
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("vitrail: ") and sentence in told
    assert not (tmp_path / "out").exists()


def test_export_to_timm_is_a_conversion(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model_folder), "--out", str(tmp_path / "out"), "--to", "timm"]) == DONE
    assert (tmp_path / "out" / "config.json").is_file() and "in float64" in capsys.readouterr().out
