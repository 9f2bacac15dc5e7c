"""What the network has learned and where it keeps it: filters, positions, distances, norms, similarity of layers."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vitrail.errors import ConfigError
from vitrail.models.layers import sincos2d
from vitrail.models.trace import Trace
from vitrail.models.vit import ViT

OUTLIER = 6.0  # robust standard deviations from the median above which a token's norm stands out
_TO_STD = 1.4826  # median absolute deviation -> standard deviation of a normal


def attention_distance(model: ViT, record: Trace) -> Float[Tensor, "B L h"]:
    """Mean attention distance in pixels (ViT paper, figure 7 right and figure 11): how far each head looks.

    For each patch the distance to the others' centres, weighted by its attention to patches alone (renormalised over
    them; `prefix_mass` tells the rest), mean over the patches.
    """
    centres = _centres(model)[record.places]
    distances = torch.cdist(centres, centres)
    prefix = record.prefix
    rows = []
    for block in record.blocks:
        looks = block.attention[:, :, prefix:, prefix:]
        looks = looks / looks.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(looks.dtype).tiny)
        rows.append((looks * distances.to(looks)).sum(dim=-1).mean(dim=-1))
    return torch.stack(rows, dim=1)


def prefix_mass(record: Trace) -> Float[Tensor, "B L h"]:
    """The share of the patches' attention that goes to class token, distillation token and registers."""
    prefix = record.prefix
    return torch.stack([b.attention[:, :, prefix:, :prefix].sum(dim=-1).mean(dim=-1) for b in record.blocks], dim=1)


def attention_entropy(record: Trace) -> Float[Tensor, "B L h"]:
    """Entropy in nats of the attention rows, mean over tokens: 0 where each looks at one token, log T at all alike."""
    rows = [b.attention for b in record.blocks]
    return torch.stack([-(a * a.clamp_min(torch.finfo(a.dtype).tiny).log()).sum(-1).mean(-1) for a in rows], dim=1)


def position_similarity(model: ViT) -> Float[Tensor, "P P"]:
    """Cosine between the position embeddings of the patches (ViT paper, figure 7 centre). ConfigError where the model
    adds none."""
    if model.config.position == "sincos2d":
        rows = sincos2d(model.config)[0]
    elif model.position_embedding is not None:
        rows = model.position_embedding[0, model.config.position_rows :].detach()
    else:
        raise ConfigError(f"this model adds no position embedding (position={model.config.position!r})")
    unit = functional.normalize(rows.double(), dim=1)
    return unit @ unit.T


@dataclass(frozen=True)
class Filters:
    """Principal components of the patch embedding's filters, the largest first."""

    components: Float[Tensor, "N C h w"]  # orthonormal; the largest entry of each is positive
    variance: Float[Tensor, " N"]  # share of the whole, sums to one over all components


def patch_filters(model: ViT, count: int = 28) -> Filters:
    """PCA over the D filters of the patch embedding, centred (ViT paper, figure 7 left; it shows 28)."""
    weight = model.patch_embedding.weight.detach().double()  # D C h w
    rows = weight.flatten(1)
    _, sizes, directions = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    directions = directions * largest.sign()
    share = sizes.square() / sizes.square().sum().clamp_min(torch.finfo(sizes.dtype).tiny)
    return Filters(directions[:count].unflatten(1, weight.shape[1:]), share[:count])


def token_norms(record: Trace) -> Float[Tensor, "B T"]:
    """Length of each token behind the last block, before the final norm (Darcet et al. 2023, arXiv 2309.16588)."""
    return record.blocks[-1].after_mlp.norm(dim=-1)


def outliers(norms: Float[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Tokens whose norm stands out of its image: above the median by six robust standard deviations.

    The published cut at 150 is one model's; the rule goes by the spread of the tokens at hand.
    """
    median = norms.median(dim=1, keepdim=True).values
    spread = _TO_STD * (norms - median).abs().median(dim=1, keepdim=True).values
    return (norms - median) > OUTLIER * spread.clamp_min(torch.finfo(norms.dtype).tiny)


def cka(x: Float[Tensor, "N D"], y: Float[Tensor, "N E"]) -> float:
    """Linear CKA with the unbiased estimator of HSIC (Nguyen et al. 2021, equation 3): 1 for equal representations,
    about 0 for independent ones. N examples, at least 4 (ValueError)."""
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA needs the same examples on both sides, at least 4: {len(x)} and {len(y)}")
    k, m = (z.double() @ z.double().T for z in (x, y))
    return float(_hsic(k, m) / (_hsic(k, k) * _hsic(m, m)).sqrt())


def _hsic(k: Float[Tensor, "N N"], m: Float[Tensor, "N N"]) -> Float[Tensor, ""]:
    """HSIC_1 (Song et al. 2012, equation 5)."""
    n = len(k)
    k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
    crossed = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(1)) / (n - 2)
    return crossed / (n * (n - 3))


def _centres(model: ViT) -> Float[Tensor, "P 2"]:
    """(row, col) of each patch's centre, in pixels."""
    (rows, cols), (height, width) = model.config.grid, model.config.patch_pixels
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([(y.flatten() + 0.5) * height, (x.flatten() + 0.5) * width], dim=1).double()
