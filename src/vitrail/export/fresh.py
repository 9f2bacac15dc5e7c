"""The other process of a verification: `python -m vitrail.export.fresh FOLDER IMAGES LOGITS` runs an export on images,
in batches of changing size. IMAGES: a file of pixels, or a folder of encoded images for an export that resizes."""

import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.data.decode import decode
from vitrail.engines.catalog import open_folder
from vitrail.errors import UserError
from vitrail.export.verify import SIZES


def _fitted(pixels: UInt8[Tensor, "N 3 H W"]) -> Iterator[UInt8[Tensor, "B 3 H W"]]:
    for size in cycle(SIZES):
        if not len(pixels):
            return
        yield pixels[:size]
        pixels = pixels[size:]


def _whole(folder: Path) -> Iterator[UInt8[Tensor, "B rows cols 3"]]:
    """Images as they are decoded; neighbours of the same size together."""
    held: list[Tensor] = []
    most = cycle(SIZES)
    size = next(most)
    for path in sorted(folder.iterdir()):
        image = decode(path.read_bytes()).permute(1, 2, 0)
        if held and (len(held) == size or held[0].shape != image.shape):
            yield torch.stack(held)
            held, size = [], next(most)
        held.append(image)
    yield torch.stack(held)


def main(folder: str, asked: str, answered: str) -> int:
    """0 and a file of logits; or 1 and one sentence on stderr."""
    try:
        engine, _ = open_folder(Path(folder))
        batches = _whole(Path(asked)) if Path(asked).is_dir() else _fitted(load_file(asked)["pixels"])
        rows = [engine(batch).clone() for batch in batches]
        save_file({"logits": torch.cat(rows).contiguous()}, answered)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
