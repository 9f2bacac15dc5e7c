"""A network as inference needs it: from the pixels that `fit` gives (uint8) to the logits, with everything that is
known before the first image computed once. Each saving is exact: tests hold it to the network in float64.

- (pixels / 255 - mean) / std is one linear map a channel, so it goes into the patch embedding's kernel and bias. Before
  a zero-padded convolution (the ResNets) only the division does: padding is zero in normalised units.
- A LayerNorm's weight and bias go into the linear layer behind it, and likewise the softmax's 1 / sqrt(d) into the
  queries and a LayerScale into the layer before it.
- Prefix tokens with their positions are one constant; so are the patches' positions with the embedding's bias; so are
  the standardised kernels of a ResNet.

The last block computes only the tokens that the head reads, as `ViT.forward` does.

Axes: B images, P patches, T tokens, D width, h heads, d = D / h.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitrail.config import Preprocess
from vitrail.errors import ConfigError
from vitrail.models.build import Network
from vitrail.models.layers import MLP, Attention, AttentionPool, LayerScale
from vitrail.models.merge import check_mergeable, merging_block, weight
from vitrail.models.resnet import ResNet, StdConv, same_padding
from vitrail.models.vit import EncoderBlock, ViT
from vitrail.types import Logits, Tokens


class FoldedViT(nn.Module):
    """A ViT from uint8 pixels (B 3 H W) to logits (B K), or features where it has no head."""

    positions: Tensor  # 1 P D, with the patch embedding's bias
    prefix: Tensor  # 1 S D
    shift: Tensor  # 1 C 1 1, subtracted from the pixels of a hybrid

    def __init__(self, network: ViT, preprocess: Preprocess, merge: int = 0) -> None:
        super().__init__()
        config = network.config
        check_mergeable(config, merge)
        self.merge = merge
        whole = copy.deepcopy(network).eval().double()
        dtype = next(network.parameters()).dtype
        joined = _constants(whole)
        prefix, patches = joined[:, : config.prefix], joined[:, config.prefix :]
        if whole.stem is None:
            patches = patches + _fold_pixels(whole.patch_embedding, preprocess)
            self.register_buffer("shift", None)
        else:
            patches = patches + _taken_bias(whole.patch_embedding, config.width)
            self.register_buffer("shift", _fold_root(whole.stem, preprocess).to(dtype))
        for block in whole.blocks:
            _fold_block(block)
        _fold_final(whole)
        whole.dropout = nn.Identity()  # type: ignore[assignment]
        self.network = whole.to(dtype)
        self.register_buffer("positions", patches.to(dtype))
        self.register_buffer("prefix", prefix.to(dtype))
        turn = network.rotation(next(network.parameters()))
        self.register_buffer("cos", None if turn is None else turn[0])
        self.register_buffer("sin", None if turn is None else turn[1])
        self.requires_grad_(False).eval()

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        x = pixels.to(self.positions.dtype)
        if self.network.stem is not None:
            x = self.network.stem.features(x - self.shift)
        x = self.network.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions  # B P D
        if self.prefix.shape[1]:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)  # B T D
        x = self.network.norm_before(x)
        turn = None if self.cos is None else (cast(Tensor, self.cos), cast(Tensor, self.sin))
        return self.network.classify(self.run_merging(x) if self.merge else self.network.run(x, turn))

    def run_merging(self, x: Tokens) -> Float[Tensor, "B F"] | Float[Tensor, "B N F"]:
        """The pooled tokens, where each block but the last leaves `merge` tokens fewer (models/merge.py)."""
        network = self.network
        size = torch.ones_like(x[..., :1])
        for block in network.blocks[:-1]:
            x, size = merging_block(block, x, size, self.merge, network.config.prefix)
        block, read = network.blocks[-1], network.config.heading
        q, k, v = block.attention.project(block.norm1(x), read)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=weight(size), scale=block.attention.scale)
        x = x[:, :read] + block.scale1(block.attention.merge(heads))
        return network.pool(x + block.scale2(block.mlp(block.norm2(x))))


class FoldedResNet(nn.Module):
    """A ResNet from uint8 pixels (B 3 H W) to logits (B K), or features where it has no head."""

    shift: Tensor

    def __init__(self, network: ResNet, preprocess: Preprocess) -> None:
        super().__init__()
        dtype = next(network.parameters()).dtype
        whole = copy.deepcopy(network).eval().double()
        self.register_buffer("shift", _fold_root(whole, preprocess).to(dtype))
        self.network = whole.to(dtype)
        self.requires_grad_(False).eval()

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Logits:
        return self.network(pixels.to(self.shift.dtype) - self.shift)


class FixedConv(nn.Module):
    """A StdConv whose kernel is already standardised."""

    weight: Tensor

    def __init__(self, conv: StdConv) -> None:
        super().__init__()
        self.kernel, self.stride = conv.kernel_size[0], conv.stride
        self.register_buffer("weight", conv.standardised())

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O R S"]:
        return F.conv2d(same_padding(x, self.kernel, self.stride[0]), self.weight, stride=self.stride)


Folded = FoldedViT | FoldedResNet


def fold(network: Network, preprocess: Preprocess, merge: int = 0) -> Folded:
    """The inference form of a network on images prepared by `preprocess`. The network itself is left as it is. `merge`
    tokens of each block merge into others, an approximation (models/merge.py); ConfigError where they cannot."""
    with torch.no_grad():
        if not isinstance(network, ResNet):
            return FoldedViT(network, preprocess, merge)
        if merge:
            raise ConfigError("a ResNet has no tokens to merge")
        return FoldedResNet(network, preprocess)


def _constants(whole: ViT) -> Float[Tensor, "1 T D"]:
    """What is the same for all images where the blocks begin, but for a norm before them, which reads the patches."""
    nothing = torch.zeros(1, whole.config.patches, whole.config.width, dtype=torch.float64)
    norm, whole.norm_before = whole.norm_before, nn.Identity()
    joined = whole.join(nothing, whole.positions(nothing))
    whole.norm_before = norm
    return joined


def _taken_bias(embedding: nn.Conv2d, width: int) -> Float[Tensor, " D"]:
    """The patch embedding's bias, which it has no more afterwards."""
    bias = torch.zeros(width, dtype=torch.float64) if embedding.bias is None else embedding.bias.detach()
    embedding.bias = None
    return bias


