"""Maps from what changes when something is taken away. Shapes as in attention.py; a map is a difference of logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.explain.attention import Maps, on_grid
from vitrail.models.intervention import Intervention
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.types import Images, Labels

MASKS, SHOWN = 256, 0.5  # RISE: random masks an image, and the share of patches each of them shows


def logits_without(model: ViT, images: Images, kept: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
    """Logits where each image has only the patches that `kept` is not zero at, as many for each: the others are not in
    the sequence, so the network sees no grey squares, which it has never been shown."""
    config = model.config
    prefix, count = config.prefix, int(kept[0].count_nonzero())
    if config.position == "rope":  # each token turns by where it is: the tables are one for the whole batch
        rows = []
        for image, row in zip(images, kept, strict=True):
            gone = (row == 0).nonzero().flatten().tolist()
            rows.append(trace(model, image[None], parts=(), change=Intervention(drop=gone))[0])
        return torch.cat(rows)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            x = model.embed(images)
            places = kept.to(x).argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values
            patches = x[:, prefix:].gather(1, places[..., None].expand(-1, -1, x.shape[2]))
            x = torch.cat([x[:, :prefix], patches], dim=1)
            return model.classify(model.run(x, None))
    finally:
        model.train(training)


def occlusion(model: ViT, images: Images, classes: Labels) -> Maps:
    """How much the class logit falls when one patch is taken out of the sequence, patch by patch."""
    patches = model.config.patches
    with torch.no_grad():
        whole = trace(model, images, parts=())[0].gather(1, classes[:, None])  # B 1
    falls = []
    for image, label, score in zip(images, classes, whole, strict=True):
        rows = []
        for part in (1 - torch.eye(patches)).split(64):
            copies = image[None].expand(len(part), -1, -1, -1)
            rows.append(logits_without(model, copies, part)[:, label])
        falls.append(score - torch.cat(rows))
    return on_grid(model, torch.stack(falls))


def rise(model: ViT, images: Images, classes: Labels, masks: int = MASKS, seed: int = 0) -> Maps:
    """RISE (Petsiuk et al. 2018, arXiv 1806.07421) on the patch grid: each patch gets the mean probability of the class
    over random halves of the patches that hold it, less the mean over all halves."""
    generator = torch.Generator().manual_seed(seed)
    patches = model.config.patches
    shown = max(1, round(SHOWN * patches))
    order = torch.rand(masks, patches, generator=generator).argsort(dim=1)
    kept = torch.zeros(masks, patches).scatter_(1, order[:, :shown], 1.0)
    maps = []
    for image, label in zip(images, classes, strict=True):
        scores = []
        for part in kept.split(64):
            copies = image[None].expand(len(part), -1, -1, -1)
            scores.append(logits_without(model, copies, part).softmax(dim=1)[:, label])
        score = torch.cat(scores)
        weight = kept.to(score)
        maps.append(score @ weight / weight.sum(dim=0).clamp(min=1) - score.mean())
    return on_grid(model, torch.stack(maps))


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
