"""How faithful the maps of each method are, on photos: deletion, insertion, SaCo, the sanity check, beside random maps.

    python benchmarks/faithfulness.py DATA WEIGHTS --out faithfulness.jsonl

The class asked about is the one the model predicts. A line of the file is one method on one batch of 20 photos; what
stands there is not computed again, so a run that was stopped goes on. All photos are measured with patches dropped from
the sequence; the first batch with the mean colour and the blurred image in their place too, and with SaCo; methods that
take many passes a map on half of the first batch. Random maps are of the same photos. Maps are made in float32, those
of FORWARD and the passes of curves and SaCo in bfloat16; the line `check` says how far that moves their means.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

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
RANDOM = 3  # random maps of each photo
FEW = 10  # photos of the slow methods and of SaCo
CHECKED = 5  # of the sanity check, and of the comparison of bfloat16 with float32
CASCADE = (4, 12)  # blocks that are random, beside head and final norm


def file_of(path: Path) -> dict[str, dict[str, object]]:
    """What has been measured, by `method/batch`."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def auc(model: ViT, photos: "Photos", maps: Maps) -> dict[str, object]:
    """Areas under the curves, one a photo."""
    found: dict[str, object] = {}
    images, classes = photos.images[: len(maps)].to(next(model.parameters())), photos.classes[: len(maps)]
    for baseline, known in photos.ends.items():
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
    ends: dict[measure.Baseline, measure.Ends]


@torch.no_grad()
def prepared(model: ViT, fast: ViT, images: Tensor, number: int) -> Photos:
    classes = model(images).argmax(dim=1)
    half, which = images.to(next(fast.parameters())), POINTS if number == 0 else ("drop",)
    return Photos(number, images, classes, {b: measure.ends(fast, half, classes, b) for b in which})


def measured(model: ViT, fast: ViT, photos: Photos, name: str) -> dict[str, object]:
    """One method on one batch."""
    count = FEW if name in SLOW else len(photos.images)
    images, classes = photos.images[:count], photos.classes[:count]
    kind, _, seed = name.partition(" ")
    method = METHODS[kind].method
    if seed:
        method = partial(method, seed=int(seed) + 100 * photos.number)
    began, clock = time.process_time(), time.perf_counter()
    maps = method(fast, images.bfloat16(), classes).float() if name in FORWARD else method(model, images, classes)
    busy, spent = (time.process_time() - began) / count, (time.perf_counter() - clock) / count
    row = {"processor_seconds": busy, "seconds": spent, **auc(fast, photos, maps)}
    if photos.number == 0:
        row["saco"] = saco(fast, images[:FEW].bfloat16(), classes[:FEW], maps[:FEW])
        row["sanity"] = None if name in SLOW else sanity(model, images[:CHECKED], classes[:CHECKED], method)
    return row


def checked(model: ViT, fast: ViT, images: Tensor) -> dict[str, object]:
    """Mean areas under the curves of two methods in float32 and in bfloat16."""
    rows: dict[str, object] = {}
    for kind, network in (("float32", model), ("bfloat16", fast)):
        photos = prepared(model, network, images[:CHECKED], 0)
        for name in ("rollout", "input_gradient"):
            maps = METHODS[name].method(model, photos.images, photos.classes)
            rows[f"{name} {kind}"] = {k: fmean(v) for k, v in auc(network, photos, maps).items()}  # type: ignore[arg-type]
    return rows


