"""What can go wrong, as a tree. The command line exits 2 on a UserError and 1 on anything else.

VitrailError
├── ParityError          a conversion does not compute what its source does: vitrail's own mistake
└── UserError            the user can mend it: one sentence with the rule, the found value and the remedy
    ├── ConfigError      a field is unknown, of the wrong type or out of bounds
    ├── UnknownName      a table has no such row; lists close matches
    ├── DataError        a data set cannot be used (empty, one class, missing label, too many broken images)
    │   └── WorkerDied   a process that reads images was killed; what was computed can be kept
    ├── ImageError       one image cannot be decoded; `.reason` is short
    ├── WeightsError     a weights file or model folder cannot be loaded
    ├── GateError        an export computes too far from its model
    ├── MissingExtra     an optional package is not installed; names the pip command
    └── StorageError     a file cannot be written (permissions, disk full)
"""

import difflib
from collections.abc import Container, Iterable

from pydantic import ValidationError


class VitrailError(Exception):
    """Root of every error vitrail raises on purpose."""


class ParityError(VitrailError):
    """A conversion does not compute what its source does."""


class UserError(VitrailError):
    """A mistake the user can mend; its text is one sentence for them."""


class ConfigError(UserError):
    """A configuration field is unknown, of the wrong type or out of bounds."""


class DataError(UserError):
    """A data set cannot be used as asked."""


class WorkerDied(DataError):
    """A process that reads images was killed, which says nothing about the images."""


class WeightsError(UserError):
    """A weights file or model folder cannot be loaded as asked."""


class GateError(UserError):
    """An export computes too far from the model it was made of."""


class StorageError(UserError):
    """Something could not be written where the user asked."""


class ImageError(UserError):
    """One image cannot be decoded."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        self.reason = reason
        super().__init__(f"{name}: {reason}" if name else reason)


class UnknownName(UserError):
    """A name that its table does not hold."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        self.name, self.choices = name, tuple(choices)
        super().__init__(f"unknown {kind} {name!r}{close_matches(name, self.choices)}")


class MissingExtra(UserError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}: pip install 'vitrail[{extra}]'")


def close_matches(name: str, choices: Iterable[str], most: int = 20) -> str:
    """The tail of a sentence about a name that was not found: likely corrections, then the choices."""
    names = list(choices)
    text = did_you_mean(name, names) or "."
    shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return f"{text} Choices: {shown}" if names else text


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of a sentence about a name that was not found: likely corrections; empty where nothing is close."""
    by_case = {n.casefold(): n for n in choices}
    near = [by_case[n] for n in difflib.get_close_matches(name.casefold(), by_case, n=3, cutoff=0.55)]
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def config_error(
    error: ValidationError, what: str, fields: Iterable[str] = (), hidden: Container[str] = ()
) -> ConfigError:
    """One sentence for a failed pydantic validation of `what`: every bad field, its rule and the value found. `hidden`
    are parts of a path that name no field."""
    parts = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(p) for p in problem["loc"] if p not in hidden) or what
        if problem["type"] == "extra_forbidden":
            parts.append(f"{what} has no field {path!r}{close_matches(path, fields)}")
        elif problem["type"] == "missing":
            parts.append(f"{what} lacks the field {path!r}")
        else:
            rule = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            rule = f"should be {rule}" if problem["msg"].startswith("Input should be ") else rule
            found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
            parts.append(f"{path}: {rule}{found}")
    return ConfigError("; ".join(parts))
