"""`vitrail predict MODEL IMAGE_OR_FOLDER...`: the most probable classes of photos."""

import csv as csv_format
import io
import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.table import show
from vitrail.cli.values import File, Name, Whole

if TYPE_CHECKING:
    from vitrail.types import Prediction


def predict(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    photos: Annotated[
        list[str], Parameter(name="IMAGE_OR_FOLDER", help="Image files, and folders to search for images.")
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    engine: Annotated[
        Name, Parameter(help="What computes: torch, openvino-bfloat16, ..., auto, or a folder of `vitrail export`.")
    ] = "torch",
    top: Annotated[Whole, Parameter(help="Classes to name for each image.")] = 5,
    json: Annotated[File | None, Parameter(help="Write the predictions as JSON to this file; - for stdout.")] = None,
    csv: Annotated[File | None, Parameter(help="Write the predictions as CSV to this file; - for stdout.")] = None,
) -> None:
    """Name the most probable classes of photos, with their probabilities.

    An image that cannot be read is named on stderr and the others are still predicted.
    """
    from vitrail.cli.progress import counting
    from vitrail.data.sources import list_images
    from vitrail.engines.catalog import load
    from vitrail.errors import ConfigError, ImageError
    from vitrail.report import printable

    if top < 1:
        raise ConfigError(f"--top should be at least 1, found {top}")
    check({"--json": json, "--csv": csv})
    paths = list_images(photos)
    classifier = load(model_source, model=model, engine=engine)
    found: list[Prediction] = []
    with counting("predict", len(paths)) as count:
        for prediction in classifier.stream(paths, top):
            found.append(prediction)
            count(len(found), len(paths))
    for prediction in found:
        if prediction.error is not None:
            print(f"vitrail: {printable(prediction.id)}: {prediction.error}", file=sys.stderr)
    if "-" not in (json, csv):
        _show(found)
    if json is not None:
        write(json, json_format.dumps([record(p) for p in found], indent=2) + "\n")
    if csv is not None:
        write(csv, as_csv(found))
    broken = sum(p.error is not None for p in found)
    if broken == len(found):
        raise ImageError(f"none of the {broken} images could be read")


def record(prediction: "Prediction") -> dict[str, Any]:
    """One image as JSON: its predictions, best first, or the error that kept it from being read."""
    if prediction.error is not None:
        return {"image": prediction.id, "error": prediction.error, "predictions": []}
    rows = zip(prediction.labels, prediction.indices, prediction.probabilities, strict=True)
    return {
        "image": prediction.id,
        "error": None,
        "predictions": [{"label": label, "index": index, "probability": share} for label, index, share in rows],
    }


def as_csv(predictions: "list[Prediction]") -> str:
    """One line for each image and rank; an image that could not be read has one line with its error."""
    from vitrail.report import printable

    text = io.StringIO()
    writer = csv_format.writer(text, lineterminator="\n")
    writer.writerow(("image", "rank", "label", "index", "probability", "error"))
    for p in predictions:
        if p.error is not None:
            writer.writerow((printable(p.id), "", "", "", "", p.error))
        for rank, row in enumerate(zip(p.labels, p.indices, p.probabilities, strict=True), start=1):
            writer.writerow((printable(p.id), rank, *row, ""))
    return text.getvalue()


def _show(predictions: "list[Prediction]") -> None:
    from vitrail.report import percent, printable

    rows = []
    for p in predictions:
        if p.error is None:
            pairs = zip(p.labels[1:], p.probabilities[1:], strict=True)
            others = [f"{printable(label)} {percent(share)}" for label, share in pairs]
            rows.append((printable(p.id), printable(p.labels[0]), percent(p.probabilities[0]), ", ".join(others)))
    if rows:
        show(("image", "label", "probability", "then"), rows, right=(2,))
