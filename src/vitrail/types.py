"""Axis legend and the records that cross room borders.

Axes: B images, C channels, H W pixels (rows, cols), P patches, T tokens (prefix tokens + P), D width, h heads,
d width of one head, M MLP width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Pixels: TypeAlias = UInt8[Tensor, "3 H W"]  # one decoded RGB image, 0..255
Images: TypeAlias = Float[Tensor, "B C H W"]  # normalised: (pixels / 255 - mean) / std
Tokens: TypeAlias = Float[Tensor, "B T D"]
Logits: TypeAlias = Float[Tensor, "B K"]
Labels: TypeAlias = Int[Tensor, " B"]
SoftLabels: TypeAlias = Float[Tensor, "B K"]  # rows sum to one; zeros and ones where images have several classes

ImageLike: TypeAlias = str | Path | bytes | Tensor  # a file, its bytes, or decoded Pixels


@dataclass(frozen=True)
class Item:
    """One stored image: its encoded bytes, class index (indices, where it may have several) and a name a person can
    find it by."""

    data: bytes
    label: int | tuple[int, ...]
    id: str


@dataclass(frozen=True)
class Batch:
    """Images with their labels; `index` are positions in the source, which make every evaluation exact.

    Images are normalised, or still pixels where an engine takes them so. A training batch holds soft labels after mixup
    or cutmix, and rows of zeros and ones where an image may have several classes; class indices otherwise.
    """

    images: Images | UInt8[Tensor, "B 3 H W"]
    labels: Labels | SoftLabels
    index: Labels


MULTILABEL = "multi_label_classification"  # what transformers calls it, as problem_type in config.json


@dataclass(frozen=True)
class LabelSet:
    """The K classes of a model: display names, and stable ids (WordNet ids for ImageNet) where they exist.

    `multilabel`: an image may have any number of the classes, so that each has a probability of its own (the sigmoid of
    its logit); otherwise exactly one, and the probabilities sum to one (softmax).
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] | None = None
    multilabel: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int | None:
        """Index of the class called `name`, by id first, then by display name; None where no class, or more than
        one (ImageNet has two cranes), has it."""
        for table in (self.ids, self.names):
            if table is not None and table.count(name) == 1:
                return table.index(name)
        return None


@dataclass(frozen=True)
class Prediction:
    """The k most probable classes of one image, all of its classes where it may have several (perhaps none), or the
    reason why it could not be read."""

    id: str
    labels: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


def as_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """(rows, cols) of a size given as one number or two."""
    if isinstance(value, int):
        return value, value
    rows, cols = value
    return rows, cols
