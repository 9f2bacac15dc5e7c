"""`vitrail inspect SOURCE`: what a weights file holds, from its headers."""

import json as json_format
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vitrail.cli.table import show, three_digits
from vitrail.cli.values import Name, Pixels

if TYPE_CHECKING:
    from vitrail.weights.inspect import Inspection

SHOWN = 5  # classes and passengers that are named


def inspect(
    source: Annotated[
        str,
        Parameter(
            name="SOURCE", help="A run or model folder, a weights file, a name of `vitrail models`, a Hugging Face id."
        ),
    ],
    /,
    *,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    image_size: Annotated[
        Pixels | None,
        Parameter(help="Size of the images, where the file does not tell it."),
    ] = None,
    json: Annotated[bool, Parameter(help="Print everything as JSON.")] = False,
) -> None:
    """Tell what weights are: format, architecture, cost, preprocessing, classes, licence, and what is unusual.

    Nothing is run, and no number of the weights is read.
    """
    from vitrail.report import printable
    from vitrail.weights.inspect import inspect_weights

    found = inspect_weights(source, model, image_size=image_size)
    if json:
        print(json_format.dumps(found.json(), indent=2))
        return
    show(("what", "value"), [(name, printable(text)) for name, text in rows(found)])


def rows(found: "Inspection") -> list[tuple[str, str]]:
    """(what, value) in words."""
    from vitrail.config import ViTConfig

    config = found.config
    height, width = config.image_size
    if isinstance(config, ViTConfig):
        sizes = f"{config.depth} blocks, width {config.width}, {config.heads} heads, MLP {config.mlp_dim}, "
        tokens = f"{config.patches} patches of {config.patch_pixels[0]} x {config.patch_pixels[1]} px"
        others = f" and {config.prefix} other token{'s' * (config.prefix > 1)}" if config.prefix else ""
        architecture = sizes + tokens + others
    else:
        architecture = f"ResNet of {config.layers} bottlenecks, width {config.width}"
    first = [] if found.labels is None else list(found.labels.names[:SHOWN])
    classes = f"{config.classes:,}" if config.classes else "none: it gives features"
    names = ", ".join(first) + (", ..." if found.labels is not None and len(found.labels) > SHOWN else "")
    table = [
        ("source", found.source),
        ("format", found.format),
        ("model", found.name or "of no size in the catalog"),
        ("architecture", architecture),
        ("image", f"{height} x {width} px, {config.channels} channels{_assumed(found, 'image size')}"),
        ("parameters", f"{found.parameters:,} ({', '.join(found.dtypes)})"),
        ("GFLOPs", three_digits(found.flops / 1e9)),
        ("preprocessing", _preprocessing(found) + _assumed(found, "preprocessing")),
        (
            "classes",
            f"{classes}{': ' if names else ''}{names}" if first else f"{classes}{', not named' * bool(config.classes)}",
        ),
        ("licence", found.licence or "not stated"),
        ("unusual", found.unusual[0] if found.unusual else "nothing"),
        *(("", text) for text in found.unusual[1:]),
    ]
    if found.passengers:
        shown = ", ".join(found.passengers[:SHOWN])
        more = len(found.passengers) - SHOWN
        table.append(("not used", shown + (f" and {more} more" if more > 0 else "")))
    return table


def _assumed(found: "Inspection", what: str) -> str:
    return " (the usual; the file does not tell)" if what in found.assumed else ""


def _preprocessing(found: "Inspection") -> str:
    p = found.preprocess
    way = "squashed" if p.resize == "squash" else "shorter side resized"
    crop = "" if p.crop == 1 else f", the centre {100 * p.crop:.4g} %"
    smooth = "" if p.antialias else " without antialiasing"
    mean, std = ([round(v, 3) for v in values] for values in (p.mean, p.std))
    return f"{way}{crop}, {p.interpolation}{smooth}, mean {mean}, deviation {std}"
