"""Recipes of the original papers: ViT (Dosovitskiy et al. 2021, arXiv 2010.11929), AugReg (Steiner et al. 2022, "How to
train your ViT?", arXiv 2106.10270), Simple ViT (Beyer et al. 2022). None was run here at its full size.

Short names of sources: GVT is google-research/vision_transformer, BV is google-research/big_vision. Departures of all
of them: first moments and SGD's momentum are float32, not bfloat16; crops are resized with antialiasing, evaluation
images bilinearly and not by area; mirror images only where class names allow them; the warm-up's first step is not 0.
A batch is the published one, cut into micro-batches by an estimate of what fits into 8 GiB. Where a run is shorter than
90,000 steps its warm-up is a ninth of it.
"""

import math
from collections.abc import Callable

from vitrail.config import AugmentConfig, DataConfig, OptimConfig, Preprocess, Recipe, ResNetConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.catalog import MODELS, ModelConfig, paper
from vitrail.train.summary import DataSummary, mirrors_safely

LEVELS = {  # operations, magnitude, mixup (BV configs/vit_i1k.py, RANDAUG_DEF and MIXUP_DEF)
    "none": (0, 0, 0.0),
    "light1": (2, 0, 0.0),  # not nothing: see data/randaugment.py
    "light2": (2, 10, 0.2),
    "medium1": (2, 15, 0.2),
    "medium2": (2, 15, 0.5),
    "strong1": (2, 20, 0.5),
    "strong2": (2, 20, 0.8),
}
MEMORY = 8 * 2**30  # bytes of activations a micro-batch may take


