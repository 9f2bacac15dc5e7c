"""Weights files made to harm: each is refused in under a second, in one sentence, with nothing executed, nothing
written and little memory taken. Beside each stands what it imitates, which loads."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitrail
from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.formats.jax_npz import NPZ
from vitrail.weights.load import identify, load_weights
from vitrail.weights.rename import write_tensors

CONFIG = ViTConfig(
    image_size=(16, 16), patch_size=(8, 8), width=24, depth=2, heads=3, mlp_dim=40, classes=3, gelu="tanh"
)
Arrays = dict[str, np.ndarray]


def model() -> ViT:
    torch.manual_seed(0)
    return ViT(CONFIG)


def arrays() -> Arrays:
    return {key: tensor.numpy() for key, tensor in write_tensors(model().state_dict(), NPZ.rules(CONFIG)).items()}


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def archive(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)


def sound(path: Path) -> list[tuple[str, bytes]]:
    return [(f"{key}.npy", npy(array)) for key, array in arrays().items()]


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


class Canary:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def slip(path: Path) -> None:
    archive(path, [*sound(path), ("../../escaped.npy", npy(np.zeros(1, np.float32)))])


def absolute(path: Path) -> None:
    archive(path, [*sound(path), ("/tmp/escaped.npy", npy(np.zeros(1, np.float32)))])


def backslash(path: Path) -> None:
    archive(path, [*sound(path), ("..\\escaped.npy", npy(np.zeros(1, np.float32)))])


def objects(path: Path) -> None:
    table = np.array([Canary(path.parent / "executed")], dtype=object)
    archive(path, [*[m for m in sound(path) if m[0] != "cls.npy"], ("cls.npy", npy(table))])


def pickle_instead_of_an_array(path: Path) -> None:
    import pickle

    archive(
        path,
        [*[m for m in sound(path) if m[0] != "cls.npy"], ("cls.npy", pickle.dumps(Canary(path.parent / "executed")))],
    )


def huge_shape(path: Path) -> None:
    archive(
        path,
        [
            *[m for m in sound(path) if m[0] != "cls.npy"],
            ("cls.npy", header("(10**0, 1, 999999999999)".replace("10**0", "1"))),
        ],
    )


def negative_shape(path: Path) -> None:
    archive(path, [*[m for m in sound(path) if m[0] != "cls.npy"], ("cls.npy", header("(-1, -1, 24)") + b"\0" * 96)])


def huge_array_header(path: Path) -> None:
    text = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 200
    archive(path, [*[m for m in sound(path) if m[0] != "cls.npy"], ("cls.npy", text)])


def bomb(path: Path) -> None:
    """Two gigabytes of zeros in two megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in sound(path):
            file.writestr(name, data)
        with file.open("head/kernel.more.npy", "w", force_zip64=True) as member:
            member.write(header(f"({2**29},)"))
            for _ in range(128):
                member.write(bytes(2**24))


def many_members(path: Path) -> None:
    archive(path, [(f"a{i // 1000}b{i % 1000}.npy", b"") for i in range(30_000)])


def huge_directory(path: Path) -> None:
    archive(path, sound(path))
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 2**31)
    path.write_bytes(data)


def twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, [*sound(path), ("cls.npy", npy(np.ones((1, 1, 24), np.float32)))])


def encrypted(path: Path) -> None:
    archive(path, sound(path))
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    path.write_bytes(data)


def odd_compression(path: Path) -> None:
    archive(path, sound(path))
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 10 : place + 12] = struct.pack("<H", 99)
    path.write_bytes(data)


def a_billion_layers(path: Path) -> None:
    archive(
        path, [*sound(path), ("Transformer/encoderblock_999999999/LayerNorm_0/scale.npy", npy(np.ones(24, np.float32)))]
    )


def integers(path: Path) -> None:
    archive(
        path, [(name, npy(arrays()[name[:-4]].astype(np.int32)) if name == "cls.npy" else d) for name, d in sound(path)]
    )


def not_a_number(path: Path) -> None:
    archive(
        path,
        [(name, npy(np.full((1, 1, 24), np.nan, np.float32)) if name == "cls.npy" else d) for name, d in sound(path)],
    )


