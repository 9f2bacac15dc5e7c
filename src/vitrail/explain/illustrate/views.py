"""What the templates of each step need: pictures, charts, lists. Numbers reach the page by their paths alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from vitrail.explain.catalog import METHODS
from vitrail.explain.illustrate import charts, pictures
from vitrail.explain.illustrate.coded import SIMILARITY_UNIT, as_carried
from vitrail.explain.illustrate.numbers import Numbers
from vitrail.explain.illustrate.payload import queries
from vitrail.explain.illustrate.state import say, token_name
from vitrail.explain.illustrate.walk import TOP, Walk
from vitrail.explain.render import data_address, lut

LINES = 6  # classes in the chart of the lens
UNITS = {"share of attention": "unit.share", "logits": "unit.logits", "logits a unit": "unit.slope", "none": ""}
SMALL = 128  # pixels of a side below which an image is shown as squares

STEPS = ("image", "patches", "embed", "position", "heads", "depth", "sum", "why")
View = dict[str, Any]
Chosen = Mapping[str, int]


def scales(walk: Walk) -> dict[str, Tensor]:
    """The ends and marks of the page's scales, and the counts of what it lists, as tensors like all other numbers."""
    config, terms = walk.config, walk.terms
    roots = torch.arange(pictures.STEPS + 1, dtype=torch.float64)
    products = walk.tensors["terms.product"].unflatten(-1, terms.weights.shape[1:]).sum(dim=2)
    kernel = terms.weights.shape[1:]
    place = torch.arange(kernel.numel())
    return {
        "scale.attention": roots**2 / config.tokens,
        "scale.evidence": roots[: pictures.EVIDENCE_STEPS + 1] ** 2,
        "scale.filter": terms.weights.abs().max(),
        "scale.input": terms.inputs.abs().max(),
        "scale.product": products.abs().max(),
        "scale.vector": walk.record.patches.abs().max(),
        "queries": torch.tensor(float(len(queries(walk)))),
        "filters": torch.tensor(float(len(terms.chosen))),
        "answers": torch.tensor(float(min(TOP, config.classes))),
        "registers.number": torch.arange(config.registers) + 1.0,
        "terms.place": place + 1.0,
        "terms.row": place // kernel[2] % kernel[1] + 1.0,
        "terms.column": place % kernel[2] + 1.0,
    }


def style(walk: Walk, text: str) -> str:
    """The style sheet, with the number of blocks, which only the model knows."""
    size = walk.config.image_size
    return (
        f":root{{--blocks:{walk.config.depth};--ratio:{size[1]}/{size[0]};"
        f"--cells:{walk.config.grid[1]};--rows:{walk.config.grid[0]}}}\n{text}"
    )


def frame(walk: Walk, numbers: Numbers, chosen: Chosen) -> View:
    """What stands around the steps."""
    order = walk.record.logits[0].argsort(descending=True, stable=True).tolist()
    height, width = walk.config.image_size
    return {
        "names": walk.classifier.labels.names,
        "label": walk.label_name(walk.label),
        "answer": walk.label_name(order[0]),
        "other": order[0] != walk.label,
        "target": walk.label,
        "top": order[:TOP],
        "file": walk.name,
        "source": walk.source,
        "picture": data_address(walk.pixels),
        "width": width,
        "height": height,
        "small": max(width, height) <= SMALL,
        "lattice_path": _lattice(walk),
        "frame": _frame(walk),
        "bar_signed": lambda name, form: _signed_bar(numbers, name, form),
        "titles": {step: _title(step, walk) for step in STEPS},
        "prefix_names": _listed([token_name(walk, numbers, i) for i in range(walk.config.prefix)]),
        "token_names": [token_name(walk, numbers, i) for i in range(walk.config.prefix)],
    }


