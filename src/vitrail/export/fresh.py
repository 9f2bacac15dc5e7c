"""The other process of a verification: `python -m vitrail.export.fresh FOLDER PIXELS LOGITS` runs an export on pixels,
in batches of changing size."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vitrail.engines.catalog import open_folder
from vitrail.errors import UserError
from vitrail.export.verify import SIZES


def main(folder: str, asked: str, answered: str) -> int:
    """0 and a file of logits; or 1 and one sentence on stderr."""
    try:
        engine, _ = open_folder(Path(folder))
        pixels, rows, turn = load_file(asked)["pixels"], [], 0
        while len(pixels):
            size = SIZES[turn % len(SIZES)]
            rows.append(engine(pixels[:size]).clone())
            pixels, turn = pixels[size:], turn + 1
        save_file({"logits": torch.cat(rows).contiguous()}, answered)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
