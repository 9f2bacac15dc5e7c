"""The numbers of the ViT paper's figures 6 and 7 for any Vision Transformer: where it looks, and what it has learned of
patches and places. figure_drawing.py makes the pictures of them.

Axes: B images, L blocks, h heads, P patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import Tensor

from vitrail.config import Config, Preprocess
from vitrail.data.decode import decode
from vitrail.data.preprocess import fit, to_model
from vitrail.data.sources import open_dataset
from vitrail.data.stores import Source
from vitrail.errors import ConfigError, DataError, ImageError
from vitrail.explain.attention import rollout
from vitrail.explain.representation import attention_distance, patch_filters, position_similarity, prefix_mass
from vitrail.models.build import weights_sha256
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.report import Count, Machine, ModelFacts, Unreadable, machine, printable
from vitrail.types import Pixels
from vitrail.weights.load import Loaded, load_weights

IMAGES = 128  # of the paper's figure 7, right
SHOWN = 6  # images of figure 6
FILTERS = 28  # of the paper's figure 7, left
TILES = 14  # most tiles of the position similarity along a side; every n-th patch has one where there are more
MEMORY = 2**28  # bytes of attention held at once
CUT = 0.02  # share of the rollouts at either end of the scale that it does not tell apart
DIGITS = 6  # significant ones of the numbers that are written down

Grid = tuple[tuple[float, ...], ...]
Split = Annotated[int, Field(ge=1)]


class Shown(Config):
    """An image of figure 6. `rollout`: what the head takes from each patch, (rows, cols)."""

    id: str
    index: Count  # place in the data
    rollout: Grid


class Rollouts(Config):
    """Figure 6. `even`: the rollout of a model that looks everywhere alike; `low` and `top`: where the picture is dark
    and where it has its full brightness, the outer two hundredths of all the values cut off."""

    images: tuple[Shown, ...]
    even: float
    low: float
    top: float


class FilterNumbers(Config):
    """Figure 7, left: principal components of the patch embedding's filters, over (channel, row, column)."""

    shares: tuple[float, ...]  # of the variance, the largest first
    components: tuple[tuple[Grid, ...], ...]
    directions: Count  # components that there are in all


class Similarity(Config):
    """Figure 7, centre: cosine between position embeddings; a tile for every `step`-th row and column, (rows, cols)."""

    grid: tuple[int, int]
    step: Split
    tiles: tuple[tuple[Grid, ...], ...]


class Distances(Config):
    """Figure 7, right, in pixels: a row a block, a number a head. Mean over the images, and the standard deviation from
    image to image. `prefix_mass`: the share of the patches' attention that goes to other tokens and is left out."""

    images: Count
    mean: Grid
    deviation: Grid
    prefix_mass: Grid
    even: float  # of a head that looks everywhere alike


class DataUsed(Config):
    """Which images the figures were made of: `images` evenly spread over the data set."""

    name: str
    fingerprint: str
    images: Count
    unreadable: tuple[Unreadable, ...] = ()


