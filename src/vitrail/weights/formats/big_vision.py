"""big_vision's `.npz` (google-research/big_vision, models/vit.py): positions learned or sincos2d; heads token, gap or
map; layers one by one or stacked by scan; `params/` or `params/img/` before every key.

Its own reader also takes older files (`fix_old_checkpoints`): a row of positions for the class token, which it adds to
the token; positions within the encoder; an attention pool without a name. So does this one, and keeps that row.
"""

import math
import re

from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.weights.flax import attention, conv, dense, norm
from vitrail.weights.rename import Format, Hints, Rule, Shapes, Tensors, count_of, file_grid, same, shape_of

_PREFIXES = ("params/img/", "params/", "img/", "opt/target/")
_STACKED = "Transformer/encoderblock/"
_OLD_POOL = ("probe", "LayerNorm_0/", "MlpBlock_0/", "MultiHeadDotProductAttention_0/")
# a text tower, the temperature and bias beside two towers; what an optimiser and a clock remember
_PASSENGERS = (r"(?:params/)?(?:txt/.*|t|b)", r"(?:opt|chrono)/.*")


def _rules(config: ViTConfig) -> list[Rule]:
    rules = [
        conv("patch_embedding.weight", "embedding/kernel"),
        same("patch_embedding.bias", "embedding/bias"),
        *norm("norm", "Transformer/encoder_norm"),
    ]
    if config.position == "learned":
        rules.append(same("position_embedding", "pos_embedding"))
    if config.class_token:
        rules.append(same("class_token", "cls"))
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        rules += norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0")
        rules += attention(f"{ours}.attention", f"{theirs}/MultiHeadDotProductAttention_0", config.heads)
        rules += norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1")
        rules += dense(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_0/Dense_0")
        rules += dense(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_0/Dense_1")
    if config.pool == "map":
        ours, theirs = "attention_pool", "MAPHead_0"
        rules.append(same(f"{ours}.probe", f"{theirs}/probe"))
        rules += attention(f"{ours}.attention", f"{theirs}/MultiHeadDotProductAttention_0", config.heads)
        rules += norm(f"{ours}.norm", f"{theirs}/LayerNorm_0")
        rules += dense(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_0/Dense_0")
        rules += dense(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_0/Dense_1")
    if config.pre_logits:
        rules += dense("pre_logits", "pre_logits")
    if config.classes:
        rules += dense("head", "head")
    return rules


def _infer(shapes: Shapes, hints: Hints) -> ViTConfig:
    rows, cols, channels, width = shape_of(shapes, r"embedding/kernel", 4)
    block = r"Transformer/encoderblock_\d+"
    learned = "pos_embedding" in shapes
    class_row = False
    if learned:
        count = shape_of(shapes, r"pos_embedding", 3)[1]
        class_row = "cls" in shapes and _has_class_row(count, (rows, cols), hints.image_size)
        grid = file_grid(count - class_row, (rows, cols), hints.image_size)
    else:  # fixed positions leave no trace of the size
        size = hints.image_size or (224, 224)
        grid = (size[0] // rows, size[1] // cols)
        if grid[0] * rows != size[0] or grid[1] * cols != size[1]:
            raise WeightsError(f"the image size {size} is not a multiple of the patch size {(rows, cols)}")
    return ViTConfig(
        image_size=(grid[0] * rows, grid[1] * cols),
        patch_size=(rows, cols),
        channels=channels,
        width=width,
        depth=count_of(shapes, r"Transformer/encoderblock_(\d+)/"),
        heads=shape_of(shapes, block + r"/MultiHeadDotProductAttention_0/query/kernel", 3)[1],
        mlp_dim=shape_of(shapes, block + r"/MlpBlock_0/Dense_0/kernel", 2)[1],
        classes=shapes["head/bias"][0] if "head/bias" in shapes else 0,
        pool="map" if "MAPHead_0/probe" in shapes else "token" if "cls" in shapes else "gap",
        class_token="cls" in shapes,
        pre_logits=shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None,
        position="learned" if learned else "sincos2d",
        position_prefix=class_row,
        gelu="tanh",
        position_rule="paper",
    )


def _has_class_row(count: int, patch: tuple[int, int], size: tuple[int, int] | None) -> bool:
    """Whether so many positions are those of a grid and one more: of the image size that is told, else a square."""
    if size is not None and (patches := (size[0] // patch[0]) * (size[1] // patch[1])) in (count, count - 1):
        return patches == count - 1
    return math.isqrt(count - 1) ** 2 == count - 1


def _prepare(tensors: Tensors) -> Tensors:
    """Without a prefix, under today's names, and with layers that scan stacked on axis 0 one by one."""
    for prefix in _PREFIXES:
        if f"{prefix}embedding/kernel" in tensors:
            tensors = {k.removeprefix(prefix): t for k, t in tensors.items()}
            break
    if "Transformer/pos_embedding" in tensors:
        tensors = {"pos_embedding" if k == "Transformer/pos_embedding" else k: t for k, t in tensors.items()}
    if "probe" in tensors:
        tensors = {f"MAPHead_0/{k}" if k.startswith(_OLD_POOL) else k: t for k, t in tensors.items()}
    plain: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(_STACKED):
            rest = key.removeprefix(_STACKED)
            plain |= {f"Transformer/encoderblock_{i}/{rest}": layer for i, layer in enumerate(tensor)}
        else:
            plain[key] = tensor
    return plain


def _preprocess(size: tuple[int, int]) -> Preprocess:
    """Evaluation of big_vision's classifiers, `resize_small(256)|central_crop(224)|value_range(-1, 1)` and from 384 px
    `resize_small(448)`: the mean over areas, and a centre whose margin is rounded down (pp/ops_image.py)."""
    crop = 6 / 7 if max(size) >= 384 else 0.875
    return Preprocess(size=size, crop=crop, interpolation="area", odd_margin="down")


def _finish(tensors: Tensors) -> Tensors:
    """With a prefix before the keys of the image tower where passengers ride along: its reader takes whatever is below
    `params/` for the model, and below that what is below `img/` for the tower."""
    riding = {key for key in tensors if any(re.fullmatch(pattern, key) for pattern in _PASSENGERS)}
    if not riding:
        return tensors
    whole = "params/" if any(key.startswith(("params/", "opt/", "chrono/")) for key in riding) else ""
    tower = "img/" if any(key.removeprefix("params/").startswith("txt/") for key in riding) else ""
    return {key if key in riding else f"{whole}{tower}{key}": tensor for key, tensor in tensors.items()}


def _headless(size: tuple[int, int]) -> Preprocess:
    """What the image towers of its models of image and text are shown (SigLIP_demo.ipynb, SigLIP2_demo.ipynb):
    `resize(size)|value_range(-1, 1)`, which squashes, bilinear without antialiasing."""
    return Preprocess(size=size, resize="squash", crop=1.0, interpolation="bilinear", antialias=False)


BIG_VISION = Format(
    name="big_vision",
    markers=("embedding/kernel", "Transformer/encoder_norm/scale"),
    absent=("Transformer/posembed_input/pos_embedding", "conv_root/kernel"),
    infer=_infer,
    rules=_rules,
    preprocess=_preprocess,
    headless=_headless,
    prepare=_prepare,
    finish=_finish,
    passengers=_PASSENGERS,
)
