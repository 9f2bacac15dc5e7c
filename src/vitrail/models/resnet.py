"""The ResNet of the ViT paper's hybrids and CNN baseline (vit_jax/models_resnet.py): post-activation bottlenecks,
GroupNorm instead of batch statistics, standardised weights, and TensorFlow's SAME padding.

Axes: B images, C channels, H W pixels or features, K classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import ResNetConfig
from vitrail.models.initial import initialise_resnet
from vitrail.types import Images, Logits

FeatureMap = Float[Tensor, "B C H W"]
Smaller = Float[Tensor, "B O R S"]  # another map, of other channels and sides


class StdConv(nn.Conv2d):
    """A convolution without bias whose kernels are standardised over (in, rows, cols): (w - mean) / (std + eps)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)
        self.eps = eps

    def forward(self, x: FeatureMap) -> Smaller:
        padded = same_padding(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(padded, self.standardised(), stride=self.stride)

    def standardised(self) -> Float[Tensor, "O C k k"]:
        """The kernels that are applied."""
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return weight / (weight.std(dim=(1, 2, 3), keepdim=True, correction=0) + self.eps)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, each with its norm; the residual is projected where it must."""

    def __init__(self, config: ResNetConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1) -> StdConv:
            return StdConv(i, o, kernel, stride, config.weight_eps)

        def norm(channels: int) -> nn.GroupNorm:
            return nn.GroupNorm(config.groups, channels, eps=config.norm_eps)

        projected = inputs != 4 * width or stride != 1
        self.projection = conv(inputs, 4 * width, 1, stride) if projected else None
        self.projection_norm = norm(4 * width) if projected else None
        self.conv1, self.norm1 = conv(inputs, width, 1), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3, stride), norm(width)
        self.conv3, self.norm3 = conv(width, 4 * width, 1), norm(4 * width)

    def forward(self, x: FeatureMap) -> Smaller:
        residual = x
        if self.projection is not None and self.projection_norm is not None:
            residual = self.projection_norm(self.projection(x))
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(residual + self.norm3(self.conv3(y)))


class ResNet(nn.Module):
    """Root convolution and pool, then stages of bottlenecks; a linear head on the mean feature where it has classes."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.root = StdConv(config.channels, config.width, 7, 2, config.weight_eps)
        self.root_norm = nn.GroupNorm(config.groups, config.width, eps=config.norm_eps)
        stages, inputs = [], config.width
        for i, count in enumerate(config.layers):
            width = config.width * 2**i
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            units = [Bottleneck(config, inputs if j == 0 else 4 * width, width, s) for j, s in enumerate(strides)]
            stages.append(nn.Sequential(*units))
            inputs = 4 * width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(config.features, config.classes) if config.classes else None
        self.reset()

    def forward(self, images: Images) -> Logits:
        """Logits of normalised images (B C H W); mean features (B C) where the config has no classes."""
        x = self.represent(images)
        return x if self.head is None else self.head(x)

    def represent(self, images: Images) -> Float[Tensor, "B D"]:
        """What the linear head reads of each image: the mean feature."""
        return self.features(images).mean(dim=(2, 3))

    def features(self, images: Images) -> Smaller:
        """The feature map: 1 / stride of the image's sides, rounded up."""
        expected = (self.config.channels, *self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images must be (B, {', '.join(map(str, expected))}), found {tuple(images.shape)}")
        x = torch.relu(self.root_norm(self.root(images)))
        x = F.max_pool2d(same_padding(x, 3, 2, value=-torch.inf), 3, 2)
        return self.stages(x)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights (models/initial.py)."""
        initialise_resnet(self, generator)


def same_padding(x: FeatureMap, kernel: int, stride: int, value: float = 0.0) -> Smaller:
    """TensorFlow's SAME: output sides are ceil(side / stride), the odd pixel of padding goes after (bottom, right)."""
    sides = x.shape[-2:]
    rows, cols = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides)
    if not (rows or cols):
        return x
    return F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2), value=value)
