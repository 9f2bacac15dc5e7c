"""Weights files as bytes: `.safetensors` and `.npz`, from strangers. No code in either can run, nothing is unpacked to
the disk, and a file that lies about its sizes is refused from its header, before anything is read into memory."""

import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitrail.errors import WeightsError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Read = TypeVar("Read")

MODEL_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_MOST_PARTS = 500  # files of one model
_MOST_TENSORS = 20_000  # the largest published model has some 1,000
_HEADER = 8 * 2**20  # bytes of a safetensors header, or of an archive's directory
_ARRAY_HEADER = 10_000  # bytes before an array, numpy's own limit
_JSON = 32 * 2**20  # bytes of a file beside the weights; 21,843 class names take one
_LARGEST = 64 * 2**30  # bytes an archive may unpack to
_RATIO, _SMALL = 20, 64 * 2**20  # times its own size that an archive may unpack to, where that is not small

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_BROKEN = (
    *(SafetensorError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, OverflowError, RecursionError),
)


def weights_of(folder: Path) -> Path | None:
    """The file of a folder of some library's that holds its weights, or the index of the files that do."""
    return next((followed(folder / name) for name in (MODEL_FILE, INDEX_FILE) if (folder / name).is_file()), None)


def parts_of(path: Path) -> list[Path]:
    """The weights files that `path` stands for: those that an index names, else itself. WeightsError."""
    return sorted(_index(path)) if path.name == INDEX_FILE else [path]


def read_headers(path: Path) -> dict[str, Tensor]:
    """The tensors of a file without their values: on the meta device. WeightsError on anything odd."""
    if path.name == INDEX_FILE:
        return {key: tensor for part, keys in _index(path).items() for key, tensor in _part_headers(part, keys).items()}
    return _guarded(path, {".npz": _npz_headers, ".safetensors": _safetensors_header})


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. WeightsError on anything odd, NaN and infinite numbers included."""
    read_headers(path)
    if path.name == INDEX_FILE:
        return {key: tensor for part in parts_of(path) for key, tensor in read_file(part).items()}
    readers: dict[str, Callable[[Path], dict[str, Tensor]]] = {".npz": _read_npz, ".safetensors": load_file}
    tensors = _guarded(path, readers)
    broken = [key for key, t in tensors.items() if t.dtype in FLOATS and not bool(torch.isfinite(t).all())]
    if broken:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {', '.join(broken)}")
    return tensors


def followed(path: Path) -> Path:
    """The same path. WeightsError where it is a link out of its folder: a model folder from a stranger must not make
    its reader read, or write back, other files. Hugging Face's cache links from a snapshot to its own blobs."""
    if path.is_symlink():
        target, folder = path.resolve(), path.parent.resolve()
        blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
        if not (target.is_relative_to(folder) or target.is_relative_to(blobs)):
            raise WeightsError(f"{path.name} in {path.parent} is a link to a file outside; put the file itself there")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file. WeightsError where it is none, or too large to be one."""
    followed(path)
    try:
        if (size := path.stat().st_size) > _JSON:
            raise WeightsError(f"{path} has {size / 2**20:.0f} MiB, too much for a description of a model")
        table = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise WeightsError(f"{path} should be a JSON table, found {type(table).__name__}")
    return table


def _index(path: Path) -> dict[Path, set[str]]:
    """The parts of a model that is too large for one file, and the tensors of each, as transformers lists them."""
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{path} has no weight_map, a table of tensors and the files that they are in")
    parts: dict[Path, set[str]] = {}
    if len(names := set(table.values())) > _MOST_PARTS:
        raise WeightsError(f"{path.name} names {len(names):,} files; a model has at most {_MOST_PARTS}")
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{path.name} names {name[:200]!r}, which is no .safetensors file of its folder")
        if not (part := path.with_name(name)).is_file():
            raise WeightsError(f"{path.name} names {name}, which is not there; copy or download it too")
        parts[followed(part)] = {key for key, place in table.items() if place == name}
    return parts


def _part_headers(part: Path, keys: set[str]) -> dict[str, Tensor]:
    found = read_headers(part)
    if odd := sorted(found.keys() ^ keys):
        raise WeightsError(f"{part.name} and {INDEX_FILE} differ in {', '.join(odd[:3])} ({len(odd)} tensors)")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says beside its tensors. WeightsError on anything odd."""
    return _guarded(path, {".safetensors": _safetensors_metadata})


def _guarded(path: Path, readers: dict[str, Callable[[Path], Read]]) -> Read:
    if path.suffix not in readers:
        read = "no .safetensors file" if len(readers) == 1 else "neither .safetensors nor .npz"
        raise WeightsError(
            f"{path.name} is {read}, the only {'' if len(readers) == 1 else 'weight '}files that are read"
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is a device or a pipe")
        return readers[path.suffix](path)
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path.name} is not a sound {path.suffix} file: {reason}") from error


