"""`vitrail lr-find DATA`: the learning-rate range test, as a plot and a suggestion."""

from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import File, Name, Whole


def lr_find(
    data: Annotated[
        str, Parameter(name="DATA", help="A folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.")
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture by name; see `vitrail models`.")] = None,
    weights: Annotated[
        str | None, Parameter(metavar="SOURCE", help="Weights to start from, as for `vitrail train`.")
    ] = None,
    recipe: Annotated[
        str | None, Parameter(help="The recipe; by default finetune with --weights, scratch_small without.")
    ] = None,
    seed: Annotated[Whole, Parameter(help="Seed of everything random.")] = 0,
    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            metavar="FIELD=VALUE",
            show_default=False,
            help="Change one field of the recipe; may be given many times.",
        ),
    ] = (),
    steps: Annotated[Whole, Parameter(help="Steps from the lowest rate, 1e-6, to the highest, 10.")] = 100,
    html: Annotated[File | None, Parameter(help="Write the plot as one HTML page to this file.")] = None,
    json: Annotated[File | None, Parameter(help="Write the numbers as JSON to this file; - for stdout.")] = None,
) -> None:
    """Find a learning rate: train some steps of a recipe while the rate grows, and see where the loss turns.

    Takes what `vitrail train` takes. Nothing is kept but what --html and --json ask for.
    """
    from vitrail.cli.progress import counting
    from vitrail.train.lr_find import find_lr
    from vitrail.train.lr_page import render, summary

    check({"--html": html, "--json": json})
    with counting("lr-find", unit="steps") as notify:
        found = find_lr(
            data,
            model=model,
            weights=weights,
            recipe=recipe,
            seed=seed,
            overrides=set_,
            steps=steps,
            notify=notify,
        )
    if "-" not in (json, html):
        print(summary(found))
    if html is not None:
        write(html, render(found))
    if json is not None:
        write(json, found.model_dump_json(indent=1) + "\n")
