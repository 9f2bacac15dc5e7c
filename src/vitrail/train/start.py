"""The model a run starts from: random weights drawn from the seed, or trained ones with a head for the new classes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vitrail.config import Preprocess, Recipe
from vitrail.errors import ConfigError
from vitrail.models.build import Network, build
from vitrail.train.lora import add_low_rank
from vitrail.train.optim import freeze_blocks
from vitrail.train.state import state_sha256
from vitrail.weights.load import load_weights


@dataclass(frozen=True)
class Start:
    """Trained weights as found, and where they come from."""

    model: Network
    preprocess: Preprocess
    source: str
    sha256: str  # over all tensors, a new head included
    licence: str | None


def find_start(
    weights: str | Path, model: str | None, classes: tuple[str, ...], image_size: tuple[int, int] | None = None
) -> Start:
    """Trained weights with a head for `classes`: the stored head where it is for the same classes in the same order,
    else a new one of zeros. Raises WeightsError or UnknownName."""
    with torch.random.fork_rng(devices=[]):  # building a model draws from the caller's stream
        loaded = load_weights(weights, model, classes=len(classes), image_size=image_size)
    same = loaded.labels is not None and loaded.labels.names == classes
    for head in (loaded.model.head, getattr(loaded.model, "distillation_head", None)):
        if head is not None and not same:  # as many classes as before, but others
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
    digest = state_sha256(loaded.model.state_dict())
    return Start(loaded.model, loaded.preprocess, loaded.source, digest, loaded.licence)


def _adapted(start: Network, model: Network) -> dict[str, Tensor]:
    """The start's tensors for `model`, whose pool may be another; then its head, which reads other features, is zero.

    Raises ConfigError where the weights lack more than that."""
    ours, theirs = model.state_dict(), start.state_dict()
    if lacking := sorted(name for name in ours.keys() - theirs.keys() if not name.startswith("head.")):
        raise ConfigError(f"the weights have no {', '.join(lacking)}: leave model.pool as it was")
    fresh = {name: torch.zeros_like(ours[name]) for name in ours if name.startswith("head.")}
    same = all(name in theirs and theirs[name].shape == tensor.shape for name, tensor in fresh.items())
    return {name: fresh[name] if name in fresh and not same else theirs[name] for name in ours}


def build_model(recipe: Recipe, start: Start | None) -> Network:
    """The model at step 0: the start's weights under the recipe's regularisation, or weights drawn from the seed;
    with low-rank updates where the recipe trains those. Raises ConfigError."""
    with torch.random.fork_rng(devices=[]):
        model = build(recipe.model)
    if start is None:
        model.reset(torch.Generator().manual_seed(recipe.seed))
    else:
        model.load_state_dict(_adapted(start.model, model))
    if recipe.lora.rank:
        add_low_rank(model, recipe.lora, recipe.seed)
    freeze_blocks(model, model.config, recipe.optim.frozen_blocks)
    return model
