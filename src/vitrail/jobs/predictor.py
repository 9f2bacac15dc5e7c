"""A model as a function of tables of images, for frameworks that spread work over machines: Ray Data and Spark."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitrail.engines.catalog import load
from vitrail.errors import ConfigError, DataError
from vitrail.inference import Classifier
from vitrail.types import ImageLike, Prediction

Column = npt.NDArray[Any]
COLUMNS = ("image", "bytes", "content", "path")  # where images lie, the first that a table has
ADDED = ("label", "index", "probability", "labels", "indices", "probabilities", "error")


class Predictor:
    """Adds what the model says to a table of images. It can be pickled: the model is loaded where it is first called.

        dataset.map_batches(Predictor, fn_constructor_args=("runs/flowers",), concurrency=2, batch_size=64)  # Ray Data
        predictor = Predictor("runs/flowers")
        frame.mapInPandas(predictor.frames, predictor.schema("path string"))                                 # Spark

    `source`, `model`, `engine` and `device` as in `vitrail.load`. `column` holds the images: paths, encoded bytes, or
    uint8 pixels (rows, cols, 3); by default the first of image, bytes, content and path that the table has. Every other
    column is kept, and so are paths; `ADDED` are the new ones, where index is -1 and probability NaN for an image that
    cannot be read, whose reason is in `error`.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        model: str | None = None,
        engine: str = "torch",
        top: int | None = None,
        threshold: float | None = None,
        column: str | None = None,
        batch_size: int = 32,
        device: str | None = None,
        whole_jpegs: bool = False,
    ) -> None:
        if top is not None and top < 1:
            raise ConfigError(f"top should be at least 1, found {top}")
        self.source, self.model, self.engine, self.column = source, model, engine, column
        self.top, self.threshold = top, threshold
        self.batch_size, self.device, self.whole_jpegs = batch_size, device, whole_jpegs
        self._classifier: Classifier | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_classifier": None}

    @property
    def classifier(self) -> Classifier:
        """The model, loaded on first use. Raises WeightsError, UnknownName."""
        if self._classifier is None:
            self._classifier = load(self.source, self.model, self.device, engine=self.engine)
            if self.whole_jpegs:
                self._classifier.decode_whole()
        return self._classifier

    def __call__(self, batch: Mapping[str, Column]) -> dict[str, Column]:
        """A table, as columns of one length, with those of `ADDED`. Raises DataError without a column of images."""
        column = self._column(batch)
        images = [_image(value) for value in batch[column]]
        found = list(self.classifier.stream(images, self.top, self.batch_size, self.threshold, workers=0))
        named = all(isinstance(image, str | Path) for image in images)
        return {name: values for name, values in batch.items() if named or name != column} | _columns(found)

    def frames(self, frames: Iterable[Any]) -> Iterator[Any]:
        """The same for pandas frames, one after the other, as Spark's mapInPandas hands them over."""
        for frame in frames:
            columns = self({str(name): frame[name].to_numpy() for name in frame.columns})
            yield type(frame)({name: list(values) for name, values in columns.items()})

    @staticmethod
    def schema(kept: str = "") -> str:
        """The columns of `frames` as Spark's mapInPandas wants them; `kept` are those that the table keeps."""
        added = (
            "label string, index long, probability double, labels array<string>, indices array<long>, "
            "probabilities array<double>, error string"
        )
        return f"{kept}, {added}" if kept else added

    def _column(self, batch: Mapping[str, Column]) -> str:
        choices = COLUMNS if self.column is None else (self.column,)
        for name in choices:
            if name in batch:
                return name
        raise DataError(f"a table needs a column of images, {' or '.join(choices)}; found {', '.join(batch) or 'none'}")


def _image(value: Any) -> ImageLike:
    """A cell as an image. Raises DataError for what is none."""
    if isinstance(value, str | Path | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
        return torch.from_numpy(np.array(value)).permute(2, 0, 1)
    kind = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(f"an image should be a path, bytes, or uint8 pixels (rows, cols, 3); found {kind}")


def _columns(found: list[Prediction]) -> dict[str, Column]:
    """Predictions as columns, in the order of ADDED."""
    return {
        "label": _objects([p.labels[0] if p.labels else None for p in found]),
        "index": np.array([p.indices[0] if p.indices else -1 for p in found], dtype=np.int64),
        "probability": np.array([p.probabilities[0] if p.probabilities else np.nan for p in found], dtype=np.float64),
        "labels": _objects([list(p.labels) for p in found]),
        "indices": _objects([list(p.indices) for p in found]),
        "probabilities": _objects([list(p.probabilities) for p in found]),
        "error": _objects([p.error for p in found]),
    }


def _objects(values: list[Any]) -> Column:
    """A column of Python objects, also where they are lists of one length."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column