NPZ_FILES = {
    slip: r"'\.\./\.\./escaped\.npy', which is not the name of an array",
    absolute: "'/tmp/escaped.npy', which is not the name of an array",
    backslash: "which is not the name of an array",
    objects: "cls holds Python objects, which are never read",
    pickle_instead_of_an_array: "magic string is not correct",
    huge_shape: r"cls claims the shape \(1, 1, 999999999999\), more than the 128 bytes stored",
    negative_shape: r"cls claims the shape \(-1, -1, 24\)",
    huge_array_header: "the header of cls claims 2,147,483,648 bytes",
    bomb: "it would unpack .* bytes to 2,147,",
    many_members: "it holds 30,000 tensors",
    huge_directory: "its directory claims 2,147,483,648 bytes",
    twice: "two arrays of one name",
    encrypted: "is encrypted, or packed in a way that is not read",
    odd_compression: "is encrypted, or packed in a way that is not read",
    a_billion_layers: "it numbers a layer 'Transformer/encoderblock_999999999/",
    integers: "not floating point: cls torch.int32",
    not_a_number: "holds NaN or infinite numbers in cls",
}


def raw(path: Path, table: dict[str, object] | bytes, data: bytes = b"", length: int | None = None) -> None:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(kind: str = "F32", shape: list[int] | None = None, offsets: list[int] | None = None) -> dict[str, object]:
    return {"a": {"dtype": kind, "shape": shape or [1], "data_offsets": offsets or [0, 4]}}


SAFETENSORS_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "header of 2**60 bytes": (lambda p: raw(p, {}, length=2**60), "its header claims 1,152,921,504,606,846,976 bytes"),
    "header of 64 MiB": (lambda p: raw(p, b" " * 2**26), "its header claims 67,108,864 bytes"),
    "header of nested lists": (lambda p: raw(p, b"[" * 2**20), "not a sound"),
    "header that is a list": (lambda p: raw(p, b"[]"), "its header is not a table"),
    "shape larger than the data": (lambda p: raw(p, entry(shape=[10**12]), b"\0" * 4), "claims the shape"),
    "negative shape": (lambda p: raw(p, entry(shape=[-1, -1]), b"\0" * 4), "claims the shape"),
    "data beyond the end": (
        lambda p: raw(p, entry(shape=[2**30], offsets=[0, 2**32]), b"\0" * 4),
        r"it has 91 bytes and ends before its numbers do \(a\); copy or download it again",
    ),
    "type unknown": (lambda p: raw(p, entry("OBJECT"), b"\0" * 4), "a has the type OBJECT"),
    "entry without a shape": (lambda p: raw(p, {"a": {"dtype": "F32"}}, b"\0" * 4), "not a sound"),
    "numbers for names": (lambda p: raw(p, {"a": 3}), "not a sound"),
    "no tensors": (lambda p: raw(p, {}), "it holds 0 tensors"),
    "fifty thousand tensors": (
        lambda p: raw(p, {f"a{i // 1000}.{i % 1000}": entry(offsets=[0, 4])["a"] for i in range(50_000)}, b"\0" * 4),
        "it holds 50,000 tensors|its header claims",
    ),
}


def refused(path: Path, text: str) -> None:
    """Loading ends in one sentence, in under a second of processor time, and leaves nothing behind."""
    before = sorted(p.name for p in path.parent.iterdir())
    for read in (identify, load_weights):
        start = time.process_time()
        if read is identify and "NaN" in text:  # headers do not tell
            continue
        with pytest.raises(WeightsError, match=text) as caught:
            read(path)
        assert time.process_time() - start < 1.0
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2000
    assert sorted(p.name for p in path.parent.iterdir()) == before
    assert not (path.parent.parent / "escaped.npy").exists()


@pytest.mark.parametrize("make", NPZ_FILES, ids=lambda f: f.__name__)
def test_an_archive_made_to_harm_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "w.npz"
    make(path)
    refused(path, NPZ_FILES[make])


