"""Maps from attention: what the tokens that the head reads have gathered, and from where.

Every function is of (model, images (B C H W), classes (B)) and gives a map (B rows cols), one number a patch. Nothing
is scaled to the largest value: a map of a model that looks nowhere in particular must look flat.
Axes: B images, h heads, T tokens, P patches.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.errors import UnknownName
from vitrail.explain.cells import Maps, on_grid
from vitrail.models.trace import Trace, pooled_at, trace
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels, Logits

Mixing = Float[Tensor, "B T T"]


@torch.no_grad()
def read_weights(model: ViT, record: Trace) -> Float[Tensor, "B T"]:
    """How much the head reads from each token after the last block; rows sum to one.

    The class token (and half of it DeiT's distillation token), the patches alike, or the weights of attention pooling.
    """
    config, tokens = model.config, record.tokens
    weights = tokens.new_zeros(tokens.shape[:2])
    patches = slice(config.prefix, None)
    count = tokens.shape[1] - config.prefix
    if config.pool == "token":
        weights[:, : config.heading if config.distilled else 1] = 1 / (config.heading if config.distilled else 1)
    elif config.pool == "gap":
        weights[:, patches] = 1 / count
    elif config.pool == "token_gap":
        weights[:, 0], weights[:, patches] = 0.5, 0.5 / count
    elif record.pool_attention is not None:
        weights[:, patches] = record.pool_attention.mean(dim=1)[:, 0]
    return weights


def _seen(model: ViT, record: Trace, mixing: Float[Tensor, "B T T"]) -> Maps:
    """What the head takes from each patch through `mixing` (rows: tokens after it, columns: tokens before)."""
    row = read_weights(model, record)[:, None] @ mixing
    return on_grid(model, row[:, 0, model.config.prefix :])


def block_attention(
    model: ViT, images: Images, classes: Labels, layer: int | None = None, head: int | None = None
) -> Maps:
    """Attention of one block (by default the last) and head (by default their mean), from the tokens that the model's
    head reads. The class plays no part. Raises UnknownName for a block or head that the model does not have."""
    _, record = trace(model, images, parts=("attention",))
    config = model.config
    layer = known("block", config.depth - 1 if layer is None else layer, config.depth)
    looks = record.blocks[layer].attention  # B h T T
    chosen = looks.mean(dim=1) if head is None else looks[:, known("head", head, config.heads)]
    return _seen(model, record, chosen)


def last_attention(model: ViT, images: Images, classes: Labels) -> Maps:
    """`block_attention` of the last block, mean over heads."""
    return block_attention(model, images, classes)


def known(kind: str, number: int, count: int) -> int:
    """The number of a block or head, counted from 0. Raises UnknownName."""
    if not 0 <= number < count:
        raise UnknownName(kind, str(number), [str(i) for i in range(count)])
    return number


def rollout(model: ViT, images: Images, classes: Labels) -> Maps:
    """Attention rollout (Abnar & Zuidema 2020; ViT paper, appendix D.7): the product over blocks of half the mean
    attention and half the identity, which stands for the residual. The class plays no part."""
    _, record = trace(model, images, parts=("attention",))
    return _seen(model, record, product([half_residual(b.attention.mean(dim=1)) for b in record.blocks]))


def gradient_rollout(model: ViT, images: Images, classes: Labels, discard: float = 0.9) -> Maps:
    """Rollout of attention times its gradient (jacobgil/vit-explain), with rows that sum to one.

    Of each block's products, mean over heads, negative ones count as zero, and so does the lowest share `discard`.
    """
    record, gradients = _attention_gradients(model, images, classes)
    mixings = []
    for block, gradient in zip(record.blocks, gradients, strict=True):
        kept = (gradient * block.attention.detach()).mean(dim=1).clamp(min=0)
        wide = kept.flatten(1).to(torch.promote_types(kept.dtype, torch.float32))  # halves have no quantile
        least = wide.quantile(discard, dim=1) if discard else kept.new_zeros(len(kept))
        mixing = half_residual(kept * (kept >= least[:, None, None]))
        mixings.append(mixing / mixing.sum(dim=-1, keepdim=True))
    return _seen(model, record, product(mixings))


def relevance(model: ViT, images: Images, classes: Labels) -> Maps:
    """Relevance of Chefer et al. 2021 (arXiv 2103.15679, equations 5 and 6): R = (I + A_L) ... (I + A_1), where A is
    the mean over heads of the positive part of attention times its gradient."""
    record, gradients = _attention_gradients(model, images, classes)
    mixings = []
    for block, gradient in zip(record.blocks, gradients, strict=True):
        positive = (gradient * block.attention.detach()).clamp(min=0).mean(dim=1)
        mixings.append(torch.eye(positive.shape[-1]).to(positive) + positive)
    return _seen(model, record, product(mixings))


def legrad(model: ViT, images: Images, classes: Labels) -> Maps:
    """LeGrad (Bousselham et al. 2024, arXiv 2404.03214): the positive gradient of each block's class score with respect
    to its attention, mean over heads, queries and blocks.

    A block's score is what the head answers to its tokens. Where it reads the class token, it is given the mean of all
    tokens, as the authors' code gives it: the class token's own row of attention says much less (docs/log.md).
    """
    _, record = trace(model, images, parts=("attention", "after_mlp"), gradients=True)
    total: Tensor | None = None
    for depth, block in enumerate(record.blocks, 1):
        score = score_of(model.classify(_read_by_all(model, record, depth)), classes)
        (gradient,) = torch.autograd.grad(score, block.attention, retain_graph=True)
        positive = gradient.clamp(min=0).mean(dim=(1, 2))[:, model.config.prefix :]
        total = positive if total is None else total + positive
    assert total is not None  # a model has a block
    return on_grid(model, total / len(record.blocks))


def _read_by_all(model: ViT, record: Trace, depth: int) -> Tensor:
    """What the head would see behind block `depth`, of the mean of all tokens where it would see the class token's."""
    if model.config.pool != "token":
        return pooled_at(model, record, depth)
    mean = record.blocks[depth - 1].after_mlp.mean(dim=1, keepdim=True)
    return model.pool(mean.expand(-1, max(model.config.heading, 1), -1))


def score_of(logits: Logits, classes: Labels) -> Float[Tensor, ""]:
    """The sum over the images of the logit of each one's class: what is differentiated."""
    return logits.gather(1, classes.clone()[:, None]).sum()  # a clone: classes may come out of inference mode


def half_residual(attention: Mixing) -> Mixing:
    """Half the attention, half the token itself."""
    return 0.5 * attention + 0.5 * torch.eye(attention.shape[-1]).to(attention)


def product(mixings: Sequence[Mixing]) -> Mixing:
    """The matrices multiplied, the deepest block's on the left."""
    return reduce(lambda below, above: above @ below, mixings)


def _attention_gradients(model: ViT, images: Images, classes: Labels) -> tuple[Trace, tuple[Tensor, ...]]:
    """The trace, and the gradient of each image's class logit with respect to each block's attention (B h T T)."""
    logits, record = trace(model, images, parts=("attention",), gradients=True)
    score = score_of(logits, classes)
    return record, torch.autograd.grad(score, [block.attention for block in record.blocks])
