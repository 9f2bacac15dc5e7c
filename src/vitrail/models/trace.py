"""Every named intermediate of one forward pass, computed from the model's own layers, without hooks.

Attention is written out here, since the fused kernel keeps no weights; a test holds the logits to the fused path's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.models.vit import EncoderBlock, ViT
from vitrail.types import Images, Logits, Tokens


@dataclass(frozen=True)
class BlockTrace:
    """One encoder block. `attention[b, h, t, s]` is how much token t takes from token s; its rows sum to one."""

    queries: Float[Tensor, "B h T d"]
    keys: Float[Tensor, "B h T d"]
    values: Float[Tensor, "B h T d"]
    attention: Float[Tensor, "B h T T"]
    after_attention: Tokens  # residual stream, equation 2
    mlp_hidden: Float[Tensor, "B T M"]  # after the GELU
    after_mlp: Tokens  # residual stream, equation 3


@dataclass(frozen=True)
class Trace:
    """A forward pass from embedding to logits."""

    embedded: Tokens  # after the positions were added, equation 1
    blocks: tuple[BlockTrace, ...]
    tokens: Tokens  # all tokens after the final norm
    class_token: Float[Tensor, "B D"]  # what the head sees, equation 4; the mean over patches for a gap head
    logits: Logits


@torch.no_grad()
def trace(model: ViT, images: Images) -> tuple[Logits, Trace]:
    """Logits (B K) and the Trace of `images` (B C H W), with dropout and stochastic depth off."""
    training = model.training
    model.eval()
    try:
        x = embedded = model.embed(images)
        blocks = []
        for block in model.blocks:
            record = _block(block, x)
            blocks.append(record)
            x = record.after_mlp
        tokens = model.norm(x)
        pooled = model.pool(tokens)
        logits = model.classify(pooled)
    finally:
        model.train(training)
    return logits, Trace(embedded, tuple(blocks), tokens, pooled, logits)


def _block(block: EncoderBlock, x: Tokens) -> BlockTrace:
    q, k, v = block.attention.project(block.norm1(x))
    attention = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    after_attention = x + block.attention.merge(attention @ v)
    hidden = block.mlp.gelu(block.mlp.fc1(block.norm2(after_attention)))
    return BlockTrace(q, k, v, attention, after_attention, hidden, after_attention + block.mlp.fc2(hidden))
