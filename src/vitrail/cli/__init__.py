"""The command line: one file a verb, each parses, makes one call and prints what came of it.

Exit codes: 0 done; 2 a mistake of the user's, told in one sentence on stderr; 1 a defect of vitrail's, with its
traceback; 130 stopped by Ctrl-C; 141 the reader of our output went away, as `head` does. Results go to stdout, all else
to stderr.

Nothing here imports torch before a verb runs: `vitrail --help` answers at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper

import cyclopts

from vitrail import __version__
from vitrail.cli.batch_find import batch_find
from vitrail.cli.benchmark import benchmark
from vitrail.cli.convert import convert
from vitrail.cli.data import data
from vitrail.cli.demo import demo
from vitrail.cli.evaluate import evaluate
from vitrail.cli.explain import explain
from vitrail.cli.export import export
from vitrail.cli.figures import figures
from vitrail.cli.illustrate import illustrate
from vitrail.cli.inspect import inspect
from vitrail.cli.lr_find import lr_find
from vitrail.cli.models import models
from vitrail.cli.predict import predict
from vitrail.cli.probe import probe
from vitrail.cli.report import report
from vitrail.cli.trace import trace
from vitrail.cli.train import train

DONE, DEFECT, MISTAKE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141

VERBS: tuple[Callable[..., None], ...] = (
    demo,
    data,
    train,
    lr_find,
    batch_find,
    evaluate,
    probe,
    report,
    predict,
    explain,
    illustrate,
    trace,
    figures,
    convert,
    export,
    benchmark,
    inspect,
    models,
)

_USERS_TO_MEND = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

_HELP = """Vision Transformers on your own photos: train one, measure it, use it.

Start with `vitrail demo`. Then: `vitrail train PHOTOS`, where PHOTOS holds one folder of images for each class."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` follow the program's name; by default the process's own."""
    for stream in (sys.stdout, sys.stderr):  # names of files and classes may hold what the terminal cannot show
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return READER_GONE
    return code


def build() -> cyclopts.App:
    """The parser: verbs, options and help."""
    app = cyclopts.App(
        name="vitrail",
        help=_HELP,
        version=__version__,
        help_format="markdown",
        default_parameter=cyclopts.Parameter(negative_bool="", negative_iterable=""),  # no --no-json, --empty-set
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for place, verb in enumerate(VERBS):
        app.command(verb, sort_key=place)
    app["--help"].group = app["--version"].group = "Options"
    return app


def _run(arguments: list[str]) -> int:
    try:
        result = build()(arguments, exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else DONE
    except cyclopts.CycloptsError as error:
        from vitrail.cli.mistakes import sentence

        return _mistake(sentence(error, [verb.__name__.replace("_", "-") for verb in VERBS]))
    except KeyboardInterrupt as stop:
        print(f"vitrail: stopped{_after(stop)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _USERS_TO_MEND:
            place = f": {error.filename}" if error.filename else ""
            return _mistake(f"{error.strerror or error}{place}")
        return _defect(error)
    except Exception as error:
        from vitrail.errors import UserError

        return _mistake(str(error)) if isinstance(error, UserError) else _defect(error)


def _mistake(text: str) -> int:
    print("vitrail: " + " ".join(text.split()), file=sys.stderr)
    return MISTAKE


def _defect(error: Exception) -> int:
    print(
        f"vitrail: this is a defect of vitrail {__version__}, please report it with the command and the lines below",
        file=sys.stderr,
    )
    traceback.print_exception(error, file=sys.stderr)
    return DEFECT


def _after(stop: KeyboardInterrupt) -> str:
    return f"; {stop}" if str(stop) else ""


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain that the reader is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
