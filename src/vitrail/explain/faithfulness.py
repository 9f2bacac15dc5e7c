"""How far a map can be believed: what happens to the model when the patches it points at go. Beside each number stands
the same number for random maps; a method inside their band says nothing.

Axes: B images, P patches, S steps of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vitrail.explain.cells import Baseline, Maps, Method, baselines, grid, stand_in_for, without
from vitrail.models.build import Network, build
from vitrail.models.initial import lecun_normal_
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels

Broadcast: TypeAlias = Float[Tensor, "#B C H W"]  # one image for each row, or one for all
POINTS = 15  # of a curve, both ends included


@dataclass(frozen=True)
class Curves:
    """Probability of the class while patches go, the first the most important, and while they come back."""

    removed: Float[Tensor, " S"]  # share of the patches that have gone, or come
    deletion: Float[Tensor, "B S"]
    insertion: Float[Tensor, "B S"]

    @property
    def deletion_auc(self) -> Float[Tensor, " B"]:
        """Lower is better: the important patches went first."""
        return torch.trapezoid(self.deletion, self.removed.to(self.deletion), dim=1)

    @property
    def insertion_auc(self) -> Float[Tensor, " B"]:
        """Higher is better."""
        return torch.trapezoid(self.insertion, self.removed.to(self.insertion), dim=1)


@dataclass(frozen=True)
class Ends:
    """Probability of the class with all patches and with none: the same for every map of an image."""

    whole: Float[Tensor, " B"]
    empty: Float[Tensor, " B"]


def ends(model: Network, images: Broadcast, classes: Labels, baseline: Baseline = "drop") -> Ends:
    """Where the curves of `images` begin and end; to be given to `curves` for each of several maps."""
    stand_in = stand_in_for(images, baseline)
    rows, cols = grid(model)
    kept = torch.ones(len(images), rows * cols, dtype=torch.bool, device=images.device)
    return Ends(*(_probability(model, images, classes, which, stand_in) for which in (kept, ~kept)))


def curves(
    model: Network,
    images: Broadcast,
    classes: Labels,
    maps: Maps,
    baseline: Baseline = "drop",
    points: int = POINTS,
    known: Ends | None = None,
) -> Curves:
    """Deletion and insertion (Petsiuk et al. 2018) patch by patch.

    drop: a patch that is gone is not in the sequence (one must be left: where none should be, the first one is); mean,
    blur: its pixels are the mean colour, or those of the blurred image. `images`: as many as maps, or one for all.
    `known`: what `ends` found, where it was asked.
    """
    patches = maps[0].numel()
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(patches).expand_as(order).to(order))
    counts = torch.linspace(0, patches, points).round().long()
    stand_in = stand_in_for(images, baseline)
    known = known or ends(model, images, classes, baseline)
    down, up = [known.whole], [known.empty]
    for count in counts.tolist()[1:-1]:
        for rows, kept in ((down, rank >= count), (up, rank < count)):
            rows.append(_probability(model, images, classes, kept, stand_in))
    down.append(known.empty)
    up.append(known.whole)
    return Curves(counts / patches, torch.stack(down, dim=1), torch.stack(up, dim=1))


def _probability(
    model: Network, images: Broadcast, classes: Labels, kept: Bool[Tensor, "#B P"], stand_in: Tensor | None
) -> Float[Tensor, " B"]:
    if stand_in is None:
        kept = kept.clone()
        empty = ~kept.any(dim=1)
        kept[empty, 0] = True
    logits = without(model, images, kept, stand_in)
    return logits.softmax(dim=1).expand(len(classes), -1).gather(1, classes[:, None])[:, 0]


def saco(values: Sequence[float], effects: Sequence[float]) -> float:
    """Salience-guided faithfulness coefficient (Wu et al. 2024, arXiv 2404.01415): +1 where groups of patches with more
    salience have more effect, -1 where less. `values`: salience of each group, the largest first; `effects`: how much
    the prediction falls without it."""
    agreed = whole = 0.0
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            weight = values[i] - values[j]
            agreed += weight if effects[i] >= effects[j] else -weight
            whole += abs(weight)
    return agreed / whole if whole else 0.0


def salience_effects(
    model: Network, images: Broadcast, classes: Labels, maps: Maps, groups: int = 10
) -> list[tuple[list[float], list[float]]]:
    """For each map: summed salience and fall in probability of `groups` groups of patches by rank (see `saco`)."""
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    stand_in = stand_in_for(images, baselines(model)[0])
    whole = _probability(model, images, classes, torch.ones_like(flat, dtype=torch.bool), stand_in)
    values, falls = [], []
    for part in order.tensor_split(min(groups, flat.shape[1]), dim=1):
        kept = torch.ones_like(flat, dtype=torch.bool).scatter_(1, part, False)
        falls.append(whole - _probability(model, images, classes, kept, stand_in))
        values.append(flat.gather(1, part).sum(dim=1))
    return [(v, f) for v, f in zip(torch.stack(values, 1).tolist(), torch.stack(falls, 1).tolist(), strict=True)]


def layers(model: Network) -> int:
    """How many parts the cascade randomises one after the other: blocks, or a ResNet's stages."""
    return model.config.depth if isinstance(model, ViT) else len(model.stages)


