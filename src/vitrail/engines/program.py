"""One captured graph for every engine: the folded network from uint8 pixels to logits, for any number of images."""

import torch

from vitrail.models.fold import Folded

INPUT, OUTPUT = "pixels", "logits"  # names of the graph's ends
_MOST = 2**16  # images of one call


def capture(folded: Folded) -> torch.export.ExportedProgram:
    """The graph of a folded network, the number of images left open."""
    size = tuple(folded.network.config.image_size)
    pixels = torch.zeros(2, folded.network.config.channels, *size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    with torch.no_grad():
        return torch.export.export(folded, (pixels,), dynamic_shapes=({0: batch},))
