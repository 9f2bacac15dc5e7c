"""What the illustrated page must say, computed again and apart from it, and the check that it says so."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from architectures import make
from pictures import smooth
from vitrail.config import Preprocess
from vitrail.data.decode import decode
from vitrail.data.preprocess import fit, preprocess, window
from vitrail.errors import ConfigError
from vitrail.explain.catalog import METHODS
from vitrail.explain.decomposition import direct_logit_attribution, logit_lens
from vitrail.explain.faithfulness import curves, random_map
from vitrail.explain.representation import position_similarity
from vitrail.inference import Classifier
from vitrail.models.cost import parameters
from vitrail.models.trace import trace
from vitrail.models.vit import ViT
from vitrail.types import LabelSet

LABELS = ("ant", "bee", "cow", "dog", "eel", "fox", "gnu")
SIZE = (16, 24)


def classifier(kind: str = "token", labels: tuple[str, ...] = LABELS, **more: object) -> Classifier:
    """A small model of random weights, in float32 as models are used."""
    model, _ = make(kind, **more)
    return Classifier(model.float(), Preprocess(size=SIZE, crop=0.8), LabelSet(labels), device="cpu")


def photo(folder: Path, name: str = "photo.png") -> Path:
    """An image file that the preprocessing has to resize and crop."""
    from PIL import Image

    path = folder / name
    Image.fromarray(smooth(40, 52)).save(path)
    return path


@dataclass
class Truth:
    """Every number that the page may print, by its path, from the model and the image alone."""

    classifier: Classifier
    image: Path
    label: int | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    def value(self, path: str) -> float:
        name, _, inside = path.partition("[")
        place = tuple(int(i) for i in inside.rstrip("]").split(",")) if inside else ()
        block = re.fullmatch(r"blocks\.(\d+)\.(\w+)", name)
        if block:
            return float(self._block(int(block[1]), block[2], place))
        if name not in self.cache:
            self.cache[name] = self._sources[name]()
        found = self.cache[name]
        return float(torch.as_tensor(found).detach()[place])

    @cached_property
    def model(self) -> ViT:
        assert isinstance(self.classifier.model, ViT)
        return self.classifier.model

    @cached_property
    def run(self) -> Any:
        return trace(self.model, self.images)[1]

    @cached_property
    def images(self) -> Tensor:
        return preprocess(decode(self.image.read_bytes()), self.classifier.preprocess)[None]

    @cached_property
    def target(self) -> int:
        return int(self.run.logits[0].argmax()) if self.label is None else self.label

    @cached_property
    def filters(self) -> Tensor:
        return self.run.patches[0].var(dim=0, correction=0).sort(descending=True).indices[:8].sort().values

    @cached_property
    def inputs(self) -> Tensor:
        seen = self.images if self.model.stem is None else self.model.stem.features(self.images)
        return functional.unfold(seen, self.model.config.patch_size, stride=self.model.config.patch_size)[0].T.detach()

    @cached_property
    def weights(self) -> Tensor:
        return self.model.patch_embedding.weight.detach()[self.filters].flatten(1)

    @cached_property
    def products(self) -> Tensor:
        return self.inputs.double()[:, None] * self.weights.double()

    @cached_property
    def steps(self) -> Tensor:
        try:
            parts = direct_logit_attribution(self.model, self.images)
        except ConfigError:
            lens = logit_lens(self.model, self.run)[:, 0, self.target].double()
            return torch.cat([lens[:1], lens[1:] - lens[:-1]])
        k = self.target
        steps = [parts.embedding[0, k]]
        for block in range(self.model.config.depth):
            steps += [parts.heads[0, block, :, k].sum() + parts.attention_bias[0, block, k], parts.mlp[0, block, k]]
        return torch.stack([*steps, parts.bias[k]]).double()

    @cached_property
    def parts(self) -> Any:
        return direct_logit_attribution(self.model, self.images)

    def maps(self) -> list[Tensor]:
        target = torch.tensor([self.target])
        return [METHODS[name].method(self.model, self.images, target)[0].detach() for name in SHOWN]

    @cached_property
    def tested(self) -> Any:
        target = torch.tensor([self.target])
        chance = [random_map(self.model, self.images, target, seed)[0] for seed in range(1, 9)]
        every = torch.stack([*self.maps(), *chance])
        many = self.images.expand(len(every), -1, -1, -1)
        return curves(self.model, many, target.expand(len(every)), every, points=9)

    def _block(self, number: int, part: str, place: tuple[int, ...]) -> Tensor:
        attention = self.run.blocks[number].attention[0].double()
        if part == "attention":
            return attention[place]
        row = attention[place].sort(descending=True).values
        return row.sum() if part == "sum" else row[5:].sum()

    @cached_property
    def _sources(self) -> dict[str, Callable[[], Any]]:
        config, chosen = self.model.config, self.classifier.preprocess
        pixels = fit(decode(self.image.read_bytes()), chosen)
        original = decode(self.image.read_bytes())
        cols = config.grid[1]
        kernel = self.model.patch_embedding.weight.shape[1:]
        place = torch.arange(10_000)
        simple: dict[str, Any] = {f"config.{n}": getattr(config, n) for n in CONFIG}
        box = window((original.shape[1], original.shape[2]), chosen)
        top, left, bottom, right = box.box
        inside = (min(bottom, original.shape[1]) - max(top, 0)) * (min(right, original.shape[2]) - max(left, 0))
        simple |= {
            "config.head_width": config.width // config.heads,
            "config.patch_numbers": kernel.numel(),
            "config.parameters": parameters(config),
            "original.size": original.shape[1:],
            "resized.size": box.resized,
            "window.seen": inside / original[0].numel(),
            "window.unseen": 1 - inside / original[0].numel(),
            "preprocess.mean": chosen.mean,
            "preprocess.std": chosen.std,
            "even_share": 1 / config.tokens,
            "guess": 1 / config.classes,
            "answers": min(5, config.classes),
            "filters": len(self.filters),
            "queries": config.tokens,
            "auc.band": 8,
            "places.row": place // cols + 1,
            "places.column": place % cols + 1,
            "places.number": place + 1,
            "blocks.number": place,
            "heads.number": place + 1,
            "registers.number": place + 1,
            "pixel.row": place + 1,
            "pixel.column": place + 1,
            "terms.place": place + 1,
            "terms.row": place // kernel[2] % kernel[1] + 1,
            "terms.column": place % kernel[2] + 1,
            "pixels": pixels,
            "levels": pixels / 255,
            "image": self.images[0],
            "scale.attention": [k * k / config.tokens for k in range(5)],
            "scale.evidence": [0, 1, 4, 9],
        }
        return {name: (lambda found=value: found) for name, value in simple.items()} | self._computed()

    def _computed(self) -> dict[str, Callable[[], Any]]:
        run = self.run
        positions = self.model.positions(run.patches)
        prefix_rows = self.model.config.position_rows

        def lens() -> Tensor:
            return logit_lens(self.model, run)[:, 0].double().softmax(dim=-1)

        def first() -> int:
            leaders = lens().argmax(dim=1).tolist()
            return next(d for d in range(len(leaders)) if set(leaders[d:]) == {leaders[-1]})

        return {
            "patches": lambda: run.patches[0],
            "norms.patches": lambda: run.patches[0].square().sum(dim=1).sqrt(),
            "norms.embedded": lambda: run.embedded[0].square().sum(dim=1).sqrt(),
            "norms.position": lambda: positions[0, prefix_rows:].square().sum(dim=1).sqrt(),
            "similarity": lambda: position_similarity(self.model),
            "logits": lambda: run.logits[0],
            "probabilities": lambda: run.logits[0].double().softmax(dim=0),
            "lens": lens,
            "lens.first": first,
            "lens.rank": lambda: (lens() > lens()[:, self.target, None]).sum(dim=1) + 1,
            "terms.input": lambda: self.inputs,
            "terms.weight": lambda: self.weights,
            "terms.product": lambda: self.products,
            "terms.others": lambda: self.products.sum(-1) - _largest(self.products, 6).sum(-1),
            "terms.count": lambda: max(0, self.products.shape[-1] - 6),
            "terms.filter": lambda: self.filters + 1,
            "terms.bias": lambda: self.model.patch_embedding.bias.detach()[self.filters],
            "terms.error": lambda: self._error(),
            "shuffled.with_positions": lambda: self._shuffle("kept"),
            "shuffled.without_positions": lambda: self._shuffle("off"),
            "scale.product": lambda: self.products.unflatten(-1, (self._depth, -1)).sum(dim=2).abs().max(),
            "scale.vector": lambda: run.patches.abs().max(),
            "added": lambda: self.steps,
            "added.sum": lambda: self.steps.cumsum(0),
            "added.total": lambda: self.steps.sum(),
            "added.gap": lambda: (self.steps.sum() - run.logits[0, self.target]).abs(),
            "added.heads": lambda: self.parts.heads[0, :, :, self.target],
            "added.attention_bias": lambda: self.parts.attention_bias[0, :, self.target],
            "added.mlp": lambda: self.parts.mlp[0, :, self.target],
            "auc.deletion": lambda: self.tested.deletion_auc,
            "auc.insertion": lambda: self.tested.insertion_auc,
            "auc.random.deletion": lambda: _ends(self.tested.deletion_auc[len(SHOWN) :]),
            "auc.random.insertion": lambda: _ends(self.tested.insertion_auc[len(SHOWN) :]),
            "maps.agreement": lambda: _agreement(self.maps()),
            **{f"maps.{name}": (lambda at=i: self.maps()[at]) for i, name in enumerate(SHOWN)},
        }

    @property
    def _depth(self) -> int:
        return self.model.patch_embedding.weight.shape[1]

    def _error(self) -> Tensor:
        embedding = self.model.patch_embedding
        bias = 0 if embedding.bias is None else embedding.bias.double()
        return (self.inputs.double() @ embedding.weight.double().flatten(1).T + bias - self.run.patches[0]).abs().max()

    def _shuffle(self, positions: str) -> Tensor:
        from vitrail.models.intervention import Intervention

        order = torch.randperm(self.model.config.patches, generator=torch.Generator().manual_seed(0)).tolist()
        plain, mixed = (
            trace(self.model, self.images, parts=(), change=Intervention(positions=positions, order=o))[0]
            for o in (None, order)
        )
        return (plain - mixed).abs().max()


CONFIG = ("width", "depth", "heads", "mlp_dim", "classes", "patches", "prefix", "tokens", "channels", "registers")
CONFIG += ("image_size", "patch_pixels", "grid")
SHOWN = ("attention", "rollout", "relevance", "legrad", "grad_cam", "input_gradient")
SHOWN += ("occlusion", "random")


def _largest(values: Tensor, count: int) -> Tensor:
    order = values.abs().sort(dim=-1, descending=True).indices[..., :count]
    return values.gather(-1, order)


def _ends(values: Tensor) -> list[float]:
    return [float(values.min()), float(values.max())]


def _agreement(maps: list[Tensor]) -> Tensor:
    """Rank correlation, by its definition: the correlation of the ranks."""
    ranks = torch.stack([(m.flatten() > m.flatten()[:, None]).double().sum(0) for m in maps])
    ranks += torch.stack([(m.flatten() == m.flatten()[:, None]).double().sum(0) for m in maps]) / 2
    flat = torch.stack([m.flatten().std() == 0 for m in maps])
    found = torch.corrcoef(ranks)
    found[flat], found[:, flat] = 0.0, 0.0
    return found


def wrong(printed: list[tuple[str, str, str]], truth: Truth) -> list[str]:
    """Numbers (path, form, text) that are not the tensor's entry at the precision they are printed with."""
    found = []
    for path, form, text in dict.fromkeys(printed):
        number, unit = _read(text, form)
        value = truth.value(path)
        if not abs(number - value) <= 0.5 * unit * (1 + 1e-3) + 2e-6 * abs(value) + _noise(path):
            found.append(f"{path}: printed {text}, is {value!r}")
    return found


