"""What looking inside costs: the trace of a model against its fused forward pass, as interleaved pairs, and the time of
each method. Processor time on one thread, so that what else the machine does is not counted.

    python benchmarks/trace.py [MODEL] [--pairs N] [--methods NAME,NAME] [--out FILE]

MODEL is a name of `vitrail models` (random weights: they change no time) or anything that `vitrail.load` takes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import vitrail
from vitrail.explain.catalog import METHODS
from vitrail.models.build import Network, build
from vitrail.models.catalog import MODELS
from vitrail.models.trace import PARTS, trace
from vitrail.report import machine


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def pairs(model: Network, x: torch.Tensor, count: int) -> dict[str, dict[str, float]]:
    """For the whole trace, and for one of attention alone: seconds, and the ratio to the fused pass beside it."""
    found = {}
    for name, parts in (("all parts", PARTS), ("attention", ("attention",)), ("no part of a block", ())):
        rows = []
        with torch.inference_mode():
            model(x), trace(model, x, parts=parts)
            for _ in range(count):
                fused = seconds(lambda: model(x))
                rows.append((fused, seconds(lambda p=parts: trace(model, x, parts=p))))
        ratios = sorted(b / a for a, b in rows)
        found[name] = {
            "fused_ms": 1000 * statistics.median(a for a, _ in rows),
            "trace_ms": 1000 * statistics.median(b for _, b in rows),
            "ratio": statistics.median(ratios),
            "ratio_low": ratios[len(ratios) // 10],
            "ratio_high": ratios[-1 - len(ratios) // 10],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="Ti/16")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--methods", default="", help="time these as well")
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build(MODELS[given.model]) if given.model in MODELS else vitrail.load(given.model).model
    model.eval()
    x = torch.randn(1, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    result = {
        "model": given.model,
        "machine": machine(torch.device("cpu"), "float32").model_dump(),
        "threads": torch.get_num_threads(),
        "pairs": pairs(model, x, given.pairs),
        "methods_ms": {},
    }
    for name, row in result["pairs"].items():
        print(
            f"{name:20s} fused {row['fused_ms']:7.1f} ms, trace {row['trace_ms']:7.1f} ms, "
            f"ratio {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        )
    for name in filter(None, given.methods.split(",")):
        work = partial(METHODS[name].method, model, x, torch.tensor([0]))
        result["methods_ms"][name] = row = {"float32": 1000 * seconds(work)}
        if name in ("occlusion", "rise"):
            with torch.autocast("cpu", torch.bfloat16):
                row["bfloat16"] = 1000 * seconds(work)
        print(f"{name:20s} " + ", ".join(f"{ms:.0f} ms in {kind}" for kind, ms in row.items()))
    if given.out:
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