def entry(walk: Walk, numbers: Numbers, chosen: Chosen) -> View:
    """Steps 1 to 4."""
    config, terms, preprocess = walk.config, walk.terms, walk.classifier.preprocess
    rows, cols = walk.original.shape[1:]
    top, left, bottom, right = walk.window.box
    box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    patch = pictures.patch_of(walk.pixels, walk.patch, config)
    weights, inputs = terms.weights[terms.first], terms.inputs[walk.patch]
    products = walk.tensors["terms.product"][walk.patch, terms.first].unflatten(0, weights.shape)
    limit = {name: numbers.value(f"scale.{name}") for name in ("filter", "product", "vector", "input")}
    stem = config.stem is not None
    one_patch = pictures.folded(inputs) if stem else None
    kernel = weights[0].numel()
    view: View = {
        "squash": preprocess.resize == "squash",
        "photo": pictures.photo(walk.original),
        "photo_width": cols,
        "photo_height": rows,
        "small_photo": max(rows, cols) <= SMALL,
        "box": box,
        "shade_path": f"M0 0H{cols}V{rows}H0ZM{left:g} {top:g}V{bottom:g}H{right:g}V{top:g}Z",
        "pixel": _middle_pixel(walk),
        "stem": stem,
        "patch_picture": data_address(patch),
        "planes": pictures.planes(patch),
        "filter_tiles": [_tile(w, limit["filter"], stem) for w in terms.weights],
        "input_picture": data_address(patch) if one_patch is None else pictures.diverging(one_patch, limit["input"]),
        "product_picture": pictures.diverging(
            pictures.folded(products) if stem else products.sum(dim=0), limit["product"]
        ),
        "term_count": terms.largest.shape[-1],
        "term_colours": [
            ("red", "green", "blue")[int(p) // kernel % 3] for p in terms.largest[walk.patch, terms.first]
        ],
        "vector_picture": pictures.vector(walk.tensors["patches"][walk.patch], limit["vector"]),
        "vector_length": config.width,
        "limits": {"product": "scale.product", "vector": "scale.vector"},
        "position": config.position,
        "has_class_token": config.class_token,
        "reading": _reading(walk),
        "has_distillation_token": config.distillation_token,
        "has_registers": config.registers > 0,
        "similarity": walk.similarity is not None,
    }
    return view | _positions(walk)


def _reading(walk: Walk) -> str:
    """The key of what is said about the class token."""
    if not walk.config.class_token:
        return "position.patches"
    return "position.read" if walk.config.pool in ("token", "token_gap") else "position.unread"


def _positions(walk: Walk) -> View:
    if walk.similarity is None:
        return {}
    here = as_carried(walk.similarity[walk.patch], SIMILARITY_UNIT).unflatten(0, walk.config.grid)
    return {
        "similarity_picture": pictures.diverging(here, 1.0),
        "tiles": pictures.tiles(walk.similarity, walk.config.grid),
        "near_count": min(TOP, walk.config.patches - 1),
        "bar_unit": charts.root_bar(
            _colours("blue_orange"), [(0, _tick("\u22121")), (0.5, _tick("0")), (1, _tick("1"))]
        ),
    }


def inside(walk: Walk, numbers: Numbers, chosen: Chosen) -> View:
    """Steps 5 to 7."""
    config, record = walk.config, walk.record
    rows = [block.attention[0, :, walk.query] for block in record.blocks]
    root = pictures.top_share(config.tokens)
    marks = [(k / root, numbers.svg(f"scale.attention[{k}]", "p1")) for k in range(root + 1)]
    lens = walk.tensors["lens"]
    leaders = lens.argmax(dim=1).tolist()
    final = lens[-1].argsort(descending=True, stable=True).tolist()[:3]
    wanted = [walk.label, *final, *sorted(set(leaders), key=leaders.count, reverse=True)]
    labels = list(dict.fromkeys(wanted))[:LINES]
    early = max(1, config.depth // 3)
    return {
        "depth": config.depth,
        "heads": config.heads,
        "fewer": len(queries(walk)) < config.tokens,
        "key_count": min(TOP, config.tokens),
        "revealed": pictures.revealed(walk.pixels, rows[chosen["block"]][chosen["head"]], config),
        "head_pictures": [[pictures.attention_map(row, config) for row in block] for block in rows],
        "attention_bar": charts.root_bar(_colours("viridis"), marks),
        "has_class_head": config.pool == "token",
        "first_depth": int(walk.tensors["lens.first"]) > 0,
        "lens_labels": labels,
        "lens_chart": charts.lens_chart(numbers, labels, config.depth, early, config.classes),
        "leaders": leaders,
        "by_heads": walk.fall.heads,
        "sum_lead": "sum.lead" + (f".{walk.fall.why}" if walk.fall.why else ""),
        "fall": _fall(walk, numbers),
        "shade": lambda path: _shade(numbers.value(path), float(walk.tensors["added"].abs().max())),
    }


def _fall(walk: Walk, numbers: Numbers) -> list[tuple[Markup, Markup]]:
    """Name and bar of each step of the sum."""
    after = walk.tensors["added.sum"].tolist()
    before = [0.0, *after[:-1]]
    low, high = min(0.0, *after), max(0.0, *after)
    names = [say("sum.embedding", {})]
    for number in range(walk.config.depth):
        block = {"block": numbers.show(f"blocks.number[{number + 1}]", "i")}
        kinds = ("sum.attention", "sum.mlp") if walk.fall.heads else ("sum.block",)
        names += [say(kind, block) for kind in kinds]
    if walk.fall.heads:
        names.append(say("sum.constant", {}))
    bars = (charts.fall_bar(a, b, low, high) for a, b in zip(before, after, strict=True))
    return list(zip(names, bars, strict=True))


def why(walk: Walk, numbers: Numbers, chosen: Chosen) -> View:
    """Step 8."""
    found, curves = walk.evidence, walk.evidence.curves
    count = len(found.names)
    chance = curves.deletion[count:]
    low, high = chance.amin(dim=0).tolist(), chance.amax(dim=0).tolist()
    removed = curves.removed.tolist()
    bands = {kind: walk.tensors[f"auc.random.{kind}"].tolist() for kind in ("deletion", "insertion")}
    rows = []
    for place, name in enumerate(found.names):
        bars = {
            k: charts.band_chart(float(walk.tensors[f"auc.{k}"][place]), band[0], band[1]) for k, band in bands.items()
        }
        rows.append(
            {
                "name": name,
                "title": "why.random.name" if name == "random" else f"why.{name}",
                "random": name == "random",
                "picture": pictures.evidence(walk.pixels, found.shares[place], walk.config),
                "verdict": "none" if name == "random" else found.verdict(place),
                "unit": UNITS[METHODS[name].unit],
                "curve": charts.curve_chart(removed, curves.deletion[place].tolist(), low, high),
                **bars,
            }
        )
    last = pictures.EVIDENCE_STEPS
    marks = [(k / last, numbers.svg(f"scale.evidence[{k}]", "i")) for k in range(last + 1)]
    halves = [(0.5 + k / last / 2, numbers.svg(f"scale.evidence[{k}]", "i")) for k in range(last + 1) if k != 2]
    below = [(0.5 - k / last / 2, _tick("\u2212") + numbers.svg(f"scale.evidence[{k}]", "i")) for k in (last, 1)]
    halves = [*below, *halves]
    return {
        "evidence": rows,
        "evidence_bar": charts.root_bar(_colours("viridis"), marks),
        "signed_bar": charts.root_bar(_colours("blue_orange"), halves),
        "agreement": lambda i, j: _shade(numbers.value(f"maps.agreement[{i},{j}]"), 1.0) if i != j else "same",
    }


def _title(step: str, walk: Walk) -> str:
    """The key of a step's title."""
    return f"{step}.title" + (".patches" if step == "position" and not walk.config.class_token else "")


def _lattice(walk: Walk) -> str:
    (rows, cols), (height, width) = walk.config.grid, walk.config.patch_pixels
    down = "".join(f"M{x * width} 0V{rows * height}" for x in range(1, cols))
    return down + "".join(f"M0 {y * height}H{cols * width}" for y in range(1, rows))


def _frame(walk: Walk) -> dict[str, int]:
    (height, width), (row, col) = walk.config.patch_pixels, divmod(walk.patch, walk.config.grid[1])
    return {"x": col * width, "y": row * height, "width": width, "height": height}


def _middle_pixel(walk: Walk) -> dict[str, int]:
    """The pixel in the middle of the chosen patch."""
    at = _frame(walk)
    return {"x": at["x"] + at["width"] // 2, "y": at["y"] + at["height"] // 2}


def _tile(weights: Tensor, limit: float, stem: bool) -> str:
    return pictures.diverging(pictures.folded(weights), limit) if stem else pictures.filter_tile(weights, limit)


def _colours(table: str) -> list[str]:
    return [f"#{bytes(c.tolist()).hex()}" for c in lut(table)[torch.linspace(0, 255, 48).round().long()]]


def _tick(text: str) -> Markup:
    return Markup('<tspan class="tick">{}</tspan>').format(text)


def _signed_bar(numbers: Numbers, path: str, form: str) -> Markup:
    shown = numbers.svg(path, form)
    return charts.root_bar(_colours("blue_orange"), [(0, _tick("\u2212") + shown), (0.5, _tick("0")), (1, shown)])


def _shade(value: float, limit: float) -> str:
    """The class of a table's cell: five steps on each side of zero."""
    step = min(5, round(5 * (abs(value) / limit) ** 0.5)) if limit else 0
    return "" if step == 0 else f"{'plus' if value > 0 else 'minus'}{step}"


def _listed(names: Sequence[Markup]) -> Markup:
    """Names one after the other."""
    return Markup(", ").join(names)
