"""One small model of every kind of architecture, with random-normal weights, in float64."""

import torch
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.models.vit import ViT

SMALL = {"image_size": (16, 24), "patch_size": (4, 4), "width": 24, "depth": 3, "heads": 3, "mlp_dim": 40, "classes": 7}
STEM = {"layers": (1,), "width": 32, "groups": 8}
KINDS: dict[str, dict[str, object]] = {
    "token": {},
    "gap": {"pool": "gap"},
    "map": {"pool": "map"},
    "token beside the mean": {"pool": "token_gap", "registers": 2},
    "several blocks": {"pool": "token_gap", "pool_blocks": 2},
    "distilled": {"distillation_token": True},
    "rotary, registers": {"position": "rope", "registers": 3, "norm_after_pool": True, "pool": "gap"},
    "sines, no prefix": {"position": "sincos2d", "pool": "gap", "class_token": False},
    "scaled, gated": {"layer_scale": 0.1, "mlp": "swiglu", "norm_before": True, "qk_norm": True},
    "hybrid": {"stem": STEM, "patch_size": (1, 1)},
}


def make(kind: str = "token", **more: object) -> tuple[ViT, Tensor]:
    torch.manual_seed(0)
    model = ViT(ViTConfig.model_validate(SMALL | KINDS[kind] | more)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model, torch.randn(2, 3, 16, 24, dtype=torch.float64)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())
