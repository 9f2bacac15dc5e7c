"""`vitrail batch-find DATA`: how many images the device computes at once, and how fast."""

from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import Data, File, Model, RecipeName, Seed, Settings, Weights


def batch_find(
    data: Data,
    /,
    *,
    model: Model = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
    set_: Settings = (),
    json: Annotated[File | None, Parameter(help="Write the numbers as JSON to this file; - for stdout.")] = None,
) -> None:
    """Find how many images a training step computes at once: what fits in memory, and what is fastest.

    Takes what `vitrail train` takes. Nothing is kept but what --json asks for.
    """
    from vitrail.cli.table import show
    from vitrail.train.allocator import keep_freed_memory
    from vitrail.train.batch_find import find_batch

    keep_freed_memory()  # as `vitrail train` does
    check({"--json": json})
    found = find_batch(data, model=model, weights=weights, recipe=recipe, seed=seed, overrides=set_)
    if json != "-":
        rows = [
            (
                str(trial.images),
                "does not fit" if trial.images_per_second is None else f"{trial.images_per_second:.1f}",
                "" if trial.peak_bytes is None else f"{trial.peak_bytes / 2**30:.2f}",
            )
            for trial in found.trials
        ]
        memory = any(trial.peak_bytes is not None for trial in found.trials)
        width = 3 if memory else 2
        show(("images at once", "img/s", "GiB")[:width], [row[:width] for row in rows], right={0, 1, 2})
        print(
            f"On {found.device} in {found.precision}, up to {found.largest} images fit at once of the recipe's "
            f"{found.batch_size}.\nFastest, within 5 %: {found.suggestion}, which is --set accumulate="
            f"{found.accumulate} with the same batch and loss."
        )
    if json is not None:
        write(json, found.model_dump_json(indent=1) + "\n")
