"""`vitrail illustrate MODEL IMAGE`: one page that walks from the pixels of a photo to the model's answer."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.output import check, write
from vitrail.cli.values import File, Name

PAGE = "illustrated.html"


def illustrate(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    image: Annotated[str, Parameter(name="IMAGE", help="An image file.")],
    /,
    *,
    out: Annotated[File, Parameter(name=("--out", "-o"), help="Write the page to this file; - for stdout.")] = PAGE,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    label: Annotated[
        Name | None, Parameter(name="--class", help="The class to explain; by default the most probable one.")
    ] = None,
    language: Annotated[Name, Parameter(help="The language the page opens in: en or zh. It holds both.")] = "en",
) -> None:
    """Walk through a Vision Transformer on your own photo: every number between the pixels and the answer.

    The page is one file that needs no network and no other file. It shows the patches, the embedding of one of them
    term by term, positions, the attention of every head, how the answer takes shape, the logit as a sum, and maps of
    where the answer comes from, each beside what it is worth.
    """
    from pathlib import Path

    from vitrail.explain import illustrate as pages
    from vitrail.inference import load

    check({"--out": out})
    classifier = load(model_source, model=model)
    name = model or Path(model_source).name or model_source

    def notify(doing: str) -> None:
        print(doing, file=sys.stderr, flush=True)

    page = pages.illustrate(classifier, image, source=name, label=label, language=language, notify=notify)
    write(out, page)
    if out != "-":
        print(f"page     {out}")
