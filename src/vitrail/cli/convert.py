"""`vitrail convert SOURCE OUT --to TARGET`: weights in another layout, proven to be the same network."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import Name, Pixels


def convert(
    source: Annotated[
        str,
        Parameter(
            name="SOURCE", help="A run or model folder, a weights file, a name of `vitrail models`, a Hugging Face id."
        ),
    ],
    out: Annotated[
        str, Parameter(name=["OUT", "--out"], help="The new folder; for npz and big_vision, the new file.npz.")
    ],
    /,
    *,
    to: Annotated[
        Name,
        Parameter(
            help="vitrail, timm, transformers, torchvision, dinov2, dinov3, open_clip, npz, npz-linen or big_vision."
        ),
    ],
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    image_size: Annotated[
        Pixels | None,
        Parameter(help="Size of the images, where the file does not tell it; another one resamples the positions."),
    ] = None,
    allow_loss: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="NAME",
            show_default=False,
            help="What may be lost where the target cannot hold it, as in labels; may be given many times.",
        ),
    ] = (),
) -> None:
    """Write weights in another library's layout, with their preprocessing and class names.

    The result is compared with the source, block by block, and is only kept where it is the same network.
    """
    from vitrail.evaluate.parity import convert as run

    sys.stdout.write(run(source, out, to, model=model, image_size=image_size, allow_loss=allow_loss).markdown())
