"""A command line that cannot be parsed, as one sentence in the form of all others: rule, found value, close matches."""

from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from vitrail.errors import close_matches


def sentence(error: CycloptsError, verbs: Sequence[str]) -> str:
    """What is wrong with the command line, and how to mend it."""
    if isinstance(error, UnknownCommandError):
        name = (error.unused_tokens or [""])[0]
        if name.startswith("-"):
            return f"unknown option {name!r}{close_matches(name, ['--help', '--version'])}"
        return f"unknown command {name!r}{close_matches(name, verbs)}"
    if isinstance(error, UnknownOptionError):
        name = error.token.keyword or error.token.value
        options = [o for a in error.argument_collection if a.parse for o in a.names if o.startswith("--")]
        return f"unknown option {name!r}{close_matches(name, options)}"
    verb = next(iter(error.command_chain or ()), None)
    return _about_value(error) + f"; see: vitrail {verb} --help" * bool(verb)


def _about_value(error: CycloptsError) -> str:
    match error:
        case MissingArgumentError() if error.argument is not None:
            name = error.keyword or error.argument.name
            if error.keyword is None:
                return f"the option {name} is missing" if name.startswith("-") else f"{name} is missing"
            return f"the option {name} needs a value"
        case RepeatArgumentError():
            return f"the option {error.token.keyword} is given more than once"
        case CoercionError() if error.argument is not None:
            choices = get_args(error.target_type) if get_origin(error.target_type) is Literal else ()
            rule = "should be true or false" if error.target_type is bool else "is of the wrong type"
            rule = f"should be {' or '.join(map(str, choices))}" if choices else rule
            found = f", found {error.token.value!r}" if error.token is not None else ""
            return f"{error.argument.name} {error.msg or rule + found}"
        case UnusedCliTokensError():
            return f"too much on the command line: {' '.join(error.unused_tokens or ())!r}"
    error.verbose = False
    return " ".join(str(error).rstrip(".").replace(". ", "; ").split())
