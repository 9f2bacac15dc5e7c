"""Photos that show an engine what numbers to expect."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.data.sources import list_images
from vitrail.errors import DataError, ImageError
from vitrail.inference import Classifier

ENOUGH = 100  # photos; 300 were no better (docs/log.md)


def calibration_pixels(classifier: Classifier, photos: str | Path, count: int = ENOUGH) -> UInt8[Tensor, "N 3 H W"]:
    """Up to `count` photos of a folder (searched whole) or a file, evenly spaced, as `fit` prepares them. DataError
    where none can be read."""
    paths = list_images([str(photos)])
    step = max(1, len(paths) / count)
    found = []
    for i in range(min(count, len(paths))):
        try:
            found.append(classifier.fit(paths[int(i * step)]))
        except ImageError:
            continue  # it says nothing about the others
    if not found:
        raise DataError(f"calibration needs photos, but none in {photos} can be read")
    return torch.stack(found)
