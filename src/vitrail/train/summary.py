"""What a recipe may know of the data."""

import re
from dataclasses import dataclass
from statistics import median

from vitrail.data.decode import dimensions
from vitrail.data.sources import Dataset, Source
from vitrail.errors import DataError, ImageError

SAMPLE = 64  # images whose size is looked up
SIDES = re.compile(r"\b(left|right)(?:wards?)?\b")


@dataclass(frozen=True)
class DataSummary:
    """What a recipe may know of the data. `rows` and `cols` are the median size of a sample, in pixels."""

    name: str
    classes: tuple[str, ...]
    n_train: int
    rows: int
    cols: int


def summarise(dataset: Dataset) -> DataSummary:
    """Look at up to 64 training images, evenly spread. Raises DataError where none of them can be read."""
    source = dataset.split("train")
    every = max(1, len(source) // SAMPLE)
    sizes = [size for i in range(0, len(source), every) if (size := _size(source, i))]
    if not sizes:
        raise DataError(
            f"none of {len(range(0, len(source), every))} sampled training images of {dataset.name} is readable"
        )
    rows, cols = (round(median(side)) for side in zip(*sizes, strict=True))
    return DataSummary(dataset.name, dataset.classes, len(source), rows, cols)


def _size(source: Source, index: int) -> tuple[int, int] | None:
    try:
        return dimensions(source.read(index).data)
    except ImageError:
        return None


def mirrors_safely(classes: tuple[str, ...]) -> bool:
    """Whether a mirrored image keeps its class, as far as names tell: not where all classes are single characters
    (digits, letters), and not where a name says left or right."""
    words = (re.sub(r"[\W_]+", " ", name).casefold() for name in classes)
    return any(len(name) > 1 for name in classes) and not any(SIDES.search(name) for name in words)
