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
    top: Annotated[Whole | None, Parameter(help="Most classes to name for each image; by default 5.")] = None,
    threshold: Annotated[
        float | None,
        Parameter(
            metavar="SHARE",
            help="Name classes from this probability on; by default 0.5, and without --top all of them, where an image "
            "may have several.",
        ),
    ] = None,
    json: Annotated[File | None, Parameter(help="Write the predictions as JSON to this file; - for stdout.")] = None,
    csv: Annotated[File | None, Parameter(help="Write the predictions as CSV to this file; - for stdout.")] = None,
) -> None:
    """Name the most probable classes of photos, with their probabilities; all of them where there may be several.

    An image that cannot be read is named on stderr and the others are still predicted.
    """
    from vitrail.cli.progress import counting
    from vitrail.data.sources import list_images
    from vitrail.engines.catalog import load
    from vitrail.errors import ConfigError, ImageError
    from vitrail.report import printable

    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"--threshold should be a probability between 0 and 1, found {threshold:g}")
    if top is not None and top < 1:
        raise ConfigError(f"--top should be at least 1, found {top}")
    check({"--json": json, "--csv": csv})
    paths = list_images(photos)
    classifier = load(model_source, model=model, engine=engine)
    found: list[Prediction] = []
    with counting("predict", len(paths)) as count:
        for prediction in classifier.stream(paths, top, threshold=threshold):
            found.append(prediction)
            count(len(found), len(paths))
    for prediction in found:
        if prediction.error is not None:
            print(f"vitrail: {printable(prediction.id)}: {prediction.error}", file=sys.stderr)
    if "-" not in (json, csv):
        _show(found, classifier.labels.multilabel)
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


def _show(predictions: "list[Prediction]", several: bool) -> None:
    """A table: the likeliest class, and those after it; where an image may have several, all that were named."""
    from vitrail.report import percent, printable

    rows: list[tuple[str, ...]] = []
    for p in predictions:
        if p.error is not None:
            continue
        named = list(zip(map(printable, p.labels), map(percent, p.probabilities), strict=True)) or [("none", "")]
        if several:
            rows.append((printable(p.id), ", ".join(" ".join(one).strip() for one in named)))
        else:
            rows.append((printable(p.id), *named[0], ", ".join(map(" ".join, named[1:]))))
    if rows and several:
        show(("image", "classes"), rows)
    elif rows:
        show(("image", "label", "probability", "then"), rows, right=(2,))
