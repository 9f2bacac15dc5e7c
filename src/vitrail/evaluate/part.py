"""What an evaluation counts, and what it says of that: which images, which of the model's classes, which model."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.data.labels import multilabel
from vitrail.data.loader import EvaluationPass
from vitrail.data.manifests import SPLITS
from vitrail.data.sources import Dataset, Source, open_dataset
from vitrail.errors import ConfigError, DataError, WeightsError, close_matches
from vitrail.inference import Classifier
from vitrail.models.build import weights_sha256
from vitrail.report import DataFacts, ModelFacts, Unreadable, printable
from vitrail.types import Batch, LabelSet, Logits

MAX_UNREADABLE = 0.01  # share of the images above which a score would be about another data set
NAMED = 10  # files or classes that an error lists
Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """The images to count, and how the report should speak of them."""

    source: Source
    name: str
    split: str
    held_out: bool
    note: str = ""


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


def answers(
    classifier: Classifier, images: EvaluationPass, part: Part, precision: str, notify: Notify | None
) -> Iterator[tuple[Batch, Logits]]:
    """Every batch of the pass with its logits, on the CPU, by the classifier's engine where it has one, which takes
    images that are not normalised; the model is left in the mode that it was in."""
    done, training = 0, classifier.model.training
    classifier.model.eval()
    try:
        for batch in images:
            run = classifier.engine
            logits = _logits(classifier, batch.images, precision) if run is None else run(batch.images)
            _check_finite(logits)
            yield batch, logits
            done += len(batch.index)
            if notify:
                notify(done, len(part.source))
    finally:
        classifier.model.train(training)


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


def check_single(part: Part, threshold: float | None) -> None:
    """DataError or ConfigError for what does not go with a model that gives every image one class."""
    if multilabel(part.source.labels):
        raise DataError(
            f"the model gives an image one class, but images of {part.name} may have several: train one on such data"
        )
    if threshold is not None:
        raise ConfigError(
            "a threshold is for a model whose images may have several classes, and this one gives an image one: "
            "leave it out"
        )


def check_count(done: int, images: EvaluationPass, part: Part) -> tuple[Unreadable, ...]:
    """The unreadable images after the pass. DataError where they are too many or there are no images at all."""
    unreadable = [Unreadable(id=printable(i), reason=printable(reason)) for i, reason in images.unreadable]
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
    return tuple(unreadable)


def data_facts(part: Part) -> DataFacts:
    """What the report says of the images."""
    return DataFacts(
        name=part.name,
        fingerprint=part.source.fingerprint,
        split=part.split,
        held_out=part.held_out,
        note=part.note,
        classes=len(part.source.classes),
    )


def model_facts(classifier: Classifier, source_name: str | None, shown: Preprocess, protocol: str | None) -> ModelFacts:
    """What the report says of the model."""
    model = classifier.model
    seed, averaged = _table(classifier.record, "recipe").get("seed"), classifier.record.get("averaged")
    return ModelFacts(
        config=model.config.model_dump(mode="json"),
        sha256=weights_sha256(model),
        parameters=sum(p.numel() for p in model.parameters()),
        classes=len(classifier.labels),
        source=source_name,
        seed=seed if isinstance(seed, int) else None,
        averaged=averaged if isinstance(averaged, bool) else None,
        preprocess=shown.model_dump(mode="json"),
        protocol=protocol,
    )
