"""Fine-tuning DeiT-Ti/16 on a folder of photos: vitrail's `finetune` recipe beside timm's parts in the same minutes.

    vitrail train DATA --weights WEIGHTS --recipe finetune --out RUN
    python benchmarks/finetune_flowers.py DATA WEIGHTS RUN --out finetune_flowers.json

The budget is the wall-clock time of RUN, whole: features, solving for the head, steps, evaluations. timm gets all of it
for steps. Twelve steps with its loader, after four that warm up, say how many fit in; its schedule is as long as that,
and what it took in the end is printed. Its evaluation comes on top. Both want the same quiet machine, one after the
other.

timm's side: its transforms (random crops, RandAugment m7, random erasing 0.1), AdamW with layer decay 0.75, label
smoothing 0.1, clipping, warm-up and cosine, its evaluation transform. Folder, weights, batch size, precision, cores and
number of loader processes are the same; averaged weights, patch dropout and a solved head are the recipe's own.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

from vitrail.train.allocator import keep_freed_memory

BATCH = 32  # images a step
WARM, PILOT = 4, 12  # steps before, and of the measurement that says how many fit into the budget
Images, Labels = torch.Tensor, torch.Tensor


class Timm:
    """timm's model, loss and optimiser, and one training step of them."""

    def __init__(self, weights: Path, classes: int, precision: str) -> None:
        self.model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=classes).train()
        self.optimizer = create_optimizer_v2(self.model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
        self.rates = [group["lr"] * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        self.loss, self.precision = LabelSmoothingCrossEntropy(0.1), precision

    def step(self, images: Images, labels: Labels, factor: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self.loss(self.model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def run_timm(data: Path, weights: Path, seed: int, budget: float, precision: str) -> dict[str, float]:
    """Held-out top-1 of timm's parts after as many steps as `budget` seconds give, and what they took."""
    torch.manual_seed(seed)
    classes = len(list((data / "train").iterdir()))
    side = Timm(weights, classes, precision)
    config = resolve_data_config({}, model=side.model)
    train = create_transform(**config, is_training=True, auto_augment="rand-m7-mstd0.5", re_prob=0.1, scale=(0.25, 1.0))
    source = ImageDataset(data / "train", transform=train)
    workers = len(os.sched_getaffinity(0))
    batches = endless(DataLoader(source, BATCH, shuffle=True, drop_last=True, num_workers=workers))
    pilot, times = Timm(weights, classes, precision), []
    for images, labels in islice(batches, WARM + PILOT):
        times.append(time.perf_counter())
        pilot.step(images, labels, 1e-3)
    times.append(time.perf_counter())
    del pilot
    steps = round(budget * PILOT / (times[-1] - times[WARM]))
    print(f"timm: {steps} steps should take the run's {budget:.0f} s", flush=True)
    began = time.perf_counter()
    for done, (images, labels) in enumerate(islice(batches, steps)):
        warm, cosine = min(1.0, (done + 1) / (0.1 * steps)), torch.cos(torch.tensor(done / steps * torch.pi)).item()
        side.step(images, labels, warm * 0.5 * (1 + cosine))
    seconds = time.perf_counter() - began
    return {"top1": evaluate_timm(side.model, data, create_transform(**config)), "steps": steps, "seconds": seconds}


@torch.inference_mode()
def evaluate_timm(model: torch.nn.Module, data: Path, transform: object) -> float:
    model.eval()
    right = total = 0
    for images, labels in DataLoader(ImageDataset(data / "val", transform=transform), BATCH):
        right += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def endless(loader: DataLoader) -> Iterator[tuple[Images, Labels]]:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train/ and val/ of class folders")
    parser.add_argument("weights", type=Path, help="a model folder in timm's layout")
    parser.add_argument("run", type=Path, help="a finished run of vitrail on the same data and weights")
    parser.add_argument("--out", type=Path, default=Path("finetune_flowers.json"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = json.loads((options.run / "run.json").read_text())
    keep_freed_memory()
    found = run_timm(options.data, options.weights, options.seed, run["seconds"], run["precision"])
    table = {
        "vitrail": {"top1": run["metrics"]["top1"], "steps": run["steps"], "seconds": run["seconds"]},
        "timm": {**found, "version": timm.__version__},
        "seeds": {"vitrail": run["seed"], "timm": options.seed},
        "precision": run["precision"],
        "threads": torch.get_num_threads(),
        "recipe": run["recipe"]["name"],
    }
    print(json.dumps(table))
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
