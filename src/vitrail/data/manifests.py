"""Data sets given as a table: CSV, TSV, JSON lines and Parquet, also in the Hugging Face image layout.

A table has one row an image: its path (relative to the table) or its bytes, its label, and perhaps its split. An image
may have several classes, or none, where the labels are lists (JSON lines, Parquet), or where the column of a CSV is
called `labels` and a cell of it holds a `|`.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.labels import ClassLabels, label_rows
from vitrail.data.stores import ArrowSource, FileSource, Source, label_indices
from vitrail.errors import DataError, MissingExtra, close_matches

PATH_COLUMNS = ("path", "image", "file", "filename", "file_name", "image_path", "img")
BYTES_COLUMNS = ("bytes", "image_bytes")
LABEL_COLUMNS = ("label", "class", "target", "labels", "category")
SPLIT_COLUMNS = ("split", "subset", "fold")
SEVERAL_COLUMN, BETWEEN = "labels", "|"  # of a CSV whose images have several classes
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

SPLITS = {  # what people call a split -> what it is called here
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHARD = re.compile(
    r"(?P<split>[a-z]+)([-_.].*)?\.parquet", re.IGNORECASE
)  # train.parquet, train-00000-of-00002.parquet
_MEMORY_SHARE = 0.5  # of the machine's memory that the images of a Parquet data set may take


@dataclass(frozen=True)
class Table:
    """All images of a data set, and the split of each where the data say it."""

    source: Source
    splits: Sequence[str] | None


def read_manifest(path: Path) -> Table:
    """The images that a CSV, TSV, JSON-lines or Parquet file lists. Raises DataError."""
    if path.suffix.lower() == ".parquet":
        return read_parquet({None: [path]})
    rows, columns = _json_lines(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv(path)
    path_column = _column(columns, PATH_COLUMNS, path, "the path of each image")
    label_column = _column(columns, LABEL_COLUMNS, path, "the label of each image")
    split_column = next((c for c in columns if c.lower() in SPLIT_COLUMNS), None)
    if not rows:
        raise DataError(f"{path.name} lists no images: add one row an image below the header")
    labels = [row.get(label_column) for _, row in rows]
    if path.suffix.lower() in (".csv", ".tsv") and label_column.strip().lower() == SEVERAL_COLUMN:
        labels = _cells(labels)
    several = any(isinstance(value, list) for value in labels)
    wanted = [c for c in (path_column, None if several else label_column, split_column) if c is not None]
    for number, row in rows:
        for column in wanted:
            if row.get(column) in (None, ""):
                raise DataError(
                    f"{path.name}, line {number}: the column {column!r} is empty; every image needs a value"
                )
    names = tuple(str(row[path_column]) for _, row in rows)
    places = [f"{path.name}, line {number}" for number, _ in rows]
    source = FileSource(*_classes_and_labels(labels, places), path.parent, names)
    if not any((path.parent / name).exists() for name in names):
        raise DataError(
            f"no image that {path.name} lists exists, the first is {names[0]!r}: "
            "a path is absolute or relative to the folder of the table"
        )
    splits = None if split_column is None else _splits((row[split_column] for _, row in rows), path.name)
    return Table(source, splits)


def _cells(labels: list[Any]) -> list[Any]:
    """The cells of a CSV's column `labels`: lists of labels where any cell holds several, else as they are."""
    if not any(BETWEEN in cell for cell in labels):
        return labels
    return [[label for part in cell.split(BETWEEN) if (label := part.strip())] for cell in labels]


