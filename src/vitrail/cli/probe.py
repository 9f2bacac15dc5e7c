"""`vitrail probe MODEL DATA`: what a frozen model's features know of a data set."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import File, Name, Whole


def probe(
    model_source: Annotated[
        str,
        Parameter(
            name="MODEL", help="A run or model folder, a weights file or a Hugging Face id, with or without a head."
        ),
    ],
    data: Annotated[
        str, Parameter(name="DATA", help="A folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.")
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    method: Annotated[
        str, Parameter(metavar="NAME,...", help="linear, ridge, knn and fewshot, separated by commas.")
    ] = "linear,knn,fewshot",
    shots: Annotated[
        str, Parameter(metavar="N,...", help="Images of each class that fewshot learns from.")
    ] = "1,5,10,25",
    seeds: Annotated[Whole, Parameter(help="Draws of the few images, over which the mean is taken.")] = 3,
    json: Annotated[File | None, Parameter(help="Write the table as JSON to this file; - for stdout.")] = None,
) -> None:
    """Score frozen features: a linear head, nearest neighbours, and least squares on a few images of each class.

    The model is run once over each image and not changed; nothing is chosen on the images that are scored.
    """
    from vitrail.cli.progress import counting
    from vitrail.evaluate.probe import check_methods
    from vitrail.evaluate.probe import probe as run

    check({"--json": json})
    methods = [name.strip() for name in method.split(",") if name.strip()]
    counts = numbers(shots)
    check_methods(methods, counts, seeds)
    with counting("features") as notify:
        report = run(
            model_source,
            data,
            model=model,
            methods=methods,
            shots=counts,
            seeds=seeds,
            notify=lambda split, done, total: notify(done, total),
        )
    if json != "-":
        sys.stdout.write(report.markdown())
    if json is not None:
        write(json, report.model_dump_json(indent=2) + "\n")


def numbers(text: str) -> list[int]:
    """Whole numbers separated by commas. Raises ConfigError."""
    from vitrail.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--shots must be whole numbers separated by commas, found {text!r}") from None
