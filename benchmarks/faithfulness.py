"""How faithful the maps of each method are, on photos: deletion, insertion, SaCo, the sanity check, beside random maps.

    python benchmarks/faithfulness.py DATA WEIGHTS --out faithfulness.jsonl

The class asked about is the one the model predicts. A line of the file is one method on one batch of 20 photos,
patches dropped from the sequence; after all batches come the lines `more` of ten photos: the mean colour and the
blurred image in place of the patches, SaCo, the sanity check. What stands in the file is not computed again, so a run
that was stopped goes on; `--show` prints the tables of what is there. Random maps are of the same photos. Maps are
made in float32, those of FORWARD and the passes of curves and SaCo in bfloat16; the line `check` says how far that
moves their means.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vitrail.data.loader import EvaluationPass
from vitrail.data.sources import open_dataset
from vitrail.data.stores import Subset
from vitrail.explain import faithfulness as measure
from vitrail.explain.catalog import METHODS
from vitrail.explain.cells import Maps
from vitrail.models.vit import ViT
from vitrail.report import machine
from vitrail.weights.load import load_weights

BATCH = 20
SLOW = ("integrated_gradients", "smooth_gradient", "rise", "occlusion")  # many passes a map
FORWARD = ("rise", "occlusion")  # of these, those without gradients: their passes are in bfloat16 too
POINTS = {"drop": 5, "mean": 3, "blur": 3}  # of each curve, both ends included
RANDOM = [f"random {i}" for i in range(3)]  # random maps of each photo
FEW = 10  # photos of the other baselines and of SaCo
CHECKED = 5  # of the sanity check, and of the comparison of bfloat16 with float32
CASCADE = (4, 12)  # blocks that are random, beside head and final norm
NAMES = [*RANDOM, *(name for name in METHODS if name not in ("random", *SLOW)), *SLOW]  # in the order of the work
WAYS = ("deletion", "insertion")
Rows: TypeAlias = dict[str, dict[str, Any]]


def file_of(path: Path) -> Rows:
    """What has been measured, by `method/batch`."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def auc(model: ViT, photos: "Photos", maps: Maps, baselines: Iterable[measure.Baseline]) -> dict[str, object]:
    """Areas under the curves, one a photo."""
    found: dict[str, object] = {}
    images, classes = photos.images[: len(maps)].to(next(model.parameters())), photos.classes[: len(maps)]
    for baseline in baselines:
        if baseline not in photos.ends:
            photos.ends[baseline] = measure.ends(model, photos.images.to(images), photos.classes, baseline)
        known = photos.ends[baseline]
        ends = measure.Ends(known.whole[: len(maps)], known.empty[: len(maps)])
        curves = measure.curves(model, images, classes, maps, baseline, POINTS[baseline], ends)
        found[f"deletion {baseline}"] = curves.deletion_auc.float().tolist()
        found[f"insertion {baseline}"] = curves.insertion_auc.float().tolist()
    return found


def saco(model: ViT, images: Tensor, classes: Tensor, maps: Maps) -> list[float]:
    """SaCo of each photo, with the maps as they are."""
    return [measure.saco(v, e) for v, e in measure.salience_effects(model, images, classes, maps)]


def sanity(model: ViT, images: Tensor, classes: Tensor, method: Callable[..., Maps]) -> list[float]:
    """Mean rank correlation of the maps with those of models whose last blocks are random."""
    original = method(model, images, classes).flatten(1)
    others = (method(measure.randomised(model, blocks), images, classes).flatten(1) for blocks in CASCADE)
    return [float(measure.spearman(original, other).mean()) for other in others]


@dataclass(frozen=True)
class Photos:
    """A batch, the classes the model predicts, and where the curves begin and end."""

    number: int
    images: Tensor
    classes: Tensor
    ends: dict[measure.Baseline, measure.Ends] = field(default_factory=dict)

    def first(self, count: int) -> "Photos":
        """Some of the photos."""
        return Photos(self.number, self.images[:count], self.classes[:count])


@torch.no_grad()
def prepared(model: ViT, images: Tensor, number: int) -> Photos:
    return Photos(number, images, model(images).argmax(dim=1))


def method_of(name: str, number: int) -> Callable[..., Maps]:
    """The method; of random maps others in each batch."""
    kind, _, seed = name.partition(" ")
    method = METHODS[kind].method
    return partial(method, seed=int(seed) + 100 * number) if seed else method


def made(model: ViT, fast: ViT, photos: Photos, name: str) -> tuple[Maps, dict[str, object]]:
    """The maps of one method, and what one of them costs."""
    method, count = method_of(name, photos.number), len(photos.images)
    began, clock = time.process_time(), time.perf_counter()
    if name in FORWARD:
        maps = method(fast, photos.images.bfloat16(), photos.classes).float()
    else:
        maps = method(model, photos.images, photos.classes)
    busy, spent = (time.process_time() - began) / count, (time.perf_counter() - clock) / count
    return maps, {"processor_seconds": busy, "seconds": spent}


def more(model: ViT, fast: ViT, photos: Photos, name: str, maps: Maps) -> dict[str, object]:
    """The other baselines, SaCo and, of the faster methods, the sanity check."""
    images, classes = photos.images, photos.classes
    row = auc(fast, photos, maps, ("mean", "blur"))
    row["saco"] = saco(fast, images.bfloat16(), classes, maps)
    method = method_of(name, photos.number)
    row["sanity"] = None if name in SLOW else sanity(model, images[:CHECKED], classes[:CHECKED], method)
    return row


