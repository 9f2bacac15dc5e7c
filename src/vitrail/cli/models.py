"""`vitrail models`: the architectures by name, with their size and cost."""

import json as json_format
from typing import Annotated, Any

from cyclopts import Parameter

from vitrail.cli.table import show


def models(*, json: Annotated[bool, Parameter(help="Print the table as JSON.")] = False) -> None:
    """List the models that `--model` knows, with their size and cost.

    A model of another image size or number of classes is a row with other fields: `--set model.image_size=384`.
    """
    rows = table()
    if json:
        print(json_format.dumps(rows, indent=2))
        return
    header = ("model", "image", "patch", "width", "depth", "heads", "parameters", "GFLOPs")
    cells = [
        (
            row["name"],
            _size(row["image_size"]),
            _size(row["patch_size"]),
            *(str(row[key] or "-") for key in ("width", "depth", "heads")),
            f"{row['parameters']:,}",
            _billions(row["flops"]),
        )
        for row in rows
    ]
    show(header, cells, right=range(1, len(header)))


def table() -> list[dict[str, Any]]:
    """One row a model, with 1,000 classes. `flops`: operations of one image's forward pass, two per multiply-add.
    `patch_size`: pixels, of the image in a hybrid too; None, like heads and mlp_dim, for a ResNet."""
    from vitrail.config import ViTConfig
    from vitrail.models.catalog import MODELS
    from vitrail.models.cost import flops, parameters

    return [
        {
            "name": name,
            "image_size": list(config.image_size),
            "patch_size": list(config.patch_pixels) if isinstance(config, ViTConfig) else None,
            "width": config.width,
            "depth": config.depth if isinstance(config, ViTConfig) else 3 * sum(config.layers) + 1,
            "heads": config.heads if isinstance(config, ViTConfig) else None,
            "mlp_dim": config.mlp_dim if isinstance(config, ViTConfig) else None,
            "parameters": parameters(config),
            "flops": flops(config),
        }
        for name, config in MODELS.items()
    ]


def _billions(number: int) -> str:
    return f"{number / 1e9:.3g}" if number < 1e12 else f"{number / 1e9:,.0f}"


def _size(size: list[int] | None) -> str:
    if size is None:
        return "-"
    rows, cols = size
    return str(rows) if rows == cols else f"{rows}x{cols}"
