"""From a configuration to its network; and which network it is by its weights."""

import hashlib
from typing import TypeAlias

import torch

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT

Network: TypeAlias = ViT | ResNet


def build(config: ViTConfig | ResNetConfig) -> Network:
    """The network of a configuration, with initial weights."""
    return ResNet(config) if isinstance(config, ResNetConfig) else ViT(config)


def weights_sha256(model: torch.nn.Module) -> str:
    """One hash over the names, types, shapes and values of all weights, the same for every file format and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