def _classes_and_labels(labels: Sequence[Any], places: Sequence[str]) -> tuple[tuple[str, ...], ClassLabels]:
    """(classes, label of each image) where no table of classes is given. `places`: where each label stands, for
    errors."""
    if any(isinstance(value, list) for value in labels):
        for value, place in zip(labels, places, strict=True):
            if not isinstance(value, list) or not all(isinstance(v, str | int) and v != "" for v in value):
                raise DataError(
                    f"{place}: where images may have several labels each needs a list of names, [] for none, "
                    f"found {json.dumps(value, default=str)[:60]}"
                )
        classes = _sorted_classes(label for value in labels for label in value)
        return tuple(str(c) for c in classes), label_rows(labels, classes)
    classes = _sorted_classes(labels)
    return tuple(str(c) for c in classes), label_indices(labels, classes)


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or else of its `data` folder, sorted."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def by_split(files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Parquet files by the split that their names begin with; all under None where no name tells it."""
    found: dict[str | None, list[Path]] = {}
    for file in files:
        match = _SHARD.fullmatch(file.name)
        found.setdefault(SPLITS.get(match["split"].lower()) if match else None, []).append(file)
    if None in found and len(found) > 1:
        odd = ", ".join(f.name for f in found[None])
        raise DataError(f"cannot tell the split of {odd}: name each file train*, val* or test*.parquet")
    return found


def read_parquet(files: dict[str | None, list[Path]]) -> Table:
    """The images of Parquet files, by split (None: the files do not say).

    Two layouts: a column of structs (bytes, path) as Hugging Face writes them, whose class names stand in the schema's
    metadata; or plain columns with a path or bytes. Encoded images are held in memory, once for all worker processes.
    Raises DataError, and MissingExtra where pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "train", "reading Parquet") from error
    every = [(split, path) for split, paths in files.items() for path in paths]
    first = every[0][1]
    try:
        opened = [pq.ParquetFile(path, memory_map=True) for _, path in every]
        schema = opened[0].schema_arrow
        for (_, path), file in zip(every, opened, strict=True):
            if not file.schema_arrow.equals(schema):
                raise DataError(f"{path.name} has other columns than {first.name}: all files of a data set must agree")
        image = _image_column(schema, first)
        label = _column(schema.names, LABEL_COLUMNS, first, "the label of each image")
        split_column = next((c for c in schema.names if c.lower() in SPLIT_COLUMNS), None) if None in files else None
        _check_memory(sum(f.metadata.row_group(g).total_byte_size for f in opened for g in range(f.num_row_groups)))
        columns = [c for c in (image, label, split_column) if c is not None]
        tables = [file.read(columns=columns, use_threads=False) for file in opened]
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{first.name} is not a Parquet file that can be read: {' '.join(str(error).split())}"
        ) from error
    table = pa.concat_tables(tables)
    if table.num_rows == 0:
        raise DataError(f"{first.name} lists no images")
    names, data = _images(table[image], every, [t.num_rows for t in tables])
    classes, labels = _parquet_labels(table[label], _declared_classes(schema, label), first)
    splits: Sequence[str] | None = None
    if None not in files:
        splits = [str(split) for (split, _), t in zip(every, tables, strict=True) for _ in range(t.num_rows)]
    elif split_column is not None:
        splits = _splits(table[split_column].to_pylist(), first.name)
    return Table(ArrowSource(classes, labels, data, names, first.parent), splits)


def _csv(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """((line number, row) pairs, column names); cells without the blanks around them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)  # some spreadsheets write semicolons
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
            columns = list(reader.fieldnames or [])
            return [(reader.line_num, {c: (row[c] or "").strip() for c in columns}) for row in reader], columns
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a table that can be read (UTF-8, separated by commas): {error}") from error


def _json_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(
                            f"{path.name}, line {number}: each line must be an object such as "
                            '{"path": "a.jpg", "label": "cat"}'
                        )
                    rows.append((number, row))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} is not a file of JSON lines that can be read: {error}") from error
    return rows, list(rows[0][1]) if rows else [*PATH_COLUMNS[:1], *LABEL_COLUMNS[:1]]


def _column(columns: Iterable[str], accepted: Sequence[str], path: Path, what: str) -> str:
    """The column whose name is the first accepted one. Raises DataError with the columns found."""
    columns = list(columns)
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in accepted:
        if name in by_name:
            return by_name[name]
    found = ", ".join(map(repr, columns)) or "none"
    raise DataError(f"{path.name} needs a column with {what} ({', '.join(accepted)}), found the columns {found}")


