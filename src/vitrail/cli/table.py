"""Tables on stdout: aligned and styled on a terminal, one tab-separated line a row elsewhere."""

import sys
from collections.abc import Container, Iterable, Sequence


def show(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Container[int] = (), whole: Container[int] = ()
) -> None:
    """Print `rows` under `header`; columns in `right` are aligned to the right, those in `whole` never folded where the
    terminal is narrow. Cells hold no control characters."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            print("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names are never read as markup
    Console().print(table)


def three_digits(value: float) -> str:
    """A number with three significant digits, and all those before the point: 0.00715, 2.51, 1,090."""
    return f"{float(f'{value:.3g}'):,.10g}"
