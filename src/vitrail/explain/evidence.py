"""How far each map of an image can be believed, in numbers that stand beside its picture: deletion, insertion, SaCo and
the sanity check, each with the same number of maps that know nothing.

Axes: M maps of one image, P cells.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explain.cells import Baseline, baselines
from vitrail.explain.faithfulness import curves, random_map, saco, salience_effects, spearman
from vitrail.models.build import Network
from vitrail.types import Images

Better: TypeAlias = Literal["low", "high", "near zero"]
MAIN = ("deletion_drop", "deletion_mean")  # where there is room for one number, the first of these that there is
RANDOM = 5  # maps that know nothing, for the band
COMPARED = 100  # of them for the sanity check, which costs no forward pass


@dataclass(frozen=True)
class Score:
    """One number about a map. `random`: the same of each map that knows nothing."""

    value: float
    random: tuple[float, ...]
    better: Better

    @property
    def mean(self) -> float:
        """Of the random maps."""
        return sum(self.random) / len(self.random)

    @property
    def low(self) -> float:
        return min(self.random)

    @property
    def high(self) -> float:
        return max(self.random)

    @property
    def verdict(self) -> Literal["better", "inside", "worse"]:
        """Than random maps: beyond all of them on the good side, among them, or beyond them on the other. Of the
        sanity check there is no better: no more alike than random maps are, or more."""
        if self.better == "near zero":
            return "inside" if self.value <= max(abs(self.low), abs(self.high)) else "worse"
        if self.low <= self.value <= self.high:
            return "inside"
        return "better" if (self.value > self.high) is (self.better == "high") else "worse"


@dataclass(frozen=True)
class Path:
    """Probability of the class while cells go or come, by the order of one map. `shares`: of the cells, 0 to 1."""

    shares: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """Of one map: `scores` by name; `paths` by baseline; `random_paths`: of each random map."""

    scores: Mapping[str, Score]
    paths: Mapping[Baseline, Path]
    random_paths: Mapping[Baseline, tuple[Path, ...]]


def evidence(
    model: Network,
    image: Images,
    label: int,
    maps: Mapping[str, Float[Tensor, "rows cols"]],
    others: Mapping[str, Float[Tensor, "rows cols"]],
    *,
    random: int = RANDOM,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> dict[str, Evidence]:
    """The evidence of each map of one image (1 C H W), for the class `label`.

    `others`: the maps that the same methods give of the network with random weights. The random maps are the same for
    all methods, and are measured in the same way. `notify` hears what has been done, once for each baseline and once
    more.
    """
    anything = torch.tensor([label])
    nothing = [random_map(model, image, anything, seed + 1 + i)[0] for i in range(random)]
    every = torch.stack([*(m.to(nothing[0]) for m in maps.values()), *nothing])  # M rows cols
    classes = torch.full((len(every),), label, device=image.device)
    scores: dict[str, dict[str, Score]] = {name: {} for name in maps}
    paths: dict[Baseline, list[Path]] = {}

    def rate(measure: str, values: Sequence[float], better: Better) -> None:
        for name, value in zip(maps, values, strict=False):
            scores[name][measure] = Score(value, tuple(values[len(maps) :]), better)

    for baseline in baselines(model):
        found = curves(model, image, classes, every, baseline)
        rate(f"deletion_{baseline}", found.deletion_auc.tolist(), "low")
        rate(f"insertion_{baseline}", found.insertion_auc.tolist(), "high")
        shares = tuple(found.removed.tolist())
        rows = zip(found.deletion.tolist(), found.insertion.tolist(), strict=True)
        paths[baseline] = [Path(shares, tuple(down), tuple(up)) for down, up in rows]
        notify(f"deletion and insertion, {baseline}")
    effects = salience_effects(model, image, classes, every)
    rate("saco", [saco(values, falls) for values, falls in effects], "high")
    many = [random_map(model, image, anything, seed + 1 + i)[0] for i in range(COMPARED)]
    flat = torch.stack(many).flatten(1)
    for name, values in maps.items():
        one = values.flatten()[None].to(flat)
        band = spearman(one.expand_as(flat), flat).tolist()
        scores[name]["sanity"] = Score(
            float(spearman(one, others[name].flatten()[None].to(flat))[0]), tuple(band), "near zero"
        )
    notify("SaCo and sanity check")
    return {
        name: Evidence(
            scores[name],
            {baseline: rows[place] for baseline, rows in paths.items()},
            {baseline: tuple(rows[len(maps) :]) for baseline, rows in paths.items()},
        )
        for place, name in enumerate(maps)
    }
