"""A linear probe: vitrail's recipe `probe` beside timm's features with scikit-learn's logistic regression.

    python benchmarks/probe.py DATA WEIGHTS --train 2000 --test 1000 --out probe.json

Both sides see the same images (the first so many of each split after one seeded shuffle, all where no number is given),
the same weights, one after the other on the same cores in the same precision (bfloat16 where the processor computes in
it). timm's side: its evaluation transform, the features before its
head, LogisticRegression(max_iter=1000) on features scaled to mean 0 and deviation 1. Times are wall-clock and processor
seconds of features and fit together.
"""

import argparse
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader, Dataset

from vitrail.data.sources import open_dataset
from vitrail.data.stores import Source, Subset
from vitrail.evaluate.features import features
from vitrail.evaluate.head import fit_head, head_logits
from vitrail.train.loop import COMPUTED, find_precision
from vitrail.train.recipes import probe
from vitrail.train.start import build_model, find_start
from vitrail.train.summary import summarise

BATCH = 64


def some(source: Source, count: int | None) -> Source:
    """The first `count` images after one seeded shuffle, in the source's order."""
    if count is None or count >= len(source):
        return source
    return Subset(source, np.sort(np.random.default_rng(0).permutation(len(source))[:count]))


def run_vitrail(data: Path, weights: Path, train: Source, test: Source, half: torch.dtype | None) -> float:
    """Held-out top-1 of the recipe's head, on features as the recipe computes them."""
    dataset = open_dataset(data)
    start = find_start(weights, None, dataset.classes)
    recipe = probe(summarise(dataset), start.model.config, start.preprocess)
    model = build_model(recipe, start).eval()
    known, asked = (features(model, recipe.preprocess, part, half=half) for part in (train, test))
    head = fit_head(known.values, known.labels, len(dataset.classes), "logistic")
    return float((head_logits(head, asked.values).argmax(1) == asked.labels).float().mean())


class Pictures(Dataset):
    """Encoded images through timm's transform."""

    def __init__(self, source: Source, transform: object) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(io.BytesIO(self.source.read(index).data)).convert("RGB"))


@torch.inference_mode()
def timm_features(model: torch.nn.Module, source: Source, transform: object, half: torch.dtype | None) -> np.ndarray:
    parts = []
    for images in DataLoader(Pictures(source, transform), BATCH, num_workers=len(os.sched_getaffinity(0))):
        with torch.autocast("cpu", half, enabled=half is not None):
            parts.append(model(images).float().numpy())
    return np.concatenate(parts)


def run_timm(weights: Path, train: Source, test: Source, half: torch.dtype | None) -> float:
    """Held-out top-1 of scikit-learn's logistic regression on timm's features."""
    model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    known, asked = (timm_features(model, part, transform, half) for part in (train, test))
    scaler = StandardScaler().fit(known)
    fit = LogisticRegression(max_iter=1000).fit(scaler.transform(known), train.labels)
    return float((fit.predict(scaler.transform(asked)) == test.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, help="a model folder in timm's layout")
    parser.add_argument("--train", type=int, help="training images; all by default")
    parser.add_argument("--test", type=int, help="held-out images; all by default")
    parser.add_argument("--out", type=Path, default=Path("probe.json"))
    options = parser.parse_args()
    precision = find_precision("auto", torch.device("cpu"))
    half = None if precision == "float32" else COMPUTED[precision]
    dataset = open_dataset(options.data)
    train, test = some(dataset.split("train"), options.train), some(dataset.split(dataset.held_out), options.test)
    table: dict[str, object] = {
        "train": len(train),
        "test": len(test),
        "split": dataset.held_out,
        "precision": precision,
    }
    for name in ("vitrail", "timm"):
        began, busy = time.perf_counter(), time.process_time()
        top1 = (
            run_vitrail(options.data, options.weights, train, test, half)
            if name == "vitrail"
            else run_timm(options.weights, train, test, half)
        )
        spent = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - busy}
        table[name] = {"top1": top1, **spent}
        print(name, json.dumps(table[name]), flush=True)
    options.out.write_text(json.dumps({**table, "threads": torch.get_num_threads()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
