"""`vitrail models`: the architectures by name, with their size and cost; and the published weights by name."""

import json as json_format
from typing import Annotated, Any

from cyclopts import Parameter

from vitrail.cli.table import show, three_digits


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
        raise _nothing(weights_table() if weights else table(), filters or [], "--weights" if weights else "")
    (_show_weights if weights else _show_models)(rows)


def _nothing(rows: list[dict[str, Any]], words: list[str], option: str) -> Exception:
    """A UserError for words that no row contains together: an unknown one, or how many rows have each."""
    from vitrail.errors import ConfigError, close_matches, did_you_mean

    counts = {word: sum(matches(row, [word]) for row in rows) for word in words}
    verb = f"`vitrail models {option}`" if option else "`vitrail models`"
    if odd := next((word for word, count in counts.items() if not count), None):
        names = [row["name"] for row in rows]
        remedy = did_you_mean(odd, names) if option else close_matches(odd, names, most=6)
        return ConfigError(f"no row of {verb} contains {odd!r}{remedy or f'; {verb} alone lists all {len(rows)}'}")
    each = ", ".join(f"{word!r} in {count}" for word, count in counts.items())
    return ConfigError(f"no row of {verb} contains all of these words ({each}); leave one out")


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
            three_digits(row["flops"] / 1e9),
        )
        for row in rows
    ]
    show(header, cells, right=range(1, len(header)))


def _show_weights(rows: list[dict[str, Any]]) -> None:
    """Weights by their Hugging Face id where they have one, which `--weights` knows as well as the name."""
    header = ("weights", "model", "image", "classes", "top-1", "protocol", "licence")
    cells = [
        (
            row["hub"] or row["name"],
            row["model"],
            str(row["image_size"]),
            str(row["classes"] or ""),
            "" if row["top1"] is None else f"{row['top1']:.2f}",
            row["protocol"] or "",
            row["licence"],
        )
        for row in rows
    ]
    show(header, cells, right=(2, 3, 4), whole=range(1, 6))


def _size(size: list[int]) -> str:
    rows, cols = size
    return str(rows) if rows == cols else f"{rows}x{cols}"
