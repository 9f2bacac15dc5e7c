"""Whether an export computes what its model does: compared in a fresh process, on real images, and gated."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from vitrail.data.decode import decode
from vitrail.data.preprocess import fit
from vitrail.data.sources import list_images, open_dataset
from vitrail.data.stores import Source
from vitrail.engines.trial import differences, pictures
from vitrail.errors import DataError, ImageError, WeightsError
from vitrail.evaluate.part import match_classes
from vitrail.inference import Classifier
from vitrail.report import percent, table
from vitrail.types import Logits

MOST = 1000  # images compared, evenly spaced where there are more
SIZES = (1, 16, 7, 32)  # images of one call, in turn: the number is free


@dataclass(frozen=True)
class Gate:
    """What an export must reach: the lowest cosine of an image's logits, the share of images with the same first
    class, and the share of right answers it may lose."""

    cosine: float
    agreement: float
    lost: float


APPROXIMATE = Gate(0.80, 0.90, 0.005)
GATES = {
    "float32": Gate(0.99999, 0.999, 0.001),
    "bfloat16": Gate(0.99, 0.97, 0.005),
    "int8": APPROXIMATE,
}


@dataclass(frozen=True)
class Shown:
    """Images for a comparison. `labels` are of the model's classes, where the data have them."""

    pixels: UInt8[Tensor, "N 3 H W"]
    labels: Int[Tensor, " N"] | None = None
    real: bool = True
    name: str = "random pictures"
    whole: Callable[[int], bytes] | None = None  # the encoded i-th image, for a graph that resizes


@dataclass(frozen=True)
class Verification:
    """An export beside the model it came from, both on the same pixels."""

    target: str
    precision: str
    data: str
    images: int
    real: bool
    max_difference: float
    lowest_cosine: float
    mean_cosine: float
    agreement: float
    top1_before: int | None
    top1_after: int | None
    gate: Gate
    failures: tuple[str, ...]
    resize: str = "outside"

    @property
    def passed(self) -> bool:
        return not self.failures

    def table(self) -> dict[str, object]:
        """For verify.json."""
        return {**asdict(self), "passed": self.passed}

    def markdown(self) -> str:
        kind = "real" if self.real else "random"
        given = ", whole; resized in the graph" if self.resize == "inside" else ""
        rows = [
            ["images", f"{self.images:,} ({kind}: {self.data}{given})", ""],
            ["largest difference of a logit", f"{self.max_difference:.2g}", ""],
            ["cosine of the logits, lowest", f"{self.lowest_cosine:.6f}", f"at least {self.gate.cosine:g}"],
            ["cosine of the logits, mean", f"{self.mean_cosine:.6f}", ""],
        ]
        if self.real:
            rows.append(["same first class", percent(self.agreement), f"at least {percent(self.gate.agreement)}"])
        if self.top1_before is not None and self.top1_after is not None:
            counts = f"{self.top1_before} -> {self.top1_after} of {self.images:,}"
            rows.append(["right answers, before -> after", counts, f"at most {100 * self.gate.lost:g} points lost"])
        return table(["in a fresh process", "found", "gate"], rows) + "\n"


def images_to_show(classifier: Classifier, data: str | Path | None, whole: bool = False) -> Shown:
    """The images of a labelled data set, of a folder of photos or, without either, random pictures; `whole` ones too
    for a graph that resizes. DataError where none can be read."""
    if data is None and whole:
        encoded = [_png(picture) for picture in pictures_of_sizes(classifier)]
        pixels = [fit(decode(picture), classifier.preprocess) for picture in encoded]
        return Shown(torch.stack(pixels), real=False, whole=encoded.__getitem__)
    if data is None:
        return Shown(pictures(classifier, 32), real=False)
    try:
        source = open_dataset(data).whole
    except DataError:
        source = None
    if source is not None:
        try:
            places = match_classes(source.classes, classifier.labels)
        except DataError:
            places = None  # photos of other things compare as well; only their labels say nothing
        return _from_source(classifier, source, places, str(data))
    paths = list_images([data])
    pixels, kept = [], []
    for path in (paths[i] for i in _spread(len(paths))):
        if (image := _fitted(classifier, path.read_bytes())) is not None:
            pixels.append(image)
            kept.append(path)
    return Shown(_stack(pixels, data), name=Path(data).name, whole=lambda i: kept[i].read_bytes())


