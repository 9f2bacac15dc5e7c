"""Three tiny runs whose every loss is committed, bit for bit: `curves/NAME.txt`.

    python tests/golden/loss_curves.py            compare with what is committed; exit code 1 and the first difference
    python tests/golden/loss_curves.py --record   write the files anew, after a change that was meant to change them

The bits must not depend on the processor, so both run in a child process that is told to leave out every kernel written
for one instruction set (`SETTINGS`), on one thread, with deterministic algorithms. The data are generated.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILES = HERE / "curves"
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",  # torch's own kernels: none for AVX2 or AVX512
    "MKL_CBWR": "COMPATIBLE",  # matrix products: the code path that every x86-64 processor has
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # functions of the C library, which come with and without fused multiply-add
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX2_Usable,-FMA,-FMA_Usable,-FMA4,-FMA4_Usable",
}
SHAPE = ("width=16", "depth=2", "heads=2", "mlp_dim=24", "image_size=8", "patch_size=2")
RUNS: dict[str, tuple[str, ...]] = {
    # AdamW from random weights; mixup and cutmix, RandAugment, stochastic depth, dropout, averaged weights
    "scratch": (
        *SHAPE, "epochs=4", "batch_size=12", "optim.lr=0.003", "mixup=0.4", "cutmix=1", "randaugment_layers=1",
        "stochastic_depth=0.2", "dropout=0.1", "ema=0.9",
    ),
    # AdamW from fixed weights; layer-wise rates, averaged weights, label smoothing, two micro-batches a step, erasing
    "finetune": (
        "epochs=4", "batch_size=12", "layer_decay=0.7", "ema=0.9", "label_smoothing=0.1", "accumulate=2", "erase=0.3",
    ),
    # SGD with momentum and one sigmoid a class
    "sgd": (
        *SHAPE, "epochs=4", "batch_size=12", "optimizer=sgd", "optim.lr=0.05", "loss=sigmoid", "mixup=0.2", "ema=0",
    ),
}  # fmt: skip


def curve(name: str, folder: Path) -> str:
    """The text of a run: one line a step with the loss, one a held-out score, and a hash of the kept weights."""
    import torch
    from safetensors.torch import load_file

    from vitrail.config import Preprocess, ViTConfig
    from vitrail.models.vit import ViT
    from vitrail.train.run import train
    from vitrail.train.state import state_sha256
    from vitrail.types import LabelSet
    from vitrail.weights.checkpoint import write_model_folder

    data = folder / "data"
    if not data.exists():
        generate(data)
    weights = None
    if name == "finetune":
        weights = folder / "start"
        model = ViT(ViTConfig(image_size=8, patch_size=2, width=16, depth=3, heads=2, mlp_dim=24, classes=3))
        model.reset(torch.Generator().manual_seed(0))
        write_model_folder(weights, model, Preprocess(size=8, crop=1.0), LabelSet(("x", "y", "z")), {})
    options = [*RUNS[name], "precision=float32", "workers=0", "val_share=0.25"]
    run = train(data, weights=weights, out=folder / name, overrides=options, notify=lambda news: None).folder
    lines = []
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        values = {key: row[key] for key in ("loss", "gradient_norm", "val_nll") if key in row}
        lines.append(f"step {row['step']:3d} " + " ".join(f" {key} {value!r}" for key, value in values.items()))
    kept = state_sha256(load_file(run / "model" / "model.safetensors"))
    return "\n".join([*lines, f"weights {kept}", ""])


def generate(folder: Path) -> None:
    """48 images of 10 x 10 pixels in three classes that differ in brightness and in the direction of a gradient."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    down = np.arange(10)[:, None, None] * np.ones((1, 10, 3))
    for label, name in enumerate(("ash", "elm", "oak")):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            slope = (down, 9 - down, down.transpose(1, 0, 2))[label]
            pixels = 12 * slope + random.integers(0, 90, (10, 10, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


def head() -> str:
    """What the bits may still depend on. The first line is compared before any loss is."""
    import torch

    return f"torch {str(torch.__version__).partition('+')[0]}\n"


def calculate(names: list[str]) -> dict[str, str]:
    """The curves, in this process, as it is set."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.set_flags(False)
    torch.backends.cuda.enable_flash_sdp(False)  # on the CPU too: attention by matrix products, one kernel fewer
    with tempfile.TemporaryDirectory() as folder:
        return {name: head() + curve(name, Path(folder)) for name in names}


def calculate_apart(names: list[str], settings: dict[str, str] = SETTINGS) -> dict[str, str]:
    """The curves, in a child process under `settings`."""
    command = [sys.executable, "-P", __file__, "--print", *names]
    path = os.pathsep.join(p for p in sys.path if p)  # the child measures the package that this process would import
    surroundings = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**surroundings, "PYTHONPATH": path, **settings}, timeout=240
    )
    if done.returncode:
        raise RuntimeError(f"the runs of {', '.join(names)} failed:\n{done.stderr}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(name: str, committed: str, found: str) -> str | None:
    """The first line in which two curves differ, as a message for whoever changed something; None where none does."""
    if committed == found:
        return None
    old, new = committed.splitlines(), found.splitlines()
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    then, now = (lines[at].strip() if at < len(lines) else "(the end)" for lines in (old, new))
    return (
        f"the loss curve {name} is not the committed one; the first line that differs:\n"
        f"  committed  {then}\n  found      {now}\n"
        "Where the arithmetic was meant to change, record the curves anew with\n"
        "  python tests/golden/loss_curves.py --record\n"
        "and say in the commit why they changed. Otherwise the change is not the refactoring that it seemed to be."
    )


def can_run() -> str | None:
    """Why the bits cannot be compared here; None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the curves were recorded on Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(RUNS)}; all where none is named")
    parser.add_argument("--record", action="store_true", help="write the committed files anew")
    parser.add_argument("--print", action="store_true", help="calculate in this process, print one line of JSON")
    arguments = parser.parse_args()
    names = arguments.names or list(RUNS)
    if arguments.print:
        print(json.dumps(calculate(names)))
        return 0
    found = calculate_apart(names)
    if arguments.record:
        FILES.mkdir(exist_ok=True)
        for name, text in found.items():
            (FILES / f"{name}.txt").write_text(text)
        print(f"recorded {', '.join(found)} in {FILES}")
        return 0
    wrong = [difference(name, (FILES / f"{name}.txt").read_text(), text) for name, text in found.items()]
    for message in filter(None, wrong):
        print(message)
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main())
