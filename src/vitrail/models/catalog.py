"""Models by name. A row is an architecture; weights for it are another table's business (weights/catalog.py).

Sizes: ViT paper, Table 1 (B, L, H); vit_jax/configs/models.py (Ti, S, hybrids); big_vision's models/vit.py (M, So400m,
g, g-opt, G). What is called nano or pico is vitrail's own, for small images.
"""

from typing import TypeAlias

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.errors import UnknownName

ModelConfig: TypeAlias = ViTConfig | ResNetConfig

_SIZES = {  # width, depth, heads, mlp_dim
    "Pico": (64, 6, 4, 128),
    "Nano": (192, 9, 3, 384),
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "M": (512, 12, 8, 2048),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "So400m": (1152, 27, 16, 4304),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "g-opt": (1536, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
}
_HYBRIDS = {  # size, bottlenecks a stage, patch of the feature map
    "R+Ti/16": ("Ti", (), 8),  # stride 32 in truth: 2 (root) x 2 (pool) x 8, whatever the name says
    "R26+S/32": ("S", (2, 2, 2, 2), 1),
    "R26+B/32": ("B", (2, 2, 2, 2), 1),
    "R50+B/16": ("B", (3, 4, 9), 1),
    "R50+L/32": ("L", (3, 4, 6, 3), 1),
}
_RESNETS = {  # bottlenecks a stage, width of the root, image
    "R26x1": ((2, 2, 2, 2), 64, 224),
    "R50x1": ((3, 4, 6, 3), 64, 224),
    "R101x1": ((3, 4, 23, 3), 64, 224),
    "R14-nano": ((1, 1, 1, 1), 32, 32),
}


def _vit(size: str, patch: int, image: int, stem: ResNetConfig | None = None) -> ViTConfig:
    width, depth, heads, mlp_dim = _SIZES[size]
    side, sides = (patch, patch), (image, image)
    return ViTConfig(
        image_size=sides, patch_size=side, width=width, depth=depth, heads=heads, mlp_dim=mlp_dim, stem=stem
    )


def _catalog() -> dict[str, ModelConfig]:
    rows: dict[str, ModelConfig] = {"Pico/2": _vit("Pico", 2, 8), "Nano/4": _vit("Nano", 4, 32)}
    rows["R+Pico/8"] = _vit("Pico", 2, 32, ResNetConfig(image_size=(32, 32), layers=(), width=32))
    for size in list(_SIZES)[2:]:
        rows |= {f"{size}/{patch}": _vit(size, patch, 224) for patch in (32, 16, 14, 8)}
    for name, (size, layers, patch) in _HYBRIDS.items():
        rows[name] = _vit(size, patch, 224, ResNetConfig(layers=layers))
    for name, (layers, width, image) in _RESNETS.items():
        rows[name] = ResNetConfig(image_size=(image, image), layers=layers, width=width, classes=1000)
    return rows


MODELS: dict[str, ModelConfig] = _catalog()


def find_model(name: str) -> ModelConfig:
    """The row called `name`, whatever its case where that leaves one row; UnknownName with close matches otherwise."""
    if name in MODELS:
        return MODELS[name]
    rows = [config for row, config in MODELS.items() if row.casefold() == name.casefold()]
    if len(rows) == 1:  # g and G differ by their case alone
        return rows[0]
    raise UnknownName("model", name, MODELS)


def paper(config: ViTConfig) -> ViTConfig:
    """The preset `paper`: every choice of the original JAX code that later libraries changed. Its other half, the
    evaluation, is a Preprocess (train/settings.py)."""
    return config.model_copy(
        update={
            "gelu": "tanh",
            "norm_eps": 1e-6,
            "norm_after_pool": False,
            "position_rule": "paper",
            "initialisation": "paper",  # Xavier a matrix, zero class token and head
            "position_std": 0.02,
            "head_bias": 0.0,  # of fine-tuning and of softmax; pre-training with sigmoids had -10
        }
    )
