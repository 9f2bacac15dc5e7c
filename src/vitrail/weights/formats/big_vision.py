"""big_vision's `.npz` (google-research/big_vision, models/vit.py): positions without a class row, learned or sincos2d;
heads token, gap or map; layers one by one or stacked by scan; `params/` or `params/img/` before every key."""

from typing import Any

from torch import Tensor

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.types import LabelSet
from vitrail.weights.flax import attention, conv, dense, norm
from vitrail.weights.rename import Format, Hints, Rule, Shapes, Tensors, count_of, file_grid, same, shape_of

_PREFIXES = ("params/img/", "params/", "img/", "opt/target/")
_STACKED = "Transformer/encoderblock/"


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
    if learned:
        grid = file_grid(shape_of(shapes, r"pos_embedding", 3)[1], (rows, cols), hints.image_size)
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
        position_prefix=False,
        gelu="tanh",
        position_rule="paper",
    )


def _prepare(tensors: Tensors) -> Tensors:
    """Without a prefix, and with layers that scan stacked on axis 0 one by one."""
    for prefix in _PREFIXES:
        if f"{prefix}embedding/kernel" in tensors:
            tensors = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            break
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


def _companions(config: Any, preprocess: Preprocess, labels: LabelSet | None) -> dict[str, dict[str, Any]]:
    """No file, but a WeightsError for positions that its code has no row for."""
    if isinstance(config, ViTConfig) and config.position_rows:
        raise WeightsError("big_vision cannot hold position_prefix=True, a row of positions for the class token")
    return {}


BIG_VISION = Format(
    name="big_vision",
    markers=("embedding/kernel", "Transformer/encoder_norm/scale"),
    absent=("Transformer/posembed_input/pos_embedding", "conv_root/kernel"),
    infer=_infer,
    rules=_rules,
    preprocess=_preprocess,
    prepare=_prepare,
    companions=_companions,
)
