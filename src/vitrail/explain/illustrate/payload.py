"""What the page's script reads: arrays at the precision they are printed with, words, and what is chosen."""

from collections.abc import Mapping
from typing import Any

import torch

from vitrail.data.preprocess import to_model
from vitrail.explain.illustrate import coded, pictures
from vitrail.explain.illustrate.numbers import Numbers
from vitrail.explain.illustrate.state import prefix_keys
from vitrail.explain.illustrate.walk import Walk
from vitrail.explain.illustrate.words.catalog import SCRIPT, WORDS
from vitrail.explain.render import DIM, lut
from vitrail.report import printable


def payload(walk: Walk, numbers: Numbers, chosen: Mapping[str, int]) -> dict[str, Any]:
    """Everything that the script needs, as JSON."""
    config = walk.config
    return {
        "state": {name: chosen[name] for name in ("patch", "query", "block", "head", "filter")},
        "config": {
            "grid": config.grid,
            "patch": config.patch_pixels,
            "kernel": list(walk.terms.weights.shape[1:]),
            "size": config.image_size,
            "prefix": config.prefix,
            "tokens": config.tokens,
            "depth": config.depth,
            "heads": config.heads,
            "stem": config.stem is not None,
            "root": pictures.top_share(config.tokens),
            "dim": DIM,
            "columns": pictures.COLUMNS,
            "prefixColumns": pictures.prefix_columns(config),
            "mean": walk.classifier.preprocess.mean,
            "std": walk.classifier.preprocess.std,
        },
        "queries": queries(walk),
        "dimensions": walk.terms.chosen.tolist(),
        "prefix": prefix_keys(walk),
        "label": printable(walk.label_name(walk.label)),
        "words": {key: list(WORDS[key]) for key in SCRIPT},
        "limits": {name: numbers.value(f"scale.{name}") for name in ("filter", "product", "vector", "input")},
        "arrays": _arrays(walk, numbers),
    }


def queries(walk: Walk) -> list[int]:
    """The tokens that can be the query; the one chosen at first is among them."""
    config = walk.config
    fitting = coded.queries_that_fit(config.depth, config.heads, config.tokens, config.prefix)
    return sorted({*fitting, walk.query})


def _arrays(walk: Walk, numbers: Numbers) -> dict[str, Any]:
    tensors, config = numbers.tensors, walk.config
    rows = torch.tensor(queries(walk))

    def blocks(part: str) -> torch.Tensor:
        return torch.stack([tensors[f"blocks.{number}.{part}"][:, rows] for number in range(config.depth)])

    arrays = {
        "blocks.attention": coded.shares(blocks("attention")),
        "blocks.others": coded.floats(blocks("others")),
        "blocks.sum": coded.floats(blocks("sum")),
        "viridis": coded.bytes_of(lut("viridis")),
        "blue_orange": coded.bytes_of(lut("blue_orange")),
        "pixels": coded.bytes_of(tensors["pixels"]),
        "levels": coded.floats(_normal_levels(walk)),
    }
    if config.stem is not None:
        arrays["terms.input"] = coded.floats(tensors["terms.input"])
    if walk.similarity is not None:
        arrays["similarity"] = coded.hundredths(walk.similarity)
        arrays["norms.position"] = coded.floats(tensors["norms.position"])
    names = ["patches", "terms.weight", "terms.bias", "terms.filter", "norms.patches", "norms.embedded"]
    names += ["places.row", "places.column", "places.number", "blocks.number", "heads.number", "registers.number"]
    names += ["terms.row", "terms.column", "terms.place", *(f"maps.{name}" for name in walk.evidence.names)]
    return arrays | {name: coded.floats(tensors[name]) for name in names}


def _normal_levels(walk: Walk) -> torch.Tensor:
    """What each of 256 levels is to the model, a row a colour."""
    every = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    return to_model(every, walk.classifier.preprocess)[:, 0]