def table(rows: dict[str, dict[str, object]], batches: range, baselines: tuple[str, ...], count: int) -> str:
    """Means over the first `count` photos of each of the batches, a method a line; of random maps the lowest and the
    highest. What is not better than every random map has a star."""
    columns = [f"{way} {b}" for b in baselines for way in ("deletion", "insertion")]
    found: dict[str, dict[str, float]] = {}
    for name in [*(f"random {i}" for i in range(RANDOM)), *(n for n in METHODS if n != "random")]:
        lines = [rows[f"{name}/{b}"] for b in batches if f"{name}/{b}" in rows]
        if len(lines) == len(batches) and all(len(line[columns[0]]) >= count for line in lines):  # type: ignore[arg-type]
            found[name] = {c: fmean(v for line in lines for v in line[c][:count]) for c in columns}  # type: ignore[index]
            if count == FEW:
                found[name]["SaCo"] = fmean(lines[0]["saco"])  # type: ignore[arg-type]
    random = [row for name, row in found.items() if name.startswith("random")]
    measures = list(random[0])
    text = [f"| {len(batches) * count} photos | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, row in found.items():
        if not name.startswith("random"):
            edge = {m: (min if "deletion" in m else max)(r[m] for r in random) for m in measures}
            inside = {m: row[m] >= edge[m] if "deletion" in m else row[m] <= edge[m] for m in measures}
            text.append(f"| {name} | " + " | ".join(f"{row[m]:.3f}{' *' * inside[m]}" for m in measures) + " |")
    band = (f"{min(r[m] for r in random):.3f} to {max(r[m] for r in random):.3f}" for m in measures)
    return "\n".join([*text, f"| {len(random)} random maps | " + " | ".join(band) + " |"])


def costs(rows: dict[str, dict[str, object]]) -> str:
    """Rank correlation of the sanity check and processor time of each method, of the first batch."""
    text = [
        f"| method | rank correlation, {CASCADE[0]} and {CASCADE[1]} blocks random | processor time a map |",
        "|---|---|---|",
    ]
    for name in [*METHODS, "random 0"]:
        if (row := rows.get(f"{name}/0")) is not None:
            falls = row["sanity"]
            shown = ", ".join(f"{v:.2f}" for v in falls) if isinstance(falls, list) else "not measured"
            text.append(f"| {name} | {shown} | {row['processor_seconds']:.2g} s |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, help="a class-token or pooled Vision Transformer")
    parser.add_argument("--batches", type=int, default=5, help="of 20 photos each, evenly spread over the data")
    parser.add_argument("--out", type=Path, default=Path("faithfulness.jsonl"))
    options = parser.parse_args()
    loaded = load_weights(options.weights)
    model = loaded.model.eval()
    fast = load_weights(options.weights).model.eval().bfloat16()
    assert isinstance(model, ViT) and isinstance(fast, ViT)
    whole, count = open_dataset(options.data).whole, options.batches * BATCH
    order = torch.arange(count).view(BATCH, -1).T.flatten()  # every batch is spread over the data
    places = ((order + 0.5) * len(whole) / count).long().numpy()
    photos = [b.images for b in EvaluationPass(Subset(whole, places), loaded.preprocess, BATCH, 0)]
    rows = file_of(options.out)

    def write(name: str, row: dict[str, object]) -> None:
        rows[name] = {"name": name, **row}
        with options.out.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
        print(name, flush=True)

    names = [f"random {i}" for i in range(RANDOM)] + [n for n in METHODS if n not in ("random", *SLOW)]
    work = [(name, b) for b in range(len(photos)) for name in names]
    work[len(names) : len(names)] = [(name, 0) for name in SLOW]
    ready: Photos | None = None
    for name, number in work:
        if f"{name}/{number}" not in rows:
            if ready is None or ready.number != number:
                ready = prepared(model, fast, photos[number], number)
            write(f"{name}/{number}", measured(model, fast, ready, name))
    if "check" not in rows:
        facts = machine(torch.device("cpu"), "float32 and bfloat16").model_dump(mode="json")
        write("check", {"machine": facts, "threads": torch.get_num_threads(), **checked(model, fast, photos[0])})
    print(json.dumps(rows["check"], indent=1))
    everything: tuple[str, ...] = tuple(POINTS)
    for part in ((range(len(photos)), ("drop",), BATCH), (range(1), everything, BATCH), (range(1), everything, FEW)):
        print(table(rows, *part), end="\n\n")
    print(costs(rows))


if __name__ == "__main__":
    main()
