"""Predictions as rows of a file: CSV, JSON lines or Parquet. A file is joined from parts of its kind."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, MissingExtra
from vitrail.report import printable
from vitrail.types import Prediction

CSV_HEAD = ("image", "rank", "label", "index", "probability", "error")


@dataclass(frozen=True)
class Format:
    """How predictions are written to a part, and how parts become one file; both take the path of a new file."""

    write: Callable[[Path, Sequence[Prediction]], None]
    join: Callable[[Path, Sequence[Path]], None]


def by_suffix(path: Path) -> Format:
    """The format of a file's name. ConfigError for another suffix, MissingExtra where Parquet cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"--out should end in {', '.join(FORMATS)}, found {path.name!r}")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MissingExtra("pyarrow", "parquet", "writing Parquet") from error
    return FORMATS[suffix]


def record(prediction: Prediction) -> dict[str, Any]:
    """One image as JSON: its predictions, best first, or the error that kept it from being read."""
    rows = zip(prediction.labels, prediction.indices, prediction.probabilities, strict=True)
    return {
        "image": prediction.id,
        "error": prediction.error,
        "predictions": [{"label": label, "index": index, "probability": share} for label, index, share in rows],
    }


def as_csv(predictions: Sequence[Prediction], head: bool = True) -> str:
    """One line for each image and rank; one for an image that could not be read, with its error, or has no class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if head:
        writer.writerow(CSV_HEAD)
    for p in predictions:
        if p.error is not None:
            writer.writerow((printable(p.id), "", "", "", "", p.error))
        elif not p.labels:  # of several classes, none
            writer.writerow((printable(p.id), "", "", "", "", ""))
        for rank, row in enumerate(zip(p.labels, p.indices, p.probabilities, strict=True), start=1):
            writer.writerow((printable(p.id), rank, *row, ""))
    return text.getvalue()


def _write_csv(path: Path, predictions: Sequence[Prediction]) -> None:
    _write(path, as_csv(predictions, head=False))


def _write_jsonl(path: Path, predictions: Sequence[Prediction]) -> None:
    _write(path, "".join(json.dumps(record(p)) + "\n" for p in predictions))


def _join_csv(path: Path, parts: Sequence[Path]) -> None:
    _concatenate(path, parts, ",".join(CSV_HEAD).encode() + b"\n")


def _join_jsonl(path: Path, parts: Sequence[Path]) -> None:
    _concatenate(path, parts, b"")


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        _settle(file.fileno())


def _concatenate(path: Path, parts: Sequence[Path], head: bytes) -> None:
    with open(path, "wb") as file:
        file.write(head)
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
        file.flush()
        _settle(file.fileno())


def _write_parquet(path: Path, predictions: Sequence[Prediction]) -> None:
    """A row an image: the best class beside the image, all that were asked for in `predictions`."""
    import pyarrow.parquet as parquet

    parquet.write_table(_table(predictions), path)
    with open(path, "rb") as file:
        _settle(file.fileno())


def _table(predictions: Sequence[Prediction]) -> Any:
    import pyarrow as arrow

    ranked = arrow.struct(
        [("label", arrow.string()), ("index", arrow.int32()), ("probability", arrow.float64())],
    )
    schema = arrow.schema(
        [
            ("image", arrow.string()),
            ("label", arrow.string()),
            ("index", arrow.int32()),
            ("probability", arrow.float64()),
            ("error", arrow.string()),
            ("predictions", arrow.list_(ranked)),
        ]
    )
    rows = []
    for p in predictions:
        row = record(p) | {"image": printable(p.id)}
        best = row["predictions"][0] if row["predictions"] else dict.fromkeys(("label", "index", "probability"))
        rows.append(best | row)
    return arrow.Table.from_pylist(rows, schema=schema)


def _join_parquet(path: Path, parts: Sequence[Path]) -> None:
    """Copies row groups part by part, so that memory holds one part."""
    import pyarrow.parquet as parquet

    with parquet.ParquetWriter(path, _table(()).schema) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))
    with open(path, "rb") as file:
        _settle(file.fileno())


def _settle(handle: int) -> None:
    os.fsync(handle)


FORMATS = {
    ".parquet": Format(_write_parquet, _join_parquet),
    ".csv": Format(_write_csv, _join_csv),
    ".jsonl": Format(_write_jsonl, _join_jsonl),
}
