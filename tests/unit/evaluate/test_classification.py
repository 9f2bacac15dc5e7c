"""evaluate(): every image once, classes by name, the right split, the numbers of scikit-learn."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as oracle

from vitrail.config import Preprocess, ViTConfig
from vitrail.data.loader import EvaluationPass
from vitrail.data.sources import Dataset, open_dataset
from vitrail.data.stores import MemorySource
from vitrail.errors import DataError, UnknownName, WeightsError
from vitrail.evaluate import classification, evaluate, open_as_trained
from vitrail.evaluate.part import choose_part, match_classes
from vitrail.inference import Classifier
from vitrail.models.build import weights_sha256
from vitrail.models.vit import ViT
from vitrail.report import Report
from vitrail.types import Batch, LabelSet

COLOURS = ("blue", "green", "red")


def classifier(names: tuple[str, ...] = COLOURS, record: Mapping[str, Any] | None = None, seed: int = 0) -> Classifier:
    """A tiny ViT whose head is random, so that its predictions vary."""
    config = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=8, classes=len(names))
    model = ViT(config)
    generator = torch.Generator().manual_seed(seed)
    model.reset(generator)
    with torch.no_grad():
        model.head.weight.normal_(generator=generator)
    return Classifier(model, Preprocess(size=8), LabelSet(names), record, "cpu")


def png(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def source(count: int = 30, classes: tuple[str, ...] = COLOURS, broken: tuple[int, ...] = ()) -> MemorySource:
    labels = np.arange(count) % len(classes)
    data = tuple(b"not an image" if i in broken else png(i) for i in range(count))
    return MemorySource(classes, labels, data, tuple(f"{classes[k]}/{i}.png" for i, k in enumerate(labels)))


def dataset(declared: bool, splits: Mapping[str, int]) -> Dataset:
    parts = {name: source(count) for name, count in splits.items()}
    return Dataset("paints", COLOURS, parts, declared, source(sum(splits.values())))


def without_machine(report: Report) -> Report:
    return report.model_copy(update={"machine": None})


def test_every_number_against_scikit_learn_and_the_model_itself() -> None:
    model, data = classifier(), source()
    report = evaluate(model, data)
    logits = torch.cat([model.logits(model.prepare(item)[None]) for item in data.data]).double()
    shares, predicted = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    assert 0 < report.top1 < 1  # else this test says little
    assert report.images == 30
    assert report.top1 == oracle.accuracy_score(data.labels, predicted)
    assert report.top1_count == (data.labels == predicted).sum()
    assert report.top5 == 1
    assert report.nll == pytest.approx(oracle.log_loss(data.labels, shares), rel=1e-5)
    expected = oracle.brier_score_loss(data.labels, shares, labels=range(3), scale_by_half=False)
    assert report.brier == pytest.approx(expected, rel=1e-5)
    matrix = np.zeros((3, 3), dtype=np.int64)
    place = {c.name: i for i, c in enumerate(report.classes)}
    shown = [place.get(name) for name in COLOURS]
    for t, p, n in report.confusion:
        matrix[shown.index(t), shown.index(p)] = n
    assert np.array_equal(matrix, oracle.confusion_matrix(data.labels, predicted, labels=range(3)))
    f1 = oracle.f1_score(data.labels, predicted, average="macro", labels=range(3))
    assert report.macro_f1 == pytest.approx(f1, rel=1e-12)
    assert sum(b.count for b in report.reliability) == 30
    assert [c.support for c in report.classes] == [10, 10, 10]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_neither_batch_size_nor_workers_nor_order_change_the_report(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(classifier(), source())

    class Backwards(EvaluationPass):
        def __iter__(self) -> Iterator[Batch]:
            for batch in reversed(list(super().__iter__())):
                order = torch.arange(len(batch.index)).flip(0)
                yield Batch(batch.images[order], batch.labels[order], batch.index[order])

    monkeypatch.setattr(classification, "EvaluationPass", Backwards)
    found = evaluate(classifier(), source(), batch_size=batch_size, workers=0)
    # The model itself rounds differently for other batch sizes, so the last bits of the losses may differ.
    assert found.nll == pytest.approx(expected.nll, rel=1e-6)
    assert found.confusion == expected.confusion
    assert [m.id for m in found.mistakes] == [m.id for m in expected.mistakes]
    if batch_size == 64:
        assert found == expected


def test_mistakes_are_those_whose_label_got_the_least_chance() -> None:
    model, data = classifier(), source(60)
    report = evaluate(model, data)
    assert len(report.mistakes) == min(24, 60 - report.top1_count)
    chances = [m.true_probability for m in report.mistakes]
    assert chances == sorted(chances, key=lambda c: c or 0.0)
    for m in report.mistakes:
        assert m.index is not None
        assert m.id == data.id(m.index)
        shares = model.logits(model.prepare(data.data[m.index])[None]).double().softmax(1)[0]
        assert m.true == COLOURS[data.labels[m.index]]
        assert m.predicted == COLOURS[int(shares.argmax())]
        assert m.probability == pytest.approx(float(shares.max()), rel=1e-5)
        assert m.true_probability == pytest.approx(float(shares[data.labels[m.index]]), rel=1e-5)


def test_classes_are_matched_by_name_and_not_by_place() -> None:
    whole = evaluate(classifier(), source())
    # The model knows more classes, in another order: the same weights, rows of the head moved along with their names.
    other, names = classifier(("owl", "red", "green", "blue")), ("owl", "red", "green", "blue")
    first = classifier().model
    other.model.load_state_dict({k: v for k, v in first.state_dict().items() if not k.startswith("head")}, strict=False)
    with torch.no_grad():
        for i, name in enumerate(names):
            if name in COLOURS:
                other.model.head.weight[i] = first.head.weight[COLOURS.index(name)]
                other.model.head.bias[i] = first.head.bias[COLOURS.index(name)]
        other.model.head.weight[0] = 0
        other.model.head.bias[0] = -1e4
    moved = evaluate(other, source())
    assert moved.top1_count == whole.top1_count
    assert moved.nll == pytest.approx(whole.nll, rel=1e-6)
    assert {c.name: c.recall for c in moved.classes} == {c.name: c.recall for c in whole.classes}
    assert (moved.model.classes, moved.data.classes) == (4, 3)


def test_ids_are_tried_before_names() -> None:
    labels = LabelSet(("crane", "crane", "tench"), ("n02012849", "n03126707", "n01440764"))
    assert match_classes(("n03126707", "tench"), labels) == [1, 2]
    with pytest.raises(DataError, match="the model has several classes called 'crane'; name that class of the data by"):
        match_classes(("crane", "tench"), labels)
    with pytest.raises(DataError, match="another class of the model, but 'n01440764', 'tench' name one and the same"):
        match_classes(("n01440764", "tench"), labels)


def test_classes_that_the_model_lacks_are_listed() -> None:
    with pytest.raises(DataError) as error:
        evaluate(classifier(), source(classes=("blue", "greeen", "rot")))
    assert str(error.value) == (
        "every class of the data must be one of the model's 3, but 2 of 3 are not: 'greeen', 'rot'; rename them; "
        "did you mean 'green'? Choices: blue, green, red"
    )
    many = tuple(f"c{i}" for i in range(12))
    with pytest.raises(DataError, match=r"12 of 12 are not: 'c0', .*'c9', \.\.\.; rename"):
        match_classes(many, LabelSet(COLOURS))


def test_unreadable_images_are_named_and_count_for_nothing() -> None:
    data = source(120, broken=(7,))
    report = evaluate(classifier(), data)
    assert report.images == 119
    assert [(u.id, bool(u.reason)) for u in report.unreadable] == [("green/7.png", True)]
    assert sum(c.support for c in report.classes) == 119
    kept = tuple(i for i in range(120) if i != 7)
    rest = MemorySource(
        COLOURS, data.labels[list(kept)], tuple(data.data[i] for i in kept), tuple(data.names[i] for i in kept)
    )
    assert report.top1_count == evaluate(classifier(), rest).top1_count


def test_more_than_one_percent_unreadable_stops_with_the_list() -> None:
    with pytest.raises(DataError) as error:
        evaluate(classifier(), source(120, broken=(7, 8)))
    assert str(error.value).startswith("at most 1% of the images may be unreadable, found 2 of 120: green/7.png (")
    assert str(error.value).endswith("; repair or remove them")
    with pytest.raises(DataError, match=r"found 30 of 30: blue/0\.png .*, \.\.\.; repair or remove them") as error:
        evaluate(classifier(), source(30, broken=tuple(range(30))))
    assert str(error.value).count(".png") == 10


def test_a_source_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="the split 'all' of the data holds no images; choose another"):
        evaluate(classifier(), source(0))


def test_a_pass_that_loses_or_repeats_images_is_our_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loses(EvaluationPass):
        def __iter__(self) -> Iterator[Batch]:
            yield from list(super().__iter__())[1:]

    class Repeats(EvaluationPass):
        def __iter__(self) -> Iterator[Batch]:
            batches = list(super().__iter__())
            yield from [batches[0], batches[0], *batches[2:]]

    monkeypatch.setattr(classification, "EvaluationPass", Loses)
    with pytest.raises(AssertionError, match=r"20 counted \+ 0 unreadable images are not 30"):
        evaluate(classifier(), source(), batch_size=10)
    monkeypatch.setattr(classification, "EvaluationPass", Repeats)
    with pytest.raises(AssertionError, match="an image was counted twice"):
        evaluate(classifier(), source(), batch_size=10)


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model = classifier()
    with torch.no_grad():
        model.model.head.bias[0] = math.nan
    with pytest.raises(WeightsError, match="must give finite numbers, but 30 of 30 images of one batch got NaN"):
        evaluate(model, source())


@pytest.mark.parametrize(
    ("declared", "splits", "trained", "asked", "split", "images", "held_out"),
    [
        (True, {"train": 9, "val": 6, "test": 3}, False, None, "test", 3, True),
        (True, {"train": 9, "val": 6}, False, None, "val", 6, True),
        (True, {"train": 9, "val": 6}, True, None, "val", 6, True),
        (True, {"train": 9, "val": 6, "test": 3}, False, "val", "val", 6, True),
        (True, {"train": 9, "val": 6}, False, "validation", "val", 6, True),
        (True, {"train": 9, "val": 6}, False, "train", "train", 9, False),
        (False, {"train": 9, "val": 6}, False, None, "all", 15, False),
        (False, {"train": 9, "val": 6}, True, None, "val", 6, True),
        (False, {"train": 9, "val": 6}, True, "all", "all", 15, False),
    ],
)
def test_which_images_are_counted(
    declared: bool, splits: dict[str, int], trained: bool, asked: str | None, split: str, images: int, held_out: bool
) -> None:
    data = dataset(declared, splits)
    record = {"data": {"fingerprint": data.fingerprint if trained else "another"}}
    report = evaluate(classifier(record=record), data, split=asked)
    assert (report.data.split, report.images, report.data.held_out) == (split, images, held_out)
    if trained and split == "all":
        assert report.data.note == "the model was trained on some of these images, so new ones will score lower"
    elif trained and not declared:
        assert report.data.note == "the model was trained on the other images of this data set"
    else:
        assert report.data.note == ""


def test_an_unknown_split_lists_the_others() -> None:
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        evaluate(classifier(), dataset(True, {"train": 9, "test": 3}), split="tset")


def test_the_held_out_part_is_the_one_of_the_training(photos: Path) -> None:
    record: dict[str, Any] = {"recipe": {"seed": 5, "data": {"val_share": 0.5}}}
    trained = open_dataset(photos, val_share=0.5)
    record["data"] = {"fingerprint": trained.fingerprint}
    assert open_as_trained(photos, record).fingerprint == trained.fingerprint != open_dataset(photos).fingerprint
    part = choose_part(photos, None, record)
    assert (part.split, part.held_out, len(part.source)) == ("val", True, 12)
    report = evaluate(classifier(record=record), photos)
    assert (report.images, report.model.seed, report.data.name) == (12, 5, "photos")


def test_paths_are_taken_as_well(model_folder: Path, photos: Path) -> None:
    report = evaluate(model_folder, photos)
    assert report.model.source == str(model_folder)
    assert report.images == 24
    assert str(photos.parent) not in report.model_copy(update={"model": None}).json()


def test_the_model_is_left_as_it_was() -> None:
    model = classifier()
    model.model.train()
    evaluate(model, source())
    assert model.model.training
    model.model.eval()
    evaluate(model, source())
    assert not model.model.training


def test_dropout_is_off_while_measuring() -> None:
    quiet = classifier()
    config = quiet.model.config.model_copy(update={"dropout": 0.9})
    noisy = Classifier(ViT(config), Preprocess(size=8), LabelSet(COLOURS), device="cpu")
    noisy.model.load_state_dict(quiet.model.state_dict())
    noisy.model.train()
    images = torch.stack([noisy.prepare(item) for item in source().data])
    assert not torch.equal(noisy.logits(images), noisy.logits(images))  # while it trains it is noisy
    assert evaluate(noisy, source()).nll == evaluate(quiet, source()).nll


def test_progress_is_told_batch_by_batch() -> None:
    told: list[tuple[int, int]] = []
    evaluate(classifier(), source(), batch_size=12, notify=lambda done, total: told.append((done, total)))
    assert told == [(12, 30), (24, 30), (30, 30)]


def test_bfloat16_only_when_asked() -> None:
    plain, narrow = evaluate(classifier(), source()), evaluate(classifier(), source(), precision="bfloat16")
    assert (plain.machine.precision, narrow.machine.precision) == ("float32", "bfloat16")
    assert plain.nll != narrow.nll
    assert narrow.nll == pytest.approx(plain.nll, rel=0.05)


def test_the_hash_of_the_weights_is_of_names_and_values() -> None:
    model = classifier().model
    before = weights_sha256(model)
    assert before == weights_sha256(classifier().model) == evaluate(classifier(), source()).model.sha256
    with torch.no_grad():
        model.head.bias[0] += 1e-6
    assert weights_sha256(model) != before
    assert weights_sha256(classifier().model.double()) != before


def test_names_from_strangers_are_stored_printable() -> None:
    names = ("blue\x1b[31m", "green\u202e", "red")
    data = source(classes=names)
    report = evaluate(classifier(names), data)
    assert "\x1b" not in report.markdown()
    assert {c.name for c in report.classes} <= {"blue\\x1b[31m", "green\\u202e", "red"}


def test_real_weights_on_real_photos_score_exactly_what_timm_scores(shared: Path) -> None:
    report = evaluate(shared / "weights" / "deit_tiny_patch16_224", shared / "data" / "imagenet_samples")
    assert (report.top1_count, report.top5_count, report.images) == (161, 194, 200)
    assert report.nll == pytest.approx(0.8344, abs=5e-5)
    assert (report.data.classes, report.model.classes) == (200, 1000)
    assert not report.unreadable
