"""The trace of one image as a file: what is written is read again, and nothing else is."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from architectures import KINDS, gap, make
from vitrail.config import Preprocess, ResNetConfig
from vitrail.errors import ConfigError, StorageError, WeightsError
from vitrail.explain import attention as maps
from vitrail.explain.tracefile import (
    KEY,
    PRECISIONS,
    StoredTrace,
    capture,
    from_levels,
    read_trace,
    to_levels,
    write_trace,
)
from vitrail.inference import Classifier
from vitrail.models.intervention import Intervention
from vitrail.models.resnet import ResNet
from vitrail.models.trace import PARTS
from vitrail.types import LabelSet

NAMES = tuple(f"class {i}" for i in range(7))
EVERY = [*KINDS, "tanh"]


def stored(kind: str = "token", parts: tuple[str, ...] = PARTS, change: Intervention | None = None) -> StoredTrace:
    torch.manual_seed(3)
    model, _ = make(kind) if kind != "tanh" else make("token", pre_logits=8)
    classifier = Classifier(model.float(), Preprocess(size=(16, 24)), LabelSet(NAMES))
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    return capture(classifier, pixels, parts=parts, change=change or Intervention(), model="toy", name="a <b>.png")


def tensors(record: StoredTrace) -> dict[str, Tensor]:
    whole = {k: v for k, v in vars(record.trace).items() if isinstance(v, Tensor)}
    for i, block in enumerate(record.trace.blocks):
        whole |= {f"blocks.{i}.{part}": value for part, value in block.kept.items()}
    return whole


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_written_is_read_again_bit_for_bit(kind: str, tmp_path: Path) -> None:
    record = stored(kind)
    write_trace(tmp_path / "a.safetensors", record)
    again = read_trace(tmp_path / "a.safetensors")
    assert again.info == record.info and torch.equal(again.pixels, record.pixels)
    before, after = tensors(record), tensors(again)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    write_trace(tmp_path / "b.safetensors", again)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_prediction_and_the_names_are_in_the_file(tmp_path: Path) -> None:
    record = stored()
    write_trace(tmp_path / "a.safetensors", record)
    info = read_trace(tmp_path / "a.safetensors").info
    shares = record.trace.logits[0].double().softmax(0)
    assert [g.index for g in info.predictions] == shares.argsort(descending=True)[:5].tolist()
    assert info.predictions[0].probability == pytest.approx(float(shares.max()))
    assert info.predictions[0].label == NAMES[info.predictions[0].index]
    assert (info.image, info.model, info.size, info.labels) == ("a <b>.png", "toy", (20, 30), NAMES)


@pytest.mark.parametrize("kind", ["token", "rotary, registers"])
def test_chosen_parts_and_dropped_patches(kind: str, tmp_path: Path) -> None:
    record = stored(kind, ("attention", "values"), Intervention(drop=[0, 7]))
    write_trace(tmp_path / "a.safetensors", record, "uint8")
    again = read_trace(tmp_path / "a.safetensors")
    assert list(again.trace.blocks[0].kept) == ["values", "attention"]
    assert again.trace.places.tolist() == [p for p in range(24) if p not in (0, 7)]
    write_trace(tmp_path / "b.safetensors", stored(kind, ()))
    assert list(read_trace(tmp_path / "b.safetensors").trace.blocks[2].kept) == []


def test_the_error_of_each_precision_is_what_is_stated(tmp_path: Path) -> None:
    record = stored()
    for precision in PRECISIONS:
        write_trace(tmp_path / f"{precision}.safetensors", record, precision)
        found = read_trace(tmp_path / f"{precision}.safetensors").trace
        for one, other in zip(record.trace.blocks, found.blocks, strict=True):
            off = (one.attention - other.attention).abs()
            if precision == "uint8":
                assert (off <= one.attention.amax(-1, keepdim=True) / 510 * (1 + 1e-5)).all()
                assert float(off.max()) > 0
            elif precision == "float16":
                assert (off <= one.attention * 2**-11 + 2**-25).all()
            else:
                assert torch.equal(one.attention, other.attention)
    sizes = [(tmp_path / f"{p}.safetensors").stat().st_size for p in PRECISIONS]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_levels_at_their_ends() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.499, 0.001]])
    levels, step = to_levels(rows)
    assert levels[0].tolist() == [255, 0, 0] and levels[1].tolist() == [255] * 3
    assert (from_levels(levels, step) - rows).abs().amax(-1).le(rows.amax(-1) / 510 + 1e-8).all()


def test_a_rollout_from_a_file_of_levels_is_that_of_the_model(tmp_path: Path) -> None:
    record = stored()
    write_trace(tmp_path / "a.safetensors", record, "uint8")

    def rolled(blocks: tuple[Tensor, ...]) -> Tensor:
        mean = [b.mean(dim=1) for b in blocks]
        return maps.product([maps.half_residual(a / a.sum(-1, keepdim=True)) for a in mean])[0, 0, 1:]

    exact = rolled(tuple(b.attention for b in record.trace.blocks))
    found = rolled(tuple(b.attention for b in read_trace(tmp_path / "a.safetensors").trace.blocks))
    assert gap(found, exact) < 5e-3 * float(exact.max())


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    """What a reader in another language relies on; see docs/trace.md."""
    write_trace(tmp_path / "a.safetensors", stored(), "uint8")
    data = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    table = json.loads(header.pop("__metadata__")[KEY])
    assert length % 8 == 0 and table["config"]["depth"] == 3 and table["attention"] == "uint8"
    sizes = {"F32": 4, "I32": 4, "U8": 1}
    for name, entry in header.items():
        assert entry["data_offsets"][0] % sizes[entry["dtype"]] == 0, name
    assert header["blocks.0.attention"]["shape"] == [3, 25, 25] and header["blocks.0.attention"]["dtype"] == "U8"
    assert header["blocks.0.attention_scale"]["shape"] == [3, 25]
    page = (Path(__file__).parents[3] / "docs" / "trace.md").read_text()
    for name in {n if not n.startswith("blocks.") else n.split(".")[2] for n in header} | {"stem", "pool_attention"}:
        assert f"`{name}`" in page or f".{name}`" in page, name


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.safetensors"
    write_trace(path, stored(), "uint8")
    return path


def spoil(path: Path, change: dict[str, Tensor | None], **fields: object) -> Path:
    """The same trace with tensors changed or (None) taken away, and fields of its table changed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        table = json.loads(file.metadata()[KEY])
    table |= fields
    found = {**load_file(path), **change}
    save_file({k: v for k, v in found.items() if v is not None}, path, metadata={KEY: json.dumps(table)})
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": None, "more": torch.zeros(1)}, "tokens is missing; more has no place"),
        ({"tokens": torch.zeros(25, 25)}, r"tokens is \(25, 25\) float32, not \(25, 24\) float32"),
        ({"logits": torch.zeros(7, dtype=torch.float64)}, "logits is .* float64, not"),
        ({"logits": torch.full((7,), float("nan"))}, "NaN or infinite numbers in logits"),
        ({"blocks.0.values": None}, "other than its 3 blocks call for"),
        ({"blocks.0.values": None, "blocks.3.values": torch.zeros(3, 25, 8)}, "blocks.0.values is missing"),
        ({"places": torch.arange(24, dtype=torch.int32).flip(0)}, "places outside its grid"),
        ({"places": torch.arange(1, 25, dtype=torch.int32)}, "places outside its grid"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_refused(sound: Path, change: dict[str, Tensor | None], text: str) -> None:
    with pytest.raises(WeightsError, match=text):
        read_trace(spoil(sound, change))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"version": 2}, "version"),
        ({"code": "import os"}, "no field 'code'"),
        ({"parts": ["attention", "attentoin"]}, "parts are norm1"),
        ({"parts": ["attention", "attention"]}, "parts are norm1"),
        ({"labels": ["one"]}, "names 1 classes of 7"),
        ({"predictions": [{"index": 9, "label": "x", "probability": 0.5, "logit": 0.0}]}, "7 classes of 7"),
        ({"predictions": [{"index": 1, "label": "x", "probability": 2, "logit": 0.0}]}, "less than or equal to 1"),
        ({"patches": 25}, "other sizes"),
        (
            {"config": {"depth": 10**9, "width": 8, "heads": 1, "classes": 7}},
            "than its 1000000000 blocks call for|sizes",
        ),
        ({"config": 3}, "config"),
        ({"labels": [["x"] * 3] * 7}, "labels"),
    ],
    ids=str,
)
def test_tables_that_do_not_fit_are_refused(sound: Path, fields: dict[str, object], text: str) -> None:
    with pytest.raises(WeightsError, match=text):
        read_trace(spoil(sound, {}, **fields))