def test_the_archive_they_imitate_loads(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive(tmp_path / "w.npz", sound(tmp_path), compression)
        loaded = load_weights(tmp_path / "w.npz")
        assert torch.equal(loaded.model.state_dict()["class_token"], model().state_dict()["class_token"])


def test_the_canary_can_sing(tmp_path: Path) -> None:
    """Negative control: numpy, told to, would run what the archive of objects holds."""
    objects(tmp_path / "w.npz")
    np.load(tmp_path / "w.npz", allow_pickle=True)["cls"]
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("case", SAFETENSORS_FILES)
def test_a_safetensors_file_made_to_harm_is_refused(tmp_path: Path, case: str) -> None:
    make, text = SAFETENSORS_FILES[case]
    make(tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model", model(), Preprocess(size=(16, 16)), LabelSet(("a", "b", "c")), {})
    (tmp_path / "model" / "vitrail.json").unlink()
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.full((3,), torch.nan), "NaN or infinite numbers in head.bias"),
        (torch.full((3,), torch.inf), "NaN or infinite numbers in head.bias"),
        (torch.zeros(3, dtype=torch.int64), "not floating point: head.bias torch.int64"),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), "head.bias has the type F8_E4M3"),
    ],
)
def test_wrong_numbers_are_refused(folder: Path, value: torch.Tensor, text: str) -> None:
    save_file(load_file(folder / "model.safetensors") | {"head.bias": value}, folder / "model.safetensors")
    refused(folder, text)


@pytest.mark.parametrize("name", ["config.json", "vitrail.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 1_000_000, "is not valid JSON"),
        ("[1, 2]", "should be a JSON table, found list"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('"' + " " * 2**26 + '"', "has 64 MiB, too much"),
        ("\udcff", "is not valid JSON"),
    ],
    ids=["deep", "list", "digits", "large", "bytes"],
)
def test_descriptions_made_to_harm_are_refused(folder: Path, name: str, content: str, text: str) -> None:
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(folder, text)


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained_cfg": {"input_size": 3}},
        {"pretrained_cfg": {"mean": "x", "input_size": None}},
        {"architecture": {"a": 1}},
        {"model_args": {"num_heads": -3}},
        {"model_args": {"num_heads": 0}},
        {"model_args": {"num_heads": 10**400}},
        {"model_args": {"img_size": [1]}},
        {"label_names": ["a"]},
    ],
    ids=str,
)
def test_a_description_of_the_wrong_types_is_a_sentence(folder: Path, change: dict[str, object]) -> None:
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | change))
    with pytest.raises(WeightsError) as caught:
        vitrail.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_link_out_of_a_model_folder_is_not_followed(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(WeightsError, match=f"{name} in .* is a link to a file outside"):
        load_weights(folder)
    with pytest.raises(WeightsError, match=f"{name} in .* is a link to a file outside"):
        load_weights(folder.parent)  # as a run folder


def test_a_linked_model_folder_of_a_run_is_not_followed_out_of_it(folder: Path) -> None:
    run = folder.parent / "run"
    run.mkdir()
    (run / "model").symlink_to(folder)
    with pytest.raises(WeightsError, match="is a link to a file outside"):
        load_weights(run)


def test_links_that_stay_inside_and_links_that_the_user_names_are_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert load_weights(folder).form == "timm"
    (folder.parent / "latest").symlink_to(folder)
    assert load_weights(folder.parent / "latest").form == "timm"


def test_the_links_of_a_downloaded_snapshot_are_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's cache keeps each file once, under its hash, and links to it from each snapshot."""
    import huggingface_hub

    cache = folder.parent / "models--some--model"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in folder.iterdir():
        file.rename(cache / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(snapshot))
    assert load_weights("some/model").form == "timm"
    assert load_weights(snapshot).form == "timm"
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(WeightsError, match=r"config\.json in .* is a link to a file outside"):
        load_weights("some/model")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.npz")
    with pytest.raises(WeightsError, match="is neither a file nor a folder but a device or a pipe; give a file"):
        load_weights(tmp_path / "w.npz")


MEASURE = """
import resource, sys
from vitrail.errors import WeightsError
from vitrail.weights.load import load_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_weights(sys.argv[1])
except WeightsError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    "make", [bomb, huge_shape, huge_array_header, many_members, a_billion_layers], ids=lambda f: f.__name__
)
def test_little_memory_is_taken(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "w.npz")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "w.npz"], capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) < 64, f"{done.stdout} MiB; {done.stderr}"
