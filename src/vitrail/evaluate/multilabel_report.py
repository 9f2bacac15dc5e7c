"""What an evaluation found where images may have several classes: numbers and provenance, as JSON and as text."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError

from vitrail.config import Config, Probability
from vitrail.errors import DataError, config_error
from vitrail.report import (
    Calibration,
    Count,
    DataFacts,
    Machine,
    ModelFacts,
    Report,
    Thumbnail,
    Unreadable,
    percent,
    provenance,
    report_json,
    sentence,
    table,
    write_text,
)


class LabelScore(Config):
    """One class; shares are None where they are undefined. All but the first three are at the report's threshold."""

    name: str
    support: Count  # images that have it
    average_precision: Probability | None  # None: no image has it
    predicted: Count  # images that were given it
    correct: Count
    precision: Probability | None
    recall: Probability | None
    f1: Probability | None


class LabelMistake(Config):
    """An image that was not given exactly its classes: (class, probability) of what was right, missed and wrong."""

    id: str
    right: tuple[tuple[str, Probability], ...]
    missed: tuple[tuple[str, Probability], ...]
    wrong: tuple[tuple[str, Probability], ...]
    index: Count | None = None  # place in the source, where its picture can be found again
    thumbnail: Thumbnail | None = None


class MultilabelReport(Config):
    """Numbers of one evaluation and their provenance. Shares are 0..1, losses in nats.

    A class's answer to an image is yes where its probability is at least `threshold`; the average precision needs no
    threshold. `nll` is of an image's whole set of classes. `classes` are those of the data, in the model's order.
    """

    version: Literal[1] = 1
    kind: Literal["multilabel"] = "multilabel"
    images: Annotated[int, Field(ge=1)]
    mean_average_precision: Probability | None  # over the classes that have images
    mean_average_precision_interval: tuple[Probability, Probability] | None  # images drawn anew, 95 %
    threshold: Probability
    exact: Probability  # share of the images that were given exactly their classes
    exact_interval: tuple[Probability, Probability]  # Wilson, 95 %
    exact_count: Count
    precision: Probability | None  # over all answers
    recall: Probability | None
    f1: Probability | None
    macro_f1: Probability | None  # mean over the classes that have images
    nll: Annotated[float, Field(ge=0.0)]
    ece: Probability  # over all answers
    labels_each: Annotated[float, Field(ge=0.0)]  # classes an image has on average
    data: DataFacts
    model: ModelFacts
    machine: Machine
    unreadable: tuple[Unreadable, ...] = ()
    mistakes: tuple[LabelMistake, ...] = ()  # the highest losses first
    reliability: tuple[Calibration, ...] = ()
    classes: tuple[LabelScore, ...]

    @property
    def measure(self) -> str:
        """The one number that training watches."""
        return "mean average precision"

    @property
    def score(self) -> float:
        """Its value; 0 where no image has a class."""
        return self.mean_average_precision or 0.0

    @property
    def limit(self) -> str:
        """The threshold in percent."""
        return f"{100 * self.threshold:g} %"

    def logged(self) -> dict[str, float | None]:
        """What training writes of it on the way."""
        return {"val_map": self.mean_average_precision, "val_nll": self.nll}

    def summary(self) -> dict[str, JsonValue]:
        """The numbers that a model folder keeps."""
        names = ("mean_average_precision", "f1", "exact", "threshold", "nll", "ece", "images")
        return {**{name: getattr(self, name) for name in names}, "split": self.data.split}

    def json(self) -> str:  # type: ignore[override]  # the house's name; pydantic deprecated its own
        """The report as JSON, one line for each number, class, bin and mistake; equal reports give equal bytes."""
        return report_json(self.model_dump(mode="json"))

    def save(self, path: str | Path) -> None:
        """Write the JSON to `path`, whole or not at all. Raises StorageError."""
        write_text(Path(path), self.json())

    def verdict(self) -> str:
        """Two sentences in plain words."""
        images = ("held-out " if self.data.held_out else "") + ("image" if self.images == 1 else "images")
        low, high = self.mean_average_precision_interval or (0.0, 0.0)
        between = f" (95 % interval {100 * low:.1f}–{100 * high:.1f})" if self.mean_average_precision_interval else ""
        return (
            f"On {self.images:,} {images} of {self.data.name} its mean average precision over "
            f"{len(self.classes):,} classes is {percent(self.mean_average_precision)}{between}. "
            f"Naming every class that is at least {self.limit} likely, it gives "
            f"{percent(self.exact)} of the images exactly their classes."
        )

    def closing(self) -> str:
        """The outcome of a run in one phrase."""
        return f"{self.measure} {percent(self.mean_average_precision)} on {self.images:,} held-out images"

    def hardest(self) -> list[LabelScore]:
        """The classes that have images, the lowest average precision first; then the others."""
        return sorted(self.classes, key=lambda c: (c.average_precision is None, c.average_precision or 0.0, c.name))

    def markdown(self) -> str:
        """Tables that read well in a terminal and as Markdown."""
        parts = [self.verdict()]
        if self.data.note:
            parts.append(sentence(self.data.note))
        parts.append(table(["measure", "value", ""], self._measures()))
        head = ["class", "images", "AP", "by chance", "precision", "recall", "F1"]
        rows = [
            [c.name, f"{c.support:,}", percent(c.average_precision), percent(c.support / self.images),
             percent(c.precision), percent(c.recall), percent(c.f1)] for c in self.hardest()[:10]
        ]  # fmt: skip
        parts += ["Hardest classes" if len(self.classes) > 10 else "Classes, the hardest first", table(head, rows)]
        parts += provenance(self.unreadable, self.data, self.model, self.machine)
        return "\n\n".join(parts) + "\n"

    def _measures(self) -> list[list[str]]:
        low, high = self.exact_interval
        missed = len(self.unreadable)
        counted = "each counted once" + (f", {missed} unreadable and not counted" if missed else "")
        return [
            ["mean average precision", percent(self.mean_average_precision), "mean over the classes, no threshold"],
            ["F1", percent(self.f1), f"over all answers, at a threshold of {self.limit}"],
            ["precision", percent(self.precision), "of the classes that it named, the share that was right"],
            ["recall", percent(self.recall), "of the classes that the images have, the share that it named"],
            ["macro F1", percent(self.macro_f1), "mean over the classes"],
            ["exactly right", percent(self.exact), f"{self.exact_count:,} of {self.images:,} images, 95 % interval "
             f"{100 * low:.1f}–{100 * high:.1f}"],
            ["NLL", f"{self.nll:.4f}", "nats an image, summed over the classes"],
            ["ECE", percent(self.ece), "gap between its probabilities and how often a class is there"],
            ["images", f"{self.images:,}", f"{counted}; {self.labels_each:.2f} classes each"],
        ]  # fmt: skip


def load_report(path: str | Path) -> Report | MultilabelReport:
    """Read a saved report of either kind. Raises DataError where the file is missing or is not one."""
    try:
        table = json.loads(Path(path).read_bytes())
        if not isinstance(table, dict) or table.get("kind") != "multilabel":
            return Report.load(path)
        return MultilabelReport.model_validate(table)
    except OSError as error:
        raise DataError(f"cannot read the report {path}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{path} is not a saved evaluation: {config_error(error, 'report')}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a saved evaluation: {error}") from error
