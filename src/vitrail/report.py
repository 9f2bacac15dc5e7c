"""What an evaluation found, with everything needed to find it again: numbers and provenance, as JSON and as text."""

import contextlib
import json
import math
import os
import platform
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, JsonValue, ValidationError

from vitrail.config import Config, Probability
from vitrail.errors import DataError, StorageError, config_error

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Count = Annotated[int, Field(ge=0)]
# Only pictures that cannot carry anything but pixels; a report may come from somebody else.
Thumbnail = Annotated[str, Field(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$")]


class Unreadable(Config):
    """An image that could not be decoded, and why. It counts for nothing."""

    id: str
    reason: str


class ClassScore(Config):
    """One class; shares are None where they are undefined (see `ops.metrics.ClassCounts`)."""

    name: str
    support: Count  # images of this class
    predicted: Count  # images taken for this class
    correct: Count
    precision: Probability | None
    recall: Probability | None
    f1: Probability | None


class Calibration(Config):
    """One bin (low, high] of the reliability diagram; the means are None where it is empty."""

    low: Probability
    high: Probability
    count: Count
    confidence: Probability | None
    accuracy: Probability | None


class Mistake(Config):
    """An image whose most probable class is not its label."""

    id: str
    true: str
    predicted: str
    probability: Probability  # of the predicted class
    true_probability: Probability | None = None
    index: Count | None = None  # place in the source, where its picture can be found again
    thumbnail: Thumbnail | None = None  # a data: address; pages show it, saved reports leave it out


class DataFacts(Config):
    """Which images were counted."""

    name: str
    fingerprint: str
    split: str
    held_out: bool  # the model has not been trained on them, as far as is known
    note: str = ""  # why this split, where that is not obvious
    classes: Count


class ModelFacts(Config):
    """Which model was measured."""

    config: dict[str, JsonValue]
    sha256: str  # over the names, shapes, types and values of its weights
    parameters: Count
    classes: Count
    source: str | None = None  # as the user gave it
    seed: int | None = None  # of its training, where known
    averaged: bool | None = None  # whether its weights are means over the last steps (EMA); None: not known
    preprocess: dict[str, JsonValue] | None = None  # how the images were shown to it; None in reports of older versions
    protocol: str | None = None  # whose way that is; None: the way that came with the weights

    def shown(self) -> str:
        """How the images were shown to it, in words."""
        if (p := self.preprocess) is None:
            return ""
        rows, cols = cast(list[int], p["size"])
        crop = "" if p["crop"] == 1 else f", the centre {percent(cast(float, p['crop']))}"
        smooth = "" if p["antialias"] else " without antialiasing"
        way = "squashed" if p["resize"] == "squash" else "resized"
        text = f"{way} to {rows} x {cols} px{crop}, {p['interpolation']}{smooth}"
        return f"{text} (protocol {self.protocol})" if self.protocol else text


class Machine(Config):
    """What computed the numbers."""

    python: str
    torch: str
    vitrail: str
    device: str
    processor: str
    precision: str


class Report(Config):
    """Numbers of one evaluation and their provenance. Shares are 0..1, losses in nats.

    `confusion` holds (true, predicted, images) for every pair that occurred, as places in `classes`; `classes` are
    those that have images or were predicted, in the model's order. `top5` is over the five most probable classes, so 1
    where the model has five or fewer.
    """

    version: Literal[1] = 1
    images: Annotated[int, Field(ge=1)]
    top1: Probability
    top1_interval: tuple[Probability, Probability]  # Wilson, 95 %
    top1_count: Count
    top5: Probability
    top5_count: Count
    nll: Annotated[float, Field(ge=0.0)]
    brier: Annotated[float, Field(ge=0.0, le=2.0)]
    ece: Probability
    macro_precision: Probability | None
    macro_recall: Probability | None
    macro_f1: Probability | None
    data: DataFacts
    model: ModelFacts
    machine: Machine
    unreadable: tuple[Unreadable, ...] = ()
    mistakes: tuple[Mistake, ...] = ()  # the highest losses first
    reliability: tuple[Calibration, ...] = ()
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[Count, Count, Count], ...]

    def json(self) -> str:  # type: ignore[override]  # the house's name; pydantic deprecated its own
        """The report as JSON, one line for each number, class, bin and mistake; equal reports give equal bytes."""
        return report_json(self.model_dump(mode="json"))

    def save(self, path: str | Path) -> None:
        """Write the JSON to `path`, whole or not at all. Raises StorageError."""
        write_text(Path(path), self.json())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a saved report. Raises DataError where the file is missing or is not one."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read the report {path}: {error.strerror}") from error
        except ValidationError as error:
            raise DataError(f"{path} is not a saved evaluation: {config_error(error, 'report')}") from error

    @property
    def measure(self) -> str:
        """The one number that training watches."""
        return "top-1"

    @property
    def score(self) -> float:
        """Its value."""
        return self.top1

    def logged(self) -> dict[str, float | None]:
        """What training writes of it on the way."""
        return {"val_top1": self.top1, "val_nll": self.nll}

    def summary(self) -> dict[str, JsonValue]:
        """The numbers that a model folder keeps."""
        return {**{n: getattr(self, n) for n in ("top1", "top5", "nll", "ece", "images")}, "split": self.data.split}

    def closing(self) -> str:
        """The outcome of a run in one phrase."""
        return f"{100 * self.top1:.2f} % of {self.images:,} held-out images right"

    def verdict(self) -> str:
        """One sentence in plain words."""
        images = ("held-out " if self.data.held_out else "") + ("image" if self.images == 1 else "images")
        low, high = self.top1_interval
        return (
            f"On {self.images:,} {images} of {self.data.name} it names the right one of "
            f"{self.model.classes:,} classes {percent(self.top1)} of the time "
            f"(95 % interval {100 * low:.1f}–{100 * high:.1f})."
        )

    def hardest(self, most: int) -> list[tuple[int, ClassScore]]:
        """(place, class) of the classes that have images, the lowest recall first, then the lowest precision."""
        held = [(i, c) for i, c in enumerate(self.classes) if c.support]
        return sorted(held, key=lambda row: (row[1].recall, row[1].precision or 0.0, row[0]))[:most]

    def confusions(self) -> list[tuple[int, int, int]]:
        """(true, predicted, images) of the pairs that are mistakes, the most frequent first."""
        return sorted((c for c in self.confusion if c[0] != c[1]), key=lambda c: (-c[2], c[0], c[1]))

    def markdown(self) -> str:
        """Tables that read well in a terminal and as Markdown."""
        parts = [self.verdict()]
        if self.data.note:
            parts.append(sentence(self.data.note))
        parts.append(table(["measure", "value", ""], self._measures()))
        worst = [(i, c) for i, c in self.hardest(5) if c.correct < c.support]
        if worst:
            parts.append("Hardest classes")
            rows = [
                [c.name, f"{c.support}", percent(c.recall), percent(c.precision), self._taken_for(i)] for i, c in worst
            ]
            parts.append(table(["class", "images", "recall", "precision", "most often taken for"], rows))
        parts += provenance(self.unreadable, self.data, self.model, self.machine)
        return "\n\n".join(parts) + "\n"

    def _measures(self) -> list[list[str]]:
        low, high = self.top1_interval
        rows = [["top-1", percent(self.top1), f"{self.top1_count:,} of {self.images:,}, 95 % interval "
                 f"{100 * low:.1f}–{100 * high:.1f}"]]  # fmt: skip
        if self.model.classes > 5:
            rows.append(["top-5", percent(self.top5), f"{self.top5_count:,} of {self.images:,}"])
        missed = len(self.unreadable)
        counted = "each counted once" + (f", {missed} unreadable and not counted" if missed else "")
        return [
            *rows,
            ["macro recall", percent(self.macro_recall), "mean over the classes"],
            ["macro F1", percent(self.macro_f1), "mean over the classes"],
            ["NLL", f"{self.nll:.4f}", f"nats; an even guess costs {math.log(max(self.model.classes, 1)):.4f}"],
            ["Brier", f"{self.brier:.4f}", "0 to 2, lower is better"],
            ["ECE", percent(self.ece), "gap between its confidence and its accuracy"],
            ["images", f"{self.images:,}", counted],
        ]

    def _taken_for(self, place: int) -> str:
        wrong = next((c for c in self.confusions() if c[0] == place), None)
        return f"{self.classes[wrong[1]].name} ({wrong[2]})" if wrong else ""


