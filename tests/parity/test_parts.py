"""Models that are too large for one file: an index and the parts that it names, as transformers writes them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from vitrail.errors import WeightsError
from vitrail.evaluate.parity import convert
from vitrail.weights.files import INDEX_FILE
from vitrail.weights.inspect import inspect_weights
from vitrail.weights.load import load_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=40, num_labels=3,
        )
    )  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    model.save_pretrained(tmp_path / "vit", max_shard_size="16KB")
    assert len(list((tmp_path / "vit").glob("*.safetensors"))) > 2
    return tmp_path / "vit"


def test_the_parts_are_one_model(folder: Path, tmp_path: Path) -> None:
    theirs = ViTForImageClassification.from_pretrained(folder).double().eval()
    loaded = load_weights(folder)
    assert loaded.form == "transformers-vit"
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert (loaded.model.double()(images) - theirs(images).logits).abs().max() < 1e-9
    report = convert(folder, tmp_path / "back", "transformers")
    assert [c.what.split(" transformers")[0] for c in report.comparisons if c.differences is not None] == [
        "the source in", "the result in vitrail", "the result in",
    ]  # fmt: skip
    assert inspect_weights(folder).parameters == sum(p.numel() for p in theirs.parameters())


def test_the_parts_of_a_hugging_face_id_are_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_weights("some/large-model").form == "transformers-vit"
    assert INDEX_FILE in asked[0] and asked[1] == ["model-*-of-*.safetensors"]


def refused(folder: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)


def test_a_part_that_is_missing_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00004.safetensors").rename(folder / "elsewhere")
    refused(folder, r"index\.json names model-00002-of-00004\.safetensors, which is not there; copy or download it too")


def test_a_part_that_holds_something_else_is_named(folder: Path) -> None:
    part = folder / "model-00002-of-00004.safetensors"
    save_file(load_file(part) | {"extra": torch.zeros(1)}, part)
    refused(folder, r"model-00002-of-00004\.safetensors and .*index\.json differ in extra \(1 tensors\)")


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "sub/w.safetensors", "w.bin", ""])
def test_an_index_leads_nowhere_else(folder: Path, name: str) -> None:
    table = json.loads((folder / INDEX_FILE).read_text())
    table["weight_map"]["classifier.bias"] = name
    (folder / INDEX_FILE).write_text(json.dumps(table))
    refused(folder, r"index\.json names .*, which is no \.safetensors file of its folder")


def test_an_index_that_is_none(folder: Path, tmp_path: Path) -> None:
    (folder / INDEX_FILE).write_text('{"weight_map": ["a"]}')
    refused(folder, "has no weight_map, a table of tensors and the files that they are in")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(501)}}))
    refused(folder, "names 501 files; a model has at most 500")
    (folder / INDEX_FILE).rename(tmp_path / "index.json")
    (folder / INDEX_FILE).symlink_to(tmp_path / "index.json")
    refused(folder, "is a link to a file outside")
