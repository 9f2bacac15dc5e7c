"""How well a classifier names the images of a data set: one pass, every image counted once, classes matched by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.data.loader import EvaluationPass
from vitrail.data.protocols import by_protocol
from vitrail.data.sources import Dataset, Source
from vitrail.evaluate.multilabel import evaluate_sets
from vitrail.evaluate.multilabel_report import MultilabelReport
from vitrail.evaluate.part import (
    Notify,
    answers,
    check_count,
    check_single,
    choose_part,
    data_facts,
    match_classes,
    model_facts,
)
from vitrail.evaluate.predictions import ImageResult
from vitrail.inference import THRESHOLD, Classifier, load
from vitrail.ops import metrics
from vitrail.report import (
    Calibration,
    ClassScore,
    Mistake,
    Report,
    machine,
    printable,
)
from vitrail.types import Labels, LabelSet, Logits

BINS = 15
MISTAKES = 24  # kept in the report


@dataclass(frozen=True)
class Outcome:
    """What the pass keeps of each image: a few numbers on the CPU, not its logits."""

    index: Int[Tensor, " B"]  # place in the source
    label: Int[Tensor, " B"]  # as the model's classes
    predicted: Int[Tensor, " B"]
    rank: Int[Tensor, " B"]
    confidence: Float[Tensor, " B"]
    loss: Float[Tensor, " B"]
    squared_error: Float[Tensor, " B"]

    @classmethod
    def of(cls, index: Labels, logits: Logits, label: Labels) -> "Outcome":
        """The outcome of one batch."""
        shares = metrics.probabilities(logits)
        # The arg max of the logits, not of the shares: logits that differ can have shares that round to the same.
        predicted = logits.argmax(dim=1).cpu()
        return cls(
            index=index.cpu(),
            label=label,
            predicted=predicted,
            rank=metrics.ranks(logits, label),
            confidence=shares.gather(1, predicted[:, None]).squeeze(1),
            loss=metrics.losses(logits, label),
            squared_error=metrics.squared_errors(shares, label),
        )

    @classmethod
    def join(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """All batches in the order of the source, whatever the order in which they came."""
        joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        order = joined["index"].argsort()
        if (joined["index"][order].diff() == 0).any():
            raise AssertionError("an image was counted twice")
        return cls(**{name: values[order] for name, values in joined.items()})


def evaluate(
    classifier: Classifier | str | Path,
    data: str | Path | Dataset | Source,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    protocol: str | None = None,
    threshold: float | None = None,
    notify: Notify | None = None,
) -> Report | MultilabelReport:
    """Score a classifier on the images of a data set.

    `classifier`: a Classifier, or anything `vitrail.inference.load` takes. `data`: a path, `digits`, a Dataset or a
    Source. `split`: the name of one, or `all`. Without it, a data set with declared splits gives its held-out one
    (test, else val); one without gives all its images, unless the classifier was trained on this very data set: then
    the part that its training held out. `protocol`: how a published number was measured (data/protocols.py) in place of
    the preprocessing that came with the weights. `threshold`: from which probability a class counts as named, for a
    model whose images may have several (0.5); its report is a MultilabelReport. `notify(done, total)` is called after
    each batch.

    Raises ConfigError for a threshold that does not apply; DataError where a class of the data is not one of the
    model's, or more than 1 % of the images are unreadable (fewer are listed in the report and count for nothing);
    WeightsError where the outputs are not finite.
    """
    return evaluate_each(
        classifier,
        data,
        split=split,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        protocol=protocol,
        threshold=threshold,
        notify=notify,
    )[0]


def evaluate_each(
    classifier: Classifier | str | Path,
    data: str | Path | Dataset | Source,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    protocol: str | None = None,
    threshold: float | None = None,
    notify: Notify | None = None,
) -> tuple[Report | MultilabelReport, tuple[ImageResult, ...]]:
    """`evaluate`, and what the model said about each image that was counted, in the order of the data."""
    source_name = None
    if not isinstance(classifier, Classifier):
        source_name, classifier = str(classifier), load(classifier)
    part = choose_part(data, split, classifier.record)
    shown = by_protocol(protocol, classifier.preprocess) if protocol else classifier.preprocess
    images = EvaluationPass(part.source, shown, batch_size, workers, normalised=classifier.engine is None)
    if classifier.labels.multilabel:
        facts = model_facts(classifier, source_name, shown, protocol)
        return evaluate_sets(
            classifier, images, part, facts, THRESHOLD if threshold is None else threshold, precision, notify
        )
    check_single(part, threshold)
    places = torch.tensor(match_classes(part.source.classes, classifier.labels), dtype=torch.int64)
    outcomes = [
        Outcome.of(batch.index, logits, places[batch.labels.cpu()])
        for batch, logits in answers(classifier, images, part, precision, notify)
    ]
    unreadable = check_count(sum(len(one.index) for one in outcomes), images, part)
    found = Outcome.join(outcomes)
    report = Report(
        **_scores(found),
        **_class_scores(found, classifier.labels),
        data=data_facts(part),
        model=model_facts(classifier, source_name, shown, protocol),
        machine=machine(classifier.device, classifier.engine.name if classifier.engine else precision),
        unreadable=unreadable,
        mistakes=_mistakes(found, part.source, classifier.labels),
    )
    return report, _image_results(found, part.source, classifier.labels)


def _scores(found: Outcome) -> dict[str, Any]:
    """The report's numbers over all images."""
    n = len(found.label)
    right, right5 = int((found.rank < 1).sum()), int((found.rank < 5).sum())
    bins = metrics.reliability(found.confidence, found.rank < 1, BINS)
    return {
        "images": n,
        "top1": right / n,
        "top1_interval": metrics.wilson(right, n),
        "top1_count": right,
        "top5": right5 / n,
        "top5_count": right5,
        "nll": metrics.mean(found.loss),
        "brier": metrics.mean(found.squared_error),
        "ece": metrics.calibration_error(bins),
        "reliability": tuple(Calibration(**vars(b)) for b in bins),
    }


