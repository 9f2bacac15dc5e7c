"""How well a classifier finds all classes of an image where there may be several: one pass, every image once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.data.labels import multilabel
from vitrail.data.loader import EvaluationPass
from vitrail.errors import ConfigError
from vitrail.evaluate.multilabel_report import LabelMistake, LabelScore, MultilabelReport
from vitrail.evaluate.part import Notify, Part, answers, check_count, data_facts, match_classes
from vitrail.evaluate.predictions import ImageResult
from vitrail.inference import Classifier
from vitrail.ops import metrics
from vitrail.ops.multilabel import (
    Counts,
    average_precision,
    bootstrap_interval,
    count,
    mean_average_precision,
    named,
    set_losses,
)
from vitrail.report import Calibration, ModelFacts, machine, printable

BINS = 15
MISTAKES = 24  # kept in the report
MOST_WRONG = 8  # classes of one mistake that are listed
BETWEEN = "|"  # classes of one image in predictions.csv

Truth = Bool[Tensor, "B K"]
Wide = Float[Tensor, "B K"]


def evaluate_sets(
    classifier: Classifier,
    images: EvaluationPass,
    part: Part,
    facts: ModelFacts,
    threshold: float,
    precision: str,
    notify: Notify | None,
) -> tuple[MultilabelReport, tuple[ImageResult, ...]]:
    """The report on the images of `part`, and what was said about each of them, in the order of the data.

    Only the data's classes are counted: of others it is not known whether an image has them. Images with one class each
    are taken as having no other. Raises what `evaluate` raises.
    """
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"a threshold is a probability above 0 and below 1, found {threshold:g}")
    places = match_classes(part.source.classes, classifier.labels)
    names = [printable(classifier.labels.names[k]) for k in places]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch, logits in answers(classifier, images, part, precision, notify):
        rows = batch.labels if multilabel(batch.labels) else F.one_hot(batch.labels, len(places))
        parts.append((batch.index.cpu(), logits[:, places].cpu(), rows.cpu() > 0.5))
    unreadable = check_count(sum(len(index) for index, _, _ in parts), images, part)
    index, logits, truth = (torch.cat(column) for column in zip(*parts, strict=True))
    given = named(logits, threshold)
    losses = set_losses(logits, truth)
    exact = (given == truth).all(dim=1)
    report = MultilabelReport(
        **_scores(logits, truth, given, losses, exact, names),
        threshold=threshold,
        data=data_facts(part),
        model=facts,
        machine=machine(classifier.device, classifier.engine.name if classifier.engine else precision),
        unreadable=unreadable,
        mistakes=_mistakes(index, logits, truth, given, losses, part, names),
    )
    if not multilabel(part.source.labels):
        told = "the data name one class an image, and all others were taken as absent"
        note = f"{part.note}; {told}" if part.note else told
        report = report.model_copy(update={"data": report.data.model_copy(update={"note": note})})
    return report, _image_results(index, logits, truth, given, losses, part, names)


def _scores(
    logits: Wide, truth: Truth, given: Truth, losses: Float[Tensor, " B"], exact: Bool[Tensor, " B"], names: list[str]
) -> dict[str, object]:
    """The report's numbers."""
    counts = count(given, truth)
    total = Counts(*(sum(getattr(c, name) for c in counts) for name in ("support", "predicted", "correct")))
    f1 = [c.f1 or 0.0 for c in counts if c.support]
    bins = metrics.reliability(logits.double().sigmoid().flatten(), truth.flatten(), BINS)
    right, n = int(exact.sum()), len(exact)
    precisions = average_precision(logits, truth).tolist()
    return {
        "images": n,
        "mean_average_precision": mean_average_precision(logits, truth),
        "mean_average_precision_interval": bootstrap_interval(logits, truth),
        "exact": right / n,
        "exact_interval": metrics.wilson(right, n),
        "exact_count": right,
        "precision": total.precision,
        "recall": total.recall,
        "f1": total.f1,
        "macro_f1": sum(f1) / len(f1) if f1 else None,
        "nll": metrics.mean(losses),
        "ece": metrics.calibration_error(bins),
        "labels_each": total.support / n,
        "reliability": tuple(Calibration(**vars(b)) for b in bins),
        "classes": tuple(
            LabelScore(
                name=name,
                support=c.support,
                average_precision=value if c.support else None,
                predicted=c.predicted,
                correct=c.correct,
                precision=c.precision,
                recall=c.recall,
                f1=c.f1,
            )
            for name, c, value in zip(names, counts, precisions, strict=True)
        ),
    }


def _mistakes(
    index: Int[Tensor, " B"],
    logits: Wide,
    truth: Truth,
    given: Truth,
    losses: Float[Tensor, " B"],
    part: Part,
    names: Sequence[str],
) -> tuple[LabelMistake, ...]:
    """The images that were not given exactly their classes, those first whose classes were the least likely."""
    shares = logits.double().sigmoid()

    def listed(row: int, chosen: Bool[Tensor, " K"]) -> tuple[tuple[str, float], ...]:
        found = [(names[k], float(shares[row, k])) for k in chosen.nonzero().flatten().tolist()]
        return tuple(sorted(found, key=lambda one: -one[1])[:MOST_WRONG])

    wrong = (given != truth).any(dim=1).nonzero().flatten().tolist()
    return tuple(
        LabelMistake(
            id=printable(part.source.id(int(index[i]))),
            right=listed(i, truth[i] & given[i]),
            missed=listed(i, truth[i] & ~given[i]),
            wrong=listed(i, given[i] & ~truth[i]),
            index=int(index[i]),
        )
        for i in sorted(wrong, key=lambda i: (-float(losses[i]), i))[:MISTAKES]
    )


def _image_results(
    index: Int[Tensor, " B"],
    logits: Wide,
    truth: Truth,
    given: Truth,
    losses: Float[Tensor, " B"],
    part: Part,
    names: Sequence[str],
) -> tuple[ImageResult, ...]:
    """Label and answer as sets; their probabilities are those of the whole set, each class answered on its own."""

    def text(row: Bool[Tensor, " K"]) -> str:
        return BETWEEN.join(names[k] for k in row.nonzero().flatten().tolist())

    own, said = (-losses).exp().tolist(), (-set_losses(logits, given)).exp().tolist()
    return tuple(
        ImageResult(
            image=printable(part.source.id(place)),
            label=text(truth[i]),
            predicted=text(given[i]),
            confidence=said[i],
            label_probability=own[i],
            right=bool((truth[i] == given[i]).all()),
        )
        for i, place in enumerate(index.tolist())
    )
