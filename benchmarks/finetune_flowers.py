"""Fine-tuning DeiT-Ti/16 on a folder of photos: vitrail's `finetune` recipe beside timm's parts on the same budget.

    python benchmarks/finetune_flowers.py DATA WEIGHTS RUN --seed 0 --out finetune_flowers.json
    python benchmarks/finetune_flowers.py DATA WEIGHTS RUN --seed 0 --set frozen_blocks=6 --timm-frozen 6

Each `--set` changes vitrail's recipe, and timm gets the time that the run then takes.

Both sides run on one thread each, images read in the same process, and the budget is processor time, which a busy
machine does not stretch: all that the whole run of vitrail took, features, solving for the head and evaluations
included. timm gets all of it for its steps. Twelve steps with its loader, after four that warm up, say how many fit
in; its schedule is as long as that, and what it took in the end is printed. Its evaluation comes on top.

timm's side: its transforms (random crops, RandAugment m7, random erasing 0.1), AdamW with layer decay 0.75, label
smoothing 0.1, clipping, warm-up and cosine, its evaluation transform. Folder, weights, batch size and precision are the
same; averaged weights, patch dropout and a solved head are the recipe's own.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

from vitrail.train.allocator import keep_freed_memory
from vitrail.train.run import train

BATCH = 32  # images a step
WARM, PILOT = 4, 12  # steps before, and of the measurement that says how many fit into the budget
Images, Labels = torch.Tensor, torch.Tensor


class Timm:
    """timm's model, loss and optimiser, and one training step of them."""

    def __init__(self, weights: Path, classes: int, precision: str, frozen: int) -> None:
        self.model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=classes).train()
        if frozen:
            for part in (self.model.patch_embed, *self.model.blocks[:frozen]):
                part.requires_grad_(False)
            for token in (self.model.cls_token, self.model.pos_embed):
                token.requires_grad_(False)
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


def run_timm(data: Path, weights: Path, seed: int, budget: float, precision: str, frozen: int) -> dict[str, float]:
    """Held-out top-1 of timm's parts after as many steps as `budget` processor seconds give, and what they took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(seed)
    classes = len(list((data / "train").iterdir()))
    side = Timm(weights, classes, precision, frozen)
    config = resolve_data_config({}, model=side.model)
    train = create_transform(**config, is_training=True, auto_augment="rand-m7-mstd0.5", re_prob=0.1, scale=(0.25, 1.0))
    source = ImageDataset(data / "train", transform=train)
    batches = endless(DataLoader(source, BATCH, shuffle=True, drop_last=True))
    pilot, times = Timm(weights, classes, precision, frozen), []
    for images, labels in islice(batches, WARM + PILOT):
        times.append(time.process_time())
        pilot.step(images, labels, 1e-3)
    times.append(time.process_time())
    del pilot
    steps = round(budget * PILOT / (times[-1] - times[WARM]))
    print(f"timm: {steps} steps should take the run's {budget:.0f} s", flush=True)
    began = time.process_time()
    for done, (images, labels) in enumerate(islice(batches, steps)):
        warm, cosine = min(1.0, (done + 1) / (0.1 * steps)), torch.cos(torch.tensor(done / steps * torch.pi)).item()
        side.step(images, labels, warm * 0.5 * (1 + cosine))
    seconds = time.process_time() - began
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


def run_vitrail(data: Path, weights: Path, run: Path, seed: int, changes: list[str]) -> dict[str, Any]:
    """The recipe, whole, as `vitrail train` runs it but for the thread and the loader."""
    torch.set_num_threads(1)
    keep_freed_memory()
    began = time.process_time()
    train(data, weights=weights, recipe="finetune", out=run, seed=seed, overrides=["data.workers=0", *changes])
    spent, record = time.process_time() - began, json.loads((run / "run.json").read_text())
    scores = {name: record["metrics"][name] for name in ("top1", "images")}
    return {**scores, "steps": record["steps"], "seconds": spent, "precision": record["precision"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train/ and val/ of class folders")
    parser.add_argument("weights", type=Path, help="a model folder in timm's layout")
    parser.add_argument("run", type=Path, help="the folder of vitrail's run; a new one")
    parser.add_argument("--out", type=Path, default=Path("finetune_flowers.json"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--timm-frozen", type=int, default=0, metavar="N", help="timm's embedding and first N blocks stay"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    options = parser.parse_args()
    if options.run.exists():
        parser.error(f"{options.run} exists")
    common = (options.data, options.weights)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:  # one a side
        ours = process.submit(run_vitrail, *common, options.run, options.seed, options.changes).result()
        print("vitrail", json.dumps(ours), flush=True)
        given = (ours["seconds"], ours["precision"], options.timm_frozen)
        theirs = process.submit(run_timm, *common, options.seed, *given).result()
        print("timm", json.dumps(theirs), flush=True)
    asked = {"seed": options.seed, "changes": options.changes, "timm_frozen": options.timm_frozen}
    table = {"vitrail": ours, "timm": theirs, "timm_version": timm.__version__, **asked}
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