def _safetensors_table(path: Path) -> tuple[dict[str, Any], int]:
    """Eight bytes with the length of a table, and the table; and how many bytes of numbers follow."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise ValueError("it ends before its header")
        (length,) = struct.unpack("<Q", first)
        if length > min(_HEADER, size - 8):
            raise ValueError(f"its header claims {length:,} bytes, of a file of {size:,}")
        table = json.loads(file.read(length))
    if not isinstance(table, dict):
        raise ValueError("its header is not a table")
    return table, size - 8 - length


def _safetensors_metadata(path: Path) -> dict[str, str]:
    found = _safetensors_table(path)[0].get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata are not texts by name")
    return found


def _safetensors_header(path: Path) -> dict[str, Tensor]:
    """The tensors that the table names, checked as the format's own reader does."""
    table, stored = _safetensors_table(path)
    table.pop("__metadata__", None)
    _check_names(table)
    tensors = {}
    for key, entry in table.items():
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in _DTYPES:
            raise ValueError(f"{key} has the type {kind}")
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
            raise ValueError(f"{key} claims the shape {shape} at {(start, end)}")
        needed = math.prod(shape) * _DTYPES[kind].itemsize
        if needed != end - start:
            raise ValueError(f"{key} claims the shape {tuple(shape)}, other than the {end - start} bytes stored")
        if end > stored:
            found = f"it has {path.stat().st_size:,} bytes and ends before its numbers do ({key})"
            raise ValueError(f"{found}; copy or download it again")
        tensors[key] = torch.empty(shape, dtype=_DTYPES[kind], device="meta")
    return tensors


def _npz_headers(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, path.stat().st_size)
            return {m.filename.removesuffix(".npy"): _array_header(archive, m) for m in members}


def _check_directory(file: IO[bytes]) -> None:
    """An archive's list of contents lies at its end; a huge one would be held in memory as a whole."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 65_600))
    tail = file.read()
    if (place := tail.rfind(b"PK\x05\x06")) < 0 or len(tail) < place + 22:
        raise ValueError("it is no archive")
    size, start = struct.unpack("<II", tail[place + 12 : place + 20])
    if 0xFFFFFFFF in (size, start):  # a longer record says it, before this one
        if (place := tail.rfind(b"PK\x06\x06", 0, place)) < 0 or len(tail) < place + 56:
            raise ValueError("its directory is damaged")
        (size,) = struct.unpack("<Q", tail[place + 40 : place + 48])
    if size > _HEADER:
        raise ValueError(f"its directory claims {size:,} bytes")
    file.seek(0)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [m.filename for m in members]
    _check_names([name.removesuffix(".npy") for name in names])
    if len(set(names)) < len(names):
        raise ValueError("it holds two arrays of one name")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or "" in parts or ":" in parts[0] or not member.filename.endswith(".npy"):
            raise ValueError(f"it holds {member.filename!r}, which is not the name of an array")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is encrypted, or packed in a way that is not read")
    unpacked = sum(m.file_size for m in members)
    if unpacked > _LARGEST or unpacked > max(_SMALL, _RATIO * size):
        raise ValueError(f"it would unpack {size:,} bytes to {unpacked:,}")


def _array_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    """An array's shape and type, on the meta device."""
    key = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        wide = version != (1, 0)
        (length,) = struct.unpack("<I" if wide else "<H", file.read(4 if wide else 2))
        if length > _ARRAY_HEADER:
            raise ValueError(f"the header of {key} claims {length:,} bytes")
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
        shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects, which are never read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{key} claims the shape {shape}, more than the {member.file_size} bytes stored")
    if dtype.kind == "V" and dtype.itemsize == 2:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device="meta")


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays whose headers have been checked; bfloat16 arrives as 2-byte void."""
    tensors = {}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for key in archive.files:
            array = archive[key]
            if array.dtype.kind == "V" and array.dtype.itemsize == 2:
                tensors[key] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            else:
                tensors[key] = torch.from_numpy(array)
    return tensors


def _check_names(keys: Collection[str]) -> None:
    """A model is built with as many layers as the numbers in the keys say, so they must be possible ones."""
    if not 0 < len(keys) <= _MOST_TENSORS:
        raise ValueError(f"it holds {len(keys):,} tensors; a model has 1 to {_MOST_TENSORS:,}")
    if odd := [key for key in keys if re.search(r"\d{4}", key)]:
        raise ValueError(f"it numbers a layer {odd[0][:80]!r}; a model has fewer than 1,000")