class Figures(Config):
    """Figures 6 and 7 in numbers. What does not apply to the model is None, and `left_out` says why, by its name."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    rollouts: Rollouts | None = None
    filters: FilterNumbers | None = None
    similarity: Similarity | None = None
    distances: Distances | None = None
    left_out: dict[str, str]
    data: DataUsed | None = None
    model: ModelFacts
    machine: Machine

    def json(self) -> str:  # type: ignore[override]  # the house's name; pydantic deprecated its own
        """As JSON; equal figures give equal bytes."""
        return self.model_dump_json(indent=1) + "\n"


@dataclass(frozen=True)
class Made:
    """The numbers, and the images of figure 6 as the model was shown them."""

    numbers: Figures
    pictures: tuple[Pixels, ...]


def make_figures(
    source: str | Path,
    data: str | Path | None = None,
    *,
    model: str | None = None,
    images: int | None = None,
    notify: Callable[[int, int], None] | None = None,
) -> Made:
    """Figures 6 and 7 of the Vision Transformer `source` (a run or model folder, a weights file with `model`, an id).

    With `data` (what `open_dataset` takes) `images` of them, evenly spread, give the attention distance, and a few of
    these the rollouts. Without a head the model is as good as with one. Raises ConfigError for a ResNet, which has no
    tokens; DataError where no image can be read; and what load_weights and open_dataset raise.
    """
    if images is not None and (data is None or images < 1):
        given = f"found {images}" if data is not None else "name them with --data"
        raise ConfigError(f"--images is how many of the images are looked at, at least 1: {given}")
    loaded = load_weights(source, model)
    network = loaded.model
    if not isinstance(network, ViT):
        raise ConfigError(f"the figures are of attention and positions, which a ResNet has not: {source} is one")
    network.eval()
    parts: dict[str, object] = {}
    left_out: dict[str, str] = {}
    for name, make in (("filters", _filters), ("similarity", _similarity)):
        try:
            parts[name] = make(network)
        except ConfigError as error:
            left_out[name] = str(error)
    pictures: tuple[Pixels, ...] = ()
    if data is None:
        left_out |= {name: "attention is seen on images: name some with --data" for name in ("rollouts", "distances")}
    else:
        seen, pictures = _looked_at(network, loaded.preprocess, data, images or IMAGES, notify)
        parts |= seen
    facts = Figures.model_validate(
        parts | {"left_out": left_out, "model": _facts(loaded, network), "machine": _machine(network)}
    )
    return Made(facts, pictures)


def _filters(model: ViT) -> FilterNumbers:
    config = model.config
    if config.stem is not None:
        raise ConfigError("the filters of a hybrid act on features of its stem, not on colours")
    if config.channels not in (1, 3):
        raise ConfigError(f"filters over {config.channels} channels have no colour")
    found = patch_filters(model, FILTERS)
    weight = model.patch_embedding.weight
    directions = min(len(weight), weight[0].numel())
    return FilterNumbers(shares=_row(found.variance), components=_nested(found.components), directions=directions)


def _similarity(model: ViT) -> Similarity:
    rows, cols = model.config.grid
    step = -(-max(rows, cols) // TILES)
    tiles = position_similarity(model).view(rows, cols, rows, cols)[::step, ::step]
    return Similarity(grid=(rows, cols), step=step, tiles=_nested(tiles))


def _looked_at(
    model: ViT, preprocess: Preprocess, data: str | Path, count: int, notify: Callable[[int, int], None] | None
) -> tuple[dict[str, object], tuple[Pixels, ...]]:
    """The parts that come of images, and the pixels of those that are shown."""
    dataset = open_dataset(data)
    whole = dataset.whole
    count = min(count, len(whole))
    places = ((np.arange(count) + 0.5) * len(whole) / count).astype(np.int64)
    config = model.config
    batch = min(16, max(1, MEMORY // (config.depth * config.heads * config.tokens**2 * 4)))
    weight = next(model.parameters())
    some = range(count) if count <= SHOWN else [int((i + 0.5) * count / SHOWN) for i in range(SHOWN)]
    shown_at = {int(places[i]) for i in some}
    nothing = torch.zeros(1, dtype=torch.int64, device=weight.device)  # rollout asks for no class
    distances, masses, shown, pictures = [], [], [], []
    unreadable: list[Unreadable] = []
    for start in range(0, count, batch):
        wanted = range(start, min(start + batch, count))
        read = _read(whole, [int(places[i]) for i in wanted], preprocess, unreadable)
        if notify:
            notify(wanted[-1] + 1, count)
        if not read:
            continue
        given = to_model(torch.stack([*read.values()]), preprocess).to(weight.device, weight.dtype)
        _, record = trace(model, given, parts=("attention",))
        distances.append(attention_distance(model, record).cpu())
        masses.append(prefix_mass(record).cpu())
        del record
        for at, (place, pixels) in enumerate(read.items()):
            if place in shown_at:
                shown.append((place, rollout(model, given[at : at + 1], nothing)[0].cpu()))
                pictures.append(pixels)
    if not distances:
        raise DataError(f"none of the {count} images of {dataset.name} can be read: {unreadable[0].reason}")
    low, top = _scale([values for _, values in shown])
    each, mass = torch.cat(distances), torch.cat(masses)
    used = DataUsed(
        name=printable(dataset.name),
        fingerprint=dataset.fingerprint,
        images=len(each),
        unreadable=tuple(unreadable),
    )
    rollouts = Rollouts(
        images=tuple(Shown(id=whole.id(at), index=at, rollout=_nested(values)) for at, values in shown),
        even=_round(1 / config.patches),
        low=low,
        top=top,
    )
    found = Distances(
        images=len(each),
        mean=_nested(each.mean(dim=0)),
        deviation=_nested(each.std(dim=0, correction=0)),
        prefix_mass=_nested(mass.mean(dim=0)),
        even=_round(even_distance(config.grid, config.patch_pixels)),
    )
    return {"rollouts": rollouts, "distances": found, "data": used}, tuple(pictures)


def _scale(maps: Sequence[Tensor]) -> tuple[float, float]:
    """One scale for all maps; from 0 where they have but one value."""
    values = torch.cat([m.flatten() for m in maps]) if maps else torch.zeros(1)
    low, top = (_round(float(values.quantile(share))) for share in (CUT, 1 - CUT))
    return (low, top) if top > low else (0.0, top or 1.0)


def even_distance(grid: tuple[int, int], patch: tuple[int, int]) -> float:
    """Mean distance in pixels between the centres of two patches, each pair counted, a patch with itself too."""
    rows, cols = (torch.arange(n, dtype=torch.float64) * side for n, side in zip(grid, patch, strict=True))
    points = torch.cartesian_prod(rows, cols).view(-1, 2)
    return float(torch.cdist(points, points).mean())


def _read(
    source: Source, places: Sequence[int], preprocess: Preprocess, unreadable: list[Unreadable]
) -> dict[int, Pixels]:
    """Place -> the pixels that the model is shown, of the images that can be read; adds the others to `unreadable`."""
    found = {}
    for place in places:
        try:
            found[place] = fit(decode(source.read(place).data), preprocess)
        except ImageError as error:
            unreadable.append(Unreadable(id=source.id(place), reason=error.reason))
    return found


def _facts(loaded: Loaded, model: ViT) -> ModelFacts:
    recipe = loaded.record.get("recipe")
    seed: JsonValue = recipe.get("seed") if isinstance(recipe, dict) else None
    return ModelFacts(
        config=model.config.model_dump(mode="json"),
        sha256=weights_sha256(model),
        parameters=sum(p.numel() for p in model.parameters()),
        classes=model.config.classes,
        source=loaded.source or None,
        seed=seed if isinstance(seed, int) else None,
        preprocess=loaded.preprocess.model_dump(mode="json"),
    )


def _machine(model: ViT) -> Machine:
    weight = next(model.parameters())
    return machine(weight.device, str(weight.dtype).removeprefix("torch."))


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _row(values: Tensor) -> tuple[float, ...]:
    return tuple(_round(v) for v in values.tolist())


def _nested(values: Tensor) -> tuple:  # type: ignore[type-arg]  # as deep as the tensor
    return _row(values) if values.ndim == 1 else tuple(_nested(v) for v in values)
