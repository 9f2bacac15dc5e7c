"""Fine-tuning DeiT-Ti/16 on a folder of photos: vitrail's `finetune` recipe beside timm's parts on the same budget.

    vitrail train DATA --weights WEIGHTS --recipe finetune --out RUN
    python benchmarks/finetune_flowers.py DATA WEIGHTS RUN --out finetune_flowers.json

The budget is the time of RUN's training steps. Steps of both sides are timed in turn (A B A B) on the same images, and
timm gets as many steps as fit into that time by the median of the ratios, so that a busy machine is fair to both.
timm's side uses timm's own transforms (RandAugment m7, random erasing 0.1), AdamW with layer decay, label smoothing,
cosine with warm-up and its evaluation transform; folder, weights, batch size, precision and cores are the same.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

from vitrail.config import OptimConfig
from vitrail.train.loop import find_precision, train_step
from vitrail.train.optim import make_optimizer
from vitrail.types import Batch
from vitrail.weights.load import load_weights

BATCH, PAIRS = 32, 8
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


def time_ratio(weights: Path, classes: int, precision: str) -> float:
    """Median of (timm's seconds for a step / vitrail's), timed in turn on the same images."""
    theirs, config = Timm(weights, classes, precision), OptimConfig(layer_decay=0.75, label_smoothing=0.1)
    ours = load_weights(weights, classes=classes).model.train()
    optimizer = make_optimizer(ours, ours.config.depth, config)
    images, labels = torch.randn(BATCH, 3, *ours.config.image_size), torch.randint(classes, (BATCH,))
    batch = [Batch(images, labels, labels)]

    def seconds(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    ratios = []
    for _ in range(PAIRS + 1):
        a = seconds(lambda: theirs.step(images, labels, 1e-3))
        ratios.append(a / seconds(lambda: train_step(ours, optimizer, batch, 1e-6, config, precision)))
    return median(ratios[1:])  # the first pair warms up


def run_timm(data: Path, weights: Path, seed: int, steps: int, precision: str) -> float:
    """Held-out top-1 of timm's parts after so many steps."""
    torch.manual_seed(seed)
    side = Timm(weights, len(list((data / "train").iterdir())), precision)
    config = resolve_data_config({}, model=side.model)
    train = create_transform(**config, is_training=True, auto_augment="rand-m7-mstd0.5", re_prob=0.1, scale=(0.25, 1.0))
    source = ImageDataset(data / "train", transform=train)
    loader = DataLoader(source, BATCH, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    for done, (images, labels) in zip(range(steps), endless(loader), strict=False):
        warm, cosine = min(1.0, (done + 1) / (0.1 * steps)), torch.cos(torch.tensor(done / steps * torch.pi)).item()
        side.step(images, labels, warm * 0.5 * (1 + cosine))
        if done % 50 == 0:
            print(f"timm: step {done} of {steps}", flush=True)
    return evaluate_timm(side.model, data, create_transform(**config))


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
    record = json.loads((options.run / "model" / "vitrail.json").read_text())["record"]
    precision = find_precision("auto", torch.device("cpu"))
    ratio = time_ratio(options.weights, len(list((options.data / "train").iterdir())), precision)
    steps = round(record["steps"] / ratio)
    top1 = run_timm(options.data, options.weights, options.seed, steps, precision)
    table = {
        "vitrail": {"top1": record["metrics"]["top1"], "steps": record["steps"], "seconds": record["seconds"]},
        "timm": {"top1": top1, "steps": steps, "version": timm.__version__},
        "step_time_ratio": ratio,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "recipe": run["recipe"]["name"],
    }
    print(json.dumps(table))
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
