"""CIFAR-10 from scratch with a plain ViT on one GPU: no convolution stem, patches of 4 pixels, no other data.

    python benchmarks/cifar10_scratch.py CIFAR10                   # a GPU, three seeds of ten minutes each
    python benchmarks/cifar10_scratch.py CIFAR10 --small           # a processor, a small ViT

CIFAR10 is a folder with train and test as `vitrail train` takes it (Parquet in the Hugging Face image layout, class
folders); all images must have one size. The aim is 96.5 % of the test images in ten minutes on an H100.

The images lie on the device as bytes, and everything random is done there on whole batches (`vary`): a reader of files
would need a hundred processor cores to keep up. Model, optimiser, schedule, averaged weights, mixing, loss and training
step are vitrail's own. The number of epochs is what fits into `--minutes` by the time of the first steps, unless
`--epochs` names it; it is decided before the first seed and the same for all. The score is that of the averaged weights
after the last step, on all test images; nothing is selected on them. Seconds are those from making the model to its
score, compilation included; reading and decoding the files comes before and is told apart.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vitrail.config import AugmentConfig, OptimConfig, Preprocess, ViTConfig
from vitrail.data.decode import decode
from vitrail.data.mix import mix
from vitrail.data.preprocess import to_model
from vitrail.data.sources import Source, open_dataset
from vitrail.models.vit import ViT
from vitrail.report import processor
from vitrail.train.loop import find_precision, train_steps
from vitrail.train.optim import make_optimizer
from vitrail.train.state import TrainState, new_average
from vitrail.train.wrap import wrap_blocks
from vitrail.types import Batch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images
MIX = AugmentConfig(mixup=0.8, cutmix=1.0, mix_probability=0.8)
SLACK = 45.0  # seconds of a seed's budget kept for compiling and scoring
WARM, TIMED = 12, 24  # steps before the epochs are decided: compiled and thrown away, then timed


@dataclass(frozen=True)
class Variation:
    """How much `vary` changes an image. At 0 everywhere it changes nothing."""

    pad: int = 4  # pixels of the crop: the image moves by up to so many, either way
    flip: float = 0.5
    draws: int = 2  # of one of the OPERATIONS, as in RandAugment, each with a strength drawn anew
    strength: float = 1.0  # 1: the widest range
    cut_out: float = 0.25  # share of images that lose a square
    cut_side: float = 0.4  # of the image's


OPERATIONS = (
    *("identity", "brightness", "contrast", "saturation", "solarize", "posterize", "autocontrast"),
    *("rotate", "shear_x", "shear_y", "shift_x", "shift_y"),
)


def vary(images: Tensor, how: Variation, generator: torch.Generator) -> Tensor:
    """Images B 3 H W of bytes -> varied ones in 0..1, on their device, a pure function of the generator's state.

    Crop, flip and all geometry of an image are one affine map and so one resampling: an image that only moves by whole
    pixels and flips keeps its pixels exactly. What comes from outside is grey.
    """
    device, n = images.device, len(images)

    def draw(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, device=device)

    pixels = images.to(torch.float32) / 255
    angle, shear_x, shear_y, down, across = (torch.zeros(n, device=device) for _ in range(5))
    for _ in range(how.draws):
        chosen = torch.randint(len(OPERATIONS), (n,), generator=generator, device=device)
        amount = (2 * draw() - 1) * how.strength

        def by(name: str, chosen: Tensor = chosen, amount: Tensor = amount) -> Tensor:
            return torch.where(chosen == OPERATIONS.index(name), amount, 0.0)

        pixels = recolour(pixels, chosen, amount)
        angle = angle + by("rotate") * math.pi / 6
        shear_x, shear_y = shear_x + 0.4 * by("shear_x"), shear_y + 0.4 * by("shear_y")
        down, across = down + 0.4 * by("shift_y"), across + 0.4 * by("shift_x")
    moves = torch.randint(-how.pad, how.pad + 1, (n, 2), generator=generator, device=device)
    down = down + 2 * moves[:, 0] / images.shape[2]
    across = across + 2 * moves[:, 1] / images.shape[3]
    mirror = torch.where(draw() < how.flip, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([mirror * cos, cos * shear_x - sin, across], dim=1)
    low = torch.stack([mirror * (sin + cos * shear_y), cos + sin * shear_x, down], dim=1)
    grid = functional.affine_grid(torch.stack([top, low], dim=1), list(images.shape), align_corners=False)
    pixels = functional.grid_sample(pixels - 0.5, grid, padding_mode="zeros", align_corners=False) + 0.5
    return cut_out(pixels, how, draw(3))


def recolour(pixels: Tensor, chosen: Tensor, amount: Tensor) -> Tensor:
    """The colour operation that each image B 3 H W has drawn, if it has drawn one; values stay in 0..1."""

    def of(name: str) -> Tensor:
        return (chosen == OPERATIONS.index(name))[:, None, None, None]

    size = amount[:, None, None, None]
    factor = 1 + 0.9 * size
    grey = pixels.mean(dim=1, keepdim=True)
    level = grey.mean(dim=(2, 3), keepdim=True)
    low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
    steps = 2.0 ** (8 - 6 * size.abs()).floor()
    for name, changed in (
        ("brightness", pixels * factor),
        ("contrast", level + (pixels - level) * factor),
        ("saturation", grey + (pixels - grey) * factor),
        ("solarize", torch.where(pixels > 1 - 0.9 * size.abs(), 1 - pixels, pixels)),
        ("posterize", (pixels * 255 / 256 * steps).floor() / steps),
        ("autocontrast", (pixels - low) / (high - low).clamp_min(1 / 255)),
    ):
        pixels = torch.where(of(name), changed, pixels)
    return pixels.clamp(0, 1)


def cut_out(pixels: Tensor, how: Variation, drawn: Tensor) -> Tensor:
    """Grey squares on a share of the images; `drawn` B 3 decides which, and where their centres lie."""
    rows, cols = pixels.shape[2:]
    reach = how.cut_side / 2 * rows
    far_down = (torch.arange(rows, device=pixels.device) + 0.5 - drawn[:, 1:2] * rows).abs()  # B H
    far_across = (torch.arange(cols, device=pixels.device) + 0.5 - drawn[:, 2:3] * cols).abs()  # B W
    inside = (far_down < reach)[:, :, None] & (far_across < reach)[:, None, :] & (drawn[:, :1, None] < how.cut_out)
    return pixels.masked_fill(inside[:, None], 0.5)


@dataclass(frozen=True)
class Settings:
    """A model and how it is trained; FULL aims at the GPU's score, SMALL shows that the program learns at all."""

    model: dict[str, Any]
    batch: int
    lr: float
    weight_decay: float
    ema: float
    variation: Variation
    mixing: AugmentConfig
    optimizer: Literal["adamw", "muon"] = "adamw"


