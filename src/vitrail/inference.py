"""The Classifier: a model with the preprocessing and the labels that belong to its weights."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.decode import DecodePolicy, decode
from vitrail.data.preprocess import Fitted, to_model
from vitrail.data.stream import fit_any, fitted_batches, read_bytes
from vitrail.errors import WeightsError
from vitrail.models.build import Network
from vitrail.types import ImageLike, Images, LabelSet, Logits, Pixels, Prediction
from vitrail.weights.load import load_weights

TOP, THRESHOLD = 5, 0.5  # classes named where there is one an image; probability from which where there are several


@runtime_checkable
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

    def decode_whole(self) -> None:
        """From now on decode JPEGs at their full size, however large (see Preprocess.jpeg)."""
        self.preprocess = self.preprocess.model_copy(update={"jpeg": "full"})

    def fit(self, image: ImageLike, policy: DecodePolicy | None = None) -> Fitted:
        """A file, its bytes, or decoded pixels (3 H W, uint8), decoded, resized and cropped. ImageError if
        unreadable."""
        return fit_any(image, self.preprocess, policy)

    def prepare(self, image: ImageLike, policy: DecodePolicy | None = None) -> Float[Tensor, "3 H W"]:
        """The model's input for a file, its bytes, or decoded pixels (3 H W, uint8). ImageError if unreadable."""
        return to_model(self.fit(image, policy), self.preprocess)

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
        workers: int | None = None,
    ) -> Generator[Prediction, None, None]:
        """`predict` image by image, in order, holding a few batches in memory.

        While the model computes, the next images are decoded: by `workers` processes (0 for none; by default one a
        core, up to eight, for 64 images and more), else by threads. Raises WorkerDied where one is killed.
        """
        several = self.labels.multilabel
        top = (len(self.labels) if several else TOP) if top is None else top
        threshold = (THRESHOLD if several else 0.0) if threshold is None else threshold
        start = 0
        with closing(fitted_batches(images, self.preprocess, batch_size, workers)) as batches:
            for batch in batches:
                names = [_name(image, at) for at, image in enumerate(batch.images, start)]
                start += len(names)
                rows = iter(self._ranked(batch.pixels, top, threshold))
                for name, reason in zip(names, batch.reasons, strict=True):
                    yield Prediction(name, *next(rows)) if reason is None else Prediction(name, error=reason)

    def pixels(self, image: ImageLike, policy: DecodePolicy | None = None) -> Pixels:
        """The decoded pixels (3 H W, uint8) of a file or its bytes. ImageError if unreadable."""
        if isinstance(image, Tensor):
            return image
        return decode(image if isinstance(image, bytes) else read_bytes(Path(image)), policy or DecodePolicy())

    def _ranked(self, pixels: UInt8[Tensor, "B 3 H W"], top: int, threshold: float) -> Iterator["_Ranking"]:
        """Labels, indices and probabilities of the most probable classes of each image, best first."""
        if not len(pixels):
            return
        values, indices = self.probabilities(self.scores(pixels)).topk(min(top, len(self.labels)))
        for shares, order in zip(values.tolist(), indices.tolist(), strict=True):
            named = sum(share >= threshold for share in shares)  # they descend
            yield tuple(self.labels.names[i] for i in order[:named]), tuple(order[:named]), tuple(shares[:named])


_Ranking: TypeAlias = tuple[tuple[str, ...], tuple[int, ...], tuple[float, ...]]


def load(source: str | Path, model: str | None = None, device: str | None = None) -> Classifier:
    """The Classifier of a run folder, model folder, weights file (with `model` naming the architecture) or Hugging
    Face id. Classes without names are called `class N`. Raises WeightsError or UnknownName."""
    loaded = load_weights(source, model)
    classes = loaded.model.config.classes
    if not classes:
        raise WeightsError(f"{source} has no head, so it cannot classify; train one with `vitrail train --weights`")
    labels = loaded.labels or LabelSet(tuple(f"class {i}" for i in range(classes)))
    return Classifier(loaded.model, loaded.preprocess, labels, loaded.record, device)


def _name(image: ImageLike, position: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {position}"