def randomised(model: Network, blocks: int, seed: int = 0) -> Network:
    """A copy whose head, final norm and last `blocks` blocks (a ResNet's stages) have random weights (Adebayo et al.
    2018, the cascade). The head is random too: a new one is zero, and no class would have a gradient."""
    weight, generator = next(model.parameters()), torch.Generator().manual_seed(seed)
    copy = build(model.config)
    copy.reset(generator)
    with torch.no_grad():
        for head in (copy.head, copy.distillation_head if isinstance(copy, ViT) else None):
            if head is not None:
                lecun_normal_(head.weight, generator)
        for name, parameter in copy.named_parameters():
            if name.endswith("norm3.weight"):  # zero at the start: a ResNet's block would add nothing
                parameter.fill_(1.0)
    parts = "blocks" if isinstance(model, ViT) else "stages"
    kept = layers(model) - blocks
    state = {
        name: value
        for name, value in model.state_dict().items()
        if name.partition(".")[0] not in ("norm", "head", "distillation_head", "pre_logits", "attention_pool")
        and not (name.startswith(f"{parts}.") and int(name.split(".")[1]) >= kept)
    }
    copy.to(weight.device, weight.dtype).load_state_dict(state, strict=False)
    return copy.eval()


def sanity(model: Network, images: Images, classes: Labels, method: Method, seed: int = 0) -> list[float]:
    """Rank correlation of the method's maps with those of the model whose last 0, 1, ... all blocks are random.

    A method that explains the model falls towards 0; one that finds edges stays high.
    """
    original = method(model, images, classes).flatten(1)
    found = []
    for blocks in range(layers(model) + 1):
        other = method(randomised(model, blocks, seed), images, classes).flatten(1)
        found.append(float(spearman(original, other).mean()))
    return found


def spearman(x: Float[Tensor, "B P"], y: Float[Tensor, "B P"]) -> Float[Tensor, " B"]:
    """Rank correlation of each row; 0 where one is constant."""
    ranks = [_ranks(z) for z in (x, y)]
    flat = torch.stack([(z == z[:, :1]).all(dim=1) for z in (x, y)]).any(dim=0)
    a, b = (functional.normalize(r - r.mean(dim=1, keepdim=True), dim=1) for r in ranks)
    return (a * b).sum(dim=1).masked_fill(flat, 0.0)


def _ranks(values: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
    """Rank of each value in its row; equal values share the mean of theirs, so that a map's many zeros are no order."""
    ordered = values.sort(dim=1).values
    low = torch.searchsorted(ordered, values.contiguous())
    high = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (low + high - 1).double() / 2


def pointing(maps: Maps, masks: Bool[Tensor, "B rows cols"]) -> Float[Tensor, " B"]:
    """Whether the largest value of a map lies in the mask (the pointing game, Zhang et al. 2018): 1 or 0; of several
    equal ones the share that lies there, so a map that is flat points at everything alike and gains nothing."""
    flat = maps.flatten(1)
    largest = flat == flat.amax(dim=1, keepdim=True)
    return (masks.flatten(1) & largest).sum(dim=1) / largest.sum(dim=1)


def overlap(maps: Maps, masks: Bool[Tensor, "B rows cols"]) -> Float[Tensor, " B"]:
    """Mean of the intersection over union of mask and background, the map cut at its mean (Chefer et al. 2021)."""
    above = maps > maps.mean(dim=(1, 2), keepdim=True)
    shares = []
    for one, other in ((above, masks), (~above, ~masks)):
        shares.append((one & other).sum(dim=(1, 2)) / (one | other).sum(dim=(1, 2)).clamp(min=1))
    return torch.stack(shares).mean(dim=0)


def random_map(model: Network, images: Images, classes: Labels, seed: int = 0) -> Maps:
    """A map that knows nothing: the baseline of every number above."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(images), *grid(model), generator=generator).to(images)
