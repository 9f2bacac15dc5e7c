"""vitrail's own names, for what no other library's layout can hold: pre_logits, hybrids, the ResNet baseline."""

import torch

from vitrail.config import Preprocess
from vitrail.errors import WeightsError
from vitrail.models.build import build
from vitrail.models.catalog import ModelConfig
from vitrail.weights.rename import Format, Hints, Rule, Shapes, same


def _rules(config: ModelConfig) -> list[Rule]:
    with torch.device("meta"):
        return [same(name, name) for name in build(config).state_dict()]


def _infer(shapes: Shapes, hints: Hints) -> ModelConfig:
    if hints.model is None:
        raise WeightsError("a file of vitrail's own names does not tell its options; give the model folder, or --model")
    return hints.model


NATIVE = Format(
    name="vitrail",
    markers=("root.weight",),  # the ResNet baseline; a ViT's folder says its format in vitrail.json
    absent=(),
    infer=_infer,
    rules=_rules,
    preprocess=lambda size: Preprocess(size=size),
)
