"""`vitrail benchmark MODEL`: the engines on this machine, in turn on the same images."""

import json as json_format
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.table import show
from vitrail.cli.values import File, Name, Whole

if TYPE_CHECKING:
    from vitrail.engines.trial import Trial


def benchmark(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    engines: Annotated[
        tuple[str, ...],
        Parameter(metavar="NAME", show_default=False, help="Which; by default those that `auto` chooses from."),
    ] = (),
    batch: Annotated[Whole, Parameter(help="Images of one call.")] = 8,
    rounds: Annotated[Whole, Parameter(help="Timed calls of each engine.")] = 9,
    images: Annotated[
        File | None, Parameter(help="Images to compare the answers on, best labelled; else random pictures.")
    ] = None,
    calibrate: Annotated[File | None, Parameter(help="Photos that choose the scales of openvino-int8.")] = None,
    merge: Annotated[Whole, Parameter(help="Tokens that merge into others in each block: faster, not exact.")] = 0,
    json: Annotated[File | None, Parameter(help="Write the table as JSON to this file; - for stdout.")] = None,
) -> None:
    """Time the engines on this machine and say how far their logits are from torch's in float32.

    Every engine gets the same images in turn, so what else the machine does falls on all of them.
    """
    import sys

    from vitrail.engines.calibration import calibration_pixels
    from vitrail.engines.catalog import find_engine, on_trial
    from vitrail.engines.trial import as_rows, choose, compare
    from vitrail.errors import ConfigError
    from vitrail.export.verify import images_to_show
    from vitrail.inference import load

    if batch < 1 or rounds < 2:
        raise ConfigError(f"--batch should be at least 1 and --rounds at least 2, found {batch} and {rounds}")
    check({"--json": json})
    names = list(dict.fromkeys(find_engine(name) for name in engines)) or on_trial()
    classifier = load(model_source, model=model)
    photos = None if calibrate is None else calibration_pixels(classifier, calibrate)
    shown = images_to_show(classifier, images)
    trials = compare(
        classifier,
        names,
        batch,
        images=shown.pixels,
        labels=shown.labels,
        merge=merge,
        calibration=photos,
        rounds=rounds,
        notify=lambda name: print(f"vitrail: loading {name}", file=sys.stderr, flush=True),
    )
    if all(t.error for t in trials):
        raise ConfigError(trials[0].error)
    if json != "-":
        _show(trials, len(shown.pixels))
        print(f"fastest whose logits are alike: {choose(trials)}")
    if json is not None:
        table = {"batch": batch, "fastest": choose(trials), "engines": as_rows(trials)}
        write(json, json_format.dumps(table, indent=2) + "\n")


def _show(trials: "list[Trial]", images: int) -> None:
    from vitrail.report import percent

    rows = []
    for t in trials:
        if t.error:
            rows.append((t.engine, "–", t.error, "", "", "", "", "", ""))
            continue
        low, high = t.spread
        rows.append(
            (
                t.engine,
                f"{t.rate:.1f}",
                f"{low:.1f}–{high:.1f}",
                f"{t.difference:.2g}",
                f"{t.cosine:.5f}",
                percent(t.agreement),
                "–" if t.right is None else f"{t.right} of {images}",
                f"{t.load_seconds:.1f} s",
                f"{t.memory / 2**20:.0f} MiB",
            )
        )
    head = ("engine", "img/s", "quartiles", "logits off", "cosine", "same class", "right", "load", "memory")
    show(head, rows, right=range(1, 9))
