"""Training steps of S/16, B/16 and L/16 at 224 px in bfloat16 on a GPU: vitrail beside timm, both compiled.

    python benchmarks/throughput.py                                # a GPU
    python benchmarks/throughput.py --small                        # a processor, tiny ViTs, uncompiled

One step of each side in turn (A B A B) on the same images, which lie on the device already; a pair gives a ratio of
their times, and the median and quartiles of the ratios are reported. A step is forward, cross entropy, backward,
clipping to norm 1, AdamW (torch's fused one on both sides), and reading the loss, at which the device is done.

Model-FLOPs utilisation is three times the operations of the forward pass, counted from the configuration and not from
what ran, over what the device could have done in that time: its data sheet's dense bfloat16 rate where it is known
(`PEAK`), and the rate of a large matrix product measured in the same process, which is always told. Where vitrail skips
work of the last block that no head reads, its own count leaves it out.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import timm
import torch
from timm.models import VisionTransformer
from timm.optim import create_optimizer_v2
from torch.nn import functional

from vitrail.config import OptimConfig, ViTConfig
from vitrail.models.cost import flops
from vitrail.models.vit import ViT
from vitrail.report import processor
from vitrail.train.loop import find_precision, train_step
from vitrail.train.optim import make_optimizer
from vitrail.train.wrap import wrap_blocks
from vitrail.types import Batch

CASES = {  # name -> model, images of a step
    "S/16": (ViTConfig(width=384, depth=12, heads=6, mlp_dim=1536), 512),
    "B/16": (ViTConfig(width=768, depth=12, heads=12, mlp_dim=3072), 256),
    "L/16": (ViTConfig(width=1024, depth=24, heads=16, mlp_dim=4096), 96),
}
SMALL = {"tiny": (ViTConfig(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, heads=2, mlp_dim=64), 4)}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, NVIDIA's data sheets
Step = Callable[[], object]


def vitrail_step(config: ViTConfig, batch: Batch, precision: Any, compiled: bool) -> Step:
    """One step as `vitrail train --set compile=true` takes it: each block compiled."""
    model, optim = ViT(config).to(batch.images.device).train(), OptimConfig(weight_decay=0.05, clip=1.0)
    optimizer = make_optimizer(model, config, optim)
    wrap_blocks(model, compile=compiled, checkpointing=False)
    return lambda: train_step(model, optimizer, [batch], 1e-4, optim, precision)


def timm_step(config: ViTConfig, batch: Batch, precision: Any, compiled: bool) -> Step:
    """The same step with timm's model and parameter groups; all of the model compiled."""
    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=config.classes,
    )
    model = model.to(batch.images.device).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.05, fused=True)
    if compiled:
        model.compile()

    def step() -> float:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = functional.cross_entropy(model(batch.images), batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


SIDES = {"vitrail": vitrail_step, "timm": timm_step}


def seconds_of(step: Step, device: torch.device) -> float:
    """Seconds until the device is done."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def product_rate(device: torch.device, precision: str, size: int, turns: int = 20) -> float:
    """Operations a second of a product of two square matrices, the best of some turns."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds_of(lambda: a @ b, device) for _ in range(turns))


def measure(
    config: ViTConfig, size: int, precision: Any, compiled: bool, pairs: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of both sides in turn, and what follows from them."""
    torch.manual_seed(0)
    images = torch.randn(size, 3, *config.image_size, device=device)
    labels = torch.randint(config.classes, (size,), device=device)
    batch = Batch(images, labels, labels)
    steps = {side: make(config, batch, precision, compiled) for side, make in SIDES.items()}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(pairs + 5):
        for side, step in steps.items():
            spent = seconds_of(step, device)
            if turn >= 5:  # the first turns compile and warm up
                seconds[side].append(spent)
    ratios = [t / v for t, v in zip(seconds["timm"], seconds["vitrail"], strict=True)]
    work = {"vitrail": 3 * flops(config, all_tokens=False), "timm": 3 * flops(config)}  # an image, both passes
    return {
        "batch": size,
        "images_per_second": {side: size / median(s) for side, s in seconds.items()},
        "model_flops_per_second": {side: work[side] * size / median(s) for side, s in seconds.items()},
        "timm_over_vitrail": {"median": median(ratios), "quartiles": quantiles(ratios, n=4)},
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--small", action="store_true", help="tiny ViTs, uncompiled; the ratios mean nothing")
    parser.add_argument("--out", type=Path, default=Path("throughput.json"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.small:
        parser.error("these models need a GPU, found none; give --small for a processor")
    torch.set_float32_matmul_precision("high")
    precision, name = find_precision("auto", device), processor(device)
    peak = next((rate for key, rate in PEAK.items() if key in name), None) if precision == "bfloat16" else None
    rate = product_rate(device, precision, 256 if options.small else 8192)
    cases = SMALL if options.small else {case: CASES[case] for case in options.models}
    result = {}
    for case, (config, size) in cases.items():
        result[case] = found = measure(config, size, precision, not options.small, options.pairs, device)
        found["utilisation_of_product_rate"] = {s: f / rate for s, f in found["model_flops_per_second"].items()}
        found["utilisation_of_peak"] = peak and {s: f / peak for s, f in found["model_flops_per_second"].items()}
        low, middle, high = found["timm_over_vitrail"]["quartiles"]
        shares = found["utilisation_of_peak"] or found["utilisation_of_product_rate"]
        of = "of the data sheet's peak" if peak else "of a large matrix product"
        print(
            f"{case}, batch {size}, {precision}: {found['images_per_second']['vitrail']:,.0f} img/s "
            f"({100 * shares['vitrail']:.0f} % {of}; timm {100 * shares['timm']:.0f} %); "
            f"timm takes {middle:.2f} times as long (quartiles {low:.2f}-{high:.2f})",
            flush=True,
        )
    facts = {
        "device": name,
        "precision": precision,
        "compiled": not options.small,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "threads": torch.get_num_threads(),
        "product_rate": rate,
        "peak": peak,
        "cases": result,
    }
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