def report_json(table: Mapping[str, JsonValue]) -> str:
    """A report's table as JSON. Long lists get a line for each entry, so two reports can be compared line by line."""
    lines = []
    for name, value in table.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            text = "[\n" + ",\n".join(f"    {json.dumps(v)}" for v in value) + "\n  ]"
        else:
            text = json.dumps(value)
        lines.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def provenance(unreadable: Sequence[Unreadable], data: DataFacts, model: ModelFacts, machine: Machine) -> list[str]:
    """The last paragraphs of a report: what was not counted, and where its numbers came from."""
    parts = ["\n".join(f"- not counted: {u.id} ({u.reason})" for u in unreadable)] if unreadable else []
    parts.append(
        f"Data {data.name}, split {data.split}, fingerprint {data.fingerprint[:12]}. "
        f"Model sha256 {model.sha256[:12]}. vitrail {machine.vitrail}, torch {machine.torch}, "
        f"{machine.precision} on {machine.processor}."
    )
    return [*parts, f"Images {model.shown()}."] if model.preprocess is not None else parts


def percent(share: float | None) -> str:
    """A share as text. Never 100.0 or 0.0 by rounding alone; a dash where the share is undefined."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f} %"
    if 0 < share < 1:
        return {"100.0 %": "> 99.9 %", "0.0 %": "< 0.1 %"}.get(text, text)
    return text


def duration(seconds: float) -> str:
    """`75 s` as `1 min 15 s`, hours and minutes above an hour."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sentence(text: str) -> str:
    """The text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, so that it needs no renderer."""
    cells = [[c.replace("|", "\\|") for c in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def printable(text: str) -> str:
    """The text safe to print and to store: control, undecodable and direction-changing characters are escaped.

    Names come from folders and files of strangers: they may hold terminal commands, bytes that are no text, or marks
    that turn the reading direction around and so hide an ending.
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs") or c in DIRECTIONS else c
        for c in text
    )


def processor(device: torch.device) -> str:
    """Name of the processor that computes: the accelerator's, or the CPU's where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")  # Linux; elsewhere the platform module knows as much as there is to know
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((n for n in names if n), platform.processor() or platform.machine() or "unknown processor")


def machine(device: torch.device, precision: str) -> Machine:
    """The versions and the processor at hand."""
    return Machine(
        python=platform.python_version(),
        torch=str(torch.__version__),
        vitrail=version("vitrail"),
        device=str(device),
        processor=processor(device),
        precision=precision,
    )


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write so that `path` is either the old file or the whole new one, even if the power fails.

    Raises StorageError naming the path and the reason; nothing is left behind then.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` for the block to write, which then takes its place, as `write_bytes` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # kept where the block puts a file in place of this one
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose another place or free some space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
