"""Sums that are exact: a logit as what each head and MLP adds to it; and what the head would say at each depth."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.models.trace import Trace, pooled_at, trace
from vitrail.models.vit import ViT
from vitrail.types import Images, Logits


def logit_lens(model: ViT, record: Trace) -> Float[Tensor, "L B K"]:
    """What the head would answer if the network ended behind the embedding, and behind each block (L = depth + 1).

    The last is the model's answer. The final norm and the head were trained on the last block's tokens only: early
    answers are off their ground and say little.
    """
    with torch.no_grad():
        return torch.stack([model.classify(pooled_at(model, record, depth)) for depth in range(len(record.blocks) + 1)])


def patch_lens(model: ViT, record: Trace) -> Float[Tensor, "L B P K"]:
    """The same, read from each patch in place of the class token (Vilas et al. 2023, arXiv 2310.18969).

    ConfigError for a head that does not read one token.
    """
    _one_token(model, "patch_lens")
    depths = [record.embedded, *(block.after_mlp for block in record.blocks)]
    with torch.no_grad():
        found = []
        for x in depths:
            read = model.norm(x[:, model.config.prefix :])
            if model.pre_logits is not None:
                read = torch.tanh(model.pre_logits(read))
            found.append(read if model.head is None else model.head(read))
        return torch.stack(found)


@dataclass(frozen=True)
class Attribution:
    """What each part of the network adds to the logits; all of it sums to them exactly."""

    embedding: Logits
    heads: Float[Tensor, "B L h K"]
    attention_bias: Float[Tensor, "B L K"]  # of the output projection: no head's own
    mlp: Float[Tensor, "B L K"]
    bias: Float[Tensor, " K"]  # of the final norm and of the head

    def total(self) -> Logits:
        """The sum, which is the logits."""
        parts = self.embedding + self.heads.sum(dim=(1, 2)) + self.attention_bias.sum(dim=1) + self.mlp.sum(dim=1)
        return parts + self.bias


@torch.no_grad()
def direct_logit_attribution(model: ViT, images: Images) -> Attribution:
    """The logits of a class-token model as a sum over embedding, heads and MLPs.

    The final norm divides by one number a token; with that number as it is, norm and head are linear in what was added
    to the class token, so the sum is exact. It is what each part adds directly, not what others make of it further up.
    ConfigError for other heads (mean, attention pooling, two tokens, a tanh layer).
    """
    _one_token(model, "direct logit attribution")
    if model.pre_logits is not None:
        raise ConfigError("direct logit attribution needs a linear head: this model has a tanh layer before it")
    _, record = trace(model, images, parts=("heads", "after_attention", "after_mlp"))
    final = record.blocks[-1].after_mlp[:, 0]
    deviation = (final.var(dim=-1, unbiased=False, keepdim=True) + model.norm.eps).sqrt()  # B 1
    head = model.head
    assert head is not None  # a classifier

    def to_logits(added: Tensor) -> Tensor:
        """... D to ... K."""
        centred = added - added.mean(dim=-1, keepdim=True)
        scale = deviation.reshape(-1, *[1] * (added.ndim - 1))
        return (centred / scale * model.norm.weight) @ head.weight.T

    heads, biases, mlps = [], [], []
    entering = record.embedded
    for block, part in zip(model.blocks, record.blocks, strict=True):
        weight = block.attention.out.weight.unflatten(1, (model.config.heads, -1))  # D h d
        each = torch.einsum("bhd,ohd->bho", part.heads[:, :, 0], weight)
        heads.append(to_logits(block.scale1(each)))
        bias = block.attention.out.bias
        biases.append(to_logits(block.scale1(bias.expand(len(images), 1, -1))[:, 0]))
        mlps.append(to_logits((part.after_mlp - part.after_attention)[:, 0]))
    embedding = to_logits(entering[:, 0])
    constant = head.weight @ model.norm.bias + (0 if head.bias is None else head.bias)
    return Attribution(embedding, torch.stack(heads, 1), torch.stack(biases, 1), torch.stack(mlps, 1), constant)


def _one_token(model: ViT, what: str) -> None:
    if model.config.pool != "token" or model.config.distilled:
        raise ConfigError(f"{what} needs a head that reads the class token alone: this model's reads otherwise")