def vit_i21k(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """Pre-training on ImageNet-21k as in the ViT paper, Table 3.

    Source: the paper, appendix B.1, and GVT issue 2: Adam at 1e-3, linear to 1e-5, 10,000 steps of warm-up, batch 4096,
    dropout 0.1, decay 0.03, 90 epochs, a tanh layer before the head (pre_logits), a sigmoid a class with the head's
    bias at -ln K (-10 for 21,843 classes).
    Model: B/16, or `base`, with every choice of the original code (preset paper).
    Hardware and time: 230 TPUv3-core-days for L/16 (the paper, Table 2). Expected, B/16: 47.88 % upstream (GVT issue
    62), 83.97 % on ImageNet after fine-tuning at 384 px (the paper, Table 5).
    Departures: those of the file; Table 3 has 30 or 90 epochs for L.
    """
    model = vit("vit_i21k", base, "B/16")
    batch, epochs = 4096, 90
    return Recipe(
        name="vit_i21k",
        preset="paper",
        model=_paper(model, summary, dropout=0.1, pre_logits=model.width),
        preprocess=preprocess or _squash(model),
        data=DataConfig(batch_size=batch),
        augment=_inception(summary),
        optim=OptimConfig(
            lr=1e-3,
            final_lr=1e-5,
            schedule="linear",
            warmup_steps=warm_up(summary, epochs, batch),
            weight_decay=0.03,
            loss="sigmoid",
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
    )


def vit_i1k(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """Training on ImageNet alone as in the ViT paper, Table 3: 300 epochs, 3e-3 with a cosine, decay 0.3, dropout 0.1.

    Source: the paper, appendix B.1; loss and head from Scenic's baseline (configs/imagenet/imagenet_vit_config.py).
    Model: B/16, or `base`, with every choice of the original code (preset paper) and a tanh layer before the head.
    Hardware and time: not published. Expected, B/16 on ImageNet: 74.79 % (GVT issue 62), 77.91 % after fine-tuning at
    384 px (the paper, Table 5).
    Departures: those of the file; the head's bias is -ln K (-6.9), Scenic's -10.
    """
    model = vit("vit_i1k", base, "B/16")
    batch, epochs = 4096, 300
    return Recipe(
        name="vit_i1k",
        preset="paper",
        model=_paper(model, summary, dropout=0.1, pre_logits=model.width),
        preprocess=preprocess or _squash(model),
        data=DataConfig(batch_size=batch),
        augment=_inception(summary),
        optim=OptimConfig(
            lr=3e-3,
            warmup_steps=warm_up(summary, epochs, batch),
            weight_decay=0.3,
            loss="sigmoid",
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
        evaluate_every=10,
        expected=on_imagenet(summary, base, "74.79 % on ImageNet (published for B/16, not measured here)"),
    )


def finetune_paper(
    summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None
) -> Recipe:
    """Fine-tuning as in the ViT paper, Table 4: SGD, momentum 0.9, no decay, clip 1, cosine, batch 512, 384 px.

    Source: BV configs/transfer.py, which has one rate where the paper has a grid. Which of its presets follows from the
    data, so that each published one is met and any other data get the nearest:
    - 500,000 images or more (ImageNet): 20,000 steps at 0.03, of which 500 warm-up;
    - 20,000 or more (CIFAR): 10,000 steps at 0.003 for up to 10 classes, at 0.01 for more, 500 of them warm-up;
    - fewer (Pets, Flowers): 500 steps at 0.003, 100 of them warm-up.
    Images of up to 64 px (CIFAR) are enlarged to 448 and cropped anywhere, others as in pre-training.
    Model: that of the weights at 384 px; at its own size where that is below 224.
    Hardware and time: not published. Expected, B/32 of AugReg: ImageNet 83.27 %, CIFAR-10 98.55, CIFAR-100 91.35, Pets
    93.78, Flowers 99.43 (on its official 1,020 images).
    Departures: those of the file; mean and std are the weights', there always 0.5.
    """
    if base is None or preprocess is None:
        raise ConfigError(
            "the recipe finetune_paper starts from trained weights: name some with --weights, or use scratch_small"
        )
    if summary.n_train >= 500_000:
        steps, lr, warmup = 20_000, 0.03, 500
    elif summary.n_train >= 20_000:
        steps, lr, warmup = 10_000, 0.003 if len(summary.classes) <= 10 else 0.01, 500
    else:
        steps, lr, warmup = 500, 0.003, 100
    model = base.model_copy(update={"classes": len(summary.classes), "image_size": larger(base, 384)})
    if isinstance(model, ViTConfig) and model.stem is not None:
        model = model.model_copy(update={"stem": model.stem.model_copy(update={"image_size": model.image_size})})
    tiny, batch = max(summary.rows, summary.cols) <= 64, 512
    crop: dict[str, object] = {"crop": "simple", "crop_enlarge": 448 / 384} if tiny else {}
    seen = steps * batch / summary.n_train  # epochs
    return Recipe(
        name="finetune_paper",
        model=model,
        preprocess=preprocess.model_copy(
            update={"size": model.image_size, "resize": "shortest", "crop": 384 / 448, "interpolation": "bilinear"}
        ),
        data=DataConfig(batch_size=batch),
        augment=_inception(summary).model_copy(update=crop),
        optim=OptimConfig(
            optimizer="sgd",
            lr=lr,
            warmup_steps=warmup,
            weight_decay=0.0,
            momentum=0.9,
            accumulate=micro_batches(batch, model),
        ),
        epochs=seen,
        steps=steps,
        evaluate_every=max(1, round(seen / 10)),
    )


def augreg(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """AugReg with the level of augmentation that was chosen for the size of model and data.

    Source: BV configs/vit_i1k.py and vit_i21k.py: Adam at 1e-3, cosine, 10,000 steps of warm-up, batch 4096, 300
    epochs, clip 1, decay 0.1 (BV's 1e-4 a step, see below), a sigmoid a class summed over classes with the head's bias
    at -ln K (-6.9, -10), TensorFlow's RandAugment with its quirks, mixup with the neighbour by max(a, 1 - a).
    Level: up to five million images Ti light1, S/32 medium1, others medium2; beyond Ti and S/32 none, S/16 light1, B
    light2, L medium2. `augreg_LEVEL` takes another: none, light1, light2, medium1, medium2, strong1, strong2.
    Model: B/16, or `base`; class token, no tanh layer, as the published weights have it.
    Hardware and time: not published a run. Expected on ImageNet alone, B/16: 79.154 % at 224 px (timm's evaluation of
    the published weights).
    Decay: BV takes wd * schedule * weight off, whatever the rate; AdamW takes rate * decay * weight. The two are one
    where decay = wd / peak rate; who sets another optim.lr must divide optim.weight_decay alike to stay with BV's.
    Departures: those of the file; BV's positions start at a standard deviation of 1 / sqrt(width) without a row for
    the class token, ours and the published files' have one; dropout and stochastic depth, which Scenic adds at 0.1 for
    B and L on ImageNet, are off as in BV (`--set dropout=0.1 --set stochastic_depth=0.1`).
    """
    model = vit("augreg", base, "B/16")
    return _augreg("augreg", augreg_level(model, summary.n_train), summary, base, preprocess)


def augreg_level(model: ViTConfig, n_train: int) -> str:
    """The level that AugReg's authors chose (BV configs, from figure 4 of the paper)."""
    tiny, small = model.width <= 192, model.width <= 384
    coarse = small and model.patch_pixels[0] >= 32
    if n_train > 5_000_000:
        return "none" if tiny or coarse else "light1" if small else "light2" if model.width <= 768 else "medium2"
    return "light1" if tiny else "medium1" if coarse else "medium2"


def _augreg(
    name: str, level: str, summary: DataSummary, base: ModelConfig | None, preprocess: Preprocess | None
) -> Recipe:
    model = vit(name, base, "B/16")
    layers, magnitude, mixup = LEVELS[level]
    batch, epochs = 4096, 300
    score = "79.15 % on ImageNet (published for B/16 at 224 px, not measured here)"
    return Recipe(
        name=name,
        model=_paper(model, summary),
        preprocess=preprocess or _centre(model),
        data=DataConfig(batch_size=batch),
        augment=_tf_randaugment(summary, layers, magnitude, mixup),
        optim=OptimConfig(
            lr=1e-3,
            warmup_steps=warm_up(summary, epochs, batch),
            weight_decay=0.1,
            loss="sigmoid",
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
        evaluate_every=10,
        expected=on_imagenet(summary, base, score) if name == "augreg" else "",
    )


def _at_level(level: str) -> Callable[[DataSummary, ModelConfig | None, Preprocess | None], Recipe]:
    def recipe(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
        return _augreg(f"augreg_{level}", level, summary, base, preprocess)

    layers, magnitude, mixup = LEVELS[level]
    recipe.__doc__ = (
        f"`augreg` at the level {level}: {layers} operations at magnitude {magnitude}, mixup {mixup:g}. "
        "Source, hardware, time and departures as there; expected: not published by level."
    )
    return recipe


AUGREG = {f"augreg_{level}": _at_level(level) for level in LEVELS}


def simple_vit(summary: DataSummary, base: ModelConfig | None = None, preprocess: Preprocess | None = None) -> Recipe:
    """Simple ViT: mean of the patches, fixed sinusoid positions, batch 1024, RandAugment (2, 10), mixup 0.2, softmax.

    Source: BV configs/vit_s16_i1k.py; Beyer et al. 2022, arXiv 2205.01580. `--set epochs=300` for its longest run.
    Model: S/16, or `base`, with a tanh layer before the head, as that file has it.
    Hardware and time: 6 to 7 hours on a TPU v3-8 for 90 epochs. Expected: 76.5 % on ImageNet.
    Departures: those of the file. Decay as in `augreg`.
    """
    model = vit("simple_vit", base, "S/16")
    batch, epochs = 1024, 90
    table = _paper(model, summary, pre_logits=model.width).model_dump()
    simple = {"pool": "gap", "class_token": False, "position": "sincos2d", "head_bias": 0.0}
    return Recipe(
        name="simple_vit",
        model=ViTConfig.model_validate(table | simple),
        preprocess=preprocess or _centre(model),
        data=DataConfig(batch_size=batch),
        augment=_tf_randaugment(summary, 2, 10, 0.2),
        optim=OptimConfig(
            lr=1e-3,
            warmup_steps=warm_up(summary, epochs, batch),
            weight_decay=0.1,
            accumulate=micro_batches(batch, model),
        ),
        epochs=epochs,
        evaluate_every=5,
        expected=on_imagenet(summary, base, "76.5 % on ImageNet (published, not measured here)"),
    )


def vit(recipe: str, base: ModelConfig | None, default: str) -> ViTConfig:
    """The Vision Transformer to train: `base`, or the catalog's `default`. ConfigError for a ResNet."""
    model = base or MODELS[default]
    if isinstance(model, ResNetConfig):
        raise ConfigError(f"the recipe {recipe} trains a Vision Transformer, found a ResNet: name another --model")
    return model


def warm_up(summary: DataSummary, epochs: int, batch: int, published: int = 10_000) -> int:
    """Steps of warm-up: as published, or a ninth of a run too short for that."""
    return min(published, math.ceil(epochs * summary.n_train / batch / 9))


def micro_batches(batch: int, model: ModelConfig) -> int:
    """Parts to cut a batch into so that the activations of one fit into 8 GiB, by a rough count: in bfloat16, ten
    tensors of a token's width and three of the MLP's are kept a block. A ResNet gets parts of 32."""
    fits = 32
    if isinstance(model, ViTConfig):
        image = 2 * model.depth * model.tokens * (10 * model.width + 3 * model.mlp_dim)
        fits = 2 ** int(math.log2(max(MEMORY // image, 1)))
    return max(1, batch // fits)


def larger(model: ModelConfig, side: int) -> tuple[int, int]:
    """The image size for fine-tuning: about `side`, a multiple of the patch; as it is where it is below 224."""
    if max(model.image_size) < 224:
        return model.image_size
    patch = model.patch_pixels if isinstance(model, ViTConfig) else (model.stride, model.stride)
    return side // patch[0] * patch[0], side // patch[1] * patch[1]


def on_imagenet(summary: DataSummary, base: ModelConfig | None, score: str) -> str:
    """The published score where it is about this: the default model on data of ImageNet's size."""
    return score if base is None and len(summary.classes) == 1000 and summary.n_train > 1_200_000 else ""


def _paper(model: ViTConfig, summary: DataSummary, dropout: float = 0.0, pre_logits: int | None = None) -> ViTConfig:
    """The model with the original code's choices, a head for the data, and its bias at the log odds of one class in K:
    the sigmoids begin at what is true of an image on average."""
    classes = len(summary.classes)
    bias = round(-math.log(classes), 1)  # -10.0 for ImageNet-21k, -6.9 for ImageNet
    return paper(model).model_copy(
        update={"classes": classes, "dropout": dropout, "pre_logits": pre_logits, "head_bias": bias}
    )


def _inception(summary: DataSummary) -> AugmentConfig:
    return AugmentConfig(crop_scale=(0.05, 1.0), flip=0.5 if mirrors_safely(summary.classes) else 0.0)


def _tf_randaugment(summary: DataSummary, layers: int, magnitude: int, mixup: float) -> AugmentConfig:
    update = {"randaugment_layers": layers, "randaugment_magnitude": magnitude, "mixup": mixup}
    return _inception(summary).model_copy(update={"randaugment": "tf", "mixup_major": True, **update})


def _squash(model: ViTConfig) -> Preprocess:
    return Preprocess(size=model.image_size, resize="squash", crop=1.0, interpolation="bilinear", antialias=False)


def _centre(model: ViTConfig) -> Preprocess:
    return Preprocess(size=model.image_size, crop=224 / 256, interpolation="bilinear")
