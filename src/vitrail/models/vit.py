"""The Vision Transformer of "An Image is Worth 16x16 Words" (ViT paper), in the paper's order and words.

Axes: B images, C channels, H W pixels, P patches, T tokens, D width, K classes.

Departures from the paper, each a field of ViTConfig: the exact GELU instead of the JAX code's tanh approximation
(`gelu`); the last block computing only the tokens the head reads, which gives the same logits with about 9 % less
work; and what later models added (registers, LayerScale, rotary positions, ...), all off by default.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.models.initial import initialise
from vitrail.models.layers import (
    MLP,
    Attention,
    AttentionPool,
    LayerScale,
    Rotation,
    StochasticDepth,
    rotation,
    sincos2d,
)
from vitrail.models.resnet import ResNet
from vitrail.types import Images, Logits, Tokens


class EncoderBlock(nn.Module):
    """One pre-norm block of the encoder (ViT paper, equations 2 and 3)."""

    def __init__(self, config: ViTConfig, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)
        scaled = config.layer_scale is not None
        self.scale1 = LayerScale(config.width, cast(float, config.layer_scale)) if scaled else nn.Identity()
        self.scale2 = LayerScale(config.width, cast(float, config.layer_scale)) if scaled else nn.Identity()
        self.stochastic_depth = StochasticDepth(drop_rate)

    def forward(
        self, x: Tokens, queries: int | None = None, rotation: Rotation | None = None
    ) -> Float[Tensor, "B Q D"]:
        """The block's tokens, or only its first `queries` tokens."""
        mixed = self.dropout(self.attention(self.norm1(x), queries, rotation))
        x = x[:, :queries] + self.stochastic_depth(self.scale1(mixed))
        return x + self.stochastic_depth(self.scale2(self.mlp(self.norm2(x))))


