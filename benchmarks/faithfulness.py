"""How faithful the maps of each method are, on photos: deletion, insertion, SaCo, the sanity check, beside random maps.

    python benchmarks/faithfulness.py DATA WEIGHTS --out faithfulness.jsonl

The class asked about is the one the model predicts. A line of the file is one method on one batch of 25 photos; what
stands there is not computed again, so a run that was stopped goes on. The table is printed at the end. Methods that
take hundreds of passes a map are measured on the first batch alone, and every number is held against random maps of the
same photos. Maps are made in float32; the passes of the curves and of SaCo are made in bfloat16, and the line `check`
says how far that moves their means. The machine is written into the file.
"""

import argparse
import json
import time
from collections.abc import Callable
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

BATCH = 25
SLOW = ("smooth_gradient", "integrated_gradients", "occlusion", "rise")  # hundreds of passes a map
POINTS = {"drop": 7, "mean": 4, "blur": 4}  # of each curve, both ends included
RANDOM = 4  # random maps of each photo
CHECKED = 8  # photos of the sanity check, and of the comparison of bfloat16 with float32
CASCADE = (4, 12)  # blocks that are random, beside head and final norm


def file_of(path: Path) -> dict[str, dict[str, object]]:
    """What has been measured, by `method/batch`."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def auc(model: ViT, images: Tensor, classes: Tensor, maps: Maps, ends: dict[str, measure.Ends]) -> dict[str, object]:
    """Areas under the curves, one a photo."""
    found: dict[str, object] = {}
    for baseline, points in POINTS.items():
        curves = measure.curves(model, images, classes, maps, baseline, points, ends[baseline])  # type: ignore[arg-type]
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


def measured(model: ViT, fast: ViT, images: Tensor, name: str, number: int) -> dict[str, object]:
    """One method on one batch."""
    half, classes = images.bfloat16(), predicted(model, images)
    ends = {b: measure.ends(fast, half, classes, b) for b in POINTS}  # type: ignore[arg-type]
    kind, _, seed = name.partition(" ")
    method = partial(METHODS[kind].method, seed=int(seed) + 100 * number) if seed else METHODS[kind].method
    began, clock = time.process_time(), time.perf_counter()
    maps = method(model, images, classes)
    busy, spent = (
        (now - then) / len(images) for now, then in ((time.process_time(), began), (time.perf_counter(), clock))
    )
    row = {"processor_seconds": busy, "seconds": spent, **auc(fast, half, classes, maps, ends)}
    if number == 0:
        row["saco"] = saco(fast, half, classes, maps)
        row["sanity"] = sanity(model, images[:CHECKED], classes[:CHECKED], method) if name not in SLOW else None
    return row


@torch.inference_mode()
def predicted(model: ViT, images: Tensor) -> Tensor:
    return model(images).argmax(dim=1)


def checked(model: ViT, fast: ViT, images: Tensor) -> dict[str, object]:
    """Mean areas under the curves of rollout and relevance in float32 and in bfloat16."""
    images, rows = images[:CHECKED], {}
    classes = predicted(model, images)
    for name in ("rollout", "relevance"):
        maps = METHODS[name].method(model, images, classes)
        for kind, network, x in (("float32", model, images), ("bfloat16", fast, images.bfloat16())):
            ends = {b: measure.ends(network, x, classes, b) for b in POINTS}  # type: ignore[arg-type]
            rows[f"{name} {kind}"] = {k: fmean(v) for k, v in auc(network, x, classes, maps, ends).items()}  # type: ignore[arg-type]
    return rows


def table(rows: dict[str, dict[str, object]], batches: range) -> str:
    """Means over the photos of the batches, a method a line; of random maps the lowest and the highest."""
    columns = [f"{way} {b}" for b in POINTS for way in ("deletion", "insertion")]
    lines = ["| method | photos | " + " | ".join(columns) + " | SaCo | rank correlation | s a map |"]
    lines.append("|---" * (len(columns) + 5) + "|")
    means: dict[str, dict[str, float]] = {}
    names = [n for n in METHODS if n != "random"] + [f"random {i}" for i in range(RANDOM)]
    for name in names:
        found = [rows[f"{name}/{b}"] for b in batches if f"{name}/{b}" in rows]
        if len(found) == len(batches):
            means[name] = {c: fmean(v for row in found for v in row[c]) for c in columns}  # type: ignore[attr-defined]
            means[name]["SaCo"] = fmean(rows[f"{name}/0"]["saco"])  # type: ignore[arg-type]
            cells = [f"{v:.3f}" for v in means[name].values()]
            falls = rows[f"{name}/0"]["sanity"]
            cells.append(", ".join(f"{v:.2f}" for v in falls) if isinstance(falls, list) else "not measured")
            cells.append(f"{fmean(row['processor_seconds'] for row in found):.2f}")  # type: ignore[arg-type, misc]
            if not name.startswith("random"):
                lines.append(f"| {name} | {len(batches) * BATCH} | " + " | ".join(cells) + " |")
    random = [m for n, m in means.items() if n.startswith("random")]
    if random:
        band = [f"{min(m[c] for m in random):.3f} to {max(m[c] for m in random):.3f}" for c in [*columns, "SaCo"]]
        lines.append(f"| {len(random)} random maps | {len(batches) * BATCH} | " + " | ".join(band) + " | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, help="a class-token or pooled Vision Transformer")
    parser.add_argument("--batches", type=int, default=4, help="of 25 photos each, evenly spread over the data")
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

    if "check" not in rows:
        facts = machine(torch.device("cpu"), "float32 and bfloat16").model_dump(mode="json")
        write("check", {"machine": facts, "threads": torch.get_num_threads(), **checked(model, fast, photos[0])})
    names = [f"random {i}" for i in range(RANDOM)] + [n for n in METHODS if n not in ("random", *SLOW)]
    work = [(name, b) for b in range(len(photos)) for name in names]
    work[len(names) : len(names)] = [(name, 0) for name in SLOW]
    for name, number in work:
        if f"{name}/{number}" not in rows:
            write(f"{name}/{number}", measured(model, fast, photos[number], name, number))
    print(json.dumps({k: v for k, v in rows["check"].items() if k != "name"}, indent=1))
    for batches in (range(len(photos)), range(1)):
        print(table(rows, batches), end="\n\n")


if __name__ == "__main__":
    main()
