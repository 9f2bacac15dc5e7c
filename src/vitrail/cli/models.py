"""`vitrail models`: the architectures by name, with their size and cost; and the published weights by name."""

import json as json_format
from typing import Annotated, Any

from cyclopts import Parameter

from vitrail.cli.table import show


def models(
    filters: Annotated[
        list[str] | None, Parameter(name="FILTER", help="Show the rows alone that contain every one of these words.")
    ] = None,
    /,
    *,
    weights: Annotated[
        bool, Parameter(help="List published weights instead, which `--weights` knows by name.")
    ] = False,
    json: Annotated[bool, Parameter(help="Print the table as JSON.")] = False,
) -> None:
    """List the models that `--model` knows, with their size and cost; or published weights, with what they score.

    A model of another image size or number of classes is a row with other fields: `--set model.image_size=384`.
    """
    rows = [row for row in (weights_table() if weights else table()) if matches(row, filters or [])]
    if json:
        print(json_format.dumps(rows, indent=2))
        return
    if not rows:
        from vitrail.errors import UnknownName

        raise UnknownName(
            "model", " ".join(filters or []), [row["name"] for row in (weights_table() if weights else table())]
        )
    (_show_weights if weights else _show_models)(rows)


def matches(row: dict[str, Any], words: list[str]) -> bool:
    """Whether a row contains every word, whatever its case."""
    text = " ".join(str(value) for value in row.values() if value is not None).casefold()
    return all(word.casefold() in text for word in words)


def table() -> list[dict[str, Any]]:
    """One row a model, with 1,000 classes. `flops`: operations of one image's forward pass, two per multiply-add."""
    from vitrail.config import ViTConfig
    from vitrail.models.catalog import MODELS
    from vitrail.models.cost import flops, parameters

    rows = []
    for name, config in MODELS.items():
        stem = config.stem if isinstance(config, ViTConfig) else None
        kind = "hybrid" if stem is not None else "vit" if isinstance(config, ViTConfig) else "resnet"
        rows.append(
            {
                "name": name,
                "kind": kind,
                "image_size": list(config.image_size),
                "patch_size": list(config.patch_pixels) if isinstance(config, ViTConfig) else None,
                "width": config.width,
                "depth": config.depth if isinstance(config, ViTConfig) else sum(config.layers),
                "heads": config.heads if isinstance(config, ViTConfig) else None,
                "mlp_dim": config.mlp_dim if isinstance(config, ViTConfig) else None,
                "parameters": parameters(config),
                "flops": flops(config),
            }
        )
    return rows


def weights_table() -> list[dict[str, Any]]:
    """One row a set of published weights; `flops` and `parameters` are not in it, since its own files tell them."""
    from vitrail.weights.catalog import CATALOG

    return [
        {
            "name": row.name,
            "model": row.model,
            "image_size": row.image_size,
            "classes": row.classes,
            "labels": row.labels,
            "top1": row.top1,
            "protocol": row.protocol,
            "number_from": row.source if row.top1 is not None else None,
            "licence": row.licence,
            "format": row.format,
            "preprocess": row.preprocess,
            "hub": row.hub,
            "url": row.url,
            "get": row.get,
        }
        for row in CATALOG.values()
    ]


def _show_models(rows: list[dict[str, Any]]) -> None:
    header = ("model", "image", "patch", "width", "depth", "heads", "parameters", "GFLOPs")
    cells = [
        (
            row["name"],
            _size(row["image_size"]),
            "" if row["patch_size"] is None else _size(row["patch_size"]),
            str(row["width"]),
            str(row["depth"]),
            str(row["heads"] or ""),
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e9:.3g}",
        )
        for row in rows
    ]
    show(header, cells, right=range(1, len(header)))


def _show_weights(rows: list[dict[str, Any]]) -> None:
    header = ("weights", "model", "image", "classes", "top-1", "protocol", "licence", "from")
    cells = [
        (
            row["name"],
            row["model"],
            str(row["image_size"]),
            str(row["classes"] or ""),
            "" if row["top1"] is None else f"{row['top1']:.2f}",
            row["protocol"] or "",
            row["licence"],
            row["hub"] or row["url"] or "torchvision",
        )
        for row in rows
    ]
    show(header, cells, right=(2, 3, 4))


def _size(size: list[int]) -> str:
    rows, cols = size
    return str(rows) if rows == cols else f"{rows}x{cols}"
