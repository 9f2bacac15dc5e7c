"""Explanations against the truth: images in which one patch alone decides the class, and a ViT that has learned it.

    python benchmarks/glyphs.py --out glyphs.json

Each image has a magenta glyph on one patch; its shape is the class. Other patches carry the same shapes in other
colours and magenta squares without a shape, on a textured background: neither the colour alone nor the shape alone
tells the class, and a map that points at what catches the eye points at the wrong patch. A ViT of six blocks is trained
on images that are drawn anew for every step, then each method of explain/catalog.py is asked about images that the
model has not seen, and its maps are held against the patch, beside those of random maps.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from vitrail.config import OptimConfig, ViTConfig
from vitrail.explain import faithfulness as measure
from vitrail.explain.catalog import METHODS
from vitrail.explain.cells import Maps
from vitrail.explain.gradient import grad_cam
from vitrail.models.vit import ViT
from vitrail.train.loop import train_steps
from vitrail.train.optim import make_optimizer
from vitrail.train.state import TrainState
from vitrail.types import Batch, Images, Labels

SHAPES = (  # one a class, 6 x 6 pixels
    ("..##..", "..##..", "######", "######", "..##..", "..##.."),
    ("######", "#....#", "#....#", "#....#", "#....#", "######"),
    ("##..##", "##..##", "..##..", "..##..", "##..##", "##..##"),
    ("######", "######", "......", "......", "######", "######"),
)
KEY = (1.4, -1.2, 1.2)  # magenta, in units of the normalised image
OTHERS = ((-1.2, 1.3, -1.0), (1.4, 1.2, -1.3), (-1.3, 1.0, 1.4), (1.2, 1.2, 1.2))  # green, yellow, cyan, white
DISTRACTORS, SQUARES = 6, 2  # shapes in other colours, and patches of the key colour without a shape
PATCH = 8
CONFIG = ViTConfig(
    image_size=(64, 64), patch_size=(PATCH, PATCH), width=64, depth=6, heads=4, mlp_dim=128, classes=len(SHAPES) + 1,
    position_std=0.5,
)  # fmt: skip
OPTIM = OptimConfig(lr=2e-3, warmup_steps=40, weight_decay=0.05)
STEPS = {"token": 300, "gap": 500}  # batches: after 300 a model that pools names 81 % rightly
BATCH, EMPTY = 64, 1 / 5
IMAGES, BANDS = 64, 12  # test images; random maps of each, whose means make the band
UNSEEN = 20_000  # seed of the test images; steps of the training are the seeds of the others
Row: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Glyphs:
    """Images, their classes, and the one patch that decides."""

    images: Images
    labels: Labels
    masks: Bool[Tensor, "B rows cols"]


def draw(count: int, seed: int, empty: float = 0.0, grid: tuple[int, int] = CONFIG.grid) -> Glyphs:
    """`count` images of `grid` patches of 8 x 8 pixels, a pure function of the seed; of these the share `empty` has no
    magenta glyph, which is the last class and has an empty mask."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = grid
    size = (rows * PATCH, cols * PATCH)
    coarse = torch.randn(count, 3, rows + 1, cols + 1, generator=generator)
    images = 0.7 * functional.interpolate(coarse, size, mode="bicubic") + 0.25 * torch.randn(
        count, 3, *size, generator=generator
    )
    shapes = torch.tensor([[[c == "#" for c in row] for row in shape] for shape in SHAPES])
    glyphs = torch.cat([functional.pad(shapes, (1, 1, 1, 1)), torch.ones(1, PATCH, PATCH, dtype=torch.bool)])
    glyphs[-1] = functional.pad(torch.ones(6, 6, dtype=torch.bool), (1, 1, 1, 1))
    labels = torch.randint(len(SHAPES), (count,), generator=generator)
    places = torch.rand(count, rows * cols, generator=generator).argsort(dim=1)
    kinds = torch.randint(len(SHAPES), (count, 1 + DISTRACTORS + SQUARES), generator=generator)
    kinds[:, 0], kinds[:, 1 + DISTRACTORS :] = labels, len(SHAPES)
    colours = torch.tensor(OTHERS)[torch.randint(len(OTHERS), kinds.shape, generator=generator)]
    colours[:, 0], colours[:, 1 + DISTRACTORS :] = torch.tensor(KEY), torch.tensor(KEY)
    colours = colours + 0.15 * torch.randn(colours.shape, generator=generator)
    tiles = images.unflatten(2, (rows, PATCH)).unflatten(4, (cols, PATCH)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    tiles = tiles.contiguous()  # B P 3 8 8
    holds = torch.rand(count, generator=generator) >= empty
    labels = torch.where(holds, labels, len(SHAPES))
    for slot in range(kinds.shape[1]):
        drawn = torch.arange(count) if slot else holds.nonzero()[:, 0]
        at = drawn, places[drawn, slot]
        tiles[at] = torch.where(glyphs[kinds[drawn, slot]][:, None], colours[drawn, slot, :, None, None], tiles[at])
    images = tiles.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    masks = (functional.one_hot(places[:, 0], rows * cols).bool() & holds[:, None]).unflatten(1, grid)
    return Glyphs(images.contiguous(), labels, masks)


def pooled_by(pool: str) -> ViTConfig:
    """The model whose head reads the class token (`token`), or the mean of the patches (`gap`)."""
    return CONFIG.model_copy(update={"pool": pool, "class_token": pool == "token"})


def train_small(config: ViTConfig = CONFIG, steps: int | None = None, seed: int = 0, says: bool = False) -> ViT:
    """A ViT trained on `steps` batches, by default those of STEPS, of images that are drawn anew for each step."""
    steps = STEPS[config.pool] if steps is None else steps
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(seed))
    state = TrainState(model, make_optimizer(model, config, OPTIM))

    def batches() -> Iterator[Batch]:
        for step in range(steps):
            found = draw(BATCH, step, EMPTY, config.grid)
            yield Batch(found.images, found.labels, torch.arange(step * BATCH, (step + 1) * BATCH))

    for step in train_steps(state, batches(), steps, OPTIM, seed, "float32"):
        if says and step.step % 50 == 0:
            print(f"step {step.step}: loss {step.loss:.4f}", flush=True)
    return model.eval()


