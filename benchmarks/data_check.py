"""Faults planted in real photos, and how many of them `vitrail data check` finds; broken files, and what they cost.

    python benchmarks/data_check.py DATA WEIGHTS --out data_check.json

Planted in a folder of links to DATA (with splits), once a seed: 2 % of the images under another label; copies of 1 % of
the images in another split, each cut by up to 5 % at every side, resized to 50-100 %, brightened or darkened by up to a
fifth, and saved again as JPEG. The data have faults of their own, so what is found in them as they are is counted
apart: a candidate that was not planted is `own` where the untouched data give it too, else `other`, which is an upper
bound of the false alarms that the planting caused.

Broken, for 1 % and 20 % of the images: empty, cut short, a damaged header, text, a picture of 400 million pixels in a
few kB. Then 8 x 8 digits are trained on with as many training files broken: the files deleted, on the quarantine list,
or left in place to be replaced by others while training. Weights of the first two must be the same to the last bit.

Features are computed once for each file and kept in --features, where one is named, for the next time.
"""

import argparse
import hashlib
import io
import json
import struct
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from PIL import Image

from vitrail.data.check import Scan, scan
from vitrail.data.sources import Dataset, open_dataset
from vitrail.data.stores import Subset
from vitrail.evaluate.audit import audit, findings
from vitrail.evaluate.features import Features, features
from vitrail.evaluate.findings import DataReport
from vitrail.train import train
from vitrail.weights.load import load_weights

FLIPPED, COPIED = 0.02, 0.01
BROKEN = (0.01, 0.2)
WAYS = ("deleted", "quarantined", "replaced")


@dataclass
class Planted:
    """Faults, by the names that the images have in the planted folder."""

    flipped: set[str] = field(default_factory=set)
    copies: dict[str, str] = field(default_factory=dict)  # copy -> original


class Eyes:
    """A model's features of images, each computed once."""

    def __init__(self, weights: Path, kept: Path | None) -> None:
        self.loaded, self.kept = load_weights(weights), kept
        self.known: dict[str, np.ndarray] = {}
        if kept is not None and kept.exists():
            with np.load(kept) as table:
                self.known = dict(zip(table["sha256"].tolist(), table["values"], strict=True))

    def see(self, dataset: Dataset, found: Scan) -> Features:
        """Features of the readable images of the data set."""
        at = np.array(sorted(found.looks))
        names = [found.looks[int(i)].content.hex() for i in at]
        if new := [k for k, name in enumerate(names) if name not in self.known]:
            source = Subset(dataset.whole, at[new])
            values = features(self.loaded.model, self.loaded.preprocess, source).values
            self.known |= {names[k]: v for k, v in zip(new, values.numpy(), strict=True)}
            if self.kept is not None:
                np.savez(self.kept, sha256=np.array(list(self.known)), values=np.stack(list(self.known.values())))
        values = torch.from_numpy(np.stack([self.known[name] for name in names]))
        return Features(values, torch.from_numpy(dataset.whole.labels[at]), torch.from_numpy(at))


def plant(data: Path, folder: Path, seed: int) -> Planted:
    """Links to all images of `data`, some under another class, and altered copies of others in another split."""
    random = np.random.default_rng(seed)
    images = sorted(p.relative_to(data) for p in data.glob("*/*/*") if p.is_file())
    splits = sorted({p.parts[0] for p in images})
    classes = sorted({p.parts[1] for p in images})
    chosen = random.permutation(len(images))
    flips, copies = round(FLIPPED * len(images)), round(COPIED * len(images))
    planted = Planted()
    for place, index in enumerate(chosen):
        split, label, name = images[index].parts
        if place < flips:
            label = str(random.choice([c for c in classes if c != label]))
            name = f"flipped_{name}"
            planted.flipped.add(f"{split}/{label}/{name}")
        target = folder / split / label / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((data / images[index]).resolve())
        if flips <= place < flips + copies:
            other = str(random.choice([s for s in splits if s != split]))
            copy = folder / other / label / f"copy_{place}.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(altered(data / images[index], random))
            planted.copies[copy.relative_to(folder).as_posix()] = target.relative_to(folder).as_posix()
    return planted


