"""Low-rank updates of frozen matrices (LoRA, Hu et al. 2021, arXiv 2106.09685), in the model while it trains and merged
into plain weights at the end.

The matrices of queries, keys and values lie on top of each other in one parameter; each gets an update of its own, as
in the paper, and so do the two halves of a SwiGLU MLP's first layer.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitrail.config import LoraConfig
from vitrail.errors import ConfigError
from vitrail.models.build import Network, build
from vitrail.models.vit import ViT


class LowRank(nn.Module):
    """W + alpha / rank * B A (equation 3), for each of the `matrices` that W holds on top of each other.

    A begins as Gaussian noise and B as zero, so the first step sees the weights as they are. The paper does not give
    the noise's size; it is that of the authors' code, a variance of 1 / (3 columns). A and B decay as matrices do,
    as in the paper's GPT-2 and GPT-3 runs (appendix D): the update decays, towards the weights it started from.
    """

    def __init__(
        self, weight: Float[Tensor, "R C"], config: LoraConfig, matrices: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.rank, self.scale = config.rank, config.alpha / config.rank
        noise = torch.randn(matrices * config.rank, columns, generator=generator) / math.sqrt(3 * columns)
        self.a = nn.Parameter(noise.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, config.rank).to(weight))

    def forward(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """The updated weight. Never in half precision, which would round away most of a small update."""
        with torch.autocast(weight.device.type, enabled=False):
            a = self.a.unflatten(0, (-1, self.rank))  # one A a matrix
            b = self.b.unflatten(0, (len(a), -1))
            return weight + self.scale * torch.bmm(b, a).flatten(0, 1)


def add_low_rank(model: Network, config: LoraConfig, seed: int) -> None:
    """Freeze the model but for its heads, and give the matrices that `config` targets an update that learns.

    Changes the model in place. ConfigError where it has no such matrices or the rank is larger than their sides.
    """
    if not isinstance(model, ViT):
        raise ConfigError("lora.rank is for the attention of a Vision Transformer, and this model is a ResNet")
    model.requires_grad_(False)
    for head in (model.head, model.distillation_head):
        if head is not None:
            head.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for layer, matrices in targets(model, config):
        most = min(layer.weight.shape[0] // matrices, layer.weight.shape[1])
        if config.rank > most:
            raise ConfigError(
                f"lora.rank should be at most {most}, a side of this model's matrices, found {config.rank}"
            )
        update = LowRank(layer.weight, config, matrices, generator)
        parametrize.register_parametrization(layer, "weight", update)


def targets(model: ViT, config: LoraConfig) -> Iterator[tuple[nn.Linear, int]]:
    """The layers that get updates, from the first block up, each with the number of matrices that its weight holds."""
    for block in model.blocks:
        yield block.attention.qkv, 3
        yield block.attention.out, 1
        if config.targets == "all":
            yield block.mlp.fc1, 2 if block.mlp.gated else 1
            yield block.mlp.fc2, 1


@torch.no_grad()
def merged(model: Network) -> Network:
    """The model with plain weights, every update added to its matrix: bit for bit the weights that the updated model
    computes with. The model itself where it has no updates."""
    if not any(parametrize.is_parametrized(module) for module in model.modules()):
        return model
    with torch.device("meta"):  # not a copy: torch cannot take the updates off one without breaking the other
        plain = build(model.config)
    owners = (key.rpartition(".") for key in plain.state_dict())
    tensors = {f"{owner}.{leaf}" if owner else leaf: _tensor(model, owner, leaf) for owner, _, leaf in owners}
    plain.load_state_dict(tensors, strict=True, assign=True)
    return plain.train(model.training)


def _tensor(model: nn.Module, owner: str, name: str) -> Tensor:
    tensor: Tensor = getattr(model.get_submodule(owner), name)
    return tensor.detach().clone()


def count_trained(model: nn.Module) -> int:
    """Numbers that training moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