FULL = Settings(
    dict(patch_size=(4, 4), width=384, depth=12, heads=6, mlp_dim=1536, stochastic_depth=0.1),
    batch=512,
    lr=1e-3,
    weight_decay=0.1,
    ema=0.9995,
    variation=Variation(),
    mixing=MIX,
)
SMALL = Settings(
    dict(patch_size=(4, 4), width=64, depth=4, heads=2, mlp_dim=128),
    batch=64,
    lr=2e-3,
    weight_decay=0.05,
    ema=0.99,
    variation=Variation(draws=1, strength=0.5, cut_out=0.0),
    mixing=AugmentConfig(),
)


@dataclass(frozen=True)
class Data:
    """All images of both splits on the device: N 3 H W bytes, N labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def read(folder: str, device: torch.device, most: int | None) -> Data:
    """Decode every image of the data set (at most `most` of each split, evenly spread) and move them to the device."""
    dataset = open_dataset(folder)

    def split(source: Source) -> tuple[Tensor, Tensor]:
        every = range(0, len(source), max(1, len(source) // most if most else 1))[: most or None]
        pixels = torch.stack([decode(source.read(i).data) for i in every])
        return pixels.to(device), torch.tensor([int(source.labels[i]) for i in every], device=device)

    train, test = split(dataset.split("train")), split(dataset.split(dataset.held_out))
    return Data(*train, *test, len(dataset.classes))


def batches(data: Data, settings: Settings, shown: Preprocess, steps: int, seed: int) -> Iterator[Batch]:
    """`steps` varied and mixed batches of one size; every epoch in another order, its last images left out where they
    fill no batch."""
    generator = torch.Generator(data.train.device).manual_seed(seed)
    size = min(settings.batch, len(data.train))
    mean, std = (torch.tensor(v, device=data.train.device).view(3, 1, 1) for v in (shown.mean, shown.std))
    step = 0
    while True:
        order = torch.randperm(len(data.train), generator=generator, device=data.train.device)
        for index in order.split(size):
            if len(index) < size:
                continue
            if step == steps:
                return
            pixels = (vary(data.train[index], settings.variation, generator) - mean) / std
            batch = Batch(pixels, data.train_labels[index], index)
            yield mix(batch, settings.mixing, data.classes, seed * 1_000_003 + step)
            step += 1


def make(data: Data, settings: Settings, optim: OptimConfig, seed: int, compiled: bool) -> TrainState:
    """Model, optimiser and averaged weights at step 0."""
    config = ViTConfig(
        image_size=tuple(data.train.shape[2:]), classes=data.classes, pool="gap", class_token=False, **settings.model
    )
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(seed))
    model = model.to(data.train.device)
    average = new_average(model)
    if compiled:
        wrap_blocks(model, compile=True, checkpointing=False)
    return TrainState(model, make_optimizer(model, config, optim), average)


@torch.inference_mode()
def score(model: torch.nn.Module, data: Data, shown: Preprocess, precision: str) -> float:
    """Share of all test images named right."""
    model.eval()
    right = 0
    for pixels, labels in zip(data.test.split(1000), data.test_labels.split(1000), strict=True):
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            right += int((model(to_model(pixels, shown)).argmax(1) == labels).sum())
    return right / len(data.test)


def optim_of(settings: Settings, steps: int) -> OptimConfig:
    return OptimConfig(
        optimizer=settings.optimizer,
        lr=settings.lr,
        warmup_steps=max(1, steps // 20),
        weight_decay=settings.weight_decay,
        label_smoothing=0.1,
        ema=settings.ema,
    )


def time_of_a_step(data: Data, settings: Settings, shown: Preprocess, precision: Any, compiled: bool) -> float:
    """Seconds of a training step with everything around it, on a model that is thrown away."""
    steps, began = WARM + TIMED, 0.0
    optim = optim_of(settings, steps)
    state = make(data, settings, optim, 0, compiled)
    for step in train_steps(state, batches(data, settings, shown, steps, 0), steps, optim, 0, precision):
        if step.step == WARM:
            began = time.perf_counter()
    return (time.perf_counter() - began) / TIMED  # each step ends by reading its loss, so the device is done


def run(data: Data, settings: Settings, steps: int, seed: int, precision: Any, compiled: bool) -> dict[str, float]:
    """Train with one seed and score; the loss of the last steps beside it."""
    began, worked = time.perf_counter(), time.process_time()
    shown = Preprocess(size=tuple(data.train.shape[2:]), crop=1.0, mean=MEAN, std=STD)
    optim, losses = optim_of(settings, steps), list[float]()
    state = make(data, settings, optim, seed, compiled)
    for step in train_steps(state, batches(data, settings, shown, steps, seed), steps, optim, seed, precision):
        losses = [*losses[-19:], step.loss]
        if step.step % max(1, steps // 10) == 0:
            spent = time.perf_counter() - began
            print(f"seed {seed}: step {step.step} of {steps}, loss {fmean(losses):.3f}, {spent:.0f} s", flush=True)
    top1 = score(state.result, data, shown, precision)
    seconds = time.perf_counter() - began
    print(f"seed {seed}: {100 * top1:.2f} % of {len(data.test):,} test images after {seconds:.0f} s", flush=True)
    return {
        "seed": seed,
        "top1": top1,
        "seconds": seconds,
        "processor_seconds": time.process_time() - worked,
        "last_loss": fmean(losses),
    }


def decide_steps(options: argparse.Namespace, data: Data, settings: Settings, precision: Any, compiled: bool) -> int:
    """Whole epochs: as asked, or as many as fit into the minutes."""
    per_epoch = max(1, len(data.train) // settings.batch)
    if options.epochs is not None:
        return max(1, round(options.epochs * per_epoch))
    shown = Preprocess(size=tuple(data.train.shape[2:]), crop=1.0, mean=MEAN, std=STD)
    step = time_of_a_step(data, settings, shown, precision, compiled)
    slack = min(SLACK, 0.2 * 60 * options.minutes)
    epochs = max(1, int((60 * options.minutes - slack) / step / per_epoch))
    print(f"{settings.batch / step:,.0f} images a second: {epochs} epochs fit into {options.minutes:g} min", flush=True)
    return epochs * per_epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10 as a folder with train and test")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each seed")
    parser.add_argument("--epochs", type=float, help="instead of what fits into the minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    parser.add_argument("--images", type=int, help="at most so many of each split")
    parser.add_argument("--small", action="store_true", help="a small ViT and little variation, for a processor")
    parser.add_argument("--out", type=Path, default=Path("cifar10_scratch.json"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        parser.error("the full ViT needs a GPU, found none; give --small for a processor")
    torch.set_float32_matmul_precision("high")
    settings = replace(SMALL if options.small else FULL, optimizer=options.optimizer)
    precision = find_precision("auto", device)
    began = time.perf_counter()
    data = read(options.data, device, options.images)
    reading, compiled = time.perf_counter() - began, device.type == "cuda"
    steps = decide_steps(options, data, settings, precision, compiled)
    runs = [run(data, settings, steps, seed, precision, compiled) for seed in options.seeds]
    scores = [r["top1"] for r in runs]
    result = {
        "top1_mean": fmean(scores),
        "top1_standard_deviation": stdev(scores) if len(scores) > 1 else None,
        "runs": runs,
        "steps": steps,
        "epochs": steps * settings.batch / len(data.train),
        "batch": settings.batch,
        "optimizer": settings.optimizer,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "reading_seconds": reading,
        "device": processor(device),
        "precision": precision,
        "compiled": compiled,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    spread = f", standard deviation {100 * stdev(scores):.2f}" if len(scores) > 1 else ""
    print(f"top-1 {100 * fmean(scores):.2f} % (mean of {len(scores)}{spread}) on {result['device']}, {precision}")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
