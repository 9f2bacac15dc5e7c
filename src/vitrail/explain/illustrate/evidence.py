"""Maps of where the answer comes from, and what each of them is worth: what happens to the model when the patches that
it points at go, beside the same for maps drawn at random."""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explain.catalog import METHODS
from vitrail.explain.faithfulness import Curves, Ends, curves, ends, random_map, spearman
from vitrail.models.vit import ViT
from vitrail.types import Images

CHOSEN = (
    *("attention", "rollout", "relevance", "legrad", "grad_cam", "input_gradient", "occlusion", "random"),
)  # of the catalog, those that a page made in seconds has time for
BAND = 8  # random maps behind the band
POINTS = 9  # of a curve


@dataclass(frozen=True)
class Evidence:
    """Maps by name, the last one random, with their curves; `shares`: each map over the mean size of its own values,
    so that 1 is an even share whatever the unit."""

    names: tuple[str, ...]
    maps: Float[Tensor, "M rows cols"]
    shares: Float[Tensor, "M rows cols"]
    curves: Curves
    tensors: dict[str, Tensor]

    def verdict(self, place: int) -> str:
        """Whether the map beats all random ones on both counts, on one, or on none: `both`, `one`, `none`."""
        deletion, insertion = (self.tensors[f"auc.{kind}"][place] for kind in ("deletion", "insertion"))
        low, high = self.tensors["auc.random.deletion"][0], self.tensors["auc.random.insertion"][1]
        beats = int(deletion < low) + int(insertion > high)
        return ("none", "one", "both")[beats]


def gather_evidence(model: ViT, images: Images, label: int, notify: Callable[[str], None]) -> Evidence:
    """The Evidence for the class `label` of one image (1 C H W)."""
    target = torch.tensor([label], device=images.device)
    found = []
    for name in CHOSEN:
        notify(f"where the answer comes from: {name.replace('_', ' ')}")
        found.append(METHODS[name].method(model, images, target)[0].detach())
    maps = torch.stack(found)
    chance = torch.cat([random_map(model, images, target, seed) for seed in range(1, BAND + 1)])
    notify("what each of these maps is worth")
    every = torch.cat([maps, chance.to(maps)])
    whole, empty = (value.expand(len(every)) for value in astuple(ends(model, images, target)))
    batch, targets = images.expand(len(every), -1, -1, -1), target.expand(len(every))
    many = curves(model, batch, targets, every, points=POINTS, known=Ends(whole, empty))
    flat = maps.flatten(1).double()
    size = flat.abs().mean(dim=1)
    tensors = {f"maps.{name}": values for name, values in zip(CHOSEN, maps, strict=True)}
    count = len(CHOSEN)
    for kind, areas in (("deletion", many.deletion_auc), ("insertion", many.insertion_auc)):
        tensors[f"auc.{kind}"] = areas[:count]
        band = areas[count:]
        tensors[f"auc.random.{kind}"] = torch.stack([band.min(), band.max(), band.mean()])
    pairs = [(i, j) for i in range(count) for j in range(count)]
    ranks = spearman(flat[[i for i, _ in pairs]], flat[[j for _, j in pairs]])
    tensors |= {"maps.agreement": ranks.unflatten(0, (count, count)), "auc.band": torch.tensor(float(BAND))}
    shares = maps.double() / size.clamp_min(torch.finfo(torch.float64).tiny)[:, None, None]
    return Evidence(CHOSEN, maps.cpu(), shares.cpu(), many, {name: t.cpu() for name, t in tensors.items()})
