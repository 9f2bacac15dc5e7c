"""One image explained: the prediction, the maps that were asked for, and how far each can be believed.

Axes: C channels, H W pixels, rows cols cells of a map.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.data.preprocess import to_model
from vitrail.errors import ConfigError, UnknownName
from vitrail.explain import catalog
from vitrail.explain.cells import answers, baselines, cell_pixels, grid
from vitrail.explain.evidence import RANDOM, Evidence, evidence
from vitrail.explain.faithfulness import layers, randomised
from vitrail.explain.gradient import integrate
from vitrail.explain.tracefile import Guess, guesses
from vitrail.inference import Classifier
from vitrail.models.build import Network
from vitrail.models.vit import ViT
from vitrail.types import ImageLike, Images, Labels, LabelSet, Pixels

Computing: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Request:
    """What is asked of each image. `label`: the class that is explained, by default the predicted one; `layer`, `head`:
    for the methods that take them, counted from 0; `random`: maps for the band, 0 for no evidence; `precision`: of the
    many forward passes behind occlusion, RISE and the evidence, as the model is or in bfloat16."""

    methods: tuple[str, ...]
    label: int | None = None
    layer: int | None = None
    head: int | None = None
    random: int = RANDOM
    seed: int = 0
    precision: Computing = "float32"


@dataclass(frozen=True)
class Found:
    """One map. `notes`: what must be known of it; `seconds`: that its computing took."""

    method: str
    values: Float[Tensor, "rows cols"]
    notes: tuple[str, ...]
    seconds: float
    evidence: Evidence | None


@dataclass(frozen=True)
class Explained:
    """One image with its prediction and maps. `pixels`: what the model saw, before they were normalised; `cell`: pixels
    of one cell along (rows, cols)."""

    name: str
    pixels: Pixels
    predictions: tuple[Guess, ...]
    label: int
    label_name: str
    probability: float
    cell: tuple[int, int]
    maps: tuple[Found, ...]


def find_class(labels: LabelSet, name: str) -> int:
    """The index of a class by its id, its name, or its number. Raises UnknownName with close matches."""
    found = labels.find(name)
    if found is not None:
        return found
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    raise UnknownName("class", name, [*dict.fromkeys(labels.names)])


def check(request: Request, classifier: Classifier) -> None:
    """Refuse before the work begins what the model cannot give. Raises UnknownName and ConfigError."""
    model = classifier.model
    if classifier.labels.multilabel and (request.random or "rise" in request.methods):
        raise ConfigError(
            "an image of this model may have several classes, each with its own probability; rise and the evidence "
            "are measured for one class an image: leave rise out and ask for no random maps (--random-maps 0)"
        )
    for name in request.methods:
        catalog.check(name, model)
    if (request.layer, request.head) == (None, None):
        return
    takers = [name for name in request.methods if isinstance(model, ViT) and _takes(name, request)]
    if not takers:  # say why of the first
        catalog.check(request.methods[0], model, request.layer, request.head)
    if isinstance(model, ViT):
        for kind, number, count in (
            ("block", request.layer, model.config.depth),
            ("head", request.head, model.config.heads),
        ):
            behind = int(kind == "block" and takers == ["grad_cam"])  # it may take what the last block gives, too
            if number is not None and not 0 <= number < count + behind:
                raise UnknownName(kind, str(number), [str(i) for i in range(count + behind)])


def _takes(name: str, request: Request) -> bool:
    row = catalog.METHODS[name]
    return row.chosen is not None and (request.head is None or row.heads)


def steps(request: Request, model: Network) -> int:
    """How many times `explain` calls `notify` for an image."""
    return len(request.methods) + (len(request.methods) + len(baselines(model)) + 1 if request.random else 0)


def explain(
    classifier: Classifier,
    image: ImageLike,
    request: Request,
    *,
    name: str = "image",
    control: Network | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Explained:
    """Explain one image. `control`: the network with random weights of the sanity check, where there already is one.

    Raises ImageError where the image cannot be read, and what `check` raises.
    """
    model = classifier.model
    check(request, classifier)
    pixels = classifier.fit(image)
    weight = next(model.parameters())
    inputs = to_model(pixels, classifier.preprocess)[None].to(weight.device, weight.dtype)
    logits = answers(model, inputs)[0].cpu()
    label = int(logits.argmax()) if request.label is None else request.label
    classes = torch.tensor([label], device=weight.device)
    maps, notes, seconds = {}, {}, {}
    for method in request.methods:
        start = time.perf_counter()
        maps[method], notes[method] = _map(method, model, inputs, classes, request)
        seconds[method] = time.perf_counter() - start
        notify(method)
    known: dict[str, Evidence] = {}
    if request.random:
        control = control or randomised(model, layers(model), request.seed)
        others = {}
        for method in request.methods:
            others[method] = _map(method, control, inputs, classes, request)[0]
            notify(f"{method} of random weights")
        with _computing(request, inputs):
            varied = {m: values for m, values in maps.items() if float(values.std()) > 0}  # a flat map has no order
            known = evidence(
                model, inputs, label, varied, others, random=request.random, seed=request.seed, notify=notify
            )
    names = classifier.labels.names
    return Explained(
        name=name,
        pixels=pixels.cpu(),
        predictions=guesses(classifier, logits),
        label=label,
        label_name=names[label],
        probability=float(classifier.probabilities(logits[None])[0, label]),
        cell=cell_pixels(model),
        maps=tuple(Found(m, maps[m].cpu(), notes[m], seconds[m], known.get(m)) for m in request.methods),
    )


def _computing(request: Request, images: Images) -> AbstractContextManager[Any]:
    return torch.autocast(images.device.type, torch.bfloat16) if request.precision == "bfloat16" else nullcontext()


def _map(
    name: str, model: Network, images: Images, classes: Labels, request: Request
) -> tuple[Float[Tensor, "rows cols"], tuple[str, ...]]:
    """The map of one image, and what must be known of it."""
    row, notes = catalog.METHODS[name], []
    if name == "integrated_gradients":
        whole = integrate(model, images, classes)
        found = whole.map
        gap, change = float(whole.gap[0]), float(whole.change[0])
        notes.append(
            f"sums to {change + gap:+.3f} of a change of {change:+.3f} logits from the mean colour to the image: the "
            f"gap is {gap:+.3f}" + ("" if abs(gap) <= 0.05 * abs(change) else ", too large to read the map as shares")
        )
    elif row.chosen is not None and (request.layer, request.head) != (None, None) and isinstance(model, ViT):
        found = row.chosen(model, images, classes, request.layer, request.head if row.heads else None)
    elif name in _MANY_PASSES:
        with _computing(request, images):
            found = row.method(model, images, classes)
    else:
        found = row.method(model, images, classes)
    values = found[0].float()
    assert tuple(values.shape) == grid(model)
    if float(values.abs().max()) == 0.0:  # and so without evidence: there is no order to go by
        notes.append("zero everywhere: " + _ZERO.get(name, "there is nothing to see"))
    return values, tuple(notes)


_MANY_PASSES = ("occlusion", "rise")
_ZERO = {
    "grad_cam": "no feature speaks for the class here; behind the last block of a model that reads its class token, no "
    "patch has a gradient at all",
}
