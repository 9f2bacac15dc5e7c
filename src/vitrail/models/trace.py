"""Every named intermediate of one forward pass, computed from the model's own layers, without hooks.

Attention is written out here, since the fused kernel keeps no weights; a test holds the logits to the fused path's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.models.layers import Rotation
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
    mlp_hidden: Float[Tensor, "B T M"]  # after the GELU (or the gate)
    after_mlp: Tokens  # residual stream, equation 3


@dataclass(frozen=True)
class Trace:
    """A forward pass from embedding to logits."""

    embedded: Tokens  # after the positions were added, equation 1
    blocks: tuple[BlockTrace, ...]
    tokens: Tokens  # all tokens after the final norm
    pooled: Float[Tensor, "B ..."]  # what the head sees, equation 4: the class token, a mean, ...
    logits: Logits

    @property
    def class_token(self) -> Tensor:
        """What the head sees, by its name in a model with a class-token head."""
        return self.pooled


@torch.no_grad()
def trace(model: ViT, images: Images) -> tuple[Logits, Trace]:
    """Logits (B K) and the Trace of `images` (B C H W), with dropout and stochastic depth off."""
    training = model.training
    model.eval()
    try:
        x = embedded = model.embed(images)
        turn = model.rotation(images)
        blocks = []
        for block in model.blocks:
            record = _block(block, x, turn)
            blocks.append(record)
            x = record.after_mlp
        pooled = model.pool(x, [record.after_mlp for record in blocks[:-1]])
        logits = model.classify(pooled)
        tokens = model.norm(x)
    finally:
        model.train(training)
    return logits, Trace(embedded, tuple(blocks), tokens, pooled, logits)


def _block(block: EncoderBlock, x: Tokens, turn: Rotation | None) -> BlockTrace:
    q, k, v = block.attention.project(block.norm1(x), rotation=turn)
    attention = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    after_attention = x + block.scale1(block.attention.merge(attention @ v))
    hidden = block.mlp.hidden(block.norm2(after_attention))
    after_mlp = after_attention + block.scale2(block.mlp.fc2(hidden))
    return BlockTrace(q, k, v, attention, after_attention, hidden, after_mlp)
