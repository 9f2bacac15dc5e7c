"""`vitrail train DATA`: a trained, measured model folder from a folder of photos."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import Data, Model, RecipeName, Seed, Settings, Weights


def train(
    data: Data,
    /,
    *,
    model: Model = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    out: Annotated[
        str | None, Parameter(metavar="RUN", help="The run folder; by default runs/DATA-RECIPE-seedN.")
    ] = None,
    seed: Seed = 0,
    set_: Settings = (),
    accept_changes: Annotated[
        bool, Parameter(help="Continue a run that was started with other data or settings, with these from here on.")
    ] = False,
) -> None:
    """Train a Vision Transformer on your photos, from scratch or from published weights, and measure it.

    Ctrl-C saves; the same command continues where it stopped.
    """
    from vitrail.cli.progress import reporting
    from vitrail.train import train as run
    from vitrail.train.allocator import keep_freed_memory

    keep_freed_memory()
    with reporting() as notify:
        result = run(
            data,
            model=model,
            weights=weights,
            recipe=recipe,
            out=out,
            seed=seed,
            overrides=set_,
            notify=notify,
            accept_changes=accept_changes,
        )
    sys.stdout.write(result.report.markdown())
    print(f"\nreport   {result.folder / 'report.html'}\nmodel    {result.folder / 'model'}")
    print(f"use it   vitrail predict {result.folder} PHOTO...")
