"""A folder of photos to labels, end to end: vitrail beside timm's way of inference and transformers' pipeline.

    python benchmarks/predict_folder.py imagenet_samples deit_tiny_patch16_224 --out predict_folder.json

Same weights (a model folder in timm's layout, which all three load), same photos, all cores. Each side is a process
of its own that holds its model; it gets the names of some hundred photos and answers with the best class of each. What
is timed is all between: reading, decoding, resizing, the network, the ranking. Starting the processes that decode
counts, loading the model does not. The sides take turns on the same photos (A B C A B C), so that a busy machine is
fair to all; a turn gives ratios, and the median and the quartiles of the ratios are reported. The processor time of a
side and of its workers is counted as well: it says what a photo costs where other programs share the cores. Threads
that wait for each other burn some of it, so compare it with OMP_NUM_THREADS=1.

- vitrail: `Classifier.stream`, which `vitrail predict` runs, with the engines that are named (--engines).
- timm: its dataset, its loader with two workers and its transforms, the model in inference mode, as its inference.py
  puts them together; in float32, its default, and with autocast to bfloat16, its --amp.
- transformers: pipeline("image-classification") in batches, with two workers, in float32, its default, and bfloat16.

Photos are repeated under other names until there are enough (--photos). Labels are compared with those of the first
side that is not vitrail's.
"""

import argparse
import gc
import json
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

BATCH = 32
WORKERS = 2  # timm's default
Side = Callable[[list[str]], list[int]]


def vitrail_side(weights: str, engine: str) -> Side:
    from vitrail.engines.catalog import load

    classifier = load(weights, engine=engine)
    return lambda files: [p.indices[0] for p in classifier.stream(files, top=1)]


def timm_side(weights: str, precision: str) -> Side:
    import timm
    import torch
    from timm.data import ImageDataset, create_loader, resolve_data_config

    model = timm.create_model(f"local-dir:{weights}", pretrained=True).eval()
    shown = resolve_data_config({}, model=model)

    class Files:
        """What timm's dataset reads, for files that are named."""

        def __init__(self, files: list[str]) -> None:
            self.samples = [(file, 0) for file in files]

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return open(self.samples[index][0], "rb"), 0

    def run(files: list[str]) -> list[int]:
        loader = create_loader(
            ImageDataset("", reader=Files(files)),
            batch_size=BATCH,
            use_prefetcher=True,
            num_workers=WORKERS,
            device=torch.device("cpu"),
            **{key: shown[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
        )
        found: list[int] = []
        with torch.inference_mode():
            for images, _ in loader:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    output = model(images)
                found += output.float().softmax(-1).topk(1).indices[:, 0].tolist()
        return found

    return run


def transformers_side(weights: str, precision: str) -> Side:
    import torch
    from transformers import pipeline

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    pipe = pipeline("image-classification", model=weights, device="cpu", dtype=dtype)
    index = {name: place for place, name in pipe.model.config.id2label.items()}

    def run(files: list[str]) -> list[int]:
        answers = pipe(files, top_k=1, batch_size=BATCH, num_workers=WORKERS)
        return [index[answer[0]["label"]] for answer in answers]

    return run


KINDS: dict[str, Callable[[str, str], Side]] = {
    "vitrail": vitrail_side,
    "timm": timm_side,
    "transformers": transformers_side,
}


def serve(kind: str, variant: str, weights: str, pipe: Connection) -> None:
    """A side in its own process: answers lists of files with (seconds, processor seconds, indices) until None comes."""
    mp.set_start_method("fork", force=True)  # as where no process is spawned: loaders start their workers quickly
    side = KINDS[kind](weights, variant)
    pipe.send("ready")
    while (files := pipe.recv()) is not None:
        start, before = time.perf_counter(), sum(os.times()[:4])
        found = side(files)
        gc.collect()  # ends what is left of a loader's workers, whose processor time counts once they are gone
        pipe.send((time.perf_counter() - start, sum(os.times()[:4]) - before, found))


def measure(weights: str, files: list[str], turns: int, sides: list[tuple[str, str]]) -> dict[str, Any]:
    """Rates, ratios to every side that is not vitrail's, and how many labels agree with the first of those."""
    context = mp.get_context("spawn")
    pipes, processes = [], []
    for kind, variant in sides:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(kind, variant, weights, there))
        process.start()
        there.close()  # so that a side that fails is an error here
        assert here.recv() == "ready"
        pipes.append(here)
        processes.append(process)
        here.send(files[:64])  # whatever is made on first use
        here.recv()
    names = [f"{kind} {variant}" for kind, variant in sides]
    times: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, list[int]] = {name: [] for name in names}
    size = -(-len(files) // turns)
    for start in range(0, len(files), size):
        some = files[start : start + size]
        for name, pipe in zip(names, pipes, strict=True):
            pipe.send(some)
            seconds, processor, indices = pipe.recv()
            times[name].append(seconds / len(some))
            work[name].append(processor / len(some))
            found[name] += indices
        print("  ".join(f"{n} {1 / times[n][-1]:.1f} img/s {1000 * work[n][-1]:.1f} ms" for n in names), flush=True)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    reference = found[next(name for name in names if not name.startswith("vitrail"))]
    rows = {}
    for name in names:
        others = [other for other in names if other != name and not other.startswith("vitrail")]
        rows[name] = {
            "images_per_second": 1 / median(times[name]),
            "processor_ms": 1000 * median(work[name]),
            "times_faster_than": {other: spread(times[name], times[other]) for other in others},
            "times_less_processor_time_than": {other: spread(work[name], work[other]) for other in others},
            "labels_agree": sum(a == b for a, b in zip(found[name], reference, strict=True)) / len(files),
        }
    return rows


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of all turns."""
    low, middle, high = quantiles([other / own for own, other in zip(ours, theirs, strict=True)], n=4)
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def many(folder: Path, photos: Path, count: int) -> list[str]:
    """`count` names for the photos of a folder."""
    originals = sorted(str(path.resolve()) for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(islice(cycle(originals), count)):
        os.symlink(original, folder / f"{number:06d}.jpg")
    return sorted(map(str, folder.iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEG photos")
    parser.add_argument("weights", help="a model folder in timm's layout")
    parser.add_argument("--number", type=int, default=2000, help="photos in all")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=["openvino-bfloat16", "torch-bfloat16", "torch-float32"])
    parser.add_argument(
        "--others",
        nargs="+",
        default=["timm float32", "timm bfloat16", "transformers float32", "transformers bfloat16"],
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sides = [("vitrail", engine) for engine in given.engines]
    sides += [(kind, precision) for kind, precision in (other.split() for other in given.others)]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.weights, many(Path(folder), given.photos, given.number), given.turns, sides)
    for name, row in rows.items():
        rate, cost = row["images_per_second"], row["processor_ms"]
        print(
            f"{name:28} {rate:7.1f} img/s, {cost:.1f} ms of processor time, labels agree on {row['labels_agree']:.2%}"
        )
        for key in ("times_faster_than", "times_less_processor_time_than") if name.startswith("vitrail") else ():
            for other, r in row[key].items():
                what = key.replace("_", " ")
                print(f"    {r['median']:.2f} {what} {other} ({r['lower_quartile']:.2f}-{r['upper_quartile']:.2f})")
    if given.out:
        import torch

        from vitrail.report import machine

        told = machine(torch.device("cpu"), "see sides").model_dump(mode="json")
        given.out.write_text(json.dumps({"machine": told, "photos": given.number, "sides": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
