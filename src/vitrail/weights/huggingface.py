"""What the formats of Hugging Face's transformers share: its attention layers, and config.json both ways."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isqrt
from typing import Any, Literal, TypeAlias

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.catalog import ModelConfig
from vitrail.types import MULTILABEL, LabelSet
from vitrail.weights.processor import write_processor
from vitrail.weights.rename import HeadsNotTold, Hints, Rule, Shapes, Tensors, file_grid
from vitrail.weights.torch_layers import joined, layer

Gelu: TypeAlias = Literal["exact", "tanh", "quick"]
Files: TypeAlias = dict[str, dict[str, Any]]
Description: TypeAlias = Callable[[Any, LabelSet | None], dict[str, Any]]  # config.json of a model with these classes
_GELUS: Mapping[str, Gelu] = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "quick_gelu": "quick",
}
_WRITTEN_GELUS: Mapping[Gelu, str] = {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}

# Fields that every one of its networks can have, and those that matter in training or in resizing only.
_ANY = {
    "image_size", "patch_size", "cut_patches", "channels", "width", "depth", "heads", "mlp_dim", "classes", "norm_eps",
    "position_rule", "dropout", "stochastic_depth", "patch_dropout", "initialisation", "position_std", "head_bias",
}  # fmt: skip


def either(prefixes: Sequence[str], *keys: str) -> tuple[str, ...]:
    """Markers: each key behind one of the prefixes, or without one."""
    return tuple("|".join([key, *(prefix + key for prefix in prefixes)]) for key in keys)


def bare(tensors: Tensors, prefixes: Sequence[str], heads: Collection[str]) -> Tensors:
    """The tensors as a model without a head is saved, where none of `heads` is there: without a prefix."""
    if any(head in tensors for head in heads):
        return tensors
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in tensors):
            return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def body(shapes: Shapes, prefixes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes under the keys that a model without a head has."""
    prefix = next((prefix for prefix in prefixes if any(key.startswith(prefix) for key in shapes)), "")
    return {key.removeprefix(prefix): shape for key, shape in shapes.items()}


def has(shapes: Shapes, pattern: str) -> bool:
    """Whether a key fits the regular expression."""
    return any(re.fullmatch(pattern, key) for key in shapes)


def attention(ours: str, theirs: str, names: Sequence[str], config: ViTConfig) -> list[Rule]:
    """Four projections: queries, keys, values, output."""
    parts = [f"{theirs}.{name}" for name in names[:3]]
    rules = [joined(f"{ours}.qkv.weight", [f"{part}.weight" for part in parts])]
    if config.qkv_bias and config.key_bias:
        rules.append(joined(f"{ours}.qkv.bias", [f"{part}.bias" for part in parts]))
    elif config.qkv_bias:
        rules.append(joined(f"{ours}.qv_bias", [f"{parts[0]}.bias", f"{parts[2]}.bias"]))
    return rules + layer(f"{ours}.out", f"{theirs}.{names[3]}")


def described(hints: Hints, kinds: Sequence[str], part: str | None = None) -> Mapping[str, Any]:
    """config.json, where there is one; it must be of one of these model types. Of a model of image and text, `part`."""
    table = hints.description
    if table is None or "model_type" not in table:  # another library's
        return {}
    if (kind := table["model_type"]) not in kinds:
        raise WeightsError(
            f"config.json has the model_type {kind!r}; files of these names are read as {' or '.join(map(repr, kinds))}"
        )
    if part is None or part not in table:
        return table
    # Some files tell it twice; transformers then believes the second, whose missing fields mean the defaults.
    inner = table.get(f"{part}_dict") or table[part] or {}
    if not isinstance(inner, Mapping):
        raise WeightsError(f"{part} in config.json must be a table, found {inner!r}")
    return {"model_type": table["model_type"], **inner}


def heads_of(table: Mapping[str, Any], hints: Hints, default: int) -> int:
    """Heads leave no trace in the shapes: they come from config.json (whose missing fields mean transformers' own
    defaults) or from the model the user named."""
    if table:
        heads = table.get("num_attention_heads", default)
        if not isinstance(heads, int) or isinstance(heads, bool):
            raise WeightsError(f"num_attention_heads in config.json must be a number, found {heads!r}")
        return heads
    if isinstance(hints.model, ViTConfig):
        return hints.model.heads
    raise HeadsNotTold()


def gelu_of(table: Mapping[str, Any], default: Gelu) -> Gelu:
    """The activation that config.json names."""
    if "hidden_act" not in table:
        return default
    if (name := table["hidden_act"]) not in _GELUS:
        raise WeightsError(f"config.json has the hidden_act {name!r}; known: {', '.join(_GELUS)}")
    return _GELUS[name]


