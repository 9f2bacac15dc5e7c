"""What images are labelled with: one class each, or any number of classes each.

One class an image: n class indices (int64). Several: n rows of K truth values (bool), one a class; a row may be all
false. Which of the two a data set has is decided when it is read (manifests.py), and by its shape from then on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ClassLabels = npt.NDArray[np.int64] | npt.NDArray[np.bool_]  # n, or n K


def multilabel(labels: "ClassLabels | Tensor") -> bool:
    """Whether an image has any number of classes rather than one."""
    return labels.ndim == 2


def label_rows(sets: Sequence[Sequence[Any]], classes: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """n rows of K truth values: whether the classes, which hold every label, are among the image's."""
    position = {name: index for index, name in enumerate(classes)}
    rows = np.zeros((len(sets), len(classes)), dtype=np.bool_)
    for row, labels in zip(rows, sets, strict=True):
        row[[position[label] for label in labels]] = True
    return rows


def places(label: Any) -> tuple[int, ...]:
    """The class indices of one image, from its index or its row."""
    return tuple(np.flatnonzero(label).tolist()) if np.ndim(label) else (int(label),)


def label_of(labels: ClassLabels, index: int) -> int | tuple[int, ...]:
    """The class index of an image; the indices of all its classes where it may have several."""
    return places(labels[index]) if multilabel(labels) else int(labels[index])


def counts_of(labels: ClassLabels, classes: int) -> list[int]:
    """Images of each of so many classes; an image with several counts for each of them."""
    counted: npt.NDArray[Any] = labels.sum(axis=0) if multilabel(labels) else np.bincount(labels, minlength=classes)
    return [int(count) for count in counted]


def used(labels: ClassLabels) -> set[int]:
    """Classes that an image has."""
    return set(np.flatnonzero(labels.any(axis=0)).tolist()) if multilabel(labels) else set(labels.tolist())


def targets(labels: Tensor) -> Tensor:
    """Labels as a batch holds them: class indices as they are, rows of truth values as zeros and ones (float32)."""
    return labels.to(torch.float32) if multilabel(labels) else labels