def altered(path: Path, random: np.random.Generator) -> bytes:
    """The photo cut a little, resized, brightened or darkened, and saved again."""
    image = Image.open(path).convert("RGB")
    left, top, right, bottom = random.uniform(0, 0.05, 4)
    cols, rows = image.size
    image = image.crop((round(left * cols), round(top * rows), round((1 - right) * cols), round((1 - bottom) * rows)))
    scale = random.uniform(0.5, 1.0)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
    pixels = np.clip(np.asarray(image, float) * random.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=int(random.integers(50, 91)))
    return out.getvalue()


def score(report: DataReport, planted: Planted, clean: DataReport) -> dict[str, float]:
    """How much of what was planted the report has, and what else it has."""
    of = {m.id: group for group in report.leaks for m in group.members}
    joined = sum(1 for copy, original in planted.copies.items() if copy in of and of[copy] is of.get(original))
    own_leaks = {m.id for group in clean.leaks for m in group.members}
    names = [{m.id for m in group.members} for group in report.leaks]
    planted_groups = [g for g in names if g & set(planted.copies)]
    own_groups = [g for g in names if not g & set(planted.copies) and plain(g) & own_leaks]
    doubted = [d.image.id for d in report.doubts]
    flipped = [name for name in doubted if name in planted.flipped]
    own = plain(d.image.id for d in clean.doubts)
    also = [name for name in doubted if name not in planted.flipped and name in own]
    return {
        "copies": len(planted.copies),
        "copies_found": joined,
        "leaks": len(names),
        "leaks_planted": len(planted_groups),
        "leaks_own": len(own_groups),
        "leaks_other": len(names) - len(planted_groups) - len(own_groups),
        "flips": len(planted.flipped),
        "flips_found": len(flipped),
        "doubts": len(doubted),
        "doubts_own": len(also),
        "doubts_other": len(doubted) - len(flipped) - len(also),
        "flips_in_first": sum(name in planted.flipped for name in doubted[: len(planted.flipped)]),
    }


def plain(names: object) -> set[str]:
    """Names as they are in the untouched data."""
    return {str(name).replace("flipped_", "") for name in names}  # type: ignore[attr-defined]


