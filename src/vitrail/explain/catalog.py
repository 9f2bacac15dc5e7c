"""The methods by name, and what a reader must know of each before believing its picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from vitrail.errors import ConfigError, UnknownName
from vitrail.explain import attention, faithfulness, gradient, perturbation
from vitrail.explain.cells import Maps, Method
from vitrail.models.build import Network
from vitrail.models.resnet import ResNet
from vitrail.types import Images, Labels

# (model, images, classes, layer, head): layer and head as the row takes them
Chosen: TypeAlias = Callable[[Any, Images, Labels, int | None, int | None], Maps]


@dataclass(frozen=True)
class Row:
    """A method that gives a map. `asks`: whether the map depends on the class; `unit`: of the map's numbers; `signed`:
    whether a number can speak against the class; `tokens`: whether it needs a Vision Transformer; `chosen`: the method
    at a block, and where `heads` at a head, that the caller names."""

    method: Method
    asks: bool
    unit: str
    says: str
    signed: bool = False
    tokens: bool = False
    chosen: Chosen | None = None
    heads: bool = False


METHODS: dict[str, Row] = {
    "attention": Row(
        attention.last_attention,
        False,
        "share of attention",
        "where the last block looks",
        tokens=True,
        chosen=attention.block_attention,
        heads=True,
    ),
    "rollout": Row(
        attention.rollout, False, "share of attention", "attention followed through all blocks", tokens=True
    ),
    "gradient_rollout": Row(
        attention.gradient_rollout, True, "share", "rollout of the attention that speaks for the class", tokens=True
    ),
    "relevance": Row(
        attention.relevance, True, "logits", "attention times gradient, followed through all blocks", tokens=True
    ),
    "legrad": Row(
        attention.legrad, True, "logits", "how much each block's score would rise with more attention", tokens=True
    ),
    "grad_cam": Row(
        gradient.grad_cam,
        True,
        "logits",
        "features that the class rises with",
        chosen=lambda model, images, classes, layer, _: gradient.grad_cam(model, images, classes, layer),
    ),
    "input_gradient": Row(gradient.input_gradient, True, "logits a unit", "how sensitive the class is to the pixels"),
    "smooth_gradient": Row(gradient.smooth_gradient, True, "logits a unit", "the same, averaged over noisy copies"),
    "integrated_gradients": Row(
        gradient.integrated_gradients,
        True,
        "logits",
        "shares of the change from the mean colour to the image",
        signed=True,
    ),
    "occlusion": Row(perturbation.occlusion, True, "logits", "what is lost without the patch", signed=True),
    "rise": Row(perturbation.rise, True, "probability", "what is gained on average by showing the patch", signed=True),
    "random": Row(faithfulness.random_map, False, "none", "nothing: the baseline"),
}


@dataclass(frozen=True)
class Number:
    """What explains a model or an answer in numbers that are no map over the image. `place`: the function."""

    place: str
    says: str


NUMBERS: dict[str, Number] = {
    "logit_lens": Number("decomposition.logit_lens", "what the head would answer behind each block"),
    "patch_lens": Number("decomposition.patch_lens", "what it would answer to each patch"),
    "logit_attribution": Number(
        "decomposition.direct_logit_attribution", "a logit as the exact sum of what each head and MLP adds"
    ),
    "head_importance": Number("perturbation.head_importance", "what the logit loses without each head"),
    "attention_distance": Number("representation.attention_distance", "how far each head looks, in pixels"),
    "attention_entropy": Number("representation.attention_entropy", "how widely each head looks"),
    "prefix_mass": Number("representation.prefix_mass", "attention that goes to class token and registers"),
    "position_similarity": Number("representation.position_similarity", "how alike the position embeddings are"),
    "patch_filters": Number("representation.patch_filters", "principal components of the patch embedding"),
    "token_norms": Number("representation.token_norms", "length of each token; `outliers` flags registers"),
    "cka": Number("representation.cka", "how alike two layers see the same images"),
}


def find(name: str) -> Row:
    """The row called `name`. Raises UnknownName with close matches; ConfigError for what gives numbers and no map."""
    if name in NUMBERS:
        number = NUMBERS[name]
        raise ConfigError(
            f"{name} gives numbers, not a map over the image ({number.says}): call vitrail.explain.{number.place} "
            f"from Python. Maps: {', '.join(METHODS)}"
        )
    if name not in METHODS:
        raise UnknownName("explanation", name, METHODS)
    return METHODS[name]


def applying(model: Network) -> list[str]:
    """The methods that apply to a model."""
    return [name for name, row in METHODS.items() if not (row.tokens and isinstance(model, ResNet))]


def check(name: str, model: Network, layer: int | None = None, head: int | None = None) -> Row:
    """The row called `name`, if it applies to the model and takes the block and head that are given. Raises what `find`
    raises, and ConfigError."""
    row = find(name)
    if row.tokens and isinstance(model, ResNet):
        raise ConfigError(
            f"{name} needs attention, and a ResNet has none; methods that apply: {', '.join(applying(model))}"
        )
    if layer is not None and (row.chosen is None or isinstance(model, ResNet)):
        takers = [n for n in applying(model) if METHODS[n].chosen is not None and not isinstance(model, ResNet)]
        raise ConfigError(f"{name} takes no layer; those that do: {', '.join(takers) or 'none of a ResNet'}")
    if head is not None and not row.heads:
        raise ConfigError(f"{name} takes no head; those that do: {', '.join(n for n, r in METHODS.items() if r.heads)}")
    return row
