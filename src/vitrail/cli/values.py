"""Values of options that the parser alone would read too loosely."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import CoercionError, Parameter, Token


def whole(type_: Any, tokens: Sequence[Token]) -> int:
    """A whole number, where the parser would round 1.5; CoercionError for anything else."""
    try:
        return int(tokens[0].value)
    except ValueError as error:
        raise CoercionError(msg=f"should be a whole number, found {tokens[0].value!r}") from error


def pixels(type_: Any, tokens: Sequence[Token]) -> tuple[int, int]:
    """(rows, cols) from `224` or `224x320`; CoercionError for anything else."""
    value = tokens[0].value
    sides = value.split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and 0 < int(side) < 2**16 for side in sides):
        raise CoercionError(msg=f"should be pixels, as in 224 or 224x320 (rows x columns), found {value!r}")
    return int(sides[0]), int(sides[-1])


def part(type_: Any, tokens: Sequence[Token]) -> tuple[int, int]:
    """(i, n) from `3/16`; CoercionError for anything else."""
    value = tokens[0].value
    number, slash, parts = value.partition("/")
    if not slash or not (number.isdecimal() and parts.isdecimal()) or not 1 <= int(number) <= int(parts) <= 10**6:
        raise CoercionError(msg=f"should be I/N with I from 1 to N, as in 3/16, found {value!r}")
    return int(number), int(parts)


def file(type_: Any, tokens: Sequence[Token]) -> str:
    """The name of a file, or `-` for stdout; CoercionError where another option stands in its place."""
    value = tokens[0].value
    if not value or (value.startswith("-") and value != "-"):
        raise CoercionError(msg=f"should be the name of a file, or - for stdout, found {value!r}")
    return os.path.expanduser(value)


Whole = Annotated[int, Parameter(converter=whole, metavar="N", allow_leading_hyphen=True)]
File = Annotated[str, Parameter(converter=file, metavar="FILE", allow_leading_hyphen=True)]
Pixels = Annotated[tuple[int, int], Parameter(converter=pixels, metavar="ROWSxCOLS", n_tokens=1)]
Part = Annotated[tuple[int, int], Parameter(converter=part, metavar="I/N", n_tokens=1)]
Name = Annotated[str, Parameter(metavar="NAME")]

# What every verb that measures or uses a model takes.
EngineName = Annotated[
    Name, Parameter(help="What computes: torch, openvino-bfloat16, ..., auto, or a folder of `vitrail export`.")
]
WholeJpegs = Annotated[bool, Parameter(help="Decode large JPEGs at their full size: slower, a little exacter.")]

# What every verb that trains takes, and says of it.
Data = Annotated[
    str, Parameter(name="DATA", help="A folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.")
]
Model = Annotated[Name | None, Parameter(help="Architecture by name; see `vitrail models`.")]
Weights = Annotated[
    str | None,
    Parameter(
        metavar="SOURCE",
        help="Weights to start from: a run or model folder, a weights file (with --model), a Hugging Face id.",
    ),
]
RecipeName = Annotated[
    str | None, Parameter(help="How to train; by default finetune with --weights, scratch_small without.")
]
Seed = Annotated[Whole, Parameter(help="Seed of everything random.")]
Settings = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        metavar="FIELD=VALUE",
        show_default=False,
        help="Change one field of the recipe, as in optim.lr=0.0005; may be given many times.",
    ),
]
