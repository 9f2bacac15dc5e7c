"""A prediction job killed at random moments: is every image in its file exactly once? And memory over many images.

    python benchmarks/predict_kills.py imagenet_samples deit_tiny_patch16_224 --out predict_kills.json

The photos of the folder stand under other names until there are 2,000. `vitrail predict MODEL FOLDER --out FILE` is
started, killed (SIGKILL) after a random time, and started again, twenty times in all, for each kind of file; then it is
left to end. The model is a ViT of one block made here, so that most of the time goes to reading and writing. Answers
are compared with those of a run that nobody killed, row by row.

Then 20,000 images (200 photos again and again) go through `Classifier.stream` in one process, which notes its memory.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from vitrail.config import Preprocess, ViTConfig
from vitrail.inference import load
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

SUFFIXES = (".parquet", ".csv", ".jsonl")


def small_model(folder: Path) -> Path:
    """A ViT of one block with 10 classes, for 64 x 64 pixels."""
    config = ViTConfig(image_size=(64, 64), patch_size=(16, 16), width=32, depth=1, heads=2, mlp_dim=32, classes=10)
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    write_model_folder(folder, model, Preprocess(size=(64, 64)), LabelSet(tuple(map(str, range(10)))), {})
    return folder


def many(folder: Path, photos: Path, count: int) -> Path:
    """A folder with `count` names for some photos."""
    folder.mkdir()
    originals = sorted(path.resolve() for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, original in enumerate(islice(cycle(originals), count)):
        os.symlink(original, folder / f"{number:06d}.jpg")
    return folder


def rows(out: Path) -> list[tuple[Any, ...]]:
    """What a file says: (image, best class) in its order."""
    if out.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return [(row["image"], row["label"]) for row in parquet.read_table(out).to_pylist()]
    if out.suffix == ".jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return [(line["image"], line["predictions"][0]["label"]) for line in lines]
    return [(row["image"], row["label"]) for row in csv.DictReader(out.read_text().splitlines())]


def killed_job(model: Path, images: Path, out: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """The file of a job that is killed so many times; how long the runs that were killed had been going."""
    command = [sys.executable, "-m", "vitrail", "predict", str(model), str(images), "--top", "1", "--out"]
    whole = out.with_name("whole" + out.suffix)
    start = time.monotonic()
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    length = time.monotonic() - start
    made, jobs, same = 0, 0, True
    while made < kills or jobs == 0:
        wait = chance.uniform(0.3, 1.1) * length if made < kills else None  # from loading to the joining of the parts
        with subprocess.Popen(
            [*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _, complaint = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                made += 1
                continue
        if process.returncode:
            raise SystemExit(f"refused after {made} kills: {complaint}")
        same = same and rows(out) == rows(whole)
        jobs += 1
        if made < kills:  # it came to its end before it was killed often enough: begin another
            for left in (out, out.with_name(out.name + ".job.json")):
                left.unlink()
    return {"kills": made, "jobs": jobs, "seconds_of_a_whole_run": length, "every_image_once": same}


def memory(model: Path, images: Path) -> dict[str, Any]:
    """Resident memory of this process while all images go through it, and its growth in the second half."""
    classifier = load(model)
    files = sorted(images.iterdir())
    seen: list[tuple[int, float]] = []
    for number, _ in enumerate(classifier.stream(files, top=1), start=1):
        if number % 500 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((number, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
    half = seen[len(seen) // 2 :]
    mean_at = sum(at for at, _ in half) / len(half)
    mean_of = sum(used for _, used in half) / len(half)
    slope = sum((at - mean_at) * (used - mean_of) for at, used in half) / sum((at - mean_at) ** 2 for at, _ in half)
    return {"images": len(files), "first_mib": seen[0][1], "last_mib": seen[-1][1], "mib_per_1000_images": 1000 * slope}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEG photos")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--long", type=int, default=20_000, help="images of the memory test; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = small_model(place / "model")
        images = many(place / "images", given.photos, given.images)
        chance = random.Random(given.seed)
        for number, suffix in enumerate(SUFFIXES):
            kills = given.kills // 3 + (number < given.kills % 3)
            result[suffix] = killed_job(model, images, place / f"answers{suffix}", kills, chance)
            print(suffix, result[suffix], flush=True)
        if given.long:
            result["memory"] = memory(model, many(place / "long", given.photos, given.long))
            print("memory", result["memory"])
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