def _class_scores(found: Outcome, labels: LabelSet) -> dict[str, Any]:
    """The report's numbers over classes."""
    # Only the classes that occur: the whole matrix of a model of 21,843 classes has 477 million cells.
    shown = torch.cat([found.label, found.predicted]).unique()
    predicted, label = torch.searchsorted(shown, found.predicted), torch.searchsorted(shown, found.label)
    matrix = metrics.confusion(predicted, label, len(shown))
    counts = metrics.per_class(matrix)
    precision, recall, f1 = metrics.macro(counts)
    return {
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "classes": tuple(
            ClassScore(name=printable(labels.names[k]), **vars(c)) for k, c in zip(shown.tolist(), counts, strict=True)
        ),
        "confusion": tuple((t, p, int(matrix[t, p])) for t, p in matrix.nonzero().tolist()),
    }


def _mistakes(found: Outcome, source: Source, labels: LabelSet) -> tuple[Mistake, ...]:
    """The wrongly named images whose true class got the least probability, worst first."""
    wrong = (found.rank > 0).nonzero().flatten().tolist()
    worst = sorted(wrong, key=lambda i: (-float(found.loss[i]), i))[:MISTAKES]
    return tuple(
        Mistake(
            id=printable(source.id(int(found.index[i]))),
            true=printable(labels.names[int(found.label[i])]),
            predicted=printable(labels.names[int(found.predicted[i])]),
            probability=float(found.confidence[i]),
            true_probability=math.exp(-float(found.loss[i])),
            index=int(found.index[i]),
        )
        for i in worst
    )


def _image_results(found: Outcome, source: Source, labels: LabelSet) -> tuple[ImageResult, ...]:
    columns = (found.index, found.label, found.predicted, found.confidence, found.loss)
    return tuple(
        ImageResult(
            image=printable(source.id(index)),
            label=printable(labels.names[label]),
            predicted=printable(labels.names[predicted]),
            confidence=confidence,
            label_probability=math.exp(-loss),
            right=label == predicted,
        )
        for index, label, predicted, confidence, loss in zip(*(c.tolist() for c in columns), strict=True)
    )
