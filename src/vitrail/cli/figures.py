"""`vitrail figures MODEL`: the ViT paper's figures 6 and 7, of any Vision Transformer."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import Name, Whole


def figures(
    model_source: Annotated[
        str,
        Parameter(
            name="MODEL", help="A run or model folder, a weights file or a Hugging Face id, with or without a head."
        ),
    ],
    /,
    *,
    out: Annotated[str, Parameter(metavar="DIR", help="Folder for the pictures (SVG and PNG) and the numbers (JSON).")],
    data: Annotated[
        str | None,
        Parameter(
            metavar="DATA",
            help="Images to look at: a folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.",
        ),
    ] = None,
    images: Annotated[
        Whole | None, Parameter(help="How many of them, evenly spread over the data; by default 128, as in the paper.")
    ] = None,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
) -> None:
    """Draw the figures by which the paper looks inside a Vision Transformer.

    Figure 6: images beside what the model attends to in them. Figure 7: the filters of the patch embedding, the
    similarity of the position embeddings, and how far each head looks. Attention needs --data.
    """
    from vitrail.cli.output import check_folder
    from vitrail.cli.progress import counting
    from vitrail.explain.figure_drawing import write_figures
    from vitrail.explain.figures import make_figures

    check_folder("--out", out)
    with counting("figures") as notify:
        made = make_figures(model_source, data, model=model, images=images, notify=notify)
    for path in write_figures(made, Path(out)):
        print(path)
    for name, reason in made.numbers.left_out.items():
        print(f"not drawn: {name}: {reason}")