def _fold_pixels(embedding: nn.Conv2d, preprocess: Preprocess) -> Float[Tensor, " D"]:
    """Normalisation into the kernel; the bias that is left over for the positions."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    bias = _taken_bias(embedding, embedding.out_channels) - (embedding.weight * (mean / std)).sum(dim=(1, 2, 3))
    embedding.weight.data = embedding.weight.data / (255 * std)
    return bias.detach()


def _fold_root(resnet: ResNet, preprocess: Preprocess) -> Float[Tensor, "1 3 1 1"]:
    """All kernels standardised, the root's also divided by 255 std; the shift that is left: 255 mean."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    for parent in list(resnet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, StdConv):
                setattr(parent, name, FixedConv(child))
    root = cast(FixedConv, resnet.root)
    root.weight = root.weight / (255 * std)
    return 255 * mean


def _fold_block(block: EncoderBlock) -> None:
    _fold_attention(block.attention)
    block.norm1 = _fold_norm(block.norm1, [block.attention.qkv])
    block.norm2 = _fold_norm(block.norm2, [block.mlp.fc1])
    for scale, layer in ((block.scale1, block.attention.out), (block.scale2, block.mlp.fc2)):
        if isinstance(scale, LayerScale):
            _scale_rows(layer, scale.gamma)
    for name in ("scale1", "scale2", "dropout", "stochastic_depth"):
        setattr(block, name, nn.Identity())
    _drop_dropout(block.mlp)


def _fold_attention(attention: Attention) -> None:
    """One bias for queries, keys and values, and 1 / sqrt(d) in the queries, or in their norm."""
    qkv, rows = attention.qkv, attention.qkv.out_features // 3
    bias = attention.bias()
    qkv.bias = nn.Parameter(torch.zeros(3 * rows, dtype=qkv.weight.dtype) if bias is None else bias.detach().clone())
    attention.qv_bias = None
    scale = (rows // attention.heads) ** -0.5
    if attention.q_norm is not None:
        attention.q_norm.weight.data *= scale
        attention.q_norm.bias.data *= scale
    else:
        qkv.weight.data[:rows] *= scale
        qkv.bias.data[:rows] *= scale
    attention.scale = 1.0


def _fold_norm(norm: nn.LayerNorm, layers: Sequence[nn.Linear], first: int = 0, times: int = 1) -> nn.LayerNorm:
    """Move weight and bias of a norm into the linear layers that read it (their rows from `first` on; `times` copies of
    it side by side); the norm that is left has neither."""
    for layer in layers:
        weight, bias = norm.weight.tile(times), norm.bias.tile(times)
        shift = layer.weight.data[first:] @ bias
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_features, dtype=layer.weight.dtype))
        layer.bias.data[first:] += shift
        layer.weight.data[first:] *= weight
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def _fold_final(whole: ViT) -> None:
    """The last norm into what reads it, and the attention pool's own."""
    pool = whole.attention_pool
    if pool is not None:
        _fold_pool(pool)
    heads: Iterable[nn.Linear | None] = (whole.head, whole.distillation_head)
    readers = [whole.pre_logits] if whole.pre_logits is not None else [h for h in heads if h is not None]
    if pool is not None and not whole.config.norm_after_pool:
        rows = pool.attention.qkv.out_features // 3
        whole.norm = _fold_norm(whole.norm, [pool.attention.qkv], first=rows)  # the query is the probe's
    elif readers:
        parts = whole.config.pooled // whole.config.width
        whole.norm = _fold_norm(whole.norm, readers, times=parts)


def _fold_pool(pool: AttentionPool) -> None:
    _fold_attention(pool.attention)
    pool.norm = _fold_norm(pool.norm, [pool.mlp.fc1])
    _drop_dropout(pool.mlp)


def _drop_dropout(mlp: MLP) -> None:
    mlp.dropout = nn.Identity()  # type: ignore[assignment]


def _scale_rows(layer: nn.Linear, gamma: Float[Tensor, " D"]) -> None:
    layer.weight.data *= gamma[:, None]
    layer.bias.data *= gamma
