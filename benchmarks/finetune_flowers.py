"""Fine-tuning DeiT-Ti/16 on a folder of photos: vitrail's `finetune` recipe beside timm's parts on the same minutes.

    python benchmarks/finetune_flowers.py DATA WEIGHTS --out finetune_flowers.json [--seeds 1] [--epochs 4]

vitrail trains first, with its recipe as it is (or `--epochs` of it). timm then gets the wall-clock seconds that
vitrail's training took: its speed is measured over some steps and its cosine schedule is laid over the steps that fit.
timm's side uses timm's own transforms (RandAugment m7, random erasing 0.1), AdamW with layer decay, label smoothing,
bfloat16 autocast and its evaluation transform; folder, starting weights, batch size and cores are the same.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

import vitrail

BATCH = 32
TRIAL = 12  # steps over which timm's speed is measured, after 3 to warm up


def run_vitrail(data: Path, weights: Path, seed: int, epochs: float | None) -> dict[str, float]:
    """Held-out top-1 and the seconds of the whole command, evaluations included."""
    changes = [] if epochs is None else [f"epochs={epochs}"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = vitrail.train(
            data, weights=weights, recipe="finetune", out=Path(folder) / "run", seed=seed, overrides=changes
        )
        return {"top1": 100 * result.report.top1, "seconds": time.monotonic() - began}


def run_timm(data: Path, weights: Path, seed: int, seconds: float) -> dict[str, float]:
    """The same folder with timm's parts; the steps are those that fit into `seconds`."""
    torch.manual_seed(seed)
    began = time.monotonic()
    model = timm.create_model(
        f"local-dir:{weights}", pretrained=True, num_classes=len(list((data / "train").iterdir()))
    )
    config = resolve_data_config({}, model=model)
    train = create_transform(**config, is_training=True, auto_augment="rand-m7-mstd0.5", re_prob=0.1, scale=(0.25, 1.0))
    loader = DataLoader(
        ImageDataset(data / "train", transform=train),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        persistent_workers=True,
    )
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    rates = [group["lr"] * group.get("lr_scale", 1.0) for group in optimizer.param_groups]
    loss_of, batches = LabelSmoothingCrossEntropy(0.1), endless(loader)

    def step(factor: float) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        images, labels = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    for i in range(3 + TRIAL):  # the trial's steps are the first of the warm-up
        if i == 3:
            mark = time.monotonic()
        step((i + 1) / 300)
    per_step = (time.monotonic() - mark) / TRIAL
    done, steps = 3 + TRIAL, int((seconds - (time.monotonic() - began)) / per_step) + 3 + TRIAL
    while done < steps and time.monotonic() - began < seconds:
        warm, progress = min(1.0, (done + 1) / (0.1 * steps)), done / steps
        step(warm * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item()))
        done += 1
    trained = time.monotonic() - began
    top1 = evaluate_timm(model, data, create_transform(**config))
    return {"top1": top1, "seconds": trained, "steps": done, "planned_steps": steps}


@torch.inference_mode()
def evaluate_timm(model: torch.nn.Module, data: Path, transform: object) -> float:
    model.eval()
    right = total = 0
    for images, labels in DataLoader(ImageDataset(data / "val", transform=transform), BATCH):
        right += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    return 100 * right / total


def endless(loader: DataLoader) -> object:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train/ and val/ of class folders")
    parser.add_argument("weights", type=Path, help="a model folder in timm's layout")
    parser.add_argument("--out", type=Path, default=Path("finetune_flowers.json"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=float)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        ours = run_vitrail(options.data, options.weights, seed, options.epochs)
        theirs = run_timm(options.data, options.weights, seed, ours["seconds"])
        rows.append({"seed": seed, "vitrail": ours, "timm": theirs})
        print(json.dumps(rows[-1]))
    options.out.write_text(
        json.dumps({"rows": rows, "threads": torch.get_num_threads(), "timm": timm.__version__}, indent=2)
    )


if __name__ == "__main__":
    main()
