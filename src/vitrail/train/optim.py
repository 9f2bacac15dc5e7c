"""AdamW over parameter groups: what decays and how fast each layer learns."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import AdamW

from vitrail.config import OptimConfig

EMBEDDING = ("patch_embedding", "class_token", "position_embedding")
TOP = ("norm", "pre_logits", "head")
NEVER_DECAYED = ("class_token", "position_embedding")  # matrices by shape, but each row is an offset like a bias


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate and a decay. `lr_scale` multiplies the scheduled learning rate."""

    name: str
    parameters: tuple[str, ...]
    lr_scale: float
    weight_decay: float


def layer_of(name: str, depth: int) -> int:
    """Layer of the parameter called `name`: the embedding is 0, block i is i + 1, the final norm and the head are
    depth + 1. ValueError for a name outside the model: a new part must be placed here before it can be trained."""
    root, _, rest = name.partition(".")
    if root in EMBEDDING:
        return 0
    if root in TOP:
        return depth + 1
    if root == "blocks" and (block := rest.partition(".")[0]).isdigit() and int(block) < depth:
        return int(block) + 1
    raise ValueError(f"parameter {name!r} belongs to no layer")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls on it: matrices and convolution kernels only."""
    return parameter.ndim >= 2 and name not in NEVER_DECAYED


def parameter_groups(named: Iterable[tuple[str, Tensor]], depth: int, config: OptimConfig) -> list[Group]:
    """Groups that hold every parameter that trains exactly once, from the embedding up.

    Layer-wise learning rates: lr_scale = layer_decay ** (depth + 1 - layer) (Clark et al. 2020, ELECTRA; BEiT,
    appendix). Weight decay is decoupled and, in AdamW, multiplied by the learning rate.
    """
    members: dict[tuple[int, bool], list[str]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            members.setdefault((layer_of(name, depth), decays(name, parameter)), []).append(name)
    return [
        Group(
            name=f"layer{layer}.{'decay' if decay else 'plain'}",
            parameters=tuple(names),
            lr_scale=config.layer_decay ** (depth + 1 - layer),
            weight_decay=config.weight_decay if decay else 0.0,
        )
        for (layer, decay), names in sorted(members.items())
    ]


def check_groups(groups: Iterable[Group], named: Iterable[tuple[str, Tensor]]) -> None:
    """ValueError unless the groups hold every parameter that trains exactly once, and nothing else."""
    held = [name for group in groups for name in group.parameters]
    wanted = {name for name, parameter in named if parameter.requires_grad}
    twice = sorted({name for name in held if held.count(name) > 1})
    missing, foreign = sorted(wanted - set(held)), sorted(set(held) - wanted)
    if twice or missing or foreign:
        raise ValueError(f"parameter groups: held twice {twice}, missing {missing}, unknown {foreign}")


def make_optimizer(model: nn.Module, depth: int, config: OptimConfig) -> AdamW:
    """AdamW over the model's parameter groups; each torch group carries its `lr_scale`, which the loop applies."""
    named = dict(model.named_parameters())
    groups = parameter_groups(named.items(), depth, config)
    check_groups(groups, named.items())
    return AdamW(
        [
            {
                "params": [named[name] for name in group.parameters],
                "lr": config.lr * group.lr_scale,
                "lr_scale": group.lr_scale,
                "weight_decay": group.weight_decay,
            }
            for group in groups
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,  # one kernel a group; the plain loop costs a small model more than its forward pass
    )
