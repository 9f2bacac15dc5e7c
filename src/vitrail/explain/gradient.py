"""Maps from gradients of a class logit. Shapes as in attention.py; where a method gives a number a pixel, a patch gets
the sum over its pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explain.attention import Maps, on_grid
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels

SAMPLES, NOISE = 16, 0.15  # SmoothGrad: images, and the noise's share of the range of the pixels
STEPS = 32  # integrated gradients


def per_patch(model: ViT, pixels: Float[Tensor, "B H W"]) -> Maps:
    """The sum over the pixels of each patch; pixels beyond the last whole patch are left out."""
    (rows, cols), (height, width) = model.config.grid, model.config.patch_pixels
    cut = pixels[:, : rows * height, : cols * width]
    return cut.unflatten(1, (rows, height)).unflatten(3, (cols, width)).sum(dim=(2, 4))


def gradient_of(model: ViT, images: Images, classes: Labels) -> Float[Tensor, "B C H W"]:
    """Of each image's class logit with respect to its pixels."""
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            given = images.detach().requires_grad_()
            score = model(given).gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, given)
    finally:
        model.train(training)
    return gradient


def input_gradient(model: ViT, images: Images, classes: Labels) -> Maps:
    """Size of the gradient at each pixel, largest over channels (Simonyan et al. 2014)."""
    return per_patch(model, gradient_of(model, images, classes).abs().amax(dim=1))


def smooth_gradient(model: ViT, images: Images, classes: Labels, samples: int = SAMPLES, seed: int = 0) -> Maps:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies of the image, then as `input_gradient`."""
    generator = torch.Generator().manual_seed(seed)
    spread = NOISE * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    for _ in range(samples):
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
        total += gradient_of(model, images + spread * noise, classes)
    return per_patch(model, (total / samples).abs().amax(dim=1))


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients: signed, a share of the logit's change from the baseline to the image."""

    map: Maps
    change: Float[Tensor, " B"]  # logit of the image less that of the baseline
    gap: Float[Tensor, " B"]  # sum of the map less `change`: the error of the sum over steps


def integrate(model: ViT, images: Images, classes: Labels, steps: int = STEPS) -> Integrated:
    """Integrated gradients (Sundararajan et al. 2017) from the mean colour (0 once normalised): midpoint rule."""
    total = torch.zeros_like(images)
    for step in range(steps):
        total += gradient_of(model, images * ((step + 0.5) / steps), classes)
    pixels = (images * total / steps).sum(dim=1)
    ends = [trace(model, x, parts=())[0].gather(1, classes[:, None])[:, 0] for x in (images, torch.zeros_like(images))]
    change = ends[0] - ends[1]
    return Integrated(per_patch(model, pixels), change, pixels.sum(dim=(1, 2)) - change)


def integrated_gradients(model: ViT, images: Images, classes: Labels) -> Maps:
    """The map of `integrate`."""
    return integrate(model, images, classes).map


def grad_cam(model: ViT, images: Images, classes: Labels) -> Maps:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) over the patch tokens.

    Where the head reads the class token, the patch tokens behind the last block have no gradient at all and the map
    would be zero: what the last block's attention reads is taken. Where the head pools patches, the tokens it pools.
    """
    logits, record = trace(model, images, parts=("norm1", "after_mlp"), gradients=True)
    last = record.blocks[-1]
    features = last.norm1 if model.config.pool == "token" else last.after_mlp
    score = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    patches = slice(model.config.prefix, None)
    weights = gradient[:, patches].mean(dim=1, keepdim=True)
    return on_grid(model, (weights * features[:, patches].detach()).sum(dim=2).clamp(min=0))
