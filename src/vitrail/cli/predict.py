"""`vitrail predict MODEL IMAGE_OR_FOLDER...`: the most probable classes of photos."""

import json as json_format
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.table import show
from vitrail.cli.values import EngineName, File, Name, Part, Whole, WholeJpegs

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.inference import Classifier
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
    engine: EngineName = "torch",
    top: Annotated[Whole | None, Parameter(help="Most classes to name for each image; by default 5.")] = None,
    threshold: Annotated[
        float | None,
        Parameter(
            metavar="SHARE",
            help="Name classes from this probability on; by default 0.5, and without --top all of them, where an image "
            "may have several.",
        ),
    ] = None,
    whole_jpegs: WholeJpegs = False,
    workers: Annotated[
        Whole | None, Parameter(help="Processes that read images; by default one a core, none for few images.")
    ] = None,
    json: Annotated[File | None, Parameter(help="Write the predictions as JSON to this file; - for stdout.")] = None,
    csv: Annotated[File | None, Parameter(help="Write the predictions as CSV to this file; - for stdout.")] = None,
    out: Annotated[
        File | None,
        Parameter(
            help="Write to this .parquet, .csv or .jsonl file as images come; run again, it goes on after a stop."
        ),
    ] = None,
    part: Annotated[
        Part | None, Parameter(help="With --out: only the I-th of N ranges of the images, to a file of its own.")
    ] = None,
    fresh: Annotated[bool, Parameter(help="With --out: forget what was begun or done under that name.")] = False,
) -> None:
    """Name the most probable classes of photos, with their probabilities; all of them where there may be several.

    An image that cannot be read is named on stderr and the others are still predicted.
    """
    from vitrail.data.sources import list_images
    from vitrail.engines.catalog import load

    _check_numbers(top, threshold, workers)
    _check_out(out, json, csv, part, fresh)
    check({"--json": json, "--csv": csv, "--out": out})
    paths = list_images(photos)
    classifier = load(model_source, model=model, engine=engine)
    if whole_jpegs:
        classifier.decode_whole()
    if out is not None:
        _to_file(classifier, paths, out, top, threshold, part, fresh, workers)
    else:
        _at_once(classifier, paths, top, threshold, workers, json, csv)


def _check_numbers(top: int | None, threshold: float | None, workers: int | None) -> None:
    from vitrail.errors import ConfigError

    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"--threshold should be a probability between 0 and 1, found {threshold:g}")
    if top is not None and top < 1:
        raise ConfigError(f"--top should be at least 1, found {top}")
    if workers is not None and workers < 0:
        raise ConfigError(f"--workers should be at least 0, found {workers}")


def _check_out(out: str | None, json: str | None, csv: str | None, part: tuple[int, int] | None, fresh: bool) -> None:
    """What can be said of a job before the model is loaded."""
    from pathlib import Path

    from vitrail.errors import ConfigError
    from vitrail.jobs.formats import by_suffix

    if out is None:
        if part is not None or fresh:
            raise ConfigError(f"{'--fresh' if fresh else '--part'} goes with --out FILE")
    elif json is not None or csv is not None:
        raise ConfigError("--out writes as the images come, --json and --csv at the end: give one or the other")
    elif out == "-":
        raise ConfigError(
            "--out should be a file, which can be continued, not stdout: --json - and --csv - write there"
        )
    else:
        by_suffix(Path(out))


def _at_once(
    classifier: "Classifier",
    paths: "Sequence[Path]",
    top: int | None,
    threshold: float | None,
    workers: int | None,
    json: str | None,
    csv: str | None,
) -> None:
    """All predictions in memory, then written: a table unless stdout was asked for."""
    from vitrail.cli.progress import counting
    from vitrail.jobs.formats import as_csv, record

    found: list[Prediction] = []
    with counting("predict", len(paths)) as count:
        for prediction in classifier.stream(paths, top, threshold=threshold, workers=workers):
            found.append(prediction)
            count(len(found), len(paths))
    for prediction in found:
        if prediction.error is not None:
            _complain(prediction)
    if "-" not in (json, csv):
        _show(found, classifier.labels.multilabel)
    if json is not None:
        write(json, json_format.dumps([record(p) for p in found], indent=2) + "\n")
    if csv is not None:
        write(csv, as_csv(found))
    _check_any_read(sum(p.error is not None for p in found), len(found))


def _to_file(
    classifier: "Classifier",
    paths: "Sequence[Path]",
    out: str,
    top: int | None,
    threshold: float | None,
    part: tuple[int, int] | None,
    fresh: bool,
    workers: int | None,
) -> None:
    """A job: written as it goes, continued where it was stopped."""
    from pathlib import Path

    from vitrail.cli.progress import counting
    from vitrail.jobs.predict import open_job

    job = open_job(classifier, paths, Path(out), top=top, threshold=threshold, part=part, fresh=fresh)
    total = len(job.images)
    if job.finished is None and job.done:
        print(f"vitrail: going on after {job.done:,} of {total:,} images", file=sys.stderr)
    with counting("predict", total, done=job.done) as count:
        summary = job.run(count, _complain, workers=workers)
    if not summary.added:
        print(f"{summary.out}: done before, {summary.images:,} images, {summary.unreadable:,} of them unreadable")
    else:
        rate = f"{summary.added / summary.seconds:.3g} images a second" if summary.seconds else ""
        print(f"{summary.out}: {summary.images:,} images, {summary.unreadable:,} of them unreadable; {rate}")
    _check_any_read(summary.unreadable, summary.images)


def _complain(prediction: "Prediction") -> None:
    from vitrail.report import printable

    print(f"vitrail: {printable(prediction.id)}: {prediction.error}", file=sys.stderr)


def _check_any_read(broken: int, images: int) -> None:
    from vitrail.errors import ImageError

    if broken == images and images:
        raise ImageError(f"none of the {broken} images could be read")


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
