"""Tables on stdout: aligned and styled on a terminal, one tab-separated line a row elsewhere."""

from collections.abc import Container, Iterable, Sequence
from io import TextIOBase
from typing import IO, TextIO, cast

Stream = TextIO | TextIOBase  # a StringIO is the latter only


def show(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Container[int] = (), stream: Stream) -> None:
    """Print `rows` under `header`; columns in `right` are aligned to the right. Cells hold no control characters."""
    if not stream.isatty():
        for row in (header, *rows):
            stream.write("\t".join(row) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names are never read as markup
    Console(file=cast(IO[str], stream)).print(table)