def must_be(table: Mapping[str, Any], values: Mapping[str, object]) -> None:
    """Raises WeightsError where config.json gives an option another value than the only one that is read."""
    for name, value in values.items():
        if name in table and table[name] != value:
            raise WeightsError(f"config.json has {name}={table[name]!r}; only {value!r} is read")


def image_size_of(
    table: Mapping[str, Any], asked: tuple[int, int] | None, patch: tuple[int, int], patches: int
) -> tuple[int, int]:
    """The image size (rows, cols) that a file of so many positions is for: config.json's, or that of a square grid."""
    stated = stated_size(table)
    square = isqrt(patches) ** 2 == patches
    grid = file_grid(patches, patch, stated, None if square else asked)
    if stated is not None and (stated[0] // patch[0], stated[1] // patch[1]) == grid:
        return stated
    return grid[0] * patch[0], grid[1] * patch[1]


def stated_size(table: Mapping[str, Any]) -> tuple[int, int] | None:
    """image_size of config.json as (rows, cols)."""
    size = table.get("image_size")
    sides = [size, size] if isinstance(size, int) else size
    if sides is None:
        return None
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise WeightsError(f"image_size in config.json must be one number or two, found {size!r}")
    return sides[0], sides[1]


def cut(size: tuple[int, int], patch: tuple[int, int]) -> bool:
    """Whether the last rows or columns of the image are less than a patch, which transformers' networks do not see."""
    return bool(size[0] % patch[0] or size[1] % patch[1])


def label_names(description: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Class names of a config.json of transformers; None where it has none for these classes, or placeholders."""
    table = description.get("id2label")
    if not classes or not isinstance(table, Mapping) or set(table) != {str(i) for i in range(classes)}:
        return None
    names = tuple(str(table[str(i)]) for i in range(classes))
    return None if names == _placeholders(classes) else names


def required(config: ModelConfig, holder: str, free: Collection[str], values: Mapping[str, object]) -> ViTConfig:
    """The config, where it differs from the plain ViT in fields that `holder` has (`free`) or needs (`values`) only.

    Raises WeightsError naming what `holder` cannot hold.
    """
    if not isinstance(config, ViTConfig):
        raise WeightsError(f"{holder} cannot hold a ResNet")
    plain = {**dict(ViTConfig()), **values}
    idle = {  # fields without an effect here
        "norm_after_pool": config.pool == "token",
        "distillation_head": not config.distillation_token,
        "position_prefix": config.position != "learned" or not config.heading,
        "position_registers": not config.registers,
        "rope_base": config.position != "rope",
        "gelu": config.mlp == "swiglu" and config.pool != "map",
        "key_bias": not config.qkv_bias,
        "head_has_bias": not config.classes,
    }
    odd = [
        f"{name}={value!r}"
        for name, value in config
        if value != plain[name] and (name in values if name in _ANY else name not in free and not idle.get(name))
    ]
    if odd:
        raise WeightsError(f"{holder} cannot hold {', '.join(odd)}")
    return config


def description_of(config: ViTConfig, kind: str, architecture: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json that all of transformers' networks share, and `fields`."""
    rows, cols = config.image_size
    return {
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": _WRITTEN_GELUS[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "image_size": rows if rows == cols else [rows, cols],
        "patch_size": config.patch_size[0] if len(set(config.patch_size)) == 1 else list(config.patch_size),
        "num_channels": config.channels,
        **fields,
    }


def classes_of(config: ViTConfig, labels: LabelSet | None) -> dict[str, Any]:
    """The fields of config.json that name the classes; transformers takes their number from them."""
    if not config.classes:
        return {}
    names = labels.names if labels is not None else _placeholders(config.classes)
    assert len(names) == config.classes
    kind = {"problem_type": MULTILABEL} if labels is not None and labels.multilabel else {}
    return {
        **kind,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def companions(description: Description) -> Callable[[Any, Preprocess, LabelSet | None], Files]:
    """The files of a format of transformers beside the tensors, from the function that gives its config.json."""

    def files(config: Any, preprocess: Preprocess, labels: LabelSet | None) -> Files:
        return {"config.json": description(config, labels), "preprocessor_config.json": write_processor(preprocess)}

    return files


def describe(description: Description) -> Callable[[Any, Preprocess], dict[str, Any] | None]:
    """config.json of a model, without class names, or None where transformers cannot hold the model."""

    def config_json(config: Any, preprocess: Preprocess) -> dict[str, Any] | None:
        try:
            return description(config, None)
        except WeightsError:
            return None

    return config_json


def _placeholders(classes: int) -> tuple[str, ...]:
    """Names that transformers itself makes up."""
    return tuple(f"LABEL_{i}" for i in range(classes))
