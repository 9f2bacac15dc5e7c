"""`vitrail trace MODEL IMAGE -o FILE`: every number between the pixels and the prediction, as one file."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitrail.cli.output import check
from vitrail.cli.table import show
from vitrail.cli.values import File, Name

ALL, NONE = "all", "none"


def trace(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    image: Annotated[str, Parameter(name="IMAGE", help="An image file.")],
    /,
    *,
    out: Annotated[File, Parameter(name=["--out", "-o"], help="The file to write; its name ends in .safetensors.")],
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    parts: Annotated[
        str, Parameter(metavar="NAME,NAME", help="What to keep of each block, as in attention,values; all or none.")
    ] = ALL,
    attention: Annotated[
        Literal["uint8", "float16", "float32"], Parameter(help="How precisely attention is kept.")
    ] = "float32",
) -> None:
    """Write every intermediate of one forward pass to a file that other programs can read.

    The file is in the safetensors format and holds the pixels that the model saw, its configuration and its prediction
    too, so that it can be understood without the model.
    """
    from vitrail.errors import ConfigError, UnknownName
    from vitrail.explain.tracefile import capture, write_trace
    from vitrail.inference import load
    from vitrail.models.trace import PARTS
    from vitrail.report import percent, printable

    check({"--out": out})
    if Path(out).suffix != ".safetensors":
        raise ConfigError(f"--out should end in .safetensors, the format of a trace, found {out!r}")
    names = {ALL: list(PARTS), NONE: []}.get(parts, parts.split(","))
    for name in names:
        if name not in PARTS:
            raise UnknownName("part of a block", name, (*PARTS, ALL, NONE))
    classifier = load(model_source, model=model)
    stored = capture(classifier, Path(image), parts=names, model=Path(model_source).name, name=Path(image).name)
    write_trace(out, stored, attention)
    best = stored.info.predictions[0]
    config = stored.info.config
    rows = [
        ("file", f"{printable(out)}, {Path(out).stat().st_size / 1e6:.1f} MB"),
        ("prediction", f"{printable(best.label)} {percent(best.probability)}"),
        ("tokens", f"{config.prefix} + {config.grid[0]} x {config.grid[1]} patches"),
        ("blocks", f"{config.depth}, of each: {', '.join(stored.info.parts) or 'nothing'}"),
    ]
    show(("trace", printable(Path(image).name)), rows)
