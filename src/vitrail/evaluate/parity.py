"""Conversions with their proof: what is written is compared, block by block in float64, with the source that it came
from, and published only where they are the same network.

The source is compared as its own library computes it, and the result as the library of the target does, where they are
installed (evaluate/libraries.py); the result as vitrail reads it again, always.
"""

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.errors import ParityError
from vitrail.evaluate.libraries import NotCompared, residuals_in_library
from vitrail.models.build import Network
from vitrail.models.cost import flops
from vitrail.models.resnet import ResNet
from vitrail.report import table
from vitrail.weights.convert import Draft, check_request, discard, publish, with_losses, write_draft
from vitrail.weights.fetch import locate
from vitrail.weights.files import weights_of
from vitrail.weights.load import Loaded, load_weights

GATE = 1e-6  # in float64, where two right networks differ by some 1e-13
_RELOADED = "the result in vitrail"
_RESULTS = {True: "reload", False: "result"}  # heads of columns
_MANY = 2e11  # operations of one image above which one is compared instead of two


@dataclass(frozen=True)
class Comparison:
    """What was compared with the source as vitrail reads it, and the largest difference at each place: before the first
    block, after each, at the output. `differences` is None where `reason` says why nothing was compared."""

    what: str
    differences: Mapping[str, float] | None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """False for a difference above the gate, or not a number."""
        return self.differences is None or all(value <= GATE for value in self.differences.values())


@dataclass(frozen=True)
class ParityReport:
    """A conversion and its comparisons. `losses`: what the target could not hold; `effect`: the largest difference that
    these make to the output."""

    source: str
    source_format: str
    out: str
    format: str
    images: tuple[int, ...]
    scale: Mapping[str, float]  # largest value of the source at each place
    comparisons: tuple[Comparison, ...]
    losses: Mapping[str, str]
    effect: float = 0.0

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons)

    def markdown(self) -> str:
        """One row a place, one column a comparison, whose library a line below the table names: it fits 80 columns."""
        made = [c for c in self.comparisons if c.differences is not None]
        heads = ["source" if c.what.startswith("the source") else _RESULTS[c.what == _RELOADED] for c in made]
        rows = [
            [place, f"{self.scale[place]:.3g}", *(f"{(c.differences or {})[place]:.1e}" for c in made)]
            for place in self.scale
        ]
        batch = " x ".join(map(str, self.images))
        lines = [
            f"{self.source} ({self.source_format}) -> {self.out} ({self.format})",
            "",
            f"Largest differences from the source on {batch} random numbers",
            f"in float64; up to {GATE:.0e} is the same.",
            "",
            table(["after", "largest", *heads], rows),
            "",
            *(f"- {head}: {c.what}" for head, c in zip(heads, made, strict=True)),
            *(f"- not compared: {c.what} ({c.reason})" for c in self.comparisons if c.differences is None),
            *(f"- lost, as allowed: {text}" for text in self.losses.values()),
        ]
        if self.effect:
            lines.append(f"- what is lost changes the output by up to {self.effect:.1e}")
        return "\n".join(lines) + "\n"


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    model: str | None = None,
    image_size: tuple[int, int] | None = None,
    allow_loss: Iterable[str] = (),
) -> ParityReport:
    """Write the weights of `source` in the layout of `to` (weights/convert.py has the list) at `out`, with their
    preprocessing and labels. `image_size` (rows, cols) is for a file that does not tell it; another one than the file's
    resamples the positions. Raises ParityError where the result is not the same network, which leaves no `out`; and
    what `load_weights` and `write_draft` raise."""
    allowed = tuple(allow_loss)
    check_request(Path(out), to, allowed)
    loaded = load_weights(source, model, image_size=image_size, as_stored=image_size is None)
    draft = write_draft(loaded, Path(out), to, allowed)
    try:
        report = compare(loaded, locate(source), draft)
        if not report.passed:
            raise ParityError(
                f"the conversion of {source} is not the same network and was removed\n\n{report.markdown()}"
            )
    except BaseException:
        discard(draft)
        raise
    publish(draft)
    return report


