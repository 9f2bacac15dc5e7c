"""What a model's linear head reads of every image of a source, computed once.

Axes: N images, D features, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.loader import EvaluationPass
from vitrail.data.stores import Source
from vitrail.errors import DataError
from vitrail.models.build import Network

BATCH = 64  # images; fixed, because the last bits of a product depend on it
NAMED = 10  # images that an error lists


@dataclass(frozen=True)
class Features:
    """Features of the readable images, in the order of the source. `unreadable` holds (id, reason) of the others."""

    values: Float[Tensor, "N D"]  # float32, on the CPU
    labels: Int[Tensor, " N"] | Float[Tensor, "N K"]  # zeros and ones where images may have several classes
    index: Int[Tensor, " N"]  # places in the source
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@torch.inference_mode()
def features(
    model: Network,
    preprocess: Preprocess,
    source: Source,
    *,
    workers: int | None = None,
    half: torch.dtype | None = None,
    notify: Callable[[int, int], None] | None = None,
) -> Features:
    """What the head of `model` reads (`represent`) of each image, shown as for evaluation and without augmentation.

    For the paper's models that is the class token after the last norm (equation 4), for others the mean over patches,
    the attention pool, both tokens of DeiT's distilled models, or the tanh layer's output. The model is left as it was.
    `half` (bfloat16 or float16): what its products are computed in, faster and less exactly; else the weights' own.
    `notify(done, total)` is called after each batch; what it raises ends the pass.
    """
    weight = next(model.parameters())
    images = EvaluationPass(source, preprocess, BATCH, workers)
    parts, training = [], model.training
    model.eval()
    try:
        for batch in images:
            with torch.autocast(weight.device.type, half, enabled=half is not None):
                values = model.represent(batch.images.to(weight.device, weight.dtype)).float().cpu()
            parts.append((values, batch.labels, batch.index))
            if notify:
                notify(int(batch.index[-1]) + 1, len(source))
    finally:
        model.train(training)
    if not parts:
        raise DataError(f"features need readable images, found none among {len(source)}{_listed(images.unreadable)}")
    values, labels, index = (torch.cat(part) for part in zip(*parts, strict=True))
    return Features(values.clone(), labels, index, tuple(images.unreadable))


def check_readable(found: Features, most: float) -> None:
    """DataError with the list where more than the share `most` of the images could not be read."""
    total = len(found) + len(found.unreadable)
    if len(found.unreadable) > most * total:
        raise DataError(
            f"at most {most:.1%} of the images may be unreadable, found {len(found.unreadable)} of {total}"
            f"{_listed(found.unreadable)}; repair or remove them"
        )


def _listed(unreadable: "list[tuple[str, str]] | tuple[tuple[str, str], ...]") -> str:
    shown = ", ".join(f"{name} ({reason})" for name, reason in unreadable[:NAMED])
    return f": {shown}{', ...' if len(unreadable) > NAMED else ''}" if unreadable else ""
