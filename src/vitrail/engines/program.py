"""One captured graph for every engine: the folded network from uint8 pixels to logits, for any number of images, and
for images of any size where the resize is inside."""

import torch
from torch import nn

from vitrail.config import Preprocess
from vitrail.engines.resize import Resize
from vitrail.models.fold import Folded

INPUT, OUTPUT = "pixels", "logits"  # names of the graph's ends
_MOST = 2**16  # images of one call, and pixels of a side


def capture(folded: Folded, inside: Preprocess | None = None) -> torch.export.ExportedProgram:
    """The graph of a folded network, the number of images left open. `inside`: it resizes by this, and takes images
    (B rows cols 3) of any size. ConfigError where `Resize` cannot."""
    if inside is not None:
        return _capture_any_size(nn.Sequential(Resize(inside), folded))
    size = tuple(folded.network.config.image_size)
    pixels = torch.zeros(2, folded.network.config.channels, *size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    with torch.no_grad():
        return torch.export.export(folded, (pixels,), dynamic_shapes=({0: batch},))


def capture_resize(config: Preprocess) -> torch.export.ExportedProgram:
    """The graph of the resize alone, from images (B rows cols 3) of any size to what `fit` makes of them."""
    return _capture_any_size(Resize(config))


def _capture_any_size(module: nn.Module) -> torch.export.ExportedProgram:
    images = torch.zeros(2, 301, 203, 3, dtype=torch.uint8)
    names = ("batch", "rows", "cols")
    sizes = {axis: torch.export.Dim(name, min=1, max=_MOST) for axis, name in enumerate(names)}
    with torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=(sizes,))