def accuracy(model: ViT, test: Glyphs) -> float:
    """Share of the images that the model names rightly."""
    with torch.inference_mode():
        return float((model(test.images).argmax(dim=1) == test.labels).double().mean())


def measured(model: ViT, test: Glyphs, maps: Maps) -> Row:
    """What the maps are worth, mean over the images: whether the highest patch is the true one, the overlap with it,
    and the areas under the curves, patches dropped from the sequence."""
    with torch.inference_mode():
        found = measure.curves(model, test.images, test.labels, maps)
    return {
        "pointing": float(measure.pointing(maps, test.masks).mean()),
        "miou": float(measure.overlap(maps, test.masks).mean()),
        "deletion": float(found.deletion_auc.mean()),
        "insertion": float(found.insertion_auc.mean()),
    }


def evidence(model: ViT, test: Glyphs, says: bool = False) -> dict[str, Row]:
    """`measured` of each method, of Grad-CAM at the first block too, and the lowest and the highest of random maps
    (`random low`, `random high`)."""
    asked = {name: row.method for name, row in METHODS.items() if name != "random"}
    asked["grad_cam, block 0"] = partial(grad_cam, layer=0)  # where no patch has seen another yet
    rows = {}
    for name, method in asked.items():
        rows[name] = measured(model, test, method(model, test.images, test.labels))
        if says:
            print(name, json.dumps(rows[name]), flush=True)
    random = [measured(model, test, measure.random_map(model, test.images, test.labels, seed)) for seed in range(BANDS)]
    for name, end in (("random low", min), ("random high", max)):
        rows[name] = {key: end(each[key] for each in random) for key in random[0]}
    return rows


def outside(rows: dict[str, Row], name: str, measure: str) -> bool:
    """Whether a method beats every random map. Of deletion lower is better."""
    value = rows[name][measure]
    return value < rows["random low"][measure] if measure == "deletion" else value > rows["random high"][measure]


def table(rows: dict[str, Row]) -> str:
    """A method a line; what does not beat every random map has a star."""
    columns = list(rows["random low"])
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        if not name.startswith("random"):
            cells = (f"{row[c]:.3f}{'' if outside(rows, name, c) else ' *'}" for c in columns)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    band = (f"{rows['random low'][c]:.3f} to {rows['random high'][c]:.3f}" for c in columns)
    return "\n".join([*lines, f"| {BANDS} random maps | " + " | ".join(band) + " |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", choices=("token", "gap"), default="token", help="what the head reads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("glyphs.json"))
    options = parser.parse_args()
    config = pooled_by(options.pool)
    began = time.process_time()
    model = train_small(config, seed=options.seed, says=True)
    spent = time.process_time() - began
    test = draw(IMAGES, UNSEEN)
    right = accuracy(model, draw(500, UNSEEN + 1, EMPTY))
    print(f"trained in {spent:.0f} s of processor time; {right:.1%} of 500 images right", flush=True)
    rows = evidence(model, test, says=True)
    options.out.write_text(json.dumps({"accuracy": right, "training_seconds": spent, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
