"""Initial weights. `paper` is the original JAX code's (vit_jax/models_vit.py, models_resnet.py): Xavier for each of q,
k, v on its own, truncated LeCun normal for embeddings, zeros for the class token and the head. `normal` is timm's and
DeiT's: truncated normal of standard deviation 0.02 everywhere."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitrail.models.layers import MLP, Attention, LayerScale

if TYPE_CHECKING:
    from vitrail.models.resnet import ResNet
    from vitrail.models.vit import ViT


@torch.no_grad()
def initialise(model: "ViT", generator: torch.Generator | None = None) -> None:
    """Draw all weights of a Vision Transformer anew; nothing where they have no numbers, on the meta device: drawing
    there imports torch's compiler, which takes a second."""
    if model.patch_embedding.weight.is_meta:
        return
    config, paper = model.config, model.config.initialisation == "paper"
    _dense(model.patch_embedding, generator, paper)
    if model.class_token is not None and not paper:
        nn.init.normal_(model.class_token, std=0.02, generator=generator)
    elif model.class_token is not None:
        nn.init.zeros_(model.class_token)
    tokens = {model.position_embedding: config.position_std, model.distillation_token: 0.02, model.registers: 0.02}
    for token, std in tokens.items():
        if token is not None:
            nn.init.normal_(token, std=std, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.initial)
        elif isinstance(module, Attention):
            _attention(module, generator, paper)
        elif isinstance(module, MLP):
            _mlp(module, generator, paper)
    if model.pre_logits is not None:
        _dense(model.pre_logits, generator, paper)
    if model.attention_pool is not None:
        nn.init.xavier_uniform_(model.attention_pool.probe[0], generator=generator)
    if model.stem is not None:
        initialise_resnet(model.stem, generator)
    for head in (model.head, model.distillation_head):
        if head is not None:
            _head(head, config.head_bias)


@torch.no_grad()
def initialise_resnet(model: "ResNet", generator: torch.Generator | None = None) -> None:
    """Draw all weights of a ResNet anew: truncated LeCun normal, and a zero scale on each block's last norm, so that
    every block starts as its residual. Nothing on the meta device."""
    if model.root.weight.is_meta:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight, generator)
        elif isinstance(module, nn.GroupNorm):
            module.reset_parameters()
            if name.endswith(".norm3"):
                nn.init.zeros_(module.weight)
    if model.head is not None:
        _head(model.head, model.config.head_bias)


def lecun_normal_(weight: Tensor, generator: torch.Generator | None = None) -> None:
    """Normal of variance 1 / fan_in, truncated at two standard deviations (flax's default)."""
    std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978  # the divisor: that of the unit normal truncated at 2
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def _normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.trunc_normal_(weight, std=0.02, generator=generator)


def _attention(attention: Attention, generator: torch.Generator | None, paper: bool) -> None:
    qkv, out = attention.qkv.weight, attention.out.weight
    if paper:
        bound = math.sqrt(6 / (2 * qkv.shape[1]))  # fan in and out of one (D, D) matrix, not of the fused one
        nn.init.uniform_(qkv, -bound, bound, generator=generator)
        nn.init.xavier_uniform_(out, generator=generator)
    else:
        _normal(qkv, generator)
        _normal(out, generator)
    for bias in (attention.qkv.bias, attention.qv_bias, attention.out.bias):
        if bias is not None:
            nn.init.zeros_(bias)


def _mlp(mlp: MLP, generator: torch.Generator | None, paper: bool) -> None:
    for layer in (mlp.fc1, mlp.fc2):
        if paper:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.normal_(layer.bias, std=1e-6, generator=generator)
        else:
            _normal(layer.weight, generator)
            nn.init.zeros_(layer.bias)


def _dense(layer: nn.Conv2d | nn.Linear, generator: torch.Generator | None, paper: bool) -> None:
    (lecun_normal_ if paper else _normal)(layer.weight, generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _head(head: nn.Linear, bias: float) -> None:
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.constant_(head.bias, bias)
