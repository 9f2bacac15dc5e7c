"""How well a classifier names the images of a data set: one pass, every image counted once, classes matched by name."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.loader import EvaluationPass
from vitrail.data.manifests import SPLITS
from vitrail.data.protocols import by_protocol
from vitrail.data.sources import Dataset, Source, open_dataset
from vitrail.errors import DataError, WeightsError, close_matches
from vitrail.evaluate.predictions import ImageResult
from vitrail.inference import Classifier, load
from vitrail.models.build import weights_sha256
from vitrail.ops import metrics
from vitrail.report import (
    Calibration,
    ClassScore,
    DataFacts,
    Mistake,
    ModelFacts,
    Report,
    Unreadable,
    machine,
    printable,
)
from vitrail.types import Labels, LabelSet, Logits

BINS = 15
MAX_UNREADABLE = 0.01  # share of the images above which a score would be about another data set
MISTAKES = 24  # kept in the report
NAMED = 10  # files or classes that an error lists


@dataclass(frozen=True)
class Part:
    """The images to count, and how the report should speak of them."""

    source: Source
    name: str
    split: str
    held_out: bool
    note: str = ""


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
    notify: Callable[[int, int], None] | None = None,
) -> Report:
    """Score a classifier on the images of a data set.

    `classifier`: a Classifier, or anything `vitrail.inference.load` takes. `data`: a path, `digits`, a Dataset or a
    Source. `split`: the name of one, or `all`. Without it, a data set with declared splits gives its held-out one
    (test, else val); one without gives all its images, unless the classifier was trained on this very data set: then
    the part that its training held out. `protocol`: how a published number was measured (data/protocols.py) in place of
    the preprocessing that came with the weights. `notify(done, total)` is called after each batch.

    Raises DataError where a class of the data is not one of the model's, or more than 1 % of the images are unreadable
    (fewer are listed in the report and count for nothing); WeightsError where the outputs are not finite.
    """
    return evaluate_each(
        classifier,
        data,
        split=split,
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        protocol=protocol,
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
    notify: Callable[[int, int], None] | None = None,
) -> tuple[Report, tuple[ImageResult, ...]]:
    """`evaluate`, and what the model said about each image that was counted, in the order of the data."""
    source_name = None
    if not isinstance(classifier, Classifier):
        source_name, classifier = str(classifier), load(classifier)
    part = choose_part(data, split, classifier.record)
    places = torch.tensor(match_classes(part.source.classes, classifier.labels), dtype=torch.int64)
    shown = by_protocol(protocol, classifier.preprocess) if protocol else classifier.preprocess
    engine = classifier.engine
    images = EvaluationPass(part.source, shown, batch_size, workers, normalised=engine is None)
    outcomes: list[Outcome] = []
    done = 0
    training = classifier.model.training
    classifier.model.eval()
    try:
        for batch in images:
            logits = _logits(classifier, batch.images, precision) if engine is None else engine(batch.images)
            _check_finite(logits)
            outcomes.append(Outcome.of(batch.index, logits, places[batch.labels.cpu()]))
            done += len(batch.index)
            if notify:
                notify(done, len(part.source))
    finally:
        classifier.model.train(training)
    unreadable = [Unreadable(id=printable(i), reason=printable(reason)) for i, reason in images.unreadable]
    _check_count(done, unreadable, part)
    found = Outcome.join(outcomes)
    report = Report(
        **_scores(found),
        **_class_scores(found, classifier.labels),
        data=_data_facts(part),
        model=_model_facts(classifier, source_name, shown, protocol),
        machine=machine(classifier.device, precision if engine is None else engine.name),
        unreadable=tuple(unreadable),
        mistakes=_mistakes(found, part.source, classifier.labels),
    )
    return report, _image_results(found, part.source, classifier.labels)


def open_as_trained(data: str | Path, record: Mapping[str, Any], quarantine: str | Path | None = None) -> Dataset:
    """The data set at a path. Data without splits are split as the training of `record` split its own.

    With another share the held-out part would be another one and hold images that were trained on. `quarantine`: a list
    of images to leave out.
    """
    share = _table(_table(record, "recipe"), "data").get("val_share")
    if not isinstance(share, float):
        return open_dataset(data, quarantine=quarantine)
    return open_dataset(data, val_share=share, quarantine=quarantine)


def choose_part(data: str | Path | Dataset | Source, split: str | None, record: Mapping[str, Any]) -> Part:
    """Which images to count (see `evaluate`), and what to say about the choice."""
    if isinstance(data, str | Path):
        data = open_as_trained(data, record)
    if not isinstance(data, Dataset):
        return Part(data, "the data", split or "all", held_out=False)
    trained_here = _table(record, "data").get("fingerprint") == data.fingerprint
    note = ""
    if split is None:
        split = data.held_out if data.declared or trained_here else "all"
        if trained_here and not data.declared:
            note = "the model was trained on the other images of this data set"
    split = SPLITS.get(split.lower(), split)
    held_out = split not in ("all", "train")
    if trained_here and not held_out:
        note = "the model was trained on some of these images, so new ones will score lower"
    if left_out := _left_out(data, split, record if trained_here else {}):
        note = f"{note}; {left_out}" if note else left_out
    source = data.whole if split == "all" else data.split(split)
    return Part(source, printable(data.name), split, held_out, note)


def _left_out(data: Dataset, split: str, record: Mapping[str, Any]) -> str:
    """What a quarantine list did to the images that are counted, or to those that were trained on."""
    if data.left_out is not None:
        images = data.left_out.images
        count = sum(images.values()) if split == "all" else images[split]
        return f"{count:,} images are left out by the quarantine list {printable(data.left_out.quarantine.path)}"
    if listed := _table(_table(record, "data"), "quarantine"):
        return f"its training left images out by the list {printable(str(listed.get('file')))}, which are counted here"
    return ""


def match_classes(classes: tuple[str, ...], labels: LabelSet) -> list[int]:
    """The model's index of each class of the data, by id or name. Raises DataError naming the classes it lacks."""
    found = [labels.find(c) for c in classes]
    namesakes = Counter(labels.names)
    if unclear := [printable(c) for c, i in zip(classes, found, strict=True) if i is None and namesakes[c] > 1]:
        raise DataError(f"the model has several classes called {unclear[0]!r}; name that class of the data by its id")
    missing = [c for c, i in zip(classes, found, strict=True) if i is None]
    if missing:
        shown = ", ".join(repr(printable(c)) for c in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise DataError(
            f"every class of the data must be one of the model's {len(labels)}, but {len(missing)} of {len(classes)} "
            f"are not: {shown}; rename them{close_matches(missing[0], _choices(labels))}"
        )
    places = [i for i in found if i is not None]
    uses = Counter(places)
    twice = [repr(printable(c)) for c, i in zip(classes, places, strict=True) if uses[i] > 1]
    if twice:
        raise DataError(
            f"each class of the data must be another class of the model, but {', '.join(twice[:NAMED])} "
            "name one and the same; merge them"
        )
    return places


def _choices(labels: LabelSet) -> tuple[str, ...]:
    return labels.names if labels.ids is None else (*labels.ids, *labels.names)


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a record; empty where there is none, as for weights from elsewhere."""
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _logits(classifier: Classifier, images: Float[Tensor, "B C H W"], precision: str) -> Logits:
    with torch.autocast(classifier.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return classifier.logits(images)


def _check_finite(logits: Logits) -> None:
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise WeightsError(
            f"a model must give finite numbers, but {bad} of {len(logits)} images of one batch got NaN or infinity; "
            "its training has diverged or its weights are damaged"
        )


def _check_count(done: int, unreadable: list[Unreadable], part: Part) -> None:
    total = len(part.source)
    if not total:
        raise DataError(f"the split {part.split!r} of {part.name} holds no images; choose another")
    if done + len(unreadable) != total:
        raise AssertionError(f"{done} counted + {len(unreadable)} unreadable images are not {total}")
    if len(unreadable) > MAX_UNREADABLE * total:
        shown = ", ".join(f"{u.id} ({u.reason})" for u in unreadable[:NAMED])
        more = ", ..." if len(unreadable) > NAMED else ""
        raise DataError(
            f"at most {MAX_UNREADABLE:.0%} of the images may be unreadable, found {len(unreadable)} of {total}: "
            f"{shown}{more}; repair or remove them"
        )


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


def _data_facts(part: Part) -> DataFacts:
    return DataFacts(
        name=part.name,
        fingerprint=part.source.fingerprint,
        split=part.split,
        held_out=part.held_out,
        note=part.note,
        classes=len(part.source.classes),
    )


def _model_facts(
    classifier: Classifier, source_name: str | None, shown: Preprocess, protocol: str | None
) -> ModelFacts:
    model = classifier.model
    seed = _table(classifier.record, "recipe").get("seed")
    return ModelFacts(
        config=model.config.model_dump(mode="json"),
        sha256=weights_sha256(model),
        parameters=sum(p.numel() for p in model.parameters()),
        classes=len(classifier.labels),
        source=source_name,
        seed=seed if isinstance(seed, int) else None,
        preprocess=shown.model_dump(mode="json"),
        protocol=protocol,
    )
