"""Training steps per second on a CPU: vitrail beside timm, same model, images, batch, precision and cores.

    python benchmarks/train_step.py --out train_step.json

Each side is a process of its own, set up as its users would (vitrail: what `vitrail train` runs; timm: its model,
`create_optimizer_v2`, clipping, cross entropy). One step of each in turn (A B A B), so that a busy machine is fair to
both; a pair gives a ratio, and the median and quartiles of the ratios are reported. A third process measures the
bound: the time of the step's matrix products alone, as torch's own `mm` computes them. No code on top of it can be
faster than that without computing less.

With `--one-thread` each side has one thread and its processor time is counted, which other programs hardly stretch: for
a machine that is not quiet. Only the ratios are then worth reading.
"""

import argparse
import json
import multiprocessing as mp
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch.nn import functional

from vitrail.config import OptimConfig, ViTConfig
from vitrail.models.vit import ViT
from vitrail.train.allocator import keep_freed_memory
from vitrail.train.loop import find_precision, train_step
from vitrail.train.optim import make_optimizer
from vitrail.types import Batch

CASES = {
    "Ti/16 at 224 px": (ViTConfig(width=192, depth=12, heads=3, mlp_dim=768), 32),
    "192 x 9, patch 4 at 32 px": (
        ViTConfig(image_size=(32, 32), patch_size=(4, 4), width=192, depth=9, heads=3, mlp_dim=768, classes=10),
        128,
    ),
}
SMALL = {"tiny": (ViTConfig(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, heads=2, mlp_dim=64), 4)}
Step = Callable[[], object]


def vitrail_step(config: ViTConfig, size: int, precision: str) -> Step:
    """One step as `vitrail train` takes it."""
    keep_freed_memory()
    model, optim = ViT(config).train(), OptimConfig(weight_decay=0.05, clip=1.0)
    optimizer = make_optimizer(model, config, optim)
    images, labels = torch.randn(size, 3, *config.image_size), torch.randint(config.classes, (size,))
    batch = [Batch(images, labels, labels)]
    return lambda: train_step(model, optimizer, batch, 1e-4, optim, precision)


def timm_step(config: ViTConfig, size: int, precision: str) -> Step:
    """The same step with timm's model and optimiser."""
    from timm.models import VisionTransformer
    from timm.optim import create_optimizer_v2

    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=config.classes,
    ).train()
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.05)
    images, labels = torch.randn(size, 3, *config.image_size), torch.randint(config.classes, (size,))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def products(config: ViTConfig, size: int, precision: str) -> Step:
    """The matrix products that a step cannot do without: forward and both gradients of every dense layer, and of the
    two products of attention. The last block computes its class token only, as in `ViT`."""
    keep_freed_memory()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    rows, d, tokens = size * config.tokens, config.width // config.heads, config.tokens
    dense = [(rows, config.width, 3 * config.width), (rows, config.width, config.width)]
    dense += [(rows, config.width, config.mlp_dim), (rows, config.mlp_dim, config.width)]
    dense = dense * (config.depth - 1) + [(rows, config.width, 2 * config.width)]
    dense += [(size * config.patches, 3 * config.patch_size[0] * config.patch_size[1], config.width)]
    shapes = {
        (n, i, o): (torch.randn(n, i).to(dtype), torch.randn(i, o).to(dtype), torch.randn(n, o).to(dtype))
        for n, i, o in dense
    }
    q = torch.randn(size * config.heads, tokens, d).to(dtype)
    scores = torch.randn(size * config.heads, tokens, tokens).to(dtype)

    def step() -> None:
        for shape in dense:
            x, w, gradient = shapes[shape]
            x @ w, gradient @ w.T, x.T @ gradient
        for _ in range(config.depth - 1):
            q @ q.transpose(1, 2), scores @ q  # forward
            q @ q.transpose(1, 2), scores @ q, scores @ q, scores.transpose(1, 2) @ q  # backward

    return step


SIDES = {"vitrail": vitrail_step, "timm": timm_step, "matrix products alone": products}


def serve(side: str, config: ViTConfig, size: int, precision: str, one_thread: bool, pipe: Connection) -> None:
    """A side's process: takes a step and answers with its seconds, each time it is asked."""
    clock = time.process_time if one_thread else time.perf_counter
    if one_thread:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    step = SIDES[side](config, size, precision)
    while pipe.recv():
        began = clock()
        step()
        pipe.send(clock() - began)


def measure(config: ViTConfig, size: int, precision: str, one_thread: bool, pairs: int) -> dict[str, Any]:
    """Seconds of every side in turn, and the ratios to vitrail's."""
    context, pipes, processes = mp.get_context("spawn"), {}, []
    for side in SIDES:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(side, config, size, precision, one_thread, theirs), daemon=True)
        process.start()
        pipes[side], processes = ours, [*processes, process]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(pairs + 2):
        for side, pipe in pipes.items():
            pipe.send(True)
            if (spent := pipe.recv()) and turn >= 2:  # the first two turns warm up
                seconds[side].append(spent)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    ratios = {s: [a / b for a, b in zip(seconds[s], seconds["vitrail"], strict=True)] for s in SIDES}
    return {
        "batch": size,
        "precision": precision,
        "pairs": pairs,
        "images_per_second": {s: size / median(v) for s, v in seconds.items()},
        "ratio_to_vitrail": {s: {"median": median(v), "quartiles": quantiles(v, n=4)} for s, v in ratios.items()},
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("train_step.json"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--one-thread", action="store_true", help="one thread a side, and its processor time")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes; the ratios mean nothing")
    options = parser.parse_args()
    precision = find_precision(options.precision, torch.device("cpu"))
    result = {}
    for name, (config, size) in (SMALL if options.small else CASES).items():
        result[name] = found = measure(config, size, precision, options.one_thread, options.pairs)
        timm, bound = (found["ratio_to_vitrail"][s] for s in ("timm", "matrix products alone"))
        low, _, high = timm["quartiles"]
        print(
            f"{name}, batch {size}, {precision}: timm takes {timm['median']:.2f} times as long as vitrail "
            f"(quartiles {low:.2f}-{high:.2f}); the matrix products alone take {bound['median']:.2f} of vitrail's time"
        )
    facts = {
        "torch": str(torch.__version__),
        "threads": 1 if options.one_thread else torch.get_num_threads(),
        "cases": result,
    }
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
