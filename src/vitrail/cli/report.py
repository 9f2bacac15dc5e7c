"""`vitrail report RUN...`: training runs side by side."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import File

PAGE = "comparison.html"


def report(
    runs: Annotated[list[str], Parameter(name="RUN", help="Run folders of `vitrail train`, finished or not.")],
    /,
    *,
    json: Annotated[File | None, Parameter(help="Write the comparison as JSON to this file; - for stdout.")] = None,
    html: Annotated[
        File | None, Parameter(help=f"Write the page to this file; by default {PAGE}, unless --json is given.")
    ] = None,
) -> None:
    """Compare training runs: scores, whether the difference is more than chance, curves, what was set differently.

    Each run is compared with the first one on the images that both were measured on.
    """
    from vitrail.evaluate.comparison import compare
    from vitrail.evaluate.comparison_page import render_comparison

    if html is None and json is None:
        html = PAGE
    check({"--json": json, "--html": html})
    comparison, read = compare(runs)
    if "-" not in (json, html):
        sys.stdout.write(comparison.markdown())
    if json is not None:
        write(json, comparison.json())
    if html is not None:
        write(html, render_comparison(comparison, read))
        if html != "-" and json != "-":
            print(f"\nreport   {html}")
