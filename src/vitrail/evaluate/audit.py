"""`audit`: everything that can be found wrong with a data set, with a model's eyes where one is given.

A model adds two things. Look-alikes: images whose features nearly coincide, such as two photos of one scene. Doubts
about labels: a linear head is fitted to the features of four fifths of the images and asked about the others, five
times over; confident learning (Northcutt et al. 2021, as cleanlab does it) then says which labels are likely wrong.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.data.check import Copies, Scan, class_counts, find_copies, imbalance, odd_sizes, scan
from vitrail.data.labels import places
from vitrail.data.sources import Dataset, open_dataset
from vitrail.data.stores import Indices, Source, Subset
from vitrail.errors import DataError, MissingExtra
from vitrail.evaluate.features import Features, features
from vitrail.evaluate.findings import (
    ClassCount,
    CopyGroup,
    DataReport,
    LabelDoubt,
    LookAlike,
    Member,
    OddSize,
    Unread,
)
from vitrail.evaluate.head import fit_head, head_logits
from vitrail.report import printable
from vitrail.weights.load import load_weights

FOLDS = 5
COSINE = 0.92  # of centred features, from which two images are look-alikes
MOST_ALIKE = 200  # look-alikes kept, the nearest first

Shares = npt.NDArray[np.float64]  # n K, rows sum to one
Notify = Callable[[str, int, int], None]  # (what, done, total)


def audit(data: str | Path | Dataset, model: str | Path | None = None, *, notify: Notify | None = None) -> DataReport:
    """Check a data set. `data`: what `open_dataset` takes. `model`: a source of weights, with or without a head;
    without one, what needs a model is left out and the report says so. `notify(what, done, total)` is called after each
    batch.

    Raises DataError where the data cannot be opened or none of them read, WeightsError or UnknownName for the model,
    MissingExtra where there is a model and no cleanlab.
    """
    if model is not None:
        _cleanlab()  # before the work, not after it
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    loaded = None if model is None else load_weights(model)

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: notify(what, done, total) if notify else None

    found = scan(dataset.whole, tell("read"))
    if not found.looks:
        raise DataError(f"none of the {len(dataset.whole):,} images of {dataset.name} can be read")
    if loaded is None:
        return findings(dataset, found)
    readable = np.array(sorted(found.looks), dtype=np.int64)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = loaded.model.to(device)
    part = features(network, loaded.preprocess, Subset(dataset.whole, readable), notify=tell("features"))
    seen = Features(part.values, part.labels, torch.from_numpy(readable)[part.index])
    return findings(dataset, found, seen, loaded.source, _trained_here(loaded.record, dataset))


def findings(
    dataset: Dataset, found: Scan, seen: Features | None = None, model: str | None = None, trained_here: bool = False
) -> DataReport:
    """The report on a scan of the whole data set, and on the features of its readable images where there are any."""
    members = _members(dataset)
    copies = find_copies(found)
    train = dataset.splits.get("train", dataset.whole)
    not_done = _not_done(found, seen, trained_here)
    alike: tuple[LookAlike, ...] = ()
    doubts: tuple[LabelDoubt, ...] = ()
    if seen is not None:
        alike = _look_alikes(seen, copies, members)
        if dataset.multilabel:
            skipped: tuple[str, ...] = ("wrong labels, which are looked for only where an image has one class.",)
        else:
            doubts, skipped = _doubts(seen, copies, members, dataset.classes)
        not_done += skipped
    counts = {name: class_counts(part) for name, part in dataset.splits.items()}
    return DataReport(
        name=printable(dataset.name),
        fingerprint=dataset.fingerprint,
        images=len(dataset.whole),
        splits={name: len(part) for name, part in dataset.splits.items()},
        declared=dataset.declared,
        classes=tuple(
            ClassCount(name=printable(c), images={split: n[k] for split, n in counts.items()})
            for k, c in enumerate(dataset.classes)
        ),
        model=model,
        unreadable=tuple(Unread(image=members[i], reason=printable(r)) for i, r in sorted(found.unreadable.items())),
        copies=tuple(
            CopyGroup(
                number=number,
                kind=group.kind,
                similarity=min(1.0, group.similarity),
                members=tuple(members[i] for i in group.members),
            )
            for number, group in enumerate(copies, start=1)
        ),
        look_alikes=alike,
        doubts=doubts,
        odd_sizes=tuple(OddSize(image=members[i], reason=r) for i, r in sorted(odd_sizes(found).items())),
        imbalance=imbalance(
            [printable(c) for c in dataset.classes],
            class_counts(train),
            "class_weights=balanced" if dataset.multilabel else "sampler=balanced",
        ),
        not_done=not_done,
    )


def out_of_fold(seen: Features, groups: Indices, classes: int) -> Shares:
    """Probabilities (n K) of each image's classes by a linear head that saw neither it nor a copy of it.

    Folds hold the classes in equal shares and keep images of one group together. Every class needs FOLDS images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    shares = np.zeros((len(seen), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for known, asked in folds.split(seen.values, seen.labels.numpy(), groups):
        head = fit_head(seen.values[known], seen.labels[known], classes, "logistic")
        shares[asked] = head_logits(head, seen.values[asked]).double().softmax(1).numpy()
    return shares


def _cleanlab() -> Any:
    """cleanlab's module of filters. Raises MissingExtra."""
    try:
        from cleanlab import filter as filters
    except ImportError as error:
        raise MissingExtra("cleanlab", "data", "finding wrong labels") from error
    return filters


def _members(dataset: Dataset) -> list[Member]:
    """Every image of the data set, in its order, with its split."""
    splits = [""] * len(dataset.whole)
    for name, part in dataset.splits.items():
        if not isinstance(part, Subset):
            raise AssertionError(f"a split is a subset of the whole, found {type(part).__name__}")
        for index in part.positions.tolist():
            splits[index] = name
    source = dataset.whole
    return [Member(index=i, id=source.id(i), split=splits[i], label=_text(source, i)) for i in range(len(source))]


def _text(source: Source, index: int) -> str:
    """The class of an image, or all of them."""
    return ", ".join(printable(source.classes[k]) for k in places(source.labels[index])) or "no class"


def _not_done(found: Scan, seen: Features | None, trained_here: bool) -> tuple[str, ...]:
    texts = []
    if found.small:
        texts.append(
            f"near copies among {len(found.small):,} images with a side under 32 pixels, which hold too little to tell "
            "a copy from a likeness; copies of the same pixels were looked for."
        )
    if seen is None:
        texts.append(
            "wrong labels and look-alikes, which need a model: --model MODEL, any weights that know such photos."
        )
    elif trained_here:
        texts.append(
            "an impartial look at the labels: the model was trained on these images and has learned their mistakes; "
            "one that was trained on others finds more."
        )
    return tuple(texts)


def _look_alikes(seen: Features, copies: list[Copies], members: list[Member]) -> tuple[LookAlike, ...]:
    """Pairs of nearly equal features that are not copies anyway, those across splits first."""
    group = {index: number for number, one in enumerate(copies) for index in one.members}
    pairs: list[tuple[bool, float, int, int]] = []
    places = seen.index.tolist()
    for a, b, cosine in alike_pairs(seen.values):
        i, j = places[a], places[b]
        if i not in group or group[i] != group.get(j):
            pairs.append((members[i].split == members[j].split, -cosine, i, j))
    return tuple(
        LookAlike(first=members[i], second=members[j], similarity=min(1.0, -negative))
        for _, negative, i, j in sorted(pairs)[:MOST_ALIKE]
    )


def alike_pairs(values: Float[Tensor, "n D"], rows: int = 1024) -> list[tuple[int, int, float]]:
    """(i, j, cosine) of all i < j whose features, their mean taken off, have a cosine of COSINE or more."""
    x = torch.nn.functional.normalize(values - values.mean(0), dim=1)
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(x), rows):
        cosines = x[start : start + rows] @ x[start:].T
        i, j = torch.where(cosines.triu(1) >= COSINE)
        found += zip((i + start).tolist(), (j + start).tolist(), cosines[i, j].tolist(), strict=True)
    return found


def _doubts(
    seen: Features, copies: list[Copies], members: list[Member], classes: tuple[str, ...]
) -> tuple[tuple[LabelDoubt, ...], tuple[str, ...]]:
    """Labels that are likely wrong, the most doubtful first, and what could not be asked."""
    counts = np.bincount(seen.labels.numpy(), minlength=len(classes))
    rare = [printable(classes[k]) for k in np.flatnonzero((counts > 0) & (counts < FOLDS))]
    usual = np.flatnonzero(counts >= FOLDS)
    skipped: tuple[str, ...] = ()
    if rare:
        skipped = (f"labels of {len(rare)} classes with fewer than {FOLDS} readable images: {', '.join(rare[:10])}.",)
    if len(usual) < 2:
        return (), (f"wrong labels, for which two classes need {FOLDS} readable images each.",)
    kept = torch.from_numpy(np.isin(seen.labels.numpy(), usual))
    own = torch.from_numpy(np.searchsorted(usual, seen.labels[kept].numpy()))
    part = Features(seen.values[kept], own, seen.index[kept])
    group = {index: one.members[0] for one in copies for index in one.members}
    together = np.array([group.get(index, index) for index in part.index.tolist()])
    shares = out_of_fold(part, together, len(usual))
    wrong = _cleanlab().find_label_issues(
        own.numpy(), shares, filter_by="prune_by_class", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    doubts = []
    for place in wrong.tolist():
        best, label = int(shares[place].argmax()), int(own[place])
        doubts.append(
            LabelDoubt(
                image=members[int(part.index[place])],
                suggested=printable(classes[usual[best]]),
                probability=float(shares[place, label]),
                suggested_probability=float(shares[place, best]),
            )
        )
    return tuple(d for d in doubts if d.suggested != d.image.label), skipped


def _trained_here(record: Mapping[str, Any], dataset: Dataset) -> bool:
    data = record.get("data")
    return isinstance(data, Mapping) and data.get("fingerprint") == dataset.fingerprint
