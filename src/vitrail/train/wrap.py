"""What a run puts around the blocks of a model, from outside: the model itself is plain code for one device."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitrail.models.resnet import Bottleneck
from vitrail.models.vit import EncoderBlock

MOST_VARIANTS = 64  # beyond it torch would go on without compiling


def wrap_blocks(model: nn.Module, *, compile: bool, checkpointing: bool) -> None:
    """Compile each block, have each recompute its activations in the backward pass (Chen et al. 2016), or both.

    Names and values of parameters stay. Compiled code gives other bits than plain code; recomputation gives the same,
    and draws the same dropout again.
    """
    if compile:  # one code for all blocks: batch sizes, modes and rates of stochastic depth share its few variants
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    for block in model.modules():
        if isinstance(block, EncoderBlock | Bottleneck):
            forward = torch.compile(block.forward) if compile else block.forward
            if checkpointing:
                forward = partial(checkpoint, forward, use_reentrant=False)
            if compile or checkpointing:
                setattr(block, "forward", forward)  # noqa: B010  # on this block alone, not on its class
