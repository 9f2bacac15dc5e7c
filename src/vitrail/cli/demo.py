"""`vitrail demo`: the whole path on handwritten digits, from nothing to a measured model, in under two minutes."""

from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import Whole


def demo(
    *,
    out: Annotated[str, Parameter(metavar="RUN", help="The run folder.")] = "demo",
    seed: Annotated[Whole, Parameter(help="Seed of everything random.")] = 0,
) -> None:
    """Train a small model on handwritten digits, measure it, and use it."""
