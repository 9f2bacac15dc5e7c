"""The Vision Transformer of "An Image is Worth 16x16 Words" (ViT paper), in the paper's order and words.

Axes: B images, C channels, H W pixels, P patches, T tokens, D width, h heads, d = D / h, M mlp_dim, K classes.

Departures from the paper, each a field of ViTConfig: the exact GELU instead of the JAX code's tanh approximation
(`gelu`), and the last block computing only the class token, which gives the same logits with about 9 % less work.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.types import Images, Logits, Tokens


class Attention(nn.Module):
    """Multi-head self-attention MSA (ViT paper, appendix A), on torch's fused kernel."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)  # rows: all queries, all keys, all values
        self.out = nn.Linear(width, width)

    def forward(self, x: Tokens, queries: int | None = None) -> Float[Tensor, "B Q D"]:
        """Attention of all tokens, or of the first `queries` tokens only, over all tokens."""
        q, k, v = self.project(x, queries)
        return self.merge(F.scaled_dot_product_attention(q, k, v))

    def project(self, x: Tokens, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B h Q d), keys and values (B h T d) of the tokens; Q is `queries` or T."""
        if queries is None:
            q, k, v = self.split(self.qkv(x), 3)
            return q, k, v
        width, bias = x.shape[-1], self.qkv.bias
        query = F.linear(x[:, :queries], self.qkv.weight[:width], None if bias is None else bias[:width])
        key_value = F.linear(x, self.qkv.weight[width:], None if bias is None else bias[width:])
        (q,), (k, v) = self.split(query, 1), self.split(key_value, 2)
        return q, k, v

    def split(self, x: Float[Tensor, "B T nD"], parts: int) -> tuple[Tensor, ...]:
        """`parts` tensors (B h T d) of one fused projection."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def merge(self, heads: Float[Tensor, "B h T d"]) -> Tokens:
        """The heads side by side, through the output projection."""
        return self.out(heads.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two dense layers with a GELU between them (ViT paper, section 3.1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_dim)
        self.gelu = nn.GELU("tanh" if config.gelu == "tanh" else "none")
        self.fc2 = nn.Linear(config.mlp_dim, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tokens) -> Tokens:
        return self.dropout(self.fc2(self.dropout(self.gelu(self.fc1(x)))))


class StochasticDepth(nn.Module):
    """Drops a residual branch per image with probability `rate` and rescales the rest by 1 / (1 - rate)
    (Huang et al. 2016, "Deep Networks with Stochastic Depth")."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tokens) -> Tokens:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)


class EncoderBlock(nn.Module):
    """One pre-norm block of the encoder (ViT paper, equations 2 and 3)."""

    def __init__(self, config: ViTConfig, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.qkv_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.stochastic_depth = StochasticDepth(drop_rate)

    def forward(self, x: Tokens, queries: int | None = None) -> Float[Tensor, "B Q D"]:
        """The block's tokens, or only its first `queries` tokens."""
        mixed = self.dropout(self.attention(self.norm1(x), queries))
        x = x[:, :queries] + self.stochastic_depth(mixed)
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """The Vision Transformer (ViT paper, section 3.1, figure 1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, last = config.width, max(config.depth - 1, 1)
        self.patch_embedding = nn.Conv2d(config.channels, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if config.pool == "token" else None
        self.position_embedding = nn.Parameter(torch.empty(1, config.tokens, width))
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.stochastic_depth * i / last for i in range(config.depth)]
        blocks = nn.ModuleList(EncoderBlock(config, rate) for rate in rates)
        self.blocks = cast(Sequence[EncoderBlock], blocks)  # a ModuleList does not know what it holds
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.pre_logits = nn.Linear(width, config.pre_logits) if config.pre_logits else None
        self.head = nn.Linear(config.pre_logits or width, config.classes) if config.classes else None
        self.reset()

    def forward(self, images: Images) -> Logits:
        """Logits of normalised images (B C H W); features (B D) where the config has no classes."""
        x = self.embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, queries=1 if self.config.pool == "token" else None)
        return self.classify(self.pool(self.norm(x)))

    def embed(self, images: Images) -> Tokens:
        """Patches, linearly embedded, behind the class token, with positions added (equation 1)."""
        expected = (self.config.channels, *self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), found {tuple(images.shape)}")
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)  # B P D
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)  # B T D
        return self.dropout(x + self.position_embedding)

    def pool(self, x: Tokens) -> Float[Tensor, "B D"]:
        """What the head sees of the normalised tokens: the class token (equation 4) or the mean over patches."""
        return x[:, 0] if self.config.pool == "token" else x.mean(dim=1)

    def classify(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """The head: one linear layer, after the tanh representation layer where the config has one."""
        if self.pre_logits is not None:
            x = torch.tanh(self.pre_logits(x))
        return x if self.head is None else self.head(x)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights as the original code does (vit_jax/models_vit.py): Xavier for each of q, k, v on
        its own, truncated LeCun normal for the embedding, zeros for the class token and the head."""
        lecun_normal_(self.patch_embedding.weight, generator)
        nn.init.zeros_(_bias(self.patch_embedding))
        if self.class_token is not None:
            nn.init.zeros_(self.class_token)
        nn.init.normal_(self.position_embedding, std=self.config.position_std, generator=generator)
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            bound = math.sqrt(6 / (2 * self.config.width))  # fan in and out of one (D, D) matrix, not of the fused one
            nn.init.uniform_(attention.qkv.weight, -bound, bound, generator=generator)
            nn.init.xavier_uniform_(attention.out.weight, generator=generator)
            for bias in (attention.qkv.bias, attention.out.bias):
                if bias is not None:
                    nn.init.zeros_(bias)
            for layer in (mlp.fc1, mlp.fc2):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.normal_(layer.bias, std=1e-6, generator=generator)
        if self.pre_logits is not None:
            lecun_normal_(self.pre_logits.weight, generator)
            nn.init.zeros_(self.pre_logits.bias)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.constant_(self.head.bias, self.config.head_bias)


def lecun_normal_(weight: Tensor, generator: torch.Generator | None = None) -> None:
    """Normal of variance 1 / fan_in, truncated at two standard deviations (flax's default)."""
    fan_in = weight[0].numel()
    std = math.sqrt(1 / fan_in) / 0.87962566103423978  # the last: standard deviation of the unit normal truncated at 2
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
