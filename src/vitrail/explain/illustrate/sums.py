"""The sums that the page writes out: one number of a patch's embedding term by term, the logit part by part; and what
shuffling the patches changes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.explain.decomposition import direct_logit_attribution, logit_lens
from vitrail.models.intervention import Intervention
from vitrail.models.trace import Trace, trace
from vitrail.models.vit import ViT
from vitrail.ops.grid import patchify
from vitrail.types import Images, Logits

FILTERS = 8  # of the patch embedding that are shown
TERMS = 6  # of a sum that are written out


@dataclass(frozen=True)
class Terms:
    """The patch embedding as multiply-adds: `inputs` times `weights`, all added up, plus `bias`, is `patches`."""

    inputs: Float[Tensor, "P C r c"]  # what lies in each patch: normalised pixels, or features of the stem
    chosen: Int[Tensor, " F"]  # the filters that are shown
    weights: Float[Tensor, "F C r c"]
    first: int  # the one shown at first, of F
    largest: Int[Tensor, "P F N"]  # the places in (C, r, c) of each sum's largest terms
    tensors: dict[str, Tensor]


@torch.no_grad()
def terms(model: ViT, images: Images, record: Trace, patch: int) -> Terms:
    """The Terms of all patches and of the FILTERS filters that answer the patches most variedly."""
    embedding = model.patch_embedding
    seen = images if record.stem is None else record.stem
    size = (model.config.patch_size[0], model.config.patch_size[1])
    rows, cols = model.config.grid[0] * size[0], model.config.grid[1] * size[1]
    inputs = patchify(seen[:, :, :rows, :cols], size)[0]  # P N
    values = record.patches
    chosen = values[0].var(dim=0, unbiased=False).topk(min(FILTERS, model.config.width)).indices.sort().values
    weights = embedding.weight[chosen].flatten(1)
    first = int(values[0, patch, chosen].abs().argmax())
    products = inputs.double()[:, None] * weights.double()  # P F N
    largest = products.abs().topk(min(TERMS, products.shape[-1]), dim=-1).indices
    everything = inputs.double() @ embedding.weight.double().flatten(1).T
    everything += 0 if embedding.bias is None else embedding.bias.double()
    tensors = {
        "terms.input": inputs,
        "terms.weight": weights,
        "terms.product": products,
        "terms.others": products.sum(dim=-1) - products.gather(-1, largest).sum(dim=-1),
        "terms.count": torch.tensor(products.shape[-1] - largest.shape[-1]),
        "terms.bias": weights.new_zeros(len(chosen)) if embedding.bias is None else embedding.bias[chosen],
        "terms.filter": chosen + 1,
        "terms.error": (everything - values[0]).abs().max(),
    }
    shape = embedding.weight.shape[1:]
    return Terms(
        *(inputs.unflatten(1, shape), chosen, weights.unflatten(1, shape), first, largest),
        {name: tensor.detach().cpu() for name, tensor in tensors.items()},
    )


@dataclass(frozen=True)
class Fall:
    """The logit of one class as steps that add up to it. `heads`: whether each head's own part is known; where it is
    not, `why` says so and the steps are those of the head's answer from depth to depth."""

    heads: bool
    why: str
    tensors: dict[str, Tensor]


def fall(model: ViT, images: Images, record: Trace, label: int) -> Fall:
    """The steps: embedding, then attention and MLP of each block, then the constant; or the answer at each depth."""
    try:
        parts = direct_logit_attribution(model, images)
    except ConfigError:
        lens = logit_lens(model, record)[:, 0, label].double()
        steps = torch.cat([lens[:1], lens.diff()])
        one_token = model.config.pool == "token" and not model.config.distilled
        reason = "tanh" if one_token else "reads"
        return Fall(False, reason, _steps(steps, record.logits[0, label]))
    heads = parts.heads[0, :, :, label].double()
    biases, mlps = (part[0, :, label].double() for part in (parts.attention_bias, parts.mlp))
    both = torch.stack([heads.sum(dim=1) + biases, mlps], dim=1).flatten()
    steps = torch.cat([parts.embedding[0, label].double()[None], both, parts.bias[label].double()[None]])
    tensors = {"added.heads": heads, "added.attention_bias": biases, "added.mlp": mlps}
    return Fall(True, "", _steps(steps, record.logits[0, label]) | {n: t.cpu() for n, t in tensors.items()})


def _steps(steps: Tensor, logit: Tensor) -> dict[str, Tensor]:
    sums = steps.cumsum(dim=0)
    tensors = {"added": steps, "added.sum": sums, "added.total": sums[-1], "added.gap": (sums[-1] - logit).abs()}
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def shuffled(model: ViT, images: Images, logits: Logits) -> dict[str, Tensor]:
    """How far the logits move when the patches are put in another order, with positions and without them."""
    order = torch.randperm(model.config.patches, generator=torch.Generator().manual_seed(0)).tolist()
    with_positions = trace(model, images, parts=(), change=Intervention(order=order))[0]
    bare = trace(model, images, parts=(), change=Intervention(positions="off"))[0]
    shuffled_bare = trace(model, images, parts=(), change=Intervention(positions="off", order=order))[0]
    return {
        "shuffled.with_positions": (with_positions - logits).abs().max().cpu(),
        "shuffled.without_positions": (shuffled_bare - bare).abs().max().cpu(),
    }
