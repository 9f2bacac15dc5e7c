"""The Classifier: a model with the preprocessing and the labels that belong to its weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.decode import DecodePolicy, decode
from vitrail.data.preprocess import Fitted, fit, preprocess, to_model
from vitrail.errors import ImageError, WeightsError
from vitrail.models.build import Network
from vitrail.types import ImageLike, Images, LabelSet, Logits, Pixels, Prediction
from vitrail.weights.load import load_weights

TOP, THRESHOLD = 5, 0.5  # classes named where there is one an image; probability from which where there are several


class Engine(Protocol):
    """What computes the logits of a Classifier; `name` says which, as in `openvino-bfloat16`."""

    name: str

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        """Logits (B K, float32, on the CPU) of images that `fit` has brought to the model's size."""


class Classifier:
    """The one object that evaluation, prediction, explanation, export and serving accept.

    `record` is what the training run stored with the weights (empty for weights from elsewhere). `engine` computes the
    logits of pixels in place of the model itself, which stays for what looks inside.
    """

    def __init__(
        self,
        model: Network,
        preprocess: Preprocess,
        labels: LabelSet,
        record: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        engine: Engine | None = None,
    ) -> None:
        if len(labels) != model.config.classes:
            raise WeightsError(f"the model has {model.config.classes} classes, the labels name {len(labels)}")
        if preprocess.size != model.config.image_size:
            raise WeightsError(f"the model takes {model.config.image_size} pixels, not {preprocess.size}")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.preprocess = preprocess
        self.labels = labels
        self.record: Mapping[str, Any] = record or {}
        self.engine = engine

    @torch.inference_mode()
    def logits(self, images: Images) -> Logits:
        """Logits (B K) on the CPU of preprocessed images (B C H W), in the model's own precision."""
        weight = next(self.model.parameters())
        return self.model(images.to(weight.device, weight.dtype)).cpu()

    def scores(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        """Logits (B K) on the CPU of pixels that `fit` has brought to the model's size, by the engine."""
        return self.logits(to_model(pixels, self.preprocess)) if self.engine is None else self.engine(pixels)

    def fit(self, image: ImageLike, policy: DecodePolicy | None = None) -> Fitted:
        """A file, its bytes, or decoded pixels (3 H W, uint8), decoded, resized and cropped. ImageError if
        unreadable."""
        return fit(self.pixels(image, policy), self.preprocess)

    def prepare(self, image: ImageLike, policy: DecodePolicy | None = None) -> Float[Tensor, "3 H W"]:
        """The model's input for a file, its bytes, or decoded pixels (3 H W, uint8). ImageError if unreadable."""
        return preprocess(self.pixels(image, policy), self.preprocess)

    def probabilities(self, logits: Logits) -> Float[Tensor, "B K"]:
        """Of each class, in float64: shares of one where an image has one class, each on its own where it may have
        several."""
        wide = logits.double()
        return wide.sigmoid() if self.labels.multilabel else wide.softmax(dim=-1)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        top: int | None = None,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """The most probable classes of each image; an unreadable one carries its reason in `error`.

        At most `top` of them (5), and none with a probability below `threshold` (0). Where an image may have several
        classes, all are named that have a probability of at least 0.5, however many, perhaps none.
        """
        many = [images] if isinstance(images, str | Path | bytes | Tensor) else images
        return list(self.stream(many, top, batch_size, threshold))

    def stream(
        self,
        images: Iterable[ImageLike],
        top: int | None = None,
        batch_size: int = 32,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """`predict` image by image, in order, holding one batch in memory."""
        several = self.labels.multilabel
        top = (len(self.labels) if several else TOP) if top is None else top
        threshold = (THRESHOLD if several else 0.0) if threshold is None else threshold
        for start, batch in enumerate(_batches(images, batch_size)):
            names = [_name(image, start * batch_size + i) for i, image in enumerate(batch)]
            inputs: list[Tensor | str] = [self._prepare_or_reason(image) for image in batch]
            ready = [x for x in inputs if isinstance(x, Tensor)]
            logits = self.scores(torch.stack(ready)) if ready else torch.empty(0, len(self.labels))
            rows = iter(self.probabilities(logits))
            for name, value in zip(names, inputs, strict=True):
                if isinstance(value, str):
                    yield Prediction(name, error=value)
                else:
                    yield self._ranked(name, next(rows), top, threshold)

    def _prepare_or_reason(self, image: ImageLike) -> Tensor | str:
        try:
            return self.fit(image)
        except ImageError as error:
            return error.reason

    def pixels(self, image: ImageLike, policy: DecodePolicy | None = None) -> Pixels:
        """The decoded pixels (3 H W, uint8) of a file or its bytes. ImageError if unreadable."""
        if isinstance(image, Tensor):
            return image
        return decode(image if isinstance(image, bytes) else read_bytes(Path(image)), policy or DecodePolicy())

    def _ranked(self, name: str, probabilities: Float[Tensor, " K"], top: int, threshold: float) -> Prediction:
        values, indices = probabilities.topk(min(top, len(probabilities)))
        indices, values = indices[values >= threshold], values[values >= threshold]
        order = tuple(int(i) for i in indices)
        return Prediction(name, tuple(self.labels.names[i] for i in order), order, tuple(float(v) for v in values))


def load(source: str | Path, model: str | None = None, device: str | None = None) -> Classifier:
    """The Classifier of a run folder, model folder, weights file (with `model` naming the architecture) or Hugging
    Face id. Classes without names are called `class N`. Raises WeightsError or UnknownName."""
    loaded = load_weights(source, model)
    classes = loaded.model.config.classes
    if not classes:
        raise WeightsError(f"{source} has no head, so it cannot classify; train one with `vitrail train --weights`")
    labels = loaded.labels or LabelSet(tuple(f"class {i}" for i in range(classes)))
    return Classifier(loaded.model, loaded.preprocess, labels, loaded.record, device)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; ImageError with a short reason where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError((error.strerror or str(error)).lower()) from error


def _batches(items: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _name(image: ImageLike, position: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {position}"