def test_other_files_are_refused(sound: Path, tmp_path: Path) -> None:
    data = sound.read_bytes()
    for name, content, text in [
        ("cut.safetensors", data[:-10], "claims the shape|not a sound"),
        ("short.safetensors", data[:5], "ends before its header"),
        ("long.safetensors", struct.pack("<Q", 2**60) + data[8:], "claims"),
        ("none.safetensors", struct.pack("<Q", 2) + b"[]", "header is not a table"),
        ("number.safetensors", struct.pack("<Q", 24) + b'{"__metadata__":{"a":1}}', "not texts"),
        ("weights.safetensors", b"", "ends before"),
        ("a.pt", data, "no .safetensors file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=text):
            read_trace(tmp_path / name)
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="is not a trace"):
        read_trace(tmp_path / "weights.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors", metadata={KEY: "[" * 100_000})
    with pytest.raises(WeightsError, match="no JSON table"):
        read_trace(tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="No such file"):
        read_trace(tmp_path / "missing.safetensors")


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_trace(tmp_path / "a.safetensors", stored())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"older"


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("vitrail.explain.tracefile.save_file", full)
    with pytest.raises(StorageError, match=r"cannot write .*a\.safetensors: No space left on device"):
        write_trace(tmp_path / "a.safetensors", stored())
    assert not [*tmp_path.iterdir()]


def test_it_is_as_readable_as_any_file(tmp_path: Path) -> None:
    """safetensors makes its files readable by their owner alone."""
    (tmp_path / "other").touch()
    write_trace(tmp_path / "a.safetensors", stored())
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_resnet_has_nothing_to_trace() -> None:
    model = ResNet(ResNetConfig(image_size=(16, 24), layers=(1,), width=32, classes=7))
    classifier = Classifier(model, Preprocess(size=(16, 24)), LabelSet(NAMES))
    with pytest.raises(ConfigError, match="no tokens to trace"):
        capture(classifier, torch.zeros(3, 16, 24, dtype=torch.uint8))
