"""`vitrail train DATA`: a trained, measured model folder from a folder of photos."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import Name, Whole


def train(
    data: Annotated[
        str, Parameter(name="DATA", help="A folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.")
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture by name; see `vitrail models`.")] = None,
    weights: Annotated[
        str | None,
        Parameter(
            metavar="SOURCE",
            help="Weights to start from: a run or model folder, a weights file (with --model), a Hugging Face id.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, Parameter(help="How to train; by default finetune with --weights, scratch_small without.")
    ] = None,
    out: Annotated[
        str | None, Parameter(metavar="RUN", help="The run folder; by default runs/DATA-RECIPE-seedN.")
    ] = None,
    seed: Annotated[Whole, Parameter(help="Seed of everything random.")] = 0,
    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            metavar="FIELD=VALUE",
            show_default=False,
            help="Change one field of the recipe, as in optim.lr=0.0005; may be given many times.",
        ),
    ] = (),
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
            data, model=model, weights=weights, recipe=recipe, out=out, seed=seed, overrides=set_, notify=notify
        )
    sys.stdout.write(result.report.markdown())
    print(f"\nreport   {result.folder / 'report.html'}\nmodel    {result.folder / 'model'}")
    print(f"use it   vitrail predict {result.folder} PHOTO...")
