"""From a configuration to its network."""

from typing import TypeAlias

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.resnet import ResNet
from vitrail.models.vit import ViT

Network: TypeAlias = ViT | ResNet


def build(config: ViTConfig | ResNetConfig) -> Network:
    """The network of a configuration, with initial weights."""
    return ResNet(config) if isinstance(config, ResNetConfig) else ViT(config)
