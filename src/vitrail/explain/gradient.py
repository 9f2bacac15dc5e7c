"""Maps from gradients of a class logit. Shapes as in attention.py; where a method gives a number a pixel, a patch
(of a ResNet, a cell) gets the sum over its pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vitrail.explain.attention import known, score_of
from vitrail.explain.cells import Maps, answers, on_grid, per_cell, still
from vitrail.models.build import Network
from vitrail.models.resnet import ResNet
from vitrail.models.trace import trace
from vitrail.types import Images, Labels

SAMPLES, NOISE = 16, 0.15  # SmoothGrad: images, and the noise's share of the range of the pixels
STEPS = 32  # integrated gradients


def gradient_of(model: Network, images: Images, classes: Labels) -> Float[Tensor, "B C H W"]:
    """Of each image's class logit with respect to its pixels."""
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            given = images.detach().requires_grad_()
            score = score_of(model(given), classes)
            (gradient,) = torch.autograd.grad(score, given)
    finally:
        model.train(training)
    return gradient


def input_gradient(model: Network, images: Images, classes: Labels) -> Maps:
    """Size of the gradient at each pixel, largest over channels (Simonyan et al. 2014)."""
    return per_cell(model, gradient_of(model, images, classes).abs().amax(dim=1))


def smooth_gradient(model: Network, images: Images, classes: Labels, samples: int = SAMPLES, seed: int = 0) -> Maps:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies of the image, then as `input_gradient`."""
    generator = torch.Generator().manual_seed(seed)
    spread = NOISE * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    for _ in range(samples):
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
        total += gradient_of(model, images + spread * noise, classes)
    return per_cell(model, (total / samples).abs().amax(dim=1))


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients: signed, a share of the logit's change from the baseline to the image."""

    map: Maps
    change: Float[Tensor, " B"]  # logit of the image less that of the baseline
    gap: Float[Tensor, " B"]  # sum of the map less `change`: the error of the sum over steps


def integrate(model: Network, images: Images, classes: Labels, steps: int = STEPS) -> Integrated:
    """Integrated gradients (Sundararajan et al. 2017) from the mean colour (0 once normalised): midpoint rule."""
    total = torch.zeros_like(images)
    for step in range(steps):
        total += gradient_of(model, images * ((step + 0.5) / steps), classes)
    pixels = (images * total / steps).sum(dim=1)
    ends = [answers(model, x).gather(1, classes[:, None])[:, 0] for x in (images, torch.zeros_like(images))]
    change = ends[0] - ends[1]
    return Integrated(per_cell(model, pixels), change, pixels.sum(dim=(1, 2)) - change)


def integrated_gradients(model: Network, images: Images, classes: Labels) -> Maps:
    """The map of `integrate`."""
    return integrate(model, images, classes).map


def grad_cam(model: Network, images: Images, classes: Labels, layer: int | None = None) -> Maps:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) over the patch tokens, or a ResNet's last feature map.

    `layer`: whose input (its first norm's output) the features are, counted from 0; one more than the last block has is
    what the last gives. Where the head reads the class token, the patch tokens behind the last block have no gradient
    at all and that map is zero everywhere; so by default what the last block's attention reads is taken. Where the head
    pools patches, the default is the tokens it pools.
    """
    if isinstance(model, ResNet):
        return _feature_cam(model, images, classes)
    depth = model.config.depth
    if layer is None:
        layer = depth - 1 if model.config.pool == "token" else depth
    known("block", layer, depth + 1)
    logits, record = trace(model, images, parts=("norm1", "after_mlp"), gradients=True)
    features = record.blocks[layer].norm1 if layer < depth else record.blocks[-1].after_mlp
    score = score_of(logits, classes)
    (gradient,) = torch.autograd.grad(score, features)
    patches = slice(model.config.prefix, None)
    weights = gradient[:, patches].mean(dim=1, keepdim=True)
    return on_grid(model, (weights * features[:, patches].detach()).sum(dim=2).clamp(min=0))


def _feature_cam(model: ResNet, images: Images, classes: Labels) -> Maps:
    """Over the last feature map, whose cells are wider than the map's: interpolated to pixels, mean of each cell."""
    with still(model), torch.enable_grad():
        features = model.features(images)
        read = features.mean(dim=(2, 3))
        score = score_of(read if model.head is None else model.head(read), classes)
        (gradient,) = torch.autograd.grad(score, features)
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1, keepdim=True).clamp(min=0)
    pixels = functional.interpolate(cam, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return per_cell(model, pixels) / per_cell(model, torch.ones_like(pixels))
