"""Recipes: functions from what the data are to everything a run will do. Each says where it comes from, on what it was
measured, how long it takes and what score to expect; `RECIPES` is the table."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from vitrail.config import AugmentConfig, DataConfig, OptimConfig, Preprocess, Recipe, ViTConfig
from vitrail.data.decode import dimensions
from vitrail.data.sources import Dataset, Source
from vitrail.errors import ConfigError, DataError, ImageError
from vitrail.models.catalog import MODELS, ModelConfig

SAMPLE = 64  # images whose size is looked up
SIDES = re.compile(r"\b(left|right)(?:wards?)?\b")


@dataclass(frozen=True)
class DataSummary:
    """What a recipe may know of the data. `rows` and `cols` are the median size of a sample, in pixels."""

    name: str
    classes: tuple[str, ...]
    n_train: int
    rows: int
    cols: int


def summarise(dataset: Dataset) -> DataSummary:
    """Look at up to 64 training images, evenly spread. Raises DataError where none of them can be read."""
    source = dataset.split("train")
    every = max(1, len(source) // SAMPLE)
    sizes = [size for i in range(0, len(source), every) if (size := _size(source, i))]
    if not sizes:
        raise DataError(
            f"none of {len(range(0, len(source), every))} sampled training images of {dataset.name} is readable"
        )
    rows, cols = (round(median(side)) for side in zip(*sizes, strict=True))
    return DataSummary(dataset.name, dataset.classes, len(source), rows, cols)


def _size(source: Source, index: int) -> tuple[int, int] | None:
    try:
        return dimensions(source.read(index).data)
    except ImageError:
        return None


def mirrors_safely(classes: tuple[str, ...]) -> bool:
    """Whether a mirrored image keeps its class, as far as names tell: not where all classes are single characters
    (digits, letters), and not where a name says left or right."""
    words = (re.sub(r"[\W_]+", " ", name).casefold() for name in classes)
    return any(len(name) > 1 for name in classes) and not any(SIDES.search(name) for name in words)


def scratch_small(
    summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None
) -> Recipe:
    """From random weights, for small images or few of them.

    Source: our own measurements on digits (docs/benchmarks.md); AdamW, warm-up, cosine, label smoothing and weight
    averaging as in DeiT (Touvron et al. 2021, Table 9), shortened.
    Model: Pico/2 up to 12 px, Nano/4 at 32 px up to 48 px, Nano with patch 8 at 64 px above; `base` overrides it.
    Hardware and time: digits (1,438 images of 8 px) in under a minute on one CPU core. Expected: 99.3 % held-out
    top-1 there (mean of 3 seeds). Larger images were not measured.
    """
    side = max(summary.rows, summary.cols)
    if base is None:
        base = MODELS["Pico/2"] if side <= 12 else MODELS["Nano/4"]
        if side > 48:
            base = base.model_copy(update={"image_size": (64, 64), "patch_size": (8, 8)})
    of_vit: dict[str, object] = {"stochastic_depth": 0.0 if max(base.image_size) <= 12 else 0.1, "position_std": 1.0}
    tiny = max(base.image_size) <= 12
    flip = 0.5 if mirrors_safely(summary.classes) else 0.0
    if tiny:  # every pixel is a tenth of the object: move it a little, cut nothing off
        augment = AugmentConfig(crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1), flip=flip, rotate=12.0, shift=0.1)
    else:
        augment = AugmentConfig(
            crop_scale=(0.4, 1.0), flip=flip, randaugment_layers=2, mixup=0.2, cutmix=1.0, mix_probability=0.5
        )
    batch_size = 64
    epochs = min(100, max(10, round(120_000 / summary.n_train)))
    steps = epochs * summary.n_train / batch_size
    return Recipe(
        name="scratch_small",
        model=base.model_copy(
            update={"classes": len(summary.classes)} | (of_vit if isinstance(base, ViTConfig) else {})
        ),
        preprocess=preprocess or Preprocess(size=base.image_size, crop=1.0),
        data=DataConfig(batch_size=batch_size),
        augment=augment,
        optim=OptimConfig(
            lr=2e-3, warmup_steps=math.ceil(0.1 * steps), weight_decay=0.05, label_smoothing=0.1, ema=0.99
        ),
        epochs=epochs,
        evaluate_every=max(1, round(epochs / 20)),
        expected="99.3 % on digits in under a minute on an idle CPU" if tiny else "",
    )


def finetune(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """From published weights, for hundreds to thousands of photos.

    Source: layer-wise learning rates as in BEiT (Bao et al. 2022, appendix), label smoothing and RandAugment as in
    DeiT; short, because all but the head already knows what pictures are.
    Model and preprocessing: those of the weights. The rate of the first layers is a small fraction of the head's.
    Hardware and time: 3,015 photos of flowers from DeiT-Ti/16 in 20 minutes on two CPU cores in float32 (13 images a
    second). Expected: 95.9 % held-out top-1 there.
    """
    if base is None or preprocess is None:
        raise ConfigError(
            "the recipe finetune starts from trained weights: name some with --weights, or use scratch_small"
        )
    batch_size = 32
    epochs = min(50, max(3, round(15_000 / summary.n_train)))
    steps = epochs * summary.n_train / batch_size
    return Recipe(
        name="finetune",
        model=base.model_copy(update={"classes": len(summary.classes)}),
        preprocess=preprocess,
        data=DataConfig(batch_size=batch_size),
        augment=AugmentConfig(
            crop_scale=(0.25, 1.0),
            flip=0.5 if mirrors_safely(summary.classes) else 0.0,
            randaugment_layers=2,
            randaugment_magnitude=7,
            erase=0.1,
        ),
        optim=OptimConfig(
            lr=1e-3,
            warmup_steps=math.ceil(0.1 * steps),
            weight_decay=0.05,
            layer_decay=0.75,
            label_smoothing=0.1,
            ema=0.99,
        ),
        epochs=epochs,
        evaluate_every=max(1, round(epochs / 10)),
    )


def probe(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """From published weights, which stay as they are: a linear head on their features, solved for and not trained.

    Source: linear probing as in the transfer experiments of Kornblith et al. 2019 (multinomial logistic regression by
    L-BFGS, the penalty chosen on training images held out for it), here on unaugmented features computed once.
    Without chance: the seed changes nothing. `--set head_solver=ridge` for the closed form.
    """
    if base is None or preprocess is None:
        raise ConfigError(
            "the recipe probe starts from trained weights: name some with --weights, or use scratch_small"
        )
    update: dict[str, object] = {"classes": len(summary.classes)}
    if isinstance(base, ViTConfig) and base.pool in ("token", "token_gap") and not (base.distilled or base.pre_logits):
        update |= {"pool": "token_gap", "pool_blocks": min(4, base.depth), "norm_after_pool": False}
    return Recipe(
        name="probe",
        model=base.model_copy(update=update),
        preprocess=preprocess,
        data=DataConfig(batch_size=64),
        epochs=0,
        head_solver="logistic",
    )


RecipeFunction = Callable[[DataSummary, ModelConfig | None, Preprocess | None], Recipe]
RECIPES: dict[str, RecipeFunction] = {"scratch_small": scratch_small, "finetune": finetune, "probe": probe}
