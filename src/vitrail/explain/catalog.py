"""The methods by name, and what a reader must know of each before believing its picture."""

from dataclasses import dataclass

from vitrail.errors import UnknownName
from vitrail.explain import attention, faithfulness, gradient, perturbation
from vitrail.explain.attention import Method


@dataclass(frozen=True)
class Row:
    """A method. `asks`: whether the map depends on the class; `unit`: of the map's numbers."""

    method: Method
    asks: bool
    unit: str
    says: str


METHODS: dict[str, Row] = {
    "attention": Row(attention.last_attention, False, "share of attention", "where the last block looks"),
    "rollout": Row(attention.rollout, False, "share of attention", "attention followed through all blocks"),
    "gradient_rollout": Row(
        attention.gradient_rollout, True, "share", "rollout of the attention that speaks for the class"
    ),
    "relevance": Row(attention.relevance, True, "logits", "attention times gradient, followed through all blocks"),
    "legrad": Row(attention.legrad, True, "logits", "how much each block's score would rise with more attention"),
    "grad_cam": Row(gradient.grad_cam, True, "logits", "features that the class rises with"),
    "input_gradient": Row(gradient.input_gradient, True, "logits a unit", "how sensitive the class is to the pixels"),
    "smooth_gradient": Row(gradient.smooth_gradient, True, "logits a unit", "the same, averaged over noisy copies"),
    "integrated_gradients": Row(
        gradient.integrated_gradients, True, "logits", "shares of the change from the mean colour to the image"
    ),
    "occlusion": Row(perturbation.occlusion, True, "logits", "what is lost without the patch"),
    "rise": Row(perturbation.rise, True, "probability", "what is gained on average by showing the patch"),
    "random": Row(faithfulness.random_map, False, "none", "nothing: the baseline"),
}


def find(name: str) -> Row:
    """The row called `name`. Raises UnknownName with close matches."""
    if name not in METHODS:
        raise UnknownName("explanation", name, METHODS)
    return METHODS[name]
