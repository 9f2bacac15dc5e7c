"""`vitrail evaluate MODEL DATA`: the score of a model, every image counted exactly once."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import Data, EngineName, File, Name, WholeJpegs


def evaluate(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    data: Data,
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    split: Annotated[
        Name | None, Parameter(help="Which split to score; by default the held-out one, else all.")
    ] = None,
    protocol: Annotated[
        Name | None,
        Parameter(help="Resize and crop as gvt-squash, bv-crop, timm or torchvision; by default as the weights ask."),
    ] = None,
    threshold: Annotated[
        float | None,
        Parameter(
            metavar="SHARE", help="Where images may have several classes: name one from this probability on (0.5)."
        ),
    ] = None,
    quarantine: Annotated[
        File | None, Parameter(help="Leave out the images on this list, which `vitrail data check` makes.")
    ] = None,
    engine: EngineName = "torch",
    whole_jpegs: WholeJpegs = False,
    json: Annotated[File | None, Parameter(help="Write the report as JSON to this file; - for stdout.")] = None,
    html: Annotated[File | None, Parameter(help="Write the report as one HTML page to this file.")] = None,
    csv: Annotated[
        File | None, Parameter(help="Write one line an image, its label and its predicted class; - for stdout.")
    ] = None,
) -> None:
    """Score a model on labelled images: top-1 with its interval, top-5, calibration, each class.

    Classes of the data are matched to those of the model by name, never by place.
    """
    from vitrail.cli.progress import counting
    from vitrail.engines.catalog import load
    from vitrail.evaluate import evaluate_each, open_as_trained, picture_mistakes, render
    from vitrail.evaluate.predictions import to_csv

    check({"--json": json, "--html": html, "--csv": csv})
    classifier = load(model_source, model=model, engine=engine)
    if whole_jpegs:
        classifier.decode_whole()
    images = open_as_trained(data, classifier.record, quarantine)
    with counting("evaluate") as notify:
        report, results = evaluate_each(
            classifier, images, split=split, protocol=protocol, threshold=threshold, notify=notify
        )
    if "-" not in (json, html, csv):
        sys.stdout.write(report.markdown())
    if json is not None:
        write(json, report.json())
    if html is not None:
        write(html, render(report, mistakes=picture_mistakes(report, images), title=f"{model_source} on {images.name}"))
    if csv is not None:
        write(csv, to_csv(results))
