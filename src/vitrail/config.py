"""Frozen, validated configurations: keyword-only, no unknown fields, JSON both ways (pydantic).

A bad value raises pydantic's ValidationError; `errors.config_error` turns it into one sentence for the user.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PositiveInt, Tag, model_validator


class Config(BaseModel):
    """Base of every configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_pair)]  # (rows, cols); one number means both
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


# see ops.grid.resample_positions
PositionRule = Literal["paper", "timm", "transformers", "torchvision", "dinov2", "flexivit"]


class ResNetConfig(Config):
    """A BiT-style ResNet: GroupNorm, weight standardisation, post-activation bottlenecks (vit_jax/models_resnet.py).

    As the stem of a hybrid it has no classes; with classes it is the paper's CNN baseline.
    """

    image_size: Size = (224, 224)  # pixels
    channels: PositiveInt = 3
    layers: tuple[PositiveInt, ...] = (3, 4, 6, 3)  # bottlenecks a stage; (): the root convolution and pool alone
    width: PositiveInt = 64  # channels of the root; stage i has 4 * width * 2**i
    groups: PositiveInt = 32
    norm_eps: Annotated[float, Field(gt=0.0)] = 1e-6
    weight_eps: Annotated[float, Field(ge=0.0)] = 1e-5  # added to the standard deviation of a kernel
    classes: Annotated[int, Field(ge=0)] = 0
    head_bias: float = 0.0  # initial value only

    @model_validator(mode="after")
    def _check(self) -> "ResNetConfig":
        if self.width % self.groups:
            raise ValueError(f"width must be a multiple of groups: {self.width} / {self.groups}")
        return self

    @property
    def stride(self) -> int:
        """Pixels a feature covers: 4 after the root, doubled by each stage but the first."""
        return 4 * 2 ** max(len(self.layers) - 1, 0)

    @property
    def features(self) -> int:
        """Channels of the feature map."""
        return self.width * 4 * 2 ** (len(self.layers) - 1) if self.layers else self.width

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of the feature map; TF's SAME padding rounds up at every halving."""
        rows, cols = (-(-side // self.stride) for side in self.image_size)
        return rows, cols


class ViTConfig(Config):
    """Architecture of a Vision Transformer (ViT paper, section 3.1 and Table 1) and its descendants."""

    image_size: Size = (224, 224)  # pixels
    patch_size: Size = (16, 16)  # pixels; features of the stem in a hybrid
    cut_patches: bool = False  # rows and columns short of a last patch are not seen (SigLIP at 384 / 14)
    channels: PositiveInt = 3
    width: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_dim: PositiveInt = 3072
    classes: Annotated[int, Field(ge=0)] = 1000  # 0: no head, the model returns features
    stem: ResNetConfig | None = None  # hybrid: patches of a CNN feature map (section 3.1)

    class_token: bool = True  # by default: where the pool needs one
    distillation_token: bool = False  # DeiT: a second token with its own head; the logits are the mean of both heads
    distillation_head: bool = True  # False: only the class token is read (transformers' DeiTForImageClassification)
    registers: Annotated[int, Field(ge=0)] = 0  # tokens between the class token and the patches (Darcet et al. 2023)
    pool: Literal["token", "gap", "map", "token_gap"] = "token"  # class token | mean | attention | both (DINOv2)
    pool_blocks: PositiveInt = 1  # token_gap: class tokens of so many last blocks, side by side (DINOv2's larger heads)
    norm_after_pool: bool = False  # timm's fc_norm; the paper's code normalises before the mean
    pre_logits: PositiveInt | None = None  # width of the tanh layer before the head (the paper's representation layer)
    head_has_bias: bool = True

    position: Literal["learned", "sincos2d", "rope", "none"] = "learned"
    position_prefix: bool = True  # the class and distillation tokens have rows of their own in the position embedding
    position_registers: bool = False  # and so have the registers (some of timm's models)
    position_rule: PositionRule = "paper"  # how the positions go to another grid
    rope_base: Annotated[float, Field(gt=0.0)] = 100.0

    gelu: Literal["exact", "tanh", "quick"] = "exact"  # tanh: the original JAX code's; quick: OpenAI CLIP's
    mlp: Literal["gelu", "swiglu"] = "gelu"
    norm_eps: Annotated[float, Field(gt=0.0)] = 1e-6
    qkv_bias: bool = True
    key_bias: bool = True  # False: biases on queries and values only (DINOv3)
    qk_norm: bool = False  # LayerNorm on each head's queries and keys
    layer_scale: Annotated[float, Field(gt=0.0)] | None = None  # initial value (Touvron et al. 2021)
    norm_before: bool = False  # a norm between embedding and blocks (CLIP)
    patch_bias: bool = True

    dropout: Rate = 0.0  # after the position embedding and both dense layers of the MLP, and on the attention output
    stochastic_depth: Rate = 0.0  # of the last block; grows linearly from 0 at the first
    patch_dropout: Rate = 0.0  # share of the patches left out while training
    initialisation: Literal["paper", "normal"] = "paper"  # normal: truncated, standard deviation 0.02 (timm, DeiT)
    position_std: Annotated[float, Field(gt=0.0)] = 0.02  # initial value only; 1 where the grid is tiny (recipes.py)
    head_bias: float = 0.0  # initial value only; -10 for sigmoid pre-training on ImageNet-21k

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """The class token where the pool needs one, and a stem that takes the model's images."""
        if not isinstance(values, dict):
            return values
        filled = {"class_token": values.get("pool", "token") in ("token", "token_gap"), **values}
        if isinstance(filled.get("stem"), dict | ResNetConfig):
            shared = {key: filled[key] for key in ("image_size", "channels") if key in filled}
            filled["stem"] = {**dict(filled["stem"]), **shared}
        return filled

    @model_validator(mode="after")
    def _check(self) -> "ViTConfig":
        for axis, size, patch in zip(("rows", "cols"), self.image_size, self.patch_pixels, strict=True):
            if (size % patch and not self.cut_patches) or size < patch:
                raise ValueError(f"image_size must be a multiple of patch_size: {size} {axis} / {patch}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads: {self.width} / {self.heads}")
        if not self.class_token and (self.pool in ("token", "token_gap") or self.distillation_token):
            raise ValueError(f"pool={self.pool!r} and distillation_token need class_token=True")
        if self.distillation_token and (self.pool != "token" or (self.pre_logits and self.distillation_head)):
            raise ValueError("distillation_token goes with pool='token' and, where both heads are read, no pre_logits")
        if self.pool_blocks > 1 and (self.pool != "token_gap" or self.pool_blocks > self.depth or self.norm_after_pool):
            raise ValueError("pool_blocks goes with pool='token_gap', at most depth, and norm_after_pool=False")
        if self.position in ("rope", "sincos2d") and self.rotary_or_sinusoid_width % 4:
            raise ValueError(
                f"position={self.position!r} needs a width of heads, or of the model, that is a multiple of 4"
            )
        if self.position_registers and not self.position_prefix:
            raise ValueError("position_registers goes with position_prefix=True")
        if self.position == "rope" and self.patch_dropout:
            raise ValueError("patch_dropout does not go with position='rope'")
        if self.stem is not None and (self.stem.image_size, self.stem.channels) != (self.image_size, self.channels):
            raise ValueError("the stem takes the model's image_size and channels")
        return self

    @property
    def rotary_or_sinusoid_width(self) -> int:
        return self.width // self.heads if self.position == "rope" else self.width

    @property
    def patch_pixels(self) -> tuple[int, int]:
        """Pixels a patch covers along (rows, cols)."""
        stride = 1 if self.stem is None else self.stem.stride
        return self.patch_size[0] * stride, self.patch_size[1] * stride

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (rows, cols)."""
        return self.image_size[0] // self.patch_pixels[0], self.image_size[1] // self.patch_pixels[1]

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def heading(self) -> int:
        """Tokens before the registers: the class token and the distillation token."""
        return int(self.class_token) + int(self.distillation_token)

    @property
    def distilled(self) -> bool:
        """Whether the distillation token is read beside the class token."""
        return self.distillation_token and self.distillation_head

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.heading + self.registers

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches

    @property
    def pooled(self) -> int:
        """Numbers that the pool makes of an image: what the head, or the tanh layer before it, reads."""
        return (self.pool_blocks + 1) * self.width if self.pool == "token_gap" else self.width

    @property
    def position_rows(self) -> int:
        """Rows of the position embedding before those of the patches."""
        if self.position != "learned" or not self.position_prefix:
            return 0
        return self.heading + (self.registers if self.position_registers else 0)


def _kind(value: object) -> str:
    """Which architecture a configuration, or a table of its fields, is of: only a ResNet has stages of layers."""
    resnet = isinstance(value, ResNetConfig) or (isinstance(value, dict) and "layers" in value)
    return KINDS[1] if resnet else KINDS[0]


KINDS = ("vit", "resnet")  # parts of the path of a bad field that name no field
Architecture = Annotated[
    Annotated[ViTConfig, Tag(KINDS[0])] | Annotated[ResNetConfig, Tag(KINDS[1])], Discriminator(_kind)
]


class Preprocess(Config):
    """From decoded pixels to the model's input. It belongs to the weights and is stored with them.

    The image is resized to floor(size / crop), then its centre is cropped. `shortest`: it keeps its shape, its shorter
    side is resized; `squash`: both sides are (the paper's evaluation, without a crop).
    """

    size: Size = (224, 224)
    resize: Literal["shortest", "squash"] = "shortest"
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = (
        "bicubic"  # area: only to evaluate (protocols.py)
    )
    antialias: bool = True
    odd_margin: Literal["even", "down"] = "even"  # half a pixel beside a crop: torchvision's way | transformers'
    jpeg: Literal["scaled", "full"] = "scaled"  # large JPEGs decoded smaller, faster (preprocess.jpeg_divisor) | whole
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @model_validator(mode="before")
    @classmethod
    def _no_crop_of_squashed(cls, values: Any) -> Any:
        """A squash shows the whole image unless a crop is asked for."""
        return {"crop": 1.0, **values} if isinstance(values, dict) and values.get("resize") == "squash" else values

    @model_validator(mode="after")
    def _check(self) -> "Preprocess":  # not Self: the shape checker cannot read it here
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive: {self.std}")
        return self


class AugmentConfig(Config):
    """Training transforms on one image (crop, flip, RandAugment, ...) and on a batch (mixup, cutmix)."""

    crop: Literal["area", "simple"] = "area"  # a random box | the shorter side fitted, then a random place (DeiT III)
    crop_scale: tuple[Probability, Probability] = (0.08, 1.0)  # share of the area; (1, 1): no random crop
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    crop_enlarge: Annotated[float, Field(ge=1.0, le=4.0)] = 1.0  # simple: shorter side over the target's before the cut
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0  # simple: mirrored pixels on each side before the cut
    flip: Probability = 0.5  # mirror left-right; 0 where mirrored images change class (digits, text)
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0  # degrees, either way
    shift: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0  # share of the side, either way
    randaugment: Literal["torchvision", "tf", "tf_mended"] = "torchvision"  # tf: AugReg's, with its quirks | without
    randaugment_layers: Annotated[int, Field(ge=0, le=8)] = 0  # operations an image
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9  # of 30; of 10 in tf, which goes beyond
    three_augment: bool = False  # one of grey, solarize, blur an image (DeiT III)
    color_jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # brightness, contrast, saturation, either way
    erase: Probability = 0.0  # random erasing
    mixup: Annotated[float, Field(ge=0.0)] = 0.0  # Beta(a, a); 0: off
    mixup_major: bool = False  # an image keeps the larger share: max(a, 1 - a) (big_vision)
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    mix_probability: Probability = 1.0  # share of batches that are mixed, where mixup or cutmix is on

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":  # not Self: the shape checker cannot read it here
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high: {(low, high)}")
        return self


class DataConfig(Config):
    """How images are read."""

    batch_size: Annotated[int, Field(gt=0, le=2**20)] = 64
    sampler: Literal["shuffle", "balanced"] = "shuffle"  # balanced: every class equally often
    quarantine: str | None = None  # a list of images to leave out, from `vitrail data check`
    workers: Annotated[int, Field(ge=0)] | None = None  # loader processes; None: by the machine. Never changes the data
    max_broken: Probability = 0.01  # share of unreadable images above which training stops with the list
    val_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # held out of data that come without splits


class OptimConfig(Config):
    """The optimiser, its rate over the run, and the loss it follows. Steps are optimiser steps."""

    optimizer: Literal["adamw", "sgd", "lamb", "lion", "muon"] = "adamw"  # muon: on hidden matrices, AdamW on the rest
    lr: Annotated[float, Field(gt=0.0)] = 1e-3  # peak
    final_lr: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Literal["cosine", "linear", "rsqrt", "wsd", "constant"] = "cosine"  # wsd: warm-up, stable, decay
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    cooldown_steps: Annotated[int, Field(ge=0)] = 0  # rsqrt, wsd: linear decay to final_lr at the end
    timescale: PositiveInt = 10_000  # rsqrt: steps over which the rate falls by the square root of two
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05  # on matrices and convolution kernels only
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    momentum: Rate = 0.9  # sgd and muon
    nesterov: bool = False  # sgd
    clip: Annotated[float, Field(gt=0.0)] | None = 1.0  # global gradient norm
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # lr factor per block from the head down
    head_steps: Annotated[int, Field(ge=0)] = 0  # first steps that train the head alone
    frozen_blocks: Annotated[int, Field(ge=0)] = 0  # first blocks (a ResNet's stages) that stay, with all before them
    loss: Literal["softmax", "sigmoid", "bce"] = "softmax"  # one sigmoid a class: summed over classes | their mean
    label_smoothing: Rate = 0.0
    class_weights: Literal["none", "balanced"] = "none"  # balanced: each class weighs the same in the loss
    logit_adjustment: Annotated[float, Field(ge=0.0)] = 0.0  # times the log of the class shares (Menon et al. 2021)
    accumulate: PositiveInt = 1  # micro-batches a step; the loss curve does not depend on it
    ema: Rate = 0.0  # decay of the averaged weights, which are then the ones evaluated and kept; 0: off
    max_skipped: PositiveInt = 10  # steps in a row without a finite loss and gradient after which training stops

    @model_validator(mode="after")
    def _check(self) -> "OptimConfig":  # not Self: the shape checker cannot read it here
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("nesterov goes with optimizer=sgd and a momentum above 0")
        if self.cooldown_steps and self.schedule not in ("rsqrt", "wsd"):
            raise ValueError(f"cooldown_steps goes with schedule=rsqrt or wsd, found {self.schedule}")
        if self.schedule == "wsd" and not self.cooldown_steps:
            raise ValueError("schedule=wsd needs cooldown_steps above 0, the steps over which the rate decays")
        if self.schedule == "constant" and self.final_lr:
            raise ValueError(f"final_lr is not reached with schedule=constant: set final_lr=0, found {self.final_lr:g}")
        if self.logit_adjustment and self.loss != "softmax":
            raise ValueError(f"logit_adjustment goes with loss=softmax, found {self.loss}")
        return self


class LoraConfig(Config):
    """Low-rank updates of frozen matrices (Hu et al. 2021), merged into the weights at the end."""

    rank: Annotated[int, Field(ge=0)] = 0  # 0: off
    alpha: Annotated[float, Field(gt=0.0)] = 16.0  # the update is scaled by alpha / rank
    targets: Literal["attention", "all"] = "attention"  # q, k, v and output | and both layers of the MLP


class DistillConfig(Config):
    """A teacher's answers beside the labels (DeiT, Touvron et al. 2021, section 4)."""

    teacher: str | None = None  # what --weights takes; None: off
    kind: Literal["hard", "soft"] = "hard"
    weight: Probability = 0.5  # of the teacher's part of the loss
    temperature: Annotated[float, Field(gt=0.0)] = 1.0  # soft


class Recipe(Config):
    """Everything a training run does, decided before it starts."""

    name: str
    preset: Literal["paper"] | None = None  # paper: every choice of the original JAX code (train/recipes.py)
    model: Architecture
    preprocess: Preprocess
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig = LoraConfig()
    distill: DistillConfig = DistillConfig()
    epochs: Annotated[float, Field(ge=0.0, le=1e6)] = 10.0  # 0: the head alone is solved for
    steps: Annotated[int, Field(gt=0, le=2**31)] | None = None  # instead of epochs, where published so
    head_solver: Literal["none", "logistic", "ridge"] = "none"  # the head on frozen features, before the first step
    head_images: PositiveInt | None = None  # training images it is solved on, some of each class; None: all
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 where it is faster
    compile: bool = False  # torch.compile of each block: other bits, so a run keeps its choice
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, about a third more time
    tensorboard: bool = False  # write events for TensorBoard beside metrics.jsonl
    evaluate_every: PositiveInt = 1  # epochs
    expected: str = ""  # the score to expect, on what hardware, in what time

    @model_validator(mode="after")
    def _check(self) -> "Recipe":  # not Self: the shape checker cannot read it here
        if self.preprocess.interpolation == "area":
            raise ValueError("preprocess.interpolation area is for evaluation by a protocol; no other program does it")
        if self.steps is None and self.epochs == 0 and self.head_solver == "none":
            raise ValueError("epochs=0 trains nothing: set epochs or steps above 0, or head_solver=ridge or logistic")
        against = {
            "data.sampler=balanced": self.data.sampler == "balanced",
            "optim.class_weights=balanced": self.optim.class_weights == "balanced",
            "optim.logit_adjustment": self.optim.logit_adjustment > 0,
        }
        blocks = self.model.depth if isinstance(self.model, ViTConfig) else len(self.model.layers)
        if self.optim.frozen_blocks > blocks:
            raise ValueError(
                f"optim.frozen_blocks is at most {blocks}, the blocks of this model, found {self.optim.frozen_blocks}"
            )
        if sum(against.values()) > 1:
            found = " and ".join(name for name, used in against.items() if used)
            raise ValueError(f"one remedy for unequal classes at a time, or they are counted twice: found {found}")
        return self
