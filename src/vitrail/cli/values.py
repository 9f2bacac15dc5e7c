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


def file(type_: Any, tokens: Sequence[Token]) -> str:
    """The name of a file, or `-` for stdout; CoercionError where another option stands in its place."""
    value = tokens[0].value
    if not value or (value.startswith("-") and value != "-"):
        raise CoercionError(msg=f"should be the name of a file, or - for stdout, found {value!r}")
    return os.path.expanduser(value)


Whole = Annotated[int, Parameter(converter=whole, metavar="N", allow_leading_hyphen=True)]
File = Annotated[str, Parameter(converter=file, metavar="FILE", allow_leading_hyphen=True)]
Name = Annotated[str, Parameter(metavar="NAME")]
