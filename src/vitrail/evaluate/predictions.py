"""What a model said about every image of an evaluation: one line an image, as CSV.

A Report holds sums; to compare two models on the same images (`vitrail report`), or to look at single ones, the answer
for each image is needed.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitrail.errors import DataError

PREDICTIONS_FILE = "predictions.csv"
COLUMNS = ("image", "label", "predicted", "confidence", "label_probability", "right")


@dataclass(frozen=True)
class ImageResult:
    """One image: its name, its label and the model's most probable class, by name, the probabilities of both, and
    whether they are one and the same class (two classes may share a name)."""

    image: str
    label: str
    predicted: str
    confidence: float
    label_probability: float
    right: bool


def to_csv(results: Iterable[ImageResult]) -> str:
    """One line an image in the order of the data, under a header. Probabilities have nine digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in results:
        row = (r.image, r.label, r.predicted, f"{r.confidence:.9g}", f"{r.label_probability:.9g}", int(r.right))
        writer.writerow(row)
    return text.getvalue()


def read_csv(path: Path) -> tuple[ImageResult, ...]:
    """The lines of a file that `to_csv` wrote. Raises DataError where it is not one; FileNotFoundError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != COLUMNS:
                raise ValueError("its first line names other columns")
            return tuple(_result(row) for row in rows)
    except FileNotFoundError:
        raise
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a table of predictions ({error}): remove it, or evaluate again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _result(row: list[str]) -> ImageResult:
    image, label, predicted, confidence, label_probability, right = row
    return ImageResult(image, label, predicted, float(confidence), float(label_probability), bool(int(right)))