def compare(loaded: Loaded, path: Path, draft: Draft) -> ParityReport:
    """Compare a draft with its source, which lies at `path`. `loaded.model` is spent: it ends in float64."""
    config = draft.config
    count = 1 if flops(config) > _MANY else 2
    images = torch.randn(
        count, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    comparisons, effect = [], 0.0
    source = loaded.model.double()
    original = config == source.config
    if not original:
        whole = residuals(source, images)["output"]
        source = with_losses(source, config)
    expected = residuals(source, images)
    if not original and whole.shape == expected["output"].shape:
        effect = float((whole - expected["output"]).abs().max())
    del source
    if loaded.stored_size is not None:
        before = " x ".join(map(str, loaded.stored_size))
        comparisons.append(Comparison("the source", None, f"its positions were resampled from {before} px, as asked"))
    elif original and isinstance(config, ViTConfig):
        comparisons.append(_library("the source in", loaded.form, path, config, images, expected))
    gc.collect()
    again = load_weights(draft.path, image_size=config.image_size).model.double()
    comparisons.append(Comparison(_RELOADED, _differences(expected, residuals(again, images))))
    del again
    gc.collect()
    if isinstance(config, ViTConfig) and draft.form != "vitrail":
        comparisons.append(_library("the result in", draft.form, draft.path, config, images, expected))
    return ParityReport(
        source=loaded.source,
        source_format=loaded.form,
        out=str(draft.out),
        format=draft.form,
        images=tuple(images.shape),
        scale={place: float(value.abs().max()) for place, value in expected.items()},
        comparisons=tuple(comparisons),
        losses=draft.losses,
        effect=effect,
    )


@torch.no_grad()
def residuals(model: Network, images: Tensor) -> dict[str, Tensor]:
    """The residual stream before the first block and after each, and the output; the stages of a ResNet likewise.

    The blocks are the trace's (models/trace.py), without the attention that it keeps: at 37 x 37 patches that of one
    image alone takes gigabytes.
    """
    model.eval()
    if isinstance(model, ResNet):
        return _stages(model, images)
    x, turn = model.embed(images), model.rotation(images)
    found = {"embedding": x}
    for i, block in enumerate(model.blocks):
        x = block(x, rotation=turn)
        found[f"block {i + 1}"] = x
    return {**found, "output": model.classify(model.pool(x))}


def _stages(model: ResNet, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: found.__setitem__(name, output)

    handles = [stage.register_forward_hook(keep(f"stage {i + 1}")) for i, stage in enumerate(model.stages)]
    try:
        found["output"] = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _library(
    what: str, form: str, path: Path, config: ViTConfig, images: Tensor, expected: Mapping[str, Tensor]
) -> Comparison:
    """The comparison with the library of a format, or why it was not made."""
    library = form.partition("-")[0]
    if not path.is_dir() or weights_of(path) is None:
        reason = "no library here reads a single file of it" if path.is_file() else "it is not a folder of that library"
        return Comparison(f"{what} {library}", None, reason)
    try:
        name, found = residuals_in_library(form, path, config, images)
    except NotCompared as error:
        return Comparison(f"{what} {library}", None, str(error))
    except Exception as error:  # whatever another library raises is its word that it cannot load this
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        if what.startswith("the source"):
            return Comparison(f"{what} {library}", None, reason)
        raise ParityError(f"{library} does not load what was written for it: {reason}") from error
    return Comparison(f"{what} {name}", _differences(expected, found))


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference at each place; infinite where a place or a shape is another."""
    infinite = float("inf")
    return {
        place: float((found[place] - value).abs().max())
        if place in found and found[place].shape == value.shape
        else infinite
        for place, value in expected.items()
    }