class ViT(nn.Module):
    """The Vision Transformer (ViT paper, section 3.1, figure 1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, last = config.width, max(config.depth - 1, 1)
        self.stem = ResNet(config.stem) if config.stem is not None else None
        inputs = config.channels if config.stem is None else config.stem.features
        self.patch_embedding = nn.Conv2d(inputs, width, config.patch_size, config.patch_size, bias=config.patch_bias)
        self.class_token = _token(1, width) if config.class_token else None
        self.distillation_token = _token(1, width) if config.distillation_token else None
        self.registers = _token(config.registers, width) if config.registers else None
        learned = config.position == "learned"
        self.position_embedding = _token(config.position_rows + config.patches, width) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.norm_before = nn.LayerNorm(width, eps=config.norm_eps) if config.norm_before else nn.Identity()
        rates = [config.stochastic_depth * i / last for i in range(config.depth)]
        blocks = nn.ModuleList(EncoderBlock(config, rate) for rate in rates)
        self.blocks = cast(Sequence[EncoderBlock], blocks)  # a ModuleList does not know what it holds
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention_pool = AttentionPool(config) if config.pool == "map" else None
        self.pre_logits = nn.Linear(config.pooled, config.pre_logits) if config.pre_logits else None
        bias, features = config.head_has_bias, config.pre_logits or config.pooled
        self.head = nn.Linear(features, config.classes, bias=bias) if config.classes else None
        distilled = config.distilled and config.classes
        self.distillation_head = nn.Linear(features, config.classes, bias=bias) if distilled else None
        self.reset()

    def forward(self, images: Images) -> Logits:
        """Logits of normalised images (B C H W); features (B D) where the config has no classes."""
        return self.classify(self.encode(images))

    def encode(self, images: Images) -> Float[Tensor, "B F"] | Float[Tensor, "B N F"]:
        """The pooled tokens of the images, which `classify` takes; the last block computes only the tokens it reads."""
        return self.run(self.embed(images), self.rotation(images))

    def run(self, x: Tokens, turn: Rotation | None) -> Float[Tensor, "B F"] | Float[Tensor, "B N F"]:
        """The pooled tokens, from the embedded ones."""
        earlier: list[Tensor] = []
        for i, block in enumerate(self.blocks[:-1]):
            x = block(x, rotation=turn)
            if i >= self.config.depth - self.config.pool_blocks:
                earlier.append(x)
        read = self.config.heading if self.config.pool == "token" else None  # the tokens that the head reads
        return self.pool(self.blocks[-1](x, read, turn), earlier)

    def represent(self, images: Images) -> Float[Tensor, "B F"]:
        """What the linear head reads of each image: after the tanh layer where there is one, and of both tokens, one
        behind the other, where two heads read one each."""
        x = self.encode(images)
        return (x if self.pre_logits is None else torch.tanh(self.pre_logits(x))).flatten(1)

    def embed(self, images: Images) -> Tokens:
        """Patches, linearly embedded, behind the prefix tokens, with positions added (equation 1)."""
        x = self.patches(images)  # B P D
        return self.drop_patches(self.join(x, self.positions(x)))

    def join(self, x: Float[Tensor, "B P D"], positions: Float[Tensor, "1 S D"] | None) -> Float[Tensor, "B T D"]:
        """Prefix tokens before the embedded patches, positions added to those that have one."""
        rows = self.config.position_rows
        if positions is not None:
            x = x + positions[:, rows:]
        parts: list[Tensor] = [token for token in (self.class_token, self.distillation_token) if token is not None]
        parts += [] if self.registers is None else [self.registers]
        if positions is not None and rows:
            prefix = torch.cat(parts, dim=1)
            parts = [prefix[:, :rows] + positions[:, :rows], prefix[:, rows:]]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in parts), x], dim=1)  # B T D
        return self.norm_before(self.dropout(x))

    def patches(self, images: Images) -> Float[Tensor, "B P D"]:
        """The embedded patches of the images, or of the stem's feature map."""
        expected = (self.config.channels, *self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), found {tuple(images.shape)}")
        x = images if self.stem is None else self.stem.features(images)
        return self.patch_embedding(x).flatten(2).transpose(1, 2)

    def positions(self, x: Tensor) -> Float[Tensor, "1 S D"] | None:
        """What is added to the tokens to tell where they are, in the precision of `x`."""
        if self.config.position == "sincos2d":
            return sincos2d(self.config).to(x)
        return self.position_embedding

    def rotation(self, x: Tensor) -> Rotation | None:
        """What turns queries and keys by where they are, in the precision of `x`."""
        if self.config.position != "rope":
            return None
        cos, sin = rotation(self.config)
        return cos.to(x), sin.to(x)

    def drop_patches(self, x: Tokens) -> Float[Tensor, "B S D"]:
        """While training, a random part of each image's patches, with all prefix tokens (patch dropout)."""
        if not self.training or self.config.patch_dropout == 0.0:
            return x
        prefix = self.config.prefix
        kept = max(1, round((x.shape[1] - prefix) * (1 - self.config.patch_dropout)))
        order = torch.rand(len(x), x.shape[1] - prefix, device=x.device).argsort(dim=1)[:, :kept] + prefix
        return torch.cat([x[:, :prefix], x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))], dim=1)

    def pool(self, x: Tokens, earlier: Sequence[Tensor] = ()) -> Float[Tensor, "B F"] | Float[Tensor, "B N F"]:
        """What the head sees of the last block's tokens: the class token (equation 4), the mean over patches, the
        class token beside that mean, or attention pooling; the class and distillation tokens where DeiT has both.
        `earlier`: what the blocks before it gave, class token first; a pool over several blocks reads the last."""
        config = self.config
        x = x if config.norm_after_pool else self.norm(x)
        if config.pool == "token":
            x = x[:, : config.heading] if config.distilled else x[:, 0]
        elif config.pool == "gap":
            x = x[:, config.prefix :].mean(dim=1)
        elif config.pool == "token_gap":
            before = [self.norm(tokens[:, :1])[:, 0] for tokens in earlier[len(earlier) + 1 - config.pool_blocks :]]
            x = torch.cat([*before, x[:, 0], x[:, config.prefix :].mean(dim=1)], dim=1)
        elif self.attention_pool is not None:
            x = self.attention_pool(x[:, config.prefix :])
        return self.norm(x) if config.norm_after_pool else x

    def classify(self, x: Float[Tensor, "B D"] | Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """The head: one linear layer, after the tanh representation layer where the config has one."""
        if self.distillation_head is not None:
            of_class, of_distillation = self.head_logits(x)
            return (of_class + of_distillation) / 2
        if self.pre_logits is not None:
            x = torch.tanh(self.pre_logits(x))
        return x if self.head is None else self.head(x)

    def head_logits(self, x: Float[Tensor, "B D"] | Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B K"], ...]:
        """The logits of each head on its own: of the class token's and the distillation token's where DeiT has both,
        whose mean `classify` gives; else of the one head."""
        if self.distillation_head is not None and self.head is not None:
            return self.head(x[:, 0]), self.distillation_head(x[:, 1])
        return (self.classify(x),)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights (models/initial.py)."""
        initialise(self, generator)


def _token(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, count, width))
