"""Everything the page shows of one image, computed once: the image, the trace of its forward pass, and named tensors.

Axes, the image's own left out: C channels, H W pixels, rows cols patches, P patches, T tokens, D width, h heads,
K classes, F filters that are shown, M methods.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.data.preprocess import Window, to_model, window
from vitrail.errors import ConfigError, ImageError, UnknownName
from vitrail.explain.decomposition import logit_lens
from vitrail.explain.illustrate.evidence import Evidence, gather_evidence
from vitrail.explain.illustrate.sums import Fall, Terms, fall, shuffled, terms
from vitrail.explain.representation import position_similarity
from vitrail.inference import Classifier
from vitrail.models.cost import parameters
from vitrail.models.trace import Trace, trace
from vitrail.models.vit import ViT
from vitrail.types import Pixels

PARTS = ("attention", "after_mlp")
TOP = 5  # classes and keys in a table
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Walk:
    """One image's way through one model. `label`: the class explained; `patch`: the one chosen at first, which is the
    most relevant to that class. (What the last block attends to most is often a patch of plain background.)"""

    classifier: Classifier
    model: ViT
    name: str
    source: str
    original: Pixels
    window: Window
    pixels: UInt8[Tensor, "3 U V"]
    record: Trace
    label: int
    patch: int
    similarity: Float[Tensor, "P P"] | None
    terms: Terms
    fall: Fall
    evidence: Evidence
    tensors: dict[str, Tensor] = field(repr=False)

    @property
    def config(self) -> ViTConfig:
        return self.model.config

    @property
    def query(self) -> int:
        """The token whose attention is shown at first."""
        return self.config.prefix + self.patch

    def label_name(self, label: int) -> str:
        """A class as the model's labels call it."""
        return self.classifier.labels.names[label]


def gather(
    classifier: Classifier, image: str | Path, *, source: str = "", label: str | None = None, notify: Notify = print
) -> Walk:
    """The Walk of an image file. `label`: the class to explain, by default the most probable one.

    Raises ConfigError for a model without tokens, of several classes an image, or with logits that are no numbers,
    ImageError for a file that is no image, UnknownName for a class the model does not have.
    """
    model = classifier.model
    if isinstance(model.config, ResNetConfig) or not isinstance(model, ViT):
        raise ConfigError(
            "illustrate shows tokens and their attention, which this model, a ResNet, does not have: "
            "choose a Vision Transformer, or a hybrid of both"
        )
    if classifier.labels.multilabel:
        raise ConfigError(
            "illustrate follows one answer among others, and this model gives each class an answer of its own: "
            "use vitrail explain or vitrail trace"
        )
    if classifier.device.type != "cpu":  # one image, and tensors that the page prints: a copy where they are read
        model = copy.deepcopy(model).cpu()
    try:
        original = classifier.pixels(Path(image))
    except ImageError as error:
        raise ImageError(error.reason, str(image)) from error
    chosen = None if label is None else _find(classifier, label)
    pixels = classifier.fit(original)
    weight = next(model.parameters())
    images = to_model(pixels, classifier.preprocess)[None].to(weight.device, weight.dtype)
    notify("the forward pass, every part of it kept")
    logits, record = trace(model, images, parts=PARTS)
    if not bool(logits.isfinite().all()):
        raise ConfigError("the model's logits are not finite numbers, so there is nothing to explain")
    target = int(logits[0].argmax()) if chosen is None else chosen
    evidence = gather_evidence(model, images, target, notify)
    patch = int(evidence.maps[evidence.names.index("relevance")].argmax())
    similarity = None if model.config.position in ("none", "rope") else position_similarity(model).float()
    found_terms, found_fall = terms(model, images, record, patch), fall(model, images, record, target)
    walk = Walk(
        classifier=classifier,
        model=model,
        name=Path(image).name,
        source=source,
        original=original,
        window=window(_size(original), classifier.preprocess),
        pixels=pixels,
        record=record,
        label=target,
        patch=patch,
        similarity=similarity,
        terms=found_terms,
        fall=found_fall,
        evidence=evidence,
        tensors={},
    )
    walk.tensors.update(_facts(walk), **_traced(walk, images, logits), **_depths(walk))
    walk.tensors.update(shuffled(model, images, logits), **found_terms.tensors, **found_fall.tensors)
    walk.tensors.update(evidence.tensors)
    return walk


