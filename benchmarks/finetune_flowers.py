"""Fine-tuning DeiT-Ti/16 on a folder of photos: vitrail's `finetune` recipe beside timm's parts on the same budget.

    vitrail train DATA --weights WEIGHTS --recipe finetune --out RUN
    python benchmarks/finetune_flowers.py DATA WEIGHTS RUN --out finetune_flowers.json

The budget is the time of RUN's training steps and of its features, on which it solved for its head. Steps of both sides
and a batch of features are timed in turn (A B C A B C), and timm gets as many steps as fit into that time by the
medians of the ratios, so that a busy machine is fair to both. timm's side uses timm's own transforms (RandAugment m7,
random erasing 0.1), AdamW with layer decay, label smoothing, cosine with warm-up and its evaluation transform; folder,
weights, batch size, precision and cores are the same.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

from vitrail.config import Recipe
from vitrail.models.build import build
from vitrail.train.allocator import keep_freed_memory
from vitrail.train.loop import train_step
from vitrail.train.optim import make_optimizer
from vitrail.types import Batch
from vitrail.weights.load import load_weights

BATCH, FEATURES, PAIRS = 32, 64, 8  # images a step, images of a batch of features, turns
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


def timm_steps(weights: Path, recipe: Recipe, steps: int, images: int, precision: str) -> tuple[int, dict[str, float]]:
    """How many of timm's steps take as long as RUN's features and `steps` steps; and the ratios that say so."""
    theirs = Timm(weights, recipe.model.classes, precision)
    ours = load_weights(weights, classes=recipe.model.classes).model
    model = build(recipe.model).train()
    model.load_state_dict(ours.state_dict())
    optimizer = make_optimizer(model, model.config, recipe.optim)
    batch = Batch(
        torch.randn(BATCH, 3, *ours.config.image_size), torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH)
    )
    many = torch.randn(FEATURES, 3, *ours.config.image_size)

    @torch.inference_mode()
    def represent() -> object:
        return ours.eval().represent(many)

    times: dict[str, list[float]] = {"timm's step": [], "vitrail's step": [], "vitrail's features": []}
    for _ in range(PAIRS + 1):
        for name, call in zip(
            times,
            (
                lambda: theirs.step(batch.images, batch.labels, 1e-3),
                lambda: train_step(model, optimizer, [batch], 1e-6, recipe.optim, precision),
                represent,
            ),
            strict=True,
        ):
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    base = times["timm's step"][1:]  # the first turn warms up
    ratios = {name: median(t / b for t, b in zip(row[1:], base, strict=True)) for name, row in times.items()}
    passes = -(-images // FEATURES) if recipe.head_solver != "none" else 0
    return round(steps * ratios["vitrail's step"] + passes * ratios["vitrail's features"]), ratios


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
    recipe, images = Recipe.model_validate(run["recipe"]), run["data"]["splits"]["train"]
    keep_freed_memory()
    steps, ratios = timm_steps(options.weights, recipe, run["steps"], images, run["precision"])
    print(f"timm: {steps} steps take as long as the run; {ratios}", flush=True)
    top1 = run_timm(options.data, options.weights, options.seed, steps, run["precision"])
    table = {
        "vitrail": {"top1": run["metrics"]["top1"], "steps": run["steps"], "seconds": run["seconds"]},
        "timm": {"top1": top1, "steps": steps, "version": timm.__version__},
        "times_of_timms_step": ratios,
        "precision": run["precision"],
        "threads": torch.get_num_threads(),
        "recipe": recipe.name,
    }
    print(json.dumps(table))
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