def _noise(path: str) -> float:
    """Of numbers that are themselves the rounding error of a sum, which another order of summing changes."""
    return 1e-4 if path in ("terms.error", "added.gap", "shuffled.without_positions") else 0.0


def _read(text: str, form: str) -> tuple[float, float]:
    """The number that a text shows, and one unit of its last digit."""
    plain = text.replace("\u2212", "-").replace("\u202f", "").replace("+", "")
    digits, scale = int(form[1:] or 0), 1.0
    if form[0] == "p":
        assert plain.endswith("%"), text
        plain, scale = plain.removesuffix("%"), 0.01
    if form[0] == "e" and "×10" in plain:
        plain, _, power = plain.partition("×10")
        scale = 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    if form[0] != "e":
        assert len(plain.partition(".")[2]) == digits, (text, form)
    return float(plain) * scale, 10.0**-digits * scale


class Printed(HTMLParser):
    """The numbers of a page with their paths, and every text that has none."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self._inside.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside and self._inside[-1][0] == tag, f"</{tag}> inside {self._inside[-3:]}"
        self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        attributes = self._inside[-1][1] if self._inside else {}
        if "data-path" in attributes:
            self.numbers.append((str(attributes["data-path"]), str(attributes["data-form"]), data))
        elif not any(_exempt(tag, attrs) for tag, attrs in self._inside):
            self.texts.append(data)


def _exempt(tag: str, attributes: dict[str, str | None]) -> bool:
    """Formulas, names of the user's, the marks of axes, and what is no text."""
    named = (attributes.get("class") or "").split()
    return tag in ("math", "style", "script", "title") or bool({"given", "tick", "tag"} & set(named))