def _splits(values: Iterable[Any], where: str) -> list[str]:
    splits = []
    for value in values:
        name = SPLITS.get(str(value).strip().lower())
        if name is None:
            raise DataError(f"{where}: unknown split {value!r}{close_matches(str(value), ('train', 'val', 'test'))}")
        splits.append(name)
    return splits


def _sorted_classes(labels: Iterable[Any]) -> list[Any]:
    """Distinct labels: numbers by value, anything else by its text."""
    distinct = set(labels)
    return sorted(distinct) if all(isinstance(v, int) for v in distinct) else sorted(distinct, key=str)


def _image_column(schema: Any, path: Path) -> str:
    """The column of structs with bytes (Hugging Face), else one of bytes, else one of paths."""
    import pyarrow.types as kinds

    for field in schema:
        if kinds.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    for field in schema:
        if field.name.lower() in BYTES_COLUMNS + PATH_COLUMNS and _is_binary(field.type):
            return str(field.name)
    return _column(schema.names, PATH_COLUMNS + BYTES_COLUMNS, path, "the path or the bytes of each image")


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def _images(column: Any, every: list[tuple[str | None, Path]], counts: list[int]) -> tuple[tuple[str, ...], Any]:
    """(name of each image, column of their bytes; null where the image lies in the file of that name)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as kinds

    rows = [f"{path.stem}[{row}]" for (_, path), count in zip(every, counts, strict=True) for row in range(count)]
    if kinds.is_struct(column.type):
        data = pc.struct_field(column, "bytes")
        if column.type.get_field_index("path") < 0:
            return tuple(rows), data
        paths = pc.struct_field(column, "path").to_pylist()
        if data.null_count:  # some images lie in files: their paths must stay as they are
            return tuple(path or row for path, row in zip(paths, rows, strict=True)), data
        if len(every) > 1:
            stems = (row.rpartition("[")[0] for row in rows)
            paths = [path and f"{stem}/{path}" for stem, path in zip(stems, paths, strict=True)]
        unique = len(set(paths)) == len(paths)
        return tuple((unique and path) or row for path, row in zip(paths, rows, strict=True)), data
    if _is_binary(column.type):
        return tuple(rows), column
    if not kinds.is_string(column.type) and not kinds.is_large_string(column.type):
        raise DataError(f"{every[0][1].name}: the images must be bytes or paths, found {column.type}")
    return tuple(str(name) for name in column.to_pylist()), pa.chunked_array([pa.nulls(len(column), pa.binary())])


def _declared_classes(schema: Any, label: str) -> tuple[str, ...] | None:
    """Class names that Hugging Face wrote into the schema, in the order of their indices."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = info["info"]["features"][label]
        if isinstance(feature, list):  # a sequence of classes, in any of three notations
            feature = feature[0]
        names = feature.get("feature", feature)["names"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


def _parquet_labels(column: Any, declared: tuple[str, ...] | None, path: Path) -> tuple[tuple[str, ...], ClassLabels]:
    """(classes, label of each image)."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{path.name}, row {row}: the image has no label")
    labels = column.to_pylist()
    if declared is None:
        return _classes_and_labels(labels, [f"{path.name}, row {row}" for row in range(len(labels))])
    if len(set(declared)) < len(declared):
        twice = sorted({name for name in declared if declared.count(name) > 1})
        raise DataError(f"{path.name} declares two classes of the same name: {', '.join(twice)}")
    several = any(isinstance(value, list) for value in labels)
    for row, value in enumerate(labels):
        for one in value if several else [value]:
            if not isinstance(one, int) or not 0 <= one < len(declared):
                raise DataError(
                    f"{path.name}, row {row}: label {one!r} is outside the {len(declared)} declared classes"
                )
    return declared, label_rows(labels, range(len(declared))) if several else np.asarray(labels, dtype=np.int64)


def _check_memory(needed: int) -> None:
    """Raises DataError where the images would not fit into memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return  # not told by this system
    if needed > _MEMORY_SHARE * memory:
        raise DataError(
            f"the Parquet data take {needed / 2**30:.1f} GiB, more than half of the memory ({memory / 2**30:.1f} GiB): "
            "unpack the images into class folders"
        )
