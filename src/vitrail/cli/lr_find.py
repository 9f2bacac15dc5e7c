"""`vitrail lr-find DATA`: the learning-rate range test, as a plot and a suggestion."""

from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import Data, File, Model, RecipeName, Seed, Settings, Weights, Whole


def lr_find(
    data: Data,
    /,
    *,
    model: Model = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
    set_: Settings = (),
    steps: Annotated[Whole, Parameter(help="Steps from the lowest rate, 1e-6, to the highest, 10.")] = 100,
    html: Annotated[File | None, Parameter(help="Write the plot as one HTML page to this file.")] = None,
    json: Annotated[File | None, Parameter(help="Write the numbers as JSON to this file; - for stdout.")] = None,
) -> None:
    """Find a learning rate: train some steps of a recipe while the rate grows, and see where the loss turns.

    Takes what `vitrail train` takes. Nothing is kept but what --html and --json ask for.
    """
    from vitrail.cli.progress import counting
    from vitrail.train.allocator import keep_freed_memory
    from vitrail.train.lr_find import find_lr
    from vitrail.train.lr_page import render, summary

    keep_freed_memory()  # as `vitrail train` does
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
