"""Maps from what changes when something is taken away. Shapes as in attention.py; a map is a difference of logits."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitrail.explain.cells import Maps, answers, baselines, grid, on_grid, stand_in_for, without
from vitrail.models.build import Network
from vitrail.models.intervention import Intervention
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels

MASKS, SHOWN = 256, 0.5  # RISE: random masks an image, and the share of patches each of them shows


def occlusion(model: Network, images: Images, classes: Labels) -> Maps:
    """How much the class logit falls when one patch is taken out of the sequence, patch by patch; of a ResNet, when a
    cell has the image's mean colour."""
    rows, cols = grid(model)
    kept = ~torch.eye(rows * cols, dtype=torch.bool, device=images.device)
    whole = answers(model, images)
    falls = [
        score[label] - _shown(model, image[None], kept)[:, label]
        for image, label, score in zip(images, classes, whole, strict=True)
    ]
    return on_grid(model, torch.stack(falls))


def rise(model: Network, images: Images, classes: Labels, masks: int = MASKS, seed: int = 0) -> Maps:
    """RISE (Petsiuk et al. 2018, arXiv 1806.07421) on the patch grid: each patch gets the mean probability of the class
    over random halves of the patches that hold it, less the mean over all halves."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = grid(model)
    shown = max(1, round(SHOWN * rows * cols))
    order = torch.rand(masks, rows * cols, generator=generator).argsort(dim=1)
    kept = torch.zeros(masks, rows * cols, dtype=torch.bool).scatter_(1, order[:, :shown], True).to(images.device)
    maps = []
    for image, label in zip(images, classes, strict=True):
        score = _shown(model, image[None], kept).softmax(dim=1)[:, label]
        weight = kept.to(score)
        maps.append(score @ weight / weight.sum(dim=0).clamp(min=1) - score.mean())
    return on_grid(model, torch.stack(maps))


def _shown(model: Network, image: Images, kept: Bool[Tensor, "N P"]) -> Float[Tensor, "N K"]:
    """Logits of one image with the cells of each row; where a row would leave no token of the image, as with the only
    patch of a model of one, the mean colour stands in."""
    baseline = baselines(model)[0] if bool(kept.any(dim=1).all()) else "mean"
    return without(model, image, kept, stand_in_for(image, baseline))


def head_importance(model: ViT, images: Images, classes: Labels) -> Float[Tensor, "B L h"]:
    """How much the class logit falls when one head gives its mean over the tokens instead of its own output."""
    config = model.config
    logits, clean = trace(model, images, parts=("after_mlp",))
    score = logits.gather(1, classes[:, None])[:, 0]
    falls = score.new_zeros(len(images), config.depth, config.heads)
    for block in range(config.depth):
        for head in range(config.heads):
            change = Intervention(heads={(block, head): "mean"})
            found, _ = trace(model, images, parts=(), change=change, clean=clean)
            falls[:, block, head] = score - found.gather(1, classes[:, None])[:, 0]
    return falls