def breakages(data: bytes, kind: int) -> bytes:
    """The file broken in one of five ways."""
    bomb_rows = zlib.compress(bytes(20_000 // 8 + 1) * 64)
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    ways = (
        lambda: b"",
        lambda: data[: len(data) // 2],
        lambda: bytes(255 - b for b in data[:16]) + data[16:],
        lambda: b"404: the photo that you asked for is not here\n" * 40,
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bomb_rows) + chunk(b"IEND", b""),
    )
    return ways[kind % len(ways)]()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def find_broken(data: Path, share: float, seed: int) -> dict[str, float]:
    """Break a share of the photos and check them."""
    random = np.random.default_rng(seed)
    images = sorted(p.relative_to(data) for p in data.glob("*/*/*") if p.is_file())
    chosen = set(random.choice(len(images), round(share * len(images)), replace=False).tolist())
    with tempfile.TemporaryDirectory() as name:
        for index, image in enumerate(images):
            target = Path(name) / image
            target.parent.mkdir(parents=True, exist_ok=True)
            if index in chosen:
                target.write_bytes(breakages((data / image).read_bytes(), index))
            else:
                target.symlink_to((data / image).resolve())
        dataset = open_dataset(name)
        began = time.perf_counter()
        found = scan(dataset.whole)
        seconds = time.perf_counter() - began
        listed = {dataset.whole.id(i) for i in found.unreadable}
    broken = {images[i].as_posix() for i in chosen}
    return {
        "broken": len(broken),
        "found": len(broken & listed),
        "wrongly": len(listed - broken),
        "seconds": round(seconds, 1),
    }


def train_broken(share: float, epochs: int, seed: int, ways: Sequence[str] = WAYS) -> dict[str, dict[str, object]]:
    """Held-out top-1 on digits, a share of whose training files are broken, for each way to deal with them."""
    random = np.random.default_rng(seed)
    digits = open_dataset("digits")
    scores: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        train_positions = digits.splits["train"]
        chosen = set(random.choice(len(train_positions), round(share * len(train_positions)), replace=False).tolist())
        for kind in ("deleted", "broken"):
            for split, part in digits.splits.items():
                for i in range(len(part)):
                    item = part.read(i)
                    fate = split == "train" and i in chosen
                    if fate and kind == "deleted":
                        continue
                    target = root / kind / split / digits.classes[item.label] / f"{i:04d}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(breakages(item.data, i) if fate else item.data)
        listed = root / "list.jsonl"
        listed.write_text(audit(root / "broken").quarantine_text())
        settings = [f"epochs={epochs}", "workers=0"]
        for way, folder, more in (
            ("deleted", "deleted", []),
            ("quarantined", "broken", [f"quarantine={listed}"]),
            ("replaced", "broken", ["max_broken=1.0"]),
        ):
            if way not in ways:
                continue
            out = root / "runs" / way
            result = train(root / folder, out=out, seed=seed, overrides=settings + more, notify=lambda news: None)
            weights = hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()
            scores[way] = {"top1": result.report.top1, "sha256": weights}
    return scores


def train_seeds(share: float, epochs: int, seeds: Sequence[int]) -> dict[str, object]:
    """Top-1 without the broken files and with them left in place, each seed with its own broken files and run, and the
    difference in points, with the spread that the clean runs have among themselves."""
    rows = []
    for seed in seeds:
        found = train_broken(share, epochs, seed, ("deleted", "replaced"))
        rows.append({way: float(str(found[way]["top1"])) for way in found})
        print(f"digits, {share:.0%} broken, seed {seed}: {json.dumps(rows[-1])}", flush=True)
    gaps = [100 * (row["replaced"] - row["deleted"]) for row in rows]
    clean = [100 * row["deleted"] for row in rows]
    return {
        "runs": rows,
        "mean_difference": mean(gaps),
        "standard_error": stdev(gaps) / len(gaps) ** 0.5,
        "spread_of_clean_runs": stdev(clean),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train/ and val/ of class folders")
    parser.add_argument("weights", type=Path, help="weights that did not learn from these photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--features", type=Path, help="where features are kept between runs (.npz)")
    parser.add_argument("--epochs", type=int, default=20, help="of the trainings on digits")
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="of those trainings")
    parser.add_argument("--only-training", action="store_true", help="the trainings with broken digits, nothing else")
    parser.add_argument("--out", type=Path, default=Path("data_check.json"))
    options = parser.parse_args()
    if options.only_training:
        made = {f"{share:.0%}": train_seeds(share, options.epochs, options.training_seeds) for share in BROKEN}
        print(json.dumps(made, indent=2))
        options.out.write_text(json.dumps(made, indent=2) + "\n")
        return
    eyes, source = Eyes(options.weights, options.features), str(options.weights)
    untouched = open_dataset(options.data)
    began = time.perf_counter()
    found = scan(untouched.whole)
    scanned = time.perf_counter() - began
    clean = findings(untouched, found, eyes.see(untouched, found), source)
    table: dict[str, object] = {
        "images": len(untouched.whole),
        "scan_seconds": round(scanned, 1),
        "untouched": {
            "leaks": len(clean.leaks),
            "repeats": len(clean.repeats),
            "conflicts": len(clean.conflicts),
            "doubts": len(clean.doubts),
        },
    }
    print(json.dumps(table), flush=True)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            planted = plant(options.data, Path(name), seed)
            dataset = open_dataset(name)
            found = scan(dataset.whole)
            table[f"planted, seed {seed}"] = row = score(
                findings(dataset, found, eyes.see(dataset, found), source), planted, clean
            )
        print(f"seed {seed}: {json.dumps(row)}", flush=True)
    for share in BROKEN:
        table[f"broken {share:.0%}"] = one = find_broken(options.data, share, options.seeds[0])
        print(f"broken {share:.0%}: {json.dumps(one)}", flush=True)
        table[f"digits broken {share:.0%}"] = two = train_broken(share, options.epochs, options.seeds[0])
        print(f"digits, {share:.0%} of the training files broken: {json.dumps(two)}", flush=True)
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
