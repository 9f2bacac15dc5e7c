"""Where encoded images lie: `Source` is what every reader of images accepts, and these are its kinds.

A source hands out bytes; only `decode` turns them into pixels. Reading never changes a source, so workers can share it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vitrail.data.labels import ClassLabels, label_of, places
from vitrail.errors import ImageError
from vitrail.types import Item

Indices = npt.NDArray[np.int64]  # class indices or positions, one an image


@runtime_checkable  # the shape-checked tests ask whether something is one
class Source(Protocol):
    """n labelled images in a fixed order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes; a label is a position in them."""

    @property
    def labels(self) -> ClassLabels:
        """The n class indices, or n rows of K truth values where an image may have several classes (labels.py)."""

    @property
    def fingerprint(self) -> str:
        """sha256 over classes and every image's id, label and size in bytes: the same for the same data."""

    def __len__(self) -> int: ...

    def id(self, index: int) -> str:
        """A name by which a person finds the image: its path inside the data set where it has one."""

    def size(self, index: int) -> int:
        """Bytes of the encoded image; -1 where they cannot be read."""

    def read(self, index: int) -> Item:
        """The encoded image. Raises ImageError with a short reason where it cannot be read."""


@dataclass(frozen=True, eq=False)
class FileSource:
    """One file an image; `names` are paths relative to `root`, or absolute ones."""

    classes: tuple[str, ...]
    labels: ClassLabels = field(repr=False)
    root: Path
    names: tuple[str, ...] = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def __len__(self) -> int:
        return len(self.names)

    def id(self, index: int) -> str:
        return printable(self.names[index])

    def size(self, index: int) -> int:
        return file_size(self.root / self.names[index])

    def read(self, index: int) -> Item:
        return Item(read_file(self.root / self.names[index]), label_of(self.labels, index), self.id(index))


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Encoded images held in memory."""

    classes: tuple[str, ...]
    labels: ClassLabels = field(repr=False)
    data: tuple[bytes, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def __len__(self) -> int:
        return len(self.data)

    def id(self, index: int) -> str:
        return self.names[index]

    def size(self, index: int) -> int:
        return len(self.data[index])

    def read(self, index: int) -> Item:
        return Item(self.data[index], label_of(self.labels, index), self.names[index])


@dataclass(frozen=True, eq=False)
class ArrowSource:
    """Encoded images in a pyarrow column of bytes: one block of memory that forked workers share without a copy.

    A null stands for an image that lies in a file: `names[index]` under `root`.
    """

    classes: tuple[str, ...]
    labels: ClassLabels = field(repr=False)
    column: Any = field(repr=False)  # pyarrow.ChunkedArray of binary
    names: tuple[str, ...] = field(repr=False)
    root: Path

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def __len__(self) -> int:
        return len(self.names)

    def id(self, index: int) -> str:
        return self.names[index]

    def size(self, index: int) -> int:
        value = self.column[index]
        return value.as_buffer().size if value.is_valid else file_size(self.root / self.names[index])

    def read(self, index: int) -> Item:
        value = self.column[index]
        data = value.as_py() if value.is_valid else read_file(self.root / self.names[index])
        return Item(data, label_of(self.labels, index), self.names[index])


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of another source, in the order of `positions`."""

    source: Source
    positions: Indices = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @cached_property
    def labels(self) -> ClassLabels:
        return self.source.labels[self.positions]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self)

    def __len__(self) -> int:
        return len(self.positions)

    def id(self, index: int) -> str:
        return self.source.id(int(self.positions[index]))

    def size(self, index: int) -> int:
        return self.source.size(int(self.positions[index]))

    def read(self, index: int) -> Item:
        return self.source.read(int(self.positions[index]))


def fingerprint(source: Any) -> str:
    """sha256 over the classes and every image's id, label and size in bytes, of a Source.

    Typed Any because a check that it is a Source, as the shape-checked tests make, would ask for its fingerprint.
    """
    digest = hashlib.sha256(repr(source.classes).encode("utf-8", "surrogatepass"))
    for index, label in enumerate(source.labels):
        of = "".join(f"{place}+" for place in places(label)) if label.ndim else f"{label}"
        digest.update(f"{source.id(index)}\0{of}\0{source.size(index)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def label_indices(labels: Sequence[Any], classes: Sequence[Any]) -> Indices:
    """Positions of the labels in the classes, which hold every one of them."""
    position = {name: index for index, name in enumerate(classes)}
    return np.fromiter((position[label] for label in labels), dtype=np.int64, count=len(labels))


def read_file(path: Path) -> bytes:
    """All bytes of a file. Raises ImageError with a short reason."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("file not found") from error
    except PermissionError as error:
        raise ImageError("no permission to read the file") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"the file cannot be read ({getattr(error, 'strerror', None) or error})") from error


def file_size(path: Path) -> int:
    """Bytes of a file; -1 where it is missing."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def printable(name: str) -> str:
    """A file name as text that can be printed and stored: bytes that are no UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
