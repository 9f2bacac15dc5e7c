"""How much a frozen model's features know of a data set: linear heads, nearest neighbours, few-shot least squares.

Axes: N images, M training images, D features, K classes.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from vitrail.config import Config, Preprocess, Probability
from vitrail.data.sources import Dataset
from vitrail.errors import ConfigError, DataError, UnknownName
from vitrail.evaluate.features import Features, check_readable, features
from vitrail.evaluate.head import Method, fit_head, head_logits
from vitrail.evaluate.part import MAX_UNREADABLE, open_as_trained
from vitrail.models.build import Network, weights_sha256
from vitrail.ops.metrics import ranks, wilson
from vitrail.report import Count, Machine, Unreadable, machine, percent, printable, sentence, table
from vitrail.weights.load import Loaded, load_weights

METHODS = ("linear", "ridge", "knn", "fewshot")
NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINOv2, eval/knn.py and Oquab et al. 2023, section 7.1
SHOTS, SEEDS, L2 = (1, 5, 10, 25), 3, 2.0**10  # big_vision, evaluators/fewshot_lsr.py and its configs
BIAS = 100.0  # constant feature of the few-shot evaluator: so large that the bias is hardly penalised
CHUNK = 1024  # images whose similarities are held at once

Wide = Float[Tensor, "N D"]
Known = Float[Tensor, "M D"]
KnownLabels = Int[Tensor, " M"]


class ProbeRow(Config):
    """The score of one method. With several seeds `top1` is their mean, and `correct` and the interval are None."""

    method: str
    settings: str
    top1: Probability
    interval: tuple[Probability, Probability] | None = None  # Wilson, 95 %
    correct: Count | None = None
    seeds: tuple[Probability, ...] = ()  # top-1 of each
    seconds: Annotated[float, Field(ge=0.0)]  # of the method alone, without the features


class ProbeReport(Config):
    """What the features of one model know of one data set, and where the numbers come from."""

    version: Literal[1] = 1
    data: str
    fingerprint: str
    train_split: str
    train_images: Count
    split: str  # that is scored
    images: Count
    classes: Count
    width: Count  # features an image
    source: str
    sha256: str  # over the model's weights
    preprocess: Preprocess
    note: str = ""
    features_seconds: float
    rows: tuple[ProbeRow, ...]
    unreadable: tuple[Unreadable, ...] = ()
    machine: Machine

    def markdown(self) -> str:
        """A table that reads well in a terminal and as Markdown."""
        rows = []
        for row in self.rows:
            low, high = row.interval or (min(row.seeds), max(row.seeds))
            between = f"{100 * low:.1f}–{100 * high:.1f}"
            kind = "95 %" if row.interval else f"{len(row.seeds)} seeds"
            rows.append([row.method, percent(row.top1), f"{between} ({kind})", row.settings, f"{row.seconds:.1f} s"])
        parts = [
            f"{self.images:,} images of {self.data} ({self.split}), {self.classes:,} classes, from {self.width:,} "
            f"frozen features of {self.train_images:,} images ({self.train_split}).",
            table(["method", "top-1", "range", "settings", "time"], rows),
        ]
        if self.note:
            parts.insert(1, sentence(self.note))
        if self.unreadable:
            parts.append("\n".join(f"- not counted: {u.id} ({u.reason})" for u in self.unreadable))
        parts.append(
            f"Features took {self.features_seconds:.1f} s. Data fingerprint {self.fingerprint[:12]}, model sha256 "
            f"{self.sha256[:12]}. vitrail {self.machine.vitrail}, torch {self.machine.torch} on "
            f"{self.machine.processor}."
        )
        return "\n\n".join(parts) + "\n"


def probe(
    source: str | Path,
    data: str | Path | Dataset,
    *,
    model: str | None = None,
    methods: Sequence[str] = ("linear", "knn", "fewshot"),
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    workers: int | None = None,
    notify: Callable[[str, int, int], None] | None = None,
) -> ProbeReport:
    """Score the frozen features of the model at `source` (whatever `load_weights` takes, with or without a head).

    Trained on the split train of `data`, scored on the held-out one: test where there is one, else val; data without
    splits are split by content. `methods`: some of METHODS. `linear` and `ridge` are `fit_head`, with nothing chosen on
    the images that are scored. `knn`: `nearest`. `fewshot`: `few_shot`, for each of `shots`, over `seeds` draws.
    `notify(split, done, total)` is called while the features are computed.
    Raises UnknownName for another method; ConfigError, DataError or WeightsError for what cannot be used.
    """
    check_methods(methods, shots, seeds)
    loaded = load_weights(source, model)
    dataset = data if isinstance(data, Dataset) else open_as_trained(data, loaded.record)
    if dataset.multilabel:
        raise DataError(
            f"a probe scores one class an image, and images of {dataset.name} may have several: "
            "`vitrail train --recipe probe` measures a head on frozen features for them"
        )
    split = dataset.held_out
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, began, found = loaded.model.to(device), time.perf_counter(), []
    for name in ("train", split):

        def tell(done: int, total: int, name: str = name) -> None:
            if notify:
                notify(name, done, total)

        part = features(network, loaded.preprocess, dataset.split(name), workers=workers, notify=tell)
        check_readable(part, MAX_UNREADABLE)
        found.append(part)
    train, test = found
    seconds = time.perf_counter() - began
    rows: list[ProbeRow] = []
    for method in dict.fromkeys(methods):
        rows += _rows(method, train, test, len(dataset.classes), shots, seeds)
    return _report(loaded, network, dataset, train, test, rows, seconds)


def check_methods(methods: Sequence[str], shots: Sequence[int], seeds: int) -> None:
    """Raise UnknownName or ConfigError for what `probe` cannot do."""
    for method in methods:
        if method not in METHODS:
            raise UnknownName("probe method", method, METHODS)
    if not methods:
        raise ConfigError(f"a probe needs a method: {', '.join(METHODS)}")
    if not shots or min(shots) < 1:
        raise ConfigError(f"shots must be whole numbers of at least 1, found {', '.join(map(str, shots)) or 'none'}")
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, found {seeds}")


def _rows(
    method: str, train: Features, test: Features, classes: int, shots: Sequence[int], seeds: int
) -> list[ProbeRow]:
    if method == "fewshot":
        return [_few_shot_row(train, test, classes, count, seeds) for count in shots]
    began = time.perf_counter()
    if method == "knn":
        scores = nearest(train.values, train.labels, test.values, classes)
        settings = f"k {min(NEIGHBOURS, len(train))}, temperature {TEMPERATURE}, cosine"
    else:
        kind: Method = "logistic" if method == "linear" else "ridge"
        head = fit_head(train.values, train.labels, classes, kind)
        scores, settings = head_logits(head, test.values), f"{kind}, penalty {head.penalty:.1e}"
    right, total = int((ranks(scores, test.labels) == 0).sum()), len(test)
    return [
        ProbeRow(
            method=method,
            settings=settings,
            top1=right / total,
            interval=wilson(right, total),
            correct=right,
            seconds=time.perf_counter() - began,
        )
    ]


def _few_shot_row(train: Features, test: Features, classes: int, shots: int, seeds: int) -> ProbeRow:
    began, found = time.perf_counter(), []
    for seed in range(seeds):
        chosen = draw_shots(train.labels, classes, shots, seed)
        scores = few_shot(train.values[chosen], train.labels[chosen], test.values, classes)
        found.append(int((ranks(scores, test.labels) == 0).sum()) / len(test))
    return ProbeRow(
        method=f"{shots}-shot",
        settings=f"least squares, l2 {L2:.0f}",
        top1=sum(found) / len(found),
        seeds=tuple(found),
        seconds=time.perf_counter() - began,
    )


def nearest(
    known: Known,
    labels: KnownLabels,
    queries: Wide,
    classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "N K"]:
    """Votes for each class of the `k` most similar of the `known` features, which weigh softmax(cosine / temperature).

    Wu et al. 2018, section 3.4, with the settings of DINOv2's eval/knn.py. All neighbours vote where there are fewer.
    """
    known, votes, k = F.normalize(known.float(), dim=1), [], min(k, len(known))
    for part in F.normalize(queries.float(), dim=1).split(CHUNK):
        similarity, place = (part @ known.T).topk(k, dim=1)
        weights = (similarity / temperature).softmax(1)
        votes.append(weights.new_zeros(len(part), classes).scatter_add_(1, labels[place], weights))
    return torch.cat(votes)


def draw_shots(labels: Int[Tensor, " N"], classes: int, shots: int, seed: int) -> Int[Tensor, " S"]:
    """Places of `shots` random images of each class, of all of them where it has fewer; as big_vision draws them."""
    random, own = np.random.default_rng(seed), labels.numpy()
    drawn = [random.permutation(np.flatnonzero(own == k))[:shots] for k in range(classes)]
    return torch.from_numpy(np.concatenate(drawn))


def few_shot(known: Known, labels: KnownLabels, queries: Wide, classes: int, l2: float = L2) -> Float[Tensor, "N K"]:
    """Outputs of the penalised linear regression on 1 for the image's class and -1 for the others, in float64.

    big_vision's evaluators/fewshot_lsr.py: features are scaled to mean 0 and deviation 1 over the known images (1e-5 is
    added to the deviation), and a constant feature of 100 serves as a bias that the penalty hardly reaches.
    """
    x = known.double()
    mean, deviation = x.mean(0), x.std(0, correction=0) + 1e-5
    x, q = (F.pad((v.double() - mean) / deviation, (0, 1), value=BIAS) for v in (known, queries))
    y = 2.0 * F.one_hot(labels, classes).double() - 1.0
    if len(x) < x.shape[1]:  # the smaller of the two equal systems
        gram = x @ x.T + l2 * torch.eye(len(x), dtype=x.dtype)
        return q @ (x.T @ torch.linalg.solve(gram, y))
    gram = x.T @ x + l2 * torch.eye(x.shape[1], dtype=x.dtype)
    return q @ torch.linalg.solve(gram, x.T @ y)


def _report(
    loaded: Loaded,
    network: Network,
    dataset: Dataset,
    train: Features,
    test: Features,
    rows: Sequence[ProbeRow],
    seconds: float,
) -> ProbeReport:
    own = loaded.record.get("data")
    same = isinstance(own, dict) and own.get("fingerprint") == dataset.fingerprint
    made = "" if dataset.declared else "the data came without splits, so a part of each class was held out by content"
    seen = "the model was trained on the same training images" if same else ""
    unreadable = (*train.unreadable, *test.unreadable)
    return ProbeReport(
        data=printable(dataset.name),
        fingerprint=dataset.fingerprint,
        train_split="train",
        train_images=len(train),
        split=dataset.held_out,
        images=len(test),
        classes=len(dataset.classes),
        width=train.values.shape[1],
        source=loaded.source,
        sha256=weights_sha256(network),
        preprocess=loaded.preprocess,
        note="; ".join(filter(None, (made, seen))),
        features_seconds=seconds,
        rows=tuple(rows),
        unreadable=tuple(Unreadable(id=printable(i), reason=printable(r)) for i, r in unreadable),
        machine=machine(next(network.parameters()).device, "float32"),
    )