def checked(model: ViT, fast: ViT, photos: Photos) -> dict[str, object]:
    """Mean areas under the curves of two methods in float32 and in bfloat16."""
    rows: dict[str, object] = {}
    for kind, network in (("float32", model), ("bfloat16", fast)):
        few = photos.first(CHECKED)
        for name in ("rollout", "input_gradient"):
            maps = METHODS[name].method(model, few.images, few.classes)
            found = auc(network, few, maps, POINTS)
            rows[f"{name} {kind}"] = {k: fmean(v) for k, v in found.items()}  # type: ignore[arg-type]
    return rows


def table(rows: Rows, batches: Sequence[str], count: int, measures: Sequence[str]) -> str:
    """Means over the first `count` photos of the batches, a method a line; of random maps the lowest and the highest.
    What is not better than every random map has a star. Methods that miss a batch are left out."""
    found: dict[str, dict[str, float]] = {}
    for name in [*RANDOM, *(n for n in METHODS if n != "random")]:
        lines = [rows[f"{name}/{b}"] for b in batches if f"{name}/{b}" in rows]
        if len(lines) == len(batches):
            found[name] = {m: fmean(v for row in lines if m in row for v in row[m][:count]) for m in measures}  # type: ignore[index]
    random = [row for name, row in found.items() if name in RANDOM]
    text = [f"| method | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|"]
    for name, row in found.items():
        if name not in RANDOM:
            edge = {m: (min if "deletion" in m else max)(r[m] for r in random) for m in measures}
            inside = {m: row[m] >= edge[m] if "deletion" in m else row[m] <= edge[m] for m in measures}
            text.append(f"| {name} | " + " | ".join(f"{row[m]:.3f}{' *' * inside[m]}" for m in measures) + " |")
    band = (f"{min(r[m] for r in random):.3f} to {max(r[m] for r in random):.3f}" for m in measures)
    return "\n".join([*text, f"| {len(random)} random maps | " + " | ".join(band) + " |"])


def costs(rows: Rows) -> str:
    """Rank correlation of the sanity check and processor time of each method."""
    blocks = " and ".join(str(blocks) for blocks in CASCADE)
    text = [f"| method | rank correlation, {blocks} blocks random | processor time a map |", "|---|---|---|"]
    for name in METHODS:
        if f"{name}/0" in rows:
            falls = rows.get(f"{name}/more", {}).get("sanity")
            shown = ", ".join(f"{v:.2f}" for v in falls) if isinstance(falls, list) else "not measured"
            text.append(f"| {name} | {shown} | {rows[f'{name}/0']['processor_seconds']:.2g} s |")
    return "\n".join(text)


def show(rows: Rows) -> None:
    """The tables of what has been measured."""
    drop, others = ("deletion drop", "insertion drop"), [f"{w} {b}" for b in ("mean", "blur") for w in WAYS]
    whole = [str(b) for b in range(100) if all(f"{name}/{b}" in rows for name in NAMES)]
    if whole:
        print(f"{len(whole) * BATCH} photos\n\n{table(rows, whole, BATCH, drop)}\n")
        print(f"the first {FEW}\n\n{table(rows, ['0'], FEW, drop)}\n")
    if f"{RANDOM[-1]}/more" in rows:
        print(f"the first {FEW}\n\n{table(rows, ['more'], FEW, [*others, 'saco'])}\n")
    print(costs(rows))
    print(json.dumps(rows.get("check"), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, help="a class-token or pooled Vision Transformer")
    parser.add_argument("--batches", type=int, default=5, help="of 20 photos each, evenly spread over the data")
    parser.add_argument("--out", type=Path, default=Path("faithfulness.jsonl"))
    parser.add_argument("--show", action="store_true", help="print the tables of what the file holds, no more")
    options = parser.parse_args()
    rows = file_of(options.out)
    if options.show:
        show(rows)
        return
    loaded = load_weights(options.weights)
    model = loaded.model.eval()
    fast = load_weights(options.weights).model.eval().bfloat16()
    assert isinstance(model, ViT) and isinstance(fast, ViT)
    whole, count = open_dataset(options.data).whole, options.batches * BATCH
    order = torch.arange(count).view(BATCH, -1).T.flatten()  # every batch is spread over the data
    places = ((order + 0.5) * len(whole) / count).long().numpy()
    photos = [b.images for b in EvaluationPass(Subset(whole, places), loaded.preprocess, BATCH, 0)]

    def write(name: str, row: dict[str, object]) -> None:
        rows[name] = {"name": name, **row}
        with options.out.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
        print(name, flush=True)

    work = [(name, str(b)) for b in range(len(photos)) for name in NAMES]
    work += [(name, "more") for name in NAMES]
    ready: Photos | None = None
    for name, part in work:
        if f"{name}/{part}" not in rows:
            number = int(part) if part.isdecimal() else 0
            if ready is None or ready.number != number:
                ready = prepared(model, photos[number], number)
            some = ready.first(FEW) if part == "more" else ready
            maps, cost = made(model, fast, some, name)
            if part == "more":
                write(f"{name}/{part}", more(model, fast, some, name, maps))
            else:
                write(f"{name}/{number}", cost | auc(fast, some, maps, ("drop",)))
    if "check" not in rows:
        facts = machine(torch.device("cpu"), "float32 and bfloat16").model_dump(mode="json")
        found = checked(model, fast, prepared(model, photos[0], 0))
        write("check", {"machine": facts, "threads": torch.get_num_threads(), **found})
    show(rows)


if __name__ == "__main__":
    main()
