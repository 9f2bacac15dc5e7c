"""Token merging: tokens that look alike become one on the way through the blocks, which then have less to do.

Bolya et al. 2023, "Token Merging: Your ViT But Faster" (ToMe), section 3: patches are dealt into two sets in turn,
each of the first finds the most similar of the second by its keys, and the `count` best pairs merge into their mean,
weighted by how many patches each stands for; attention weighs a token by that number. An approximation: the model was
not trained so, and what it costs is to be measured.

Axes: B images, T tokens, D width, h heads, d = D / h, N and M tokens of the two sets.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.vit import EncoderBlock
from vitrail.types import Tokens

Sizes = Float[Tensor, "B T 1"]  # patches that a token stands for


def check_mergeable(config: ViTConfig, count: int) -> None:
    """ConfigError where tokens of this model cannot merge."""
    if count < 0:
        raise ConfigError(f"the tokens to merge in each block should be 0 or more, found {count}")
    if count and (config.position == "rope" or config.pool != "token"):
        raise ConfigError(
            "tokens merge in models whose positions are added before the blocks and whose head reads the class token; "
            f"this one has position={config.position} and pool={config.pool}"
        )


def merging_block(
    block: EncoderBlock, x: Tokens, size: Sizes, count: int, prefix: int
) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S 1"]]:
    """One block of a folded model, `count` tokens fewer between its attention and its MLP."""
    q, k, v = block.attention.project(block.norm1(x))
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=weight(size), scale=block.attention.scale)
    x = x + block.scale1(block.attention.merge(heads))
    x, size = merge(x, size, k.mean(dim=1), count, prefix)
    return x + block.scale2(block.mlp(block.norm2(x))), size


def weight(size: Sizes) -> Float[Tensor, "B 1 1 T"]:
    """What is added to the products of queries and keys so that a token counts as often as its patches would."""
    return size.log().transpose(1, 2)[:, None]


def merge(
    x: Tokens, size: Sizes, keys: Float[Tensor, "B T d"], count: int, prefix: int
) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S 1"]]:
    """`count` tokens fewer (at most half of the patches): the tokens and what each stands for. Prefix tokens stay."""
    count = min(count, (x.shape[1] - prefix) // 2)
    if not count:
        return x, size
    keys = F.normalize(keys, dim=-1)
    likeness = keys[:, prefix::2] @ keys[:, prefix + 1 :: 2].transpose(1, 2)  # B N M
    best, partner = likeness.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)[..., None]  # B N 1
    going, staying = order[:, :count], order[:, count:]
    to = partner[..., None].gather(1, going).transpose(1, 2)  # B 1 count
    share = (to == torch.arange(likeness.shape[2], device=x.device)[:, None]).to(x.dtype)  # B M count
    sums, first = x * size, x[:, prefix::2]
    size1, size2 = size[:, prefix::2], size[:, prefix + 1 :: 2]
    merged_size = size2 + share @ size1.gather(1, going)
    merged = sums[:, prefix + 1 :: 2] + share @ _rows(sums[:, prefix::2], going)
    kept = [x[:, :prefix], _rows(first, staying), merged / merged_size]
    return torch.cat(kept, dim=1), torch.cat([size[:, :prefix], size1.gather(1, staying), merged_size], dim=1)


def _rows(x: Float[Tensor, "B N D"], index: Tensor) -> Float[Tensor, "B R D"]:
    return x.gather(1, index.expand(-1, -1, x.shape[2]))