def pictures_of_sizes(classifier: Classifier) -> list[UInt8[Tensor, "3 rows cols"]]:
    """Random pictures, smaller and larger than the model's, tall and wide, two of each size."""
    rows, cols = classifier.preprocess.size
    sizes = [(rows, cols), (2 * rows + 1, 3 * cols), (3 * rows + 2, 2 * cols - 1), (rows // 2 + 1, cols - 1)]
    found = []
    for i, picture in enumerate(pictures(classifier, 32)):
        size = sizes[i // 2 % len(sizes)]
        found.append(functional.interpolate(picture[None], size, mode="bicubic", antialias=True)[0])
    return found


def _png(pixels: UInt8[Tensor, "3 rows cols"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def _from_source(classifier: Classifier, source: Source, places: Sequence[int] | None, data: str) -> Shown:
    pixels: list[Tensor] = []
    labels: list[int] = []
    kept: list[int] = []
    for i in _spread(len(source)):
        item = source.read(i)
        if (image := _fitted(classifier, item.data)) is not None:
            pixels.append(image)
            kept.append(i)
            if isinstance(item.label, int):  # not where an image may have several classes
                labels.append(item.label)
    known = None
    if places is not None and len(labels) == len(pixels):
        known = torch.tensor([places[label] for label in labels])
    return Shown(_stack(pixels, data), known, name=Path(data).name, whole=lambda i: source.read(kept[i]).data)


def _spread(count: int) -> list[int]:
    return list(range(count)) if count <= MOST else [i * count // MOST for i in range(MOST)]


def _fitted(classifier: Classifier, data: bytes) -> Tensor | None:
    try:
        return fit(decode(data), classifier.preprocess)
    except ImageError:
        return None  # counted by those that are left


def _stack(pixels: list[Tensor], data: str | Path) -> Tensor:
    if not pixels:
        raise DataError(f"a comparison needs images, but none in {data} can be read")
    return torch.stack(pixels)


def verify(
    folder: Path,
    classifier: Classifier,
    shown: Shown,
    target: str,
    precision: str,
    gate: Gate | None = None,
    resize_inside: bool = False,
) -> Verification:
    """Compare the export in `folder`, run by another process, with the network in float32 here. `gate` in place of the
    precision's own. `resize_inside`: the export is given whole images, the network those that `fit` made of them."""
    before = torch.cat([classifier.scores(part) for part in shown.pixels.split(32)])
    after = run_fresh(folder, shown, resize_inside)
    found = judge(before, after, shown, target, precision, gate)
    return replace(found, resize="inside") if resize_inside else found


def run_fresh(folder: Path, shown: Shown, whole: bool = False) -> Logits:
    """The export's logits, by a new Python that sees the folder and the images alone: their pixels at the model's size
    or, for an export that resizes, `whole`. WeightsError where it fails."""
    with tempfile.TemporaryDirectory(prefix="vitrail-verify-") as place:
        asked, answered = Path(place) / "images", Path(place) / "logits.safetensors"
        if whole and shown.whole is not None:
            asked.mkdir()
            for i in range(len(shown.pixels)):
                (asked / f"{i:04d}").write_bytes(shown.whole(i))
        else:
            save_file({"pixels": shown.pixels.contiguous()}, asked)
        command = [sys.executable, "-m", "vitrail.export.fresh", str(folder), str(asked), str(answered)]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise WeightsError(f"the export does not run in a fresh process: {reason}")
        return load_file(answered)["logits"].clone()


def judge(
    before: Float[Tensor, "N K"],
    after: Float[Tensor, "N K"],
    shown: Shown,
    target: str,
    precision: str,
    gate: Gate | None = None,
) -> Verification:
    """The comparison of two tables of logits, and which of its gates failed."""
    gate = gate or GATES[precision]
    found = differences(before, after)
    agreement = float((before.argmax(dim=1) == after.argmax(dim=1)).double().mean())
    counts = [
        None if shown.labels is None else int((logits.argmax(dim=1) == shown.labels).sum())
        for logits in (before, after)
    ]
    lost = 0.0 if counts[0] is None or counts[1] is None else (counts[0] - counts[1]) / len(before)
    failures = []
    if not found.lowest_cosine >= gate.cosine:
        failures.append(f"the lowest cosine is {found.lowest_cosine:.6f}, below {gate.cosine:g}")
    if shown.real and agreement < gate.agreement:
        failures.append(f"{percent(agreement)} of the images keep their first class, below {percent(gate.agreement)}")
    if lost > gate.lost + 1e-9:
        failures.append(f"{100 * lost:.2f} points of top-1 are lost, more than {100 * gate.lost:g}")
    return Verification(
        target=target,
        precision=precision,
        data=shown.name,
        images=len(before),
        real=shown.real,
        max_difference=found.largest,
        lowest_cosine=found.lowest_cosine,
        mean_cosine=found.mean_cosine,
        agreement=agreement,
        top1_before=counts[0],
        top1_after=counts[1],
        gate=gate,
        failures=tuple(failures),
    )
