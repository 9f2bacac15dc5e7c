"""float8 for graphics cards that multiply in it: the MLP and the output of attention, which are three quarters of a
block's products, in e4m3 (Micikevicius et al. 2022, arXiv 2209.05433). Weights have a scale a row, activations a scale
a token, found as they come, so nothing is calibrated. An approximation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vitrail.errors import ConfigError
from vitrail.models.fold import Folded, FoldedViT

KIND = torch.float8_e4m3fn
LARGEST = torch.finfo(KIND).max  # 448
MULTIPLE = 16  # of both sides of a weight, which the cards' products ask for
CAPABILITY = (8, 9)  # the first cards that multiply in float8


class Float8Linear(nn.Module):
    """A linear layer whose weight and input are rounded to float8; bias and result are bfloat16."""

    weight: Tensor  # N K
    scale: Tensor  # N 1, float32
    bias: Tensor | None  # N

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = scaled(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows N"]:
        values, scale = scaled(x.flatten(0, -2))
        by_row = functional.ScalingType.RowWise
        product = functional.scaled_mm(
            values, self.weight.t(), scale, by_row, self.scale.t(), by_row, bias=self.bias, output_dtype=torch.bfloat16
        )
        return product.unflatten(0, x.shape[:-1])


def scaled(rows: Float[Tensor, "M K"]) -> tuple[Tensor, Float[Tensor, "M 1"]]:
    """float8 values (M K) and the scale of each row (float32), whose largest entry becomes float8's largest."""
    scale = (rows.abs().amax(dim=1, keepdim=True).float() / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows.float() / scale).to(KIND), scale


def in_float8(folded: Folded) -> Folded:
    """The network, in bfloat16, with float8 where it is worth it; changed in place. ConfigError for a ResNet and for
    widths that the cards' products do not take."""
    if not isinstance(folded, FoldedViT):
        raise ConfigError("float8 is for the linear layers of a Vision Transformer; for a ResNet choose bfloat16")
    for block in folded.network.blocks:
        for parent, name in ((block.attention, "out"), (block.mlp, "fc1"), (block.mlp, "fc2")):
            linear = getattr(parent, name)
            if odd := [n for n in (linear.in_features, linear.out_features) if n % MULTIPLE]:
                raise ConfigError(f"float8 needs layers of a multiple of {MULTIPLE} wide, and one is {odd[0]}")
            setattr(parent, name, Float8Linear(linear))
    return folded


def check_card(name: str, device: torch.device) -> None:
    """ConfigError where `device` does not multiply in float8."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ConfigError(
            f"the engine {name} needs a graphics card that multiplies in float8 (compute capability 8.9 or later); "
            "choose bfloat16"
        )
