"""Models by name. A row is an architecture; weights for it are another table's business.

Sizes: ViT paper, Table 1 (B, L, H); vit_jax/configs/models.py (Ti, S).
Nano and Pico are vitrail's own, for small images.
"""

from vitrail.config import ViTConfig
from vitrail.errors import UnknownName

_SIZES = {  # width, depth, heads, mlp_dim
    "Pico": (64, 6, 4, 128),
    "Nano": (192, 9, 3, 384),
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
}


def _row(size: str, patch: int, image: int = 224) -> tuple[str, ViTConfig]:
    width, depth, heads, mlp_dim = _SIZES[size]
    config = ViTConfig(
        image_size=(image, image), patch_size=(patch, patch), width=width, depth=depth, heads=heads, mlp_dim=mlp_dim
    )
    return f"{size}/{patch}", config


MODELS: dict[str, ViTConfig] = dict(
    [
        _row("Pico", 2, image=8),
        _row("Nano", 4, image=32),
        _row("Ti", 16),
        _row("S", 32),
        _row("S", 16),
        _row("B", 32),
        _row("B", 16),
        _row("B", 8),
        _row("L", 32),
        _row("L", 16),
        _row("H", 14),
    ]
)


def find_model(name: str) -> ViTConfig:
    """The row called `name`, whatever its case; UnknownName with close matches otherwise."""
    for row, config in MODELS.items():
        if row.casefold() == name.casefold():
            return config
    raise UnknownName("model", name, MODELS)
