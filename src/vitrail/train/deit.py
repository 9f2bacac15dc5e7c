"""Recipes of DeiT (Touvron et al. 2021, arXiv 2012.12877) and DeiT III (Touvron et al. 2022, arXiv 2204.07118), from
facebookresearch/deit. None was run here.

Departures of all of them: no repeated augmentation, which shows each image three times a batch and a third of the
images an epoch; linear layers of the head begin at zero; warm-up begins at the first step's share of the rate, not at
1e-6; mirror images only where class names allow them. Batches are cut into micro-batches as in published.py.
"""

from vitrail.config import AugmentConfig, DataConfig, DistillConfig, OptimConfig, Preprocess, Recipe, ViTConfig
from vitrail.models.catalog import ModelConfig
from vitrail.train.published import micro_batches, on_imagenet, vit, warm_up
from vitrail.train.summary import DataSummary, mirrors_safely

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def deit(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """Training on ImageNet alone with strong augmentation: 300 epochs, batch 1024, AdamW at 1e-3.

    Source: main.py of facebookresearch/deit, its defaults, and Table 9 of the paper: rate 5e-4 * batch / 512, cosine to
    1e-5, 5 epochs of warm-up, decay 0.05, stochastic depth 0.1, label smoothing 0.1, RandAugment (2, 9), mixup 0.8 and
    CutMix 1 with even odds, random erasing 0.25, no clipping.
    Model: S/16, or `base`.
    Hardware and time: one node (4 GPUs in the repository's command for S), under 3 days (the abstract).
    Expected on ImageNet: Ti/16 72.2 %, S/16 79.9 %, B/16 81.8 %.
    Departures: those of the file; RandAugment is torchvision's, timm's varies the magnitude and has other operations;
    erasing fills with grey, not with noise.
    """
    model = vit("deit", base, "S/16")
    batch, epochs = 1024, 300
    return Recipe(
        name="deit",
        model=_normal(model, summary, {"stochastic_depth": 0.1}),
        preprocess=preprocess or Preprocess(size=model.image_size, crop=224 / 256, mean=MEAN, std=STD),
        data=DataConfig(batch_size=batch),
        augment=AugmentConfig(
            flip=_flip(summary), randaugment_layers=2, randaugment_magnitude=9, erase=0.25, mixup=0.8, cutmix=1.0
        ),
        optim=OptimConfig(
            lr=5e-4 * batch / 512,
            final_lr=1e-5,
            warmup_steps=_five_epochs(summary, epochs, batch),
            weight_decay=0.05,
            clip=None,
            label_smoothing=0.1,
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
        evaluate_every=10,
        expected=on_imagenet(summary, base, "79.9 % on ImageNet (published, not measured here)"),
    )


def distill(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """DeiT with a distillation token that learns a teacher's answers, hard ones; `--set distill.kind=soft` for soft.

    Source: section 4 of the paper and losses.py of facebookresearch/deit: half of the loss each for labels and teacher.
    The teacher is trained weights for the same classes: `--set distill.teacher=SOURCE`, required.
    Model: S/16, or `base`, with a second token and head; the answer is the mean of both.
    Hardware and time: not published beside `deit`'s. Expected on ImageNet: Ti/16 74.5 %, S/16 81.2 %, B/16 83.4 %, with
    a RegNetY-16GF of 82.9 % as teacher.
    Departures: those of `deit`; such a RegNet cannot be loaded here, teachers are Vision Transformers and ResNets.
    """
    like = deit(summary, base, preprocess)
    model = _normal(vit("distill", base, "S/16"), summary, {"stochastic_depth": 0.1, "distillation_token": True})
    return like.model_copy(
        update={"name": "distill", "model": model, "distill": DistillConfig(kind="hard", weight=0.5), "expected": ""}
    )


def deit3(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """DeiT III on ImageNet alone: 800 epochs, batch 2048, LAMB, 3-Augment, a sigmoid a class, LayerScale.

    Source: README_revenge.md of facebookresearch/deit and Table 1 of the paper: rate 4e-3 for S and 3e-3 from B up,
    cosine to 1e-5, 5 epochs of warm-up, decay 0.05, mixup 0.8 and CutMix 1 with even odds, colour jitter 0.3, no label
    smoothing, no dropout, no erasing; gradients clipped at 1, as apex's FusedLAMB does by itself; stochastic depth S
    0.05, B 0.2, L 0.45, H 0.6; evaluation without a margin.
    Model: S/16, or `base`, with LayerScale from 1e-4 and no position for the class token.
    Hardware and time: 8 GPUs for S and B, 32 for L and H. Expected on ImageNet at 224 px: S/16 81.4 %, B/16 83.8 %,
    L/16 84.9 %, H/14 85.2 %, of which B to H after a second stage.
    Departures: those of the file; stochastic depth grows from 0 at the first block to the published rate at the last,
    there every block has that rate; a mixed image has shares of two classes as its target, there
    both count as 1; one stage at the size of the model, B and L were trained at 192 px and H at 160, then at 224.
    """
    model = vit("deit3", base, "S/16")
    batch, epochs = 2048, 800
    small = model.width <= 384
    rates = {384: 0.05, 768: 0.2, 1024: 0.45, 1280: 0.6}  # published; the next larger for a width between
    depth = next((rate for width, rate in rates.items() if model.width <= width), 0.6)
    changes: dict[str, object] = {"stochastic_depth": depth, "layer_scale": 1e-4, "position_prefix": False}
    return Recipe(
        name="deit3",
        model=_normal(model, summary, changes),
        preprocess=preprocess or Preprocess(size=model.image_size, crop=1.0, mean=MEAN, std=STD),
        data=DataConfig(batch_size=batch),
        augment=AugmentConfig(flip=_flip(summary), three_augment=True, color_jitter=0.3, mixup=0.8, cutmix=1.0),
        optim=OptimConfig(
            optimizer="lamb",
            lr=4e-3 if small else 3e-3,
            final_lr=1e-5,
            warmup_steps=_five_epochs(summary, epochs, batch),
            weight_decay=0.05,
            loss="bce",
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
        evaluate_every=20,
        expected=on_imagenet(summary, base, "81.4 % on ImageNet (published, not measured here)"),
    )


def _normal(model: ViTConfig, summary: DataSummary, changes: dict[str, object]) -> ViTConfig:
    """The model with DeiT's initial weights, a head for the data and `changes`."""
    table = model.model_dump() | {"initialisation": "normal", "classes": len(summary.classes)}
    return ViTConfig.model_validate(table | changes)


def _flip(summary: DataSummary) -> float:
    return 0.5 if mirrors_safely(summary.classes) else 0.0


def _five_epochs(summary: DataSummary, epochs: int, batch: int) -> int:
    return warm_up(summary, epochs, batch, published=max(1, round(5 * summary.n_train / batch)))
