"""Recipes: functions from what the data are to everything a run will do. Each says where it comes from, on what it was
measured, how long it takes and what score to expect; `RECIPES` is the table."""

import math
from collections.abc import Callable

from vitrail.config import (
    AugmentConfig,
    DataConfig,
    LoraConfig,
    OptimConfig,
    Preprocess,
    Recipe,
    ResNetConfig,
    ViTConfig,
)
from vitrail.errors import ConfigError
from vitrail.models.catalog import MODELS, ModelConfig
from vitrail.train.deit import deit, deit3, distill
from vitrail.train.published import AUGREG, augreg, finetune_paper, simple_vit, vit_i1k, vit_i21k
from vitrail.train.summary import DataSummary, mirrors_safely


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


def lora(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """From published weights, which stay frozen but for low-rank updates of the attention's matrices and a new head:
    little memory, and few numbers to learn from few photos.

    Source: Hu et al. 2021, arXiv 2106.09685 (updates of rank 8 scaled by alpha / rank, on the attention's matrices, no
    weight decay there); augmentation and length as in `finetune`.
    Departures: output projections are adapted too, the paper adapts queries and values; rate and length are ours.
    Hardware, time, expected score: not measured.
    """
    if base is None or preprocess is None:
        raise ConfigError("the recipe lora starts from trained weights: name some with --weights, or use scratch_small")
    if not isinstance(base, ViTConfig):
        raise ConfigError("the recipe lora adapts a Vision Transformer's attention, found a ResNet: use finetune")
    like = finetune(summary, base, preprocess)
    return like.model_copy(
        update={
            "name": "lora",
            "lora": LoraConfig(rank=8, alpha=16.0, targets="attention"),
            "optim": like.optim.model_copy(
                update={"lr": 2e-3, "weight_decay": 0.0, "layer_decay": 1.0, "head_steps": 0}
            ),
            "expected": "",
        }
    )


def probe(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """From published weights, which stay as they are: a linear head on their features, solved for and not trained.

    Source: linear probing by multinomial logistic regression with L-BFGS, the penalty chosen on training images held
    out for it (as Kornblith et al. 2019 do), on unaugmented features computed once. A model whose head reads
    the class token gets the head of DINOv2's larger classifiers (Oquab et al. 2023): the class tokens of the last four
    blocks beside the mean of the patches; `--set model.pool=token --set model.pool_blocks=1` leaves the head as it was.
    Without chance: the seed changes nothing. `--set head_solver=ridge` for the closed form.
    Hardware and time: 57 s of processor time on one thread that computes in bfloat16, for 3,532 photos. Expected:
    93.0 % held-out top-1 on flowers from DeiT-Ti/16 (docs/benchmarks.md).
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


def finetune(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """From published weights, for hundreds to thousands of photos.

    Source: the head is solved for first, as in `probe` but on some images, so that the first steps do not disturb the
    features with a random head's gradients (Kumar et al. 2022, arXiv 2202.10054); layer-wise learning rates as in BEiT
    (Bao et al. 2022, appendix); a share of the patches is left out of every training image, which makes a step as much
    faster (Liu et al. 2022, PatchDropout, arXiv 2208.07220); label smoothing and RandAugment as in DeiT, milder. Short,
    because all but the head already knows what pictures are.
    Model and preprocessing: those of the weights, but whole images are shown, squashed to the model's size, where the
    weights come with a crop: random crops have the same range of shapes, and what a person's photo shows may lie at its
    edge. The rate of the first layers is a small fraction of the head's; for photos like those of the weights half of
    the blocks may stay frozen (`optim.frozen_blocks`), a third less time.
    Hardware, time and expected score: see docs/benchmarks.md, flowers from DeiT-Ti/16.
    """
    if base is None or preprocess is None:
        raise ConfigError(
            "the recipe finetune starts from trained weights: name some with --weights, or use scratch_small"
        )
    batch_size = 32
    epochs = min(50, max(3, round(9_000 / summary.n_train)))
    steps = epochs * summary.n_train / batch_size
    update: dict[str, object] = {"classes": len(summary.classes)}
    if isinstance(base, ViTConfig) and base.position != "rope":  # rotary positions are one table for all images
        update["patch_dropout"] = 0.4
    return Recipe(
        name="finetune",
        model=base.model_copy(update=update),
        preprocess=preprocess.model_copy(update={"resize": "squash", "crop": 1.0}),
        data=DataConfig(batch_size=batch_size),
        augment=AugmentConfig(
            crop_scale=(0.4, 1.0),
            flip=0.5 if mirrors_safely(summary.classes) else 0.0,
            randaugment_layers=1,
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
        head_solver="logistic" if isinstance(base, ResNetConfig) or base.head_has_bias else "none",
        head_images=1_000,  # a place to start from: from all of them training came no further (docs/log.md)
        evaluate_every=max(2, round(epochs / 10)),  # each costs a fifth of an epoch of a small data set
    )


def check_recipe(recipe: Recipe, summary: DataSummary) -> None:
    """ConfigError where a recipe, all settings made, cannot mean what it is for: a published batch that is larger than
    the data, or nobody to learn from."""
    batch = recipe.data.batch_size
    if recipe.name in PUBLISHED and batch > summary.n_train:
        raise ConfigError(
            f"the recipe {recipe.name} takes {batch:,} images a step, but {summary.name} has {summary.n_train:,} to "
            "train on: use finetune (with --weights) or scratch_small, or set smaller data.batch_size and optim.lr"
        )
    if recipe.name == "distill" and recipe.distill.teacher is None:
        raise ConfigError(
            "the recipe distill learns from a teacher: name trained weights with the same classes by "
            "--set distill.teacher=SOURCE, as --weights takes them"
        )


def for_several(recipe: Recipe) -> Recipe:
    """The recipe where an image may have several classes: one yes-or-no question a class (the loss of ViT's and
    AugReg's pre-training, summed over the classes, where the recipe has a softmax), and targets that are not smoothed,
    so that a probability of a half is even odds."""
    if recipe.optim.loss != "softmax":
        return recipe
    optim = recipe.optim.model_copy(update={"loss": "sigmoid", "label_smoothing": 0.0, "logit_adjustment": 0.0})
    return recipe.model_copy(update={"optim": optim, "expected": ""})


def check_several(recipe: Recipe, data: str) -> None:
    """ConfigError for settings that need one class an image."""
    found = (
        ("optim.loss=softmax", recipe.optim.loss == "softmax", "sigmoid or bce"),
        ("data.sampler=balanced", recipe.data.sampler == "balanced", "shuffle, perhaps with class_weights=balanced"),
        ("distill.teacher", recipe.distill.teacher is not None, "none"),
    )
    for setting, wrong, remedy in found:
        if wrong:
            raise ConfigError(
                f"{setting} needs one class an image, and images of {data} may have several: set it to {remedy}"
            )


RecipeFunction = Callable[[DataSummary, ModelConfig | None, Preprocess | None], Recipe]
PUBLISHED: dict[str, RecipeFunction] = {
    "vit_i21k": vit_i21k,
    "vit_i1k": vit_i1k,
    "finetune_paper": finetune_paper,
    "augreg": augreg,
    **AUGREG,
    "simple_vit": simple_vit,
    "deit": deit,
    "distill": distill,
    "deit3": deit3,
}
RECIPES: dict[str, RecipeFunction] = {
    "scratch_small": scratch_small,
    "finetune": finetune,
    "probe": probe,
    "lora": lora,
    **PUBLISHED,
}
FROM_SCRATCH = ("scratch_small", *(name for name in PUBLISHED if name != "finetune_paper"))  # take no --weights
