"""Which engine is fastest here: a short trial, every engine in turn on the same images, and how far its logits are."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from vitrail.engines.cache import cache_folder, network_key, read_table
from vitrail.engines.catalog import ENGINES, make_engine, on_trial
from vitrail.errors import StorageError, UserError
from vitrail.inference import Classifier, Engine
from vitrail.report import write_text
from vitrail.types import Logits

ALIKE = 0.999  # lowest cosine with torch's float32 logits at which `auto` takes an engine
EXACT = "torch-float32"


@dataclass(frozen=True)
class Trial:
    """One engine on this machine. `seconds` are of one call of `batch` images, in the order of the rounds; differences
    are of its logits from torch's in float32. `error`: why it has none of these."""

    engine: str
    batch: int
    seconds: tuple[float, ...] = ()
    load_seconds: float = 0.0
    memory: int = 0  # bytes by which the process grew
    cosine: float = 0.0  # lowest of an image
    difference: float = 0.0  # largest of a logit
    agreement: float = 0.0  # share of the images with the same first class
    right: int | None = None  # images named as labelled
    error: str = ""

    @property
    def rate(self) -> float:
        """Images a second, the median round."""
        return self.batch / median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the images a second."""
        low, _, high = quantiles([self.batch / s for s in self.seconds], n=4)
        return low, high


def compare(
    classifier: Classifier,
    names: Sequence[str],
    batch: int,
    *,
    images: UInt8[Tensor, "N 3 H W"] | None = None,
    labels: Int[Tensor, " N"] | None = None,
    calibration: UInt8[Tensor, "N 3 H W"] | None = None,
    merge: int = 0,
    rounds: int = 9,
    notify: Callable[[str], None] = lambda name: None,
) -> list[Trial]:
    """Load the engines, then time them in turn, A B A B. `images`: for the differences, real ones; smooth random ones
    otherwise; `labels` are theirs. `merge`: see `load`; the logits that all are compared with have nothing merged. An
    engine that cannot be loaded has a Trial that says why."""
    shown = pictures(classifier, 16) if images is None else images
    expected = _logits(make_engine(EXACT, classifier), shown, batch)
    engines: dict[str, Engine] = {}
    trials: dict[str, Trial] = {}
    pixels = pictures(classifier, batch)
    for name in names:
        notify(name)
        before, began = _resident(), time.perf_counter()
        try:
            engines[name] = make_engine(name, classifier, calibration, merge)
            engines[name](pixels)
        except UserError as error:
            trials[name] = Trial(name, batch, error=str(error))
            continue
        spent, grown = time.perf_counter() - began, max(0, _resident() - before)
        logits = _logits(engines[name], shown, batch)
        found = differences(expected, logits)
        right = None if labels is None else int((logits.argmax(dim=1) == labels).sum())
        trials[name] = Trial(name, batch, (), spent, grown, found.lowest_cosine, found.largest, found.agreement, right)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine(pixels)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return [Trial(**{**asdict(trials[name]), "seconds": tuple(seconds.get(name, ()))}) for name in names]


def choose(trials: Sequence[Trial], alike: float = ALIKE) -> str:
    """The fastest engine whose logits are alike enough."""
    fit = [trial for trial in trials if not trial.error and trial.cosine >= alike]
    return max(fit, key=lambda trial: trial.rate).engine if fit else EXACT


def fastest(classifier: Classifier, batch: int = 8) -> str:
    """The engine that `auto` means for this network on this machine: tried once, then remembered."""
    if classifier.device.type != "cpu":
        return "torch-bfloat16" if torch.cuda.is_bf16_supported() else EXACT
    about = {"batch": batch, "threads": torch.get_num_threads()}
    known = cache_folder() / f"choice-{network_key(classifier.model, about)}.json"
    if (table := read_table(known)) is not None and table.get("engine") in ENGINES:
        return str(table["engine"])
    trials = compare(classifier, on_trial(), batch, rounds=5)
    name = choose(trials)
    remember(known, name, trials)
    return name


def remember(path: Path, name: str, trials: Sequence[Trial]) -> None:
    """Keep a choice; a cache that cannot be written only means another trial next time."""
    try:
        write_text(path, json.dumps({"engine": name, "trials": [asdict(t) for t in trials]}, indent=1) + "\n")
    except StorageError:
        return


def pictures(classifier: Classifier, count: int) -> UInt8[Tensor, "N 3 H W"]:
    """Random images with large and small shapes, always the same."""
    rows, cols = classifier.preprocess.size
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(count, 3, rows, cols)
    for cells in (2, 5, 16):
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, (rows, cols), mode="bilinear") / 3
    return (total * 255).to(torch.uint8)


def _logits(engine: Engine, images: Tensor, batch: int) -> Logits:
    return torch.cat([engine(part) for part in images.split(batch)])


@dataclass(frozen=True)
class Differences:
    """Between two tables of logits; cosines are of logits less their mean, which no softmax sees."""

    lowest_cosine: float
    mean_cosine: float
    largest: float
    agreement: float  # share of the images with the same first class


def differences(expected: Logits, found: Logits) -> Differences:
    """How far `found` is from `expected`, image by image."""
    a, b = (x.double() - x.double().mean(dim=1, keepdim=True) for x in (expected, found))
    cosines = torch.nn.functional.cosine_similarity(a, b, dim=1)
    same = (a.argmax(dim=1) == b.argmax(dim=1)).double().mean()
    largest = (expected.double() - found.double()).abs().max()
    return Differences(float(cosines.min()), float(cosines.mean()), float(largest), float(same))


def _resident() -> int:
    """Bytes of memory that the process holds (Linux; elsewhere 0)."""
    facts = Path("/proc/self/statm")
    return int(facts.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if facts.is_file() else 0


def as_rows(trials: Sequence[Trial]) -> list[Mapping[str, object]]:
    """For JSON: what a table shows."""
    return [
        {**asdict(t), "images_per_second": t.rate if t.seconds else None, "quartiles": t.spread if t.seconds else None}
        for t in trials
    ]
