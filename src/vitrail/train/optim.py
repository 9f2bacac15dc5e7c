"""The optimiser over parameter groups: what decays, how fast each layer learns, which rule moves it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from vitrail.config import OptimConfig, ResNetConfig, ViTConfig
from vitrail.models.catalog import ModelConfig
from vitrail.train.optimizers import Lamb, Lion, Muon

TOKENS = ("class_token", "distillation_token", "registers", "position_embedding", "attention_pool.probe")
EMBEDDING = ("patch_embedding", *TOKENS[:4], "norm_before")
TOP = ("norm", "attention_pool", "pre_logits", "head", "distillation_head")
NEVER_DECAYED = TOKENS  # matrices by shape, but each row is an offset like a bias
HEADS = ("head", "distillation_head")
HIDDEN = ("blocks", "stages", "attention_pool")  # whose matrices are hidden: neither the embedding nor the head


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate and a decay. `lr_scale` multiplies the scheduled learning rate."""

    name: str
    parameters: tuple[str, ...]
    lr_scale: float
    weight_decay: float
    decayed: bool = True  # whether it is of the kind that decays, at whatever weight_decay
    matrices: int = 0  # Muon's: matrices fused in each parameter; 0: AdamW's, or another optimiser's


def top_layer(config: ModelConfig) -> int:
    """The layer of the head, the last."""
    if isinstance(config, ResNetConfig):
        return len(config.layers) + 1
    return _below(config.stem) + config.depth + 1


def layer_of(name: str, config: ModelConfig) -> int:
    """Layer of the parameter called `name`. A ViT: the embedding is 0, block i is i + 1, final norm and head are the
    last. A ResNet: the root is 0, stage i is i + 1, the head is the last. A hybrid: the ResNet's layers, then the
    ViT's. ValueError for a name outside the model: a new part must be placed here before it can be trained."""
    root, _, rest = name.partition(".")
    if isinstance(config, ResNetConfig):
        if root == "head":
            return top_layer(config)
        if root in ("root", "root_norm"):
            return 0
        if root == "stages" and (stage := rest.partition(".")[0]).isdigit() and int(stage) < len(config.layers):
            return int(stage) + 1
    elif root == "stem" and config.stem is not None:
        return layer_of(rest, config.stem)
    elif root in EMBEDDING:
        return _below(config.stem)
    elif root in TOP:
        return top_layer(config)
    elif root == "blocks" and (block := rest.partition(".")[0]).isdigit() and int(block) < config.depth:
        return _below(config.stem) + int(block) + 1
    raise ValueError(f"parameter {name!r} belongs to no layer")


def _below(stem: ResNetConfig | None) -> int:
    """Layers under the embedding of patches."""
    return 0 if stem is None else len(stem.layers) + 1


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls on it: matrices and convolution kernels only."""
    return parameter.ndim >= 2 and name not in NEVER_DECAYED


def fused_matrices(name: str, parameter: Tensor, architecture: ModelConfig) -> int:
    """Matrices in a parameter that Muon moves: 3 in a fused projection of queries, keys and values, 2 in the gated
    first layer of a SwiGLU MLP, 1 in other hidden matrices and kernels; 0 for all that is no hidden matrix."""
    parts = name.removeprefix("stem.").split(".")
    if parts[0] not in HIDDEN or not decays(name, parameter):
        return 0
    if parts[-2] == "qkv":
        return 3
    gated = isinstance(architecture, ViTConfig) and architecture.mlp == "swiglu" and parts[0] == "blocks"
    return 2 if gated and parts[-2] == "fc1" else 1


def freeze_blocks(model: nn.Module, architecture: ModelConfig, blocks: int) -> None:
    """Keep the first `blocks` blocks (of a ResNet: stages), and all that lies before them, as they are. The backward
    pass ends there: of a step, two thirds of what those layers took."""
    below = _below(architecture.stem) if isinstance(architecture, ViTConfig) else 0
    for name, parameter in model.named_parameters():
        if blocks and layer_of(name, architecture) <= below + blocks:
            parameter.requires_grad_(False)


def in_head(name: str) -> bool:
    """Whether the parameter called `name` is of the head, which `head_steps` train alone."""
    return name.partition(".")[0] in HEADS


def parameter_groups(
    named: Iterable[tuple[str, Tensor]], architecture: ModelConfig, config: OptimConfig
) -> list[Group]:
    """Groups that hold every parameter that trains exactly once, from the embedding up.

    Layer-wise learning rates: lr_scale = layer_decay ** (last layer - layer) (Clark et al. 2020, ELECTRA; BEiT,
    appendix). Weight decay is decoupled and multiplied by the learning rate; in SGD it is a term of the gradient.
    """
    members: dict[tuple[int, bool, int], list[str]] = {}
    top = top_layer(architecture)
    for name, parameter in named:
        if parameter.requires_grad:
            matrices = fused_matrices(name, parameter, architecture) if config.optimizer == "muon" else 0
            key = (layer_of(name, architecture), decays(name, parameter), matrices)
            members.setdefault(key, []).append(name)
    return [
        Group(
            name=f"layer{layer}.{'decay' if decay else 'plain'}{f'.muon{matrices}' if matrices else ''}",
            parameters=tuple(names),
            lr_scale=config.layer_decay ** (top - layer),
            weight_decay=config.weight_decay if decay else 0.0,
            decayed=decay,
            matrices=matrices,
        )
        for (layer, decay, matrices), names in sorted(members.items())
    ]


def check_groups(groups: Iterable[Group], named: Iterable[tuple[str, Tensor]]) -> None:
    """ValueError unless the groups hold every parameter that trains exactly once, and nothing else."""
    held = [name for group in groups for name in group.parameters]
    wanted = {name for name, parameter in named if parameter.requires_grad}
    twice = sorted({name for name in held if held.count(name) > 1})
    missing, foreign = sorted(wanted - set(held)), sorted(set(held) - wanted)
    if twice or missing or foreign:
        raise ValueError(f"parameter groups: held twice {twice}, missing {missing}, unknown {foreign}")


def make_optimizer(model: nn.Module, architecture: ModelConfig, config: OptimConfig) -> Optimizer:
    """The recipe's optimiser over the model's parameter groups; each torch group carries its `lr_scale`, which the loop
    applies."""
    named = dict(model.named_parameters())
    groups = parameter_groups(named.items(), architecture, config)
    check_groups(groups, named.items())
    tables = [
        {
            "params": [named[name] for name in group.parameters],
            "lr": config.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
            "weight_decay": group.weight_decay,
            "adapt": group.decayed,
            "matrices": group.matrices,
        }
        for group in groups
    ]
    # fused: one kernel a group; the plain loop costs a small model more than its forward pass
    match config.optimizer:
        case "adamw":
            return AdamW(tables, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
        case "sgd":
            return SGD(tables, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        case "lamb":
            return Lamb(tables, config.lr, config.betas, config.eps)
        case "lion":
            return Lion(tables, config.lr, config.betas)
        case "muon":
            return Muon(tables, config.lr, config.momentum, config.betas, config.eps)
