"""The layers of an encoder block. Axes: B images, T tokens, D width, h heads, d = D / h, M mlp_dim."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.types import Tokens

WRITTEN_OUT = 640  # most tokens whose scores are held in memory at once; 384 px in patches of 16 are 577
Rotation = tuple[Tensor, Tensor]  # cosines and sines (T d, or B 1 T d); one and zero for prefix tokens


class Attention(nn.Module):
    """Multi-head self-attention MSA (ViT paper, appendix A)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, d = config.width, config.width // config.heads
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias and config.key_bias)  # rows: queries, keys, values
        self.qv_bias = nn.Parameter(torch.zeros(2 * width)) if config.qkv_bias and not config.key_bias else None
        self.q_norm = nn.LayerNorm(d, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.LayerNorm(d, eps=config.norm_eps) if config.qk_norm else None
        self.out = nn.Linear(width, width)
        self.scale: float | None = None  # of the products before the softmax; None: 1 / sqrt(d). See models/fold.py

    def forward(
        self, x: Tokens, queries: int | None = None, rotation: Rotation | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Attention of all tokens, or of the first `queries` tokens only, over all tokens."""
        q, k, v = self.project(x, queries, rotation)
        return self.merge(attend(q, k, v, self.scale))

    def project(
        self, x: Tokens, queries: int | None = None, rotation: Rotation | None = None
    ) -> tuple[Float[Tensor, "B h Q d"], Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]:
        """Queries (B h Q d), keys and values (B h T d) of the tokens; Q is `queries` or T."""
        width, bias = x.shape[-1], self.bias()
        if queries is None:
            q, k, v = self.split(F.linear(x, self.qkv.weight, bias), 3)
        else:
            query = F.linear(x[:, :queries], self.qkv.weight[:width], None if bias is None else bias[:width])
            key_value = F.linear(x, self.qkv.weight[width:], None if bias is None else bias[width:])
            (q,), (k, v) = self.split(query, 1), self.split(key_value, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            cos, sin = rotation
            q, k = rotate(q, cos[..., : q.shape[2], :], sin[..., : q.shape[2], :]), rotate(k, cos, sin)
        return q, k, v

    def bias(self) -> Float[Tensor, " N"] | None:
        """The bias of queries, keys and values."""
        if self.qv_bias is None:
            return self.qkv.bias
        q, v = self.qv_bias.chunk(2)
        return torch.cat([q, torch.zeros_like(q), v])

    def split(self, x: Float[Tensor, "B T nD"], parts: int) -> tuple[Tensor, ...]:
        """`parts` tensors (B h T d) of one fused projection."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def merge(self, heads: Float[Tensor, "B h Q d"]) -> Float[Tensor, "B Q D"]:
        """The heads side by side, through the output projection."""
        return self.out(heads.transpose(1, 2).flatten(2))


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the approximation OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """Two dense layers with a GELU between them (ViT paper, section 3.1), or with a gate: silu(a) * b (SwiGLU)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        self.fc1 = nn.Linear(config.width, config.mlp_dim * (2 if self.gated else 1))  # swiglu rows: gate, then value
        self.gelu = QuickGELU() if config.gelu == "quick" else nn.GELU("tanh" if config.gelu == "tanh" else "none")
        self.fc2 = nn.Linear(config.mlp_dim, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.dropout(self.fc2(self.dropout(self.hidden(x))))

    def hidden(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T M"]:
        """What the second layer reads."""
        if not self.gated:
            return self.gelu(self.fc1(x))
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return F.silu(gate) * value


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021, "Going deeper with ...")."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x * self.gamma


class StochasticDepth(nn.Module):
    """Drops a residual branch per image with probability `rate` and rescales the rest by 1 / (1 - rate)
    (Huang et al. 2016, "Deep Networks with Stochastic Depth")."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)


class AttentionPool(nn.Module):
    """One learned token that attends to all tokens, then an MLP with a residual (big_vision's MAPHead)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        # the options of the encoder's attention (norms, missing biases) do not reach this one in any published model
        plain = config.model_copy(
            update={"qk_norm": False, "qkv_bias": True, "key_bias": True, "mlp": "gelu", "dropout": 0.0}
        )
        self.probe = nn.Parameter(torch.empty(1, 1, config.width))
        self.attention = Attention(plain)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(plain)

    def forward(self, x: Tokens) -> Float[Tensor, "B D"]:
        """The pooled features."""
        return self.finish(self.attention.merge(attend(*self.project(x), self.attention.scale)))

    def project(self, x: Tokens) -> tuple[Float[Tensor, "B h 1 d"], Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]:
        """The probe's query, and the tokens' keys and values."""
        fused, bias, width = self.attention.qkv.weight, self.attention.qkv.bias, x.shape[-1]
        (q,) = self.attention.split(F.linear(self.probe, fused[:width], bias[:width]), 1)  # the same for all images
        k, v = self.attention.split(F.linear(x, fused[width:], bias[width:]), 2)
        return q.expand(x.shape[0], -1, -1, -1), k, v

    def finish(self, x: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B D"]:
        """From what attention gathered to the features."""
        return (x + self.mlp(self.norm(x)))[:, 0]


def attend(
    q: Float[Tensor, "B h Q d"], k: Float[Tensor, "B h T d"], v: Float[Tensor, "B h T d"], scale: float | None = None
) -> Float[Tensor, "B h Q d"]:
    """softmax(q k' / sqrt(d)) v (ViT paper, equations 6 and 7), by torch's fused kernel; in bfloat16 on a processor as
    written, where that is three to seven times as fast (docs/log.md) and the scores of so few tokens are small. `scale`
    in place of 1 / sqrt(d)."""
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or k.shape[2] > WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (q * scale @ k.transpose(2, 3)).softmax(-1) @ v


def rotate(x: Float[Tensor, "B h T d"], cos: Float[Tensor, "*X T d"], sin: Float[Tensor, "*X T d"]) -> Tensor:
    """Rotary position embedding: the halves of each head's channels as two coordinates, turned by its angles."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


@lru_cache(maxsize=16)
def rotation(config: ViTConfig) -> Rotation:
    """Cosines and sines (T d) of DINOv3's axial RoPE: patch centres in [-1, 1] along each axis, half of a head's
    angles by row and half by column, prefix tokens unturned. Float64, on the CPU wherever the model is being built:
    they are kept for all models of this configuration."""
    rows, cols = config.grid
    d = config.width // config.heads
    frequencies = config.rope_base ** -_range(0, 1, 4 / d)  # d / 4
    y, x = ((_range(n) + 0.5) / n * 2 - 1 for n in (rows, cols))
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2)  # P 2
    angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(1, 2)  # P d
    angles = torch.cat([angles.new_zeros(config.prefix, d), angles])
    return angles.cos(), angles.sin()


@lru_cache(maxsize=16)
def sincos2d(config: ViTConfig) -> Float[Tensor, "1 P D"]:
    """Fixed positions of big_vision (models/vit.py posemb_sincos_2d): sines and cosines of x, then of y. Float64,
    on the CPU."""
    rows, cols = config.grid
    y, x = torch.meshgrid(*(_range(n) for n in (rows, cols)), indexing="ij")
    omega = _range(config.width // 4) / (config.width // 4 - 1)
    omega = 1 / 10_000**omega
    x, y = (axis.flatten()[:, None] * omega for axis in (x, y))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)[None]


def _range(*limits: int | float) -> Float[Tensor, " N"]:
    return torch.arange(*limits, dtype=torch.float64, device="cpu")