def _find(classifier: Classifier, label: str) -> int:
    found = classifier.labels.find(label)
    if found is None:
        raise UnknownName("class", label, classifier.labels.names)
    return found


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]


def _facts(walk: Walk) -> dict[str, Tensor]:
    """Sizes and settings."""
    config, chosen, place = walk.config, walk.classifier.preprocess, torch.arange
    top, left, bottom, right = walk.window.box
    rows, cols = _size(walk.original)
    seen = max(0.0, min(bottom, rows) - max(top, 0)) * max(0.0, min(right, cols) - max(left, 0)) / (rows * cols)
    grid, registers = config.grid, config.registers
    values: dict[str, object] = {
        **{f"config.{name}": getattr(config, name) for name in ("width", "depth", "heads", "mlp_dim", "classes")},
        **{f"config.{name}": getattr(config, name) for name in ("patches", "prefix", "tokens", "channels")},
        "config.image_size": config.image_size,
        "config.patch_pixels": config.patch_pixels,
        "config.grid": grid,
        "config.registers": registers,
        "config.head_width": config.width // config.heads,
        "config.patch_numbers": walk.terms.inputs[0].numel(),
        "config.parameters": parameters(config),
        "original.size": (rows, cols),
        "resized.size": walk.window.resized,
        "window.seen": seen,
        "window.unseen": 1 - seen,
        "preprocess.mean": chosen.mean,
        "preprocess.std": chosen.std,
        "even_share": 1 / config.tokens,
        "guess": 1 / config.classes,
        "places.row": (place(config.patches) // grid[1] + 1),
        "places.column": (place(config.patches) % grid[1] + 1),
        "places.number": place(config.patches) + 1,
        "blocks.number": place(config.depth + 1),
        "heads.number": place(config.heads) + 1,
        "pixel.row": place(config.image_size[0]) + 1,
        "pixel.column": place(config.image_size[1]) + 1,
    }
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}


def _traced(walk: Walk, images: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """The image and the trace, under the names of their attributes."""
    record, chosen = walk.record, walk.classifier.preprocess
    probabilities = logits[0].softmax(dim=0, dtype=torch.float64)
    mean = torch.tensor(chosen.mean).view(3, 1, 1)
    levels = walk.pixels.float() / 255
    tensors = {
        "pixels": walk.pixels,
        "levels": levels,
        "centred": levels - mean,
        "image": images[0],
        "patches": record.patches[0],
        "embedded": record.embedded[0],
        "logits": logits[0],
        "probabilities": probabilities,
        "norms.patches": record.patches[0].norm(dim=1),
        "norms.embedded": record.embedded[0].norm(dim=1),
    }
    if walk.similarity is not None:
        tensors["similarity"] = walk.similarity
        positions = walk.model.positions(record.patches)
        assert positions is not None
        tensors["norms.position"] = positions[0, walk.config.position_rows :].norm(dim=1)
    for number, block in enumerate(record.blocks):
        tensors[f"blocks.{number}.attention"] = block.attention[0]
        looked = block.attention[0].double().topk(min(TOP, walk.config.tokens), dim=-1).values.sum(dim=-1)
        tensors[f"blocks.{number}.others"] = 1 - looked
        tensors[f"blocks.{number}.sum"] = block.attention[0].double().sum(dim=-1)
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _depths(walk: Walk) -> dict[str, Tensor]:
    """What the head would answer at each depth; the first from which the final answer stays."""
    lens = logit_lens(walk.model, walk.record)[:, 0].softmax(dim=-1, dtype=torch.float64).cpu()  # L K
    leaders = lens.argmax(dim=1)
    kept = (leaders == leaders[-1]).tolist()
    first = next(depth for depth in range(len(kept)) if all(kept[depth:]))
    rank = (lens > lens[:, walk.label, None]).sum(dim=1) + 1
    return {"lens": lens, "lens.first": torch.tensor(float(first)), "lens.rank": rank.double()}
