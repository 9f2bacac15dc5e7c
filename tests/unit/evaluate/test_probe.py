"""Features in exact order; nearest neighbours and few-shot least squares against other ways to compute them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.linear_model import Ridge
from torch import Tensor

from pictures import class_folders
from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.data.sources import open_dataset
from vitrail.data.stores import MemorySource
from vitrail.errors import ConfigError, DataError, UnknownName
from vitrail.evaluate import evaluate
from vitrail.evaluate.features import check_readable, features
from vitrail.evaluate.head import fit_head
from vitrail.evaluate.probe import draw_shots, few_shot, nearest, probe
from vitrail.inference import Classifier
from vitrail.models.build import Network, build
from vitrail.train.solve import heads, write_head
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

TINY: dict[str, Any] = {"image_size": 8, "patch_size": 4, "width": 8, "depth": 3, "heads": 2, "mlp_dim": 8}
KINDS: dict[str, ViTConfig | ResNetConfig] = {
    "token": ViTConfig(**TINY, classes=2),
    "gap": ViTConfig(**TINY, classes=2, pool="gap"),
    "map": ViTConfig(**TINY, classes=2, pool="map"),
    "blocks": ViTConfig(**TINY, classes=2, pool="token_gap", pool_blocks=2, registers=1),
    "tanh": ViTConfig(**TINY, classes=2, pre_logits=5),
    "distilled": ViTConfig(**TINY, classes=2, distillation_token=True),
    "resnet": ResNetConfig(image_size=8, layers=(1,), width=8, groups=4, classes=2),
}


def network(config: ViTConfig | ResNetConfig) -> Network:
    model = build(config)
    model.reset(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("pets") / "pets", {"cat": 40, "dog": 40})


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_is_written_gives_the_logits_it_was_solved_for(kind: str, folder: Path) -> None:
    """Through the model itself and through `evaluate`, whatever the head reads."""
    dataset, model = open_dataset(folder), network(KINDS[kind])
    found = features(model, Preprocess(size=(8, 8)), dataset.split("train"))
    head = fit_head(found.values, found.labels, 2, "ridge")
    write_head(model, head)
    wanted = F.linear(found.values, head.weight, head.bias)
    classifier = Classifier(model, Preprocess(size=(8, 8)), LabelSet(dataset.classes), device="cpu")
    images = torch.stack([classifier.prepare(dataset.split("train").read(i).data) for i in range(len(found))])
    assert (classifier.logits(images) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    right = int((wanted.argmax(1) == found.labels).sum())
    assert evaluate(classifier, dataset, split="train").top1_count == right
    assert len(heads(model)) == (2 if kind == "distilled" else 1)


def test_features_are_in_the_order_of_the_source_and_name_what_is_unreadable(folder: Path) -> None:
    whole = open_dataset(folder).whole
    data = [whole.read(i).data for i in range(70)]
    data[3] = b"not an image"
    source = MemorySource(("cat", "dog"), whole.labels[:70], tuple(data), tuple(f"{i}.png" for i in range(70)))
    model, told = network(KINDS["token"]), []
    found = features(model, Preprocess(size=(8, 8)), source, notify=lambda done, total: told.append((done, total)))
    assert found.index.tolist() == [i for i in range(70) if i != 3] and told == [(64, 70), (70, 70)]
    assert [name for name, _ in found.unreadable] == ["3.png"]
    again = features(model, Preprocess(size=(8, 8)), source, workers=2)
    assert torch.equal(found.values, again.values) and found.values.dtype == torch.float32
    check_readable(found, 0.02)
    with pytest.raises(DataError, match=r"at most 1\.0% of the images may be unreadable, found 1 of 70: 3\.png \("):
        check_readable(found, 0.01)


def clouds(count: int, seed: int, classes: int = 4, width: int = 10) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    return centres[labels] + torch.randn(count, width, generator=random), labels


def test_nearest_neighbours_by_a_loop() -> None:
    (known, labels), (queries, _) = clouds(60, 0), clouds(15, 1)
    votes = nearest(known, labels, queries, 4)
    for query, found in zip(queries, votes, strict=True):
        cosine = (known @ query) / (known.norm(dim=1) * query.norm())
        best = sorted(range(60), key=lambda i: -float(cosine[i]))[:20]
        weights = np.exp(np.array([float(cosine[i]) / 0.07 for i in best]))
        wanted = [
            sum(w for w, i in zip(weights, best, strict=True) if labels[i] == k) / weights.sum() for k in range(4)
        ]
        assert found.tolist() == pytest.approx(wanted, abs=1e-4)
    few = nearest(known[:3], labels[:3], queries, 4)  # all three vote
    assert few.sum(1).tolist() == pytest.approx([1.0] * 15) and bool((few[:, 3] == 0).all())


@pytest.mark.parametrize("count", [8, 60])  # fewer and more images than features: two systems of equations
def test_few_shot_is_the_published_least_squares(count: int) -> None:
    (known, labels), (queries, _) = clouds(count, 0), clouds(15, 1)
    x, q = known.double().numpy(), queries.double().numpy()
    mean, deviation = x.mean(0), x.std(0) + 1e-5
    x, q = (np.pad((v - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0) for v in (x, q))
    oracle = Ridge(alpha=2.0**10, fit_intercept=False, solver="svd").fit(x, 2.0 * np.eye(4)[labels.numpy()] - 1)
    found = few_shot(known, labels, queries, 4)
    assert np.abs(found.numpy() - oracle.predict(q)).max() < 1e-9
    assert np.abs(few_shot(known, labels, queries, 4, l2=2.0**9).numpy() - oracle.predict(q)).max() > 1e-3


def test_shots_are_drawn_from_each_class_and_by_the_seed_alone() -> None:
    labels = torch.tensor([0] * 8 + [1] * 2 + [2] * 8)
    one = draw_shots(labels, 3, 5, seed=0)
    assert labels[one].tolist() == [0] * 5 + [1] * 2 + [2] * 5 and len(set(one.tolist())) == 12
    assert torch.equal(one, draw_shots(labels, 3, 5, seed=0))
    assert not torch.equal(one, draw_shots(labels, 3, 5, seed=1))


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a head."""
    place = tmp_path_factory.mktemp("model") / "headless"
    write_model_folder(place, network(ViTConfig(**TINY, classes=0)), Preprocess(size=(8, 8)), None, {})
    return place


def test_a_model_without_a_head_is_probed_by_every_method(headless: Path, photos: Path) -> None:
    report = probe(headless, photos, methods=("linear", "ridge", "knn", "fewshot"), shots=(1, 5), seeds=2)
    assert [row.method for row in report.rows] == ["linear", "ridge", "knn", "1-shot", "5-shot"]
    assert all(row.top1 > 0.8 for row in report.rows if row.method != "1-shot")  # three colours: easy
    assert (report.images, report.train_images, report.width) == (6, 18, 8)
    assert [len(row.seeds) for row in report.rows] == [0, 0, 0, 2, 2]
    assert "| linear | 100.0 % |" in report.markdown() and "held out by content" in report.markdown()


def test_declared_splits_are_taken(headless: Path, tmp_path: Path) -> None:
    counts = {f"{split}/{name}": n for split, n in (("train", 6), ("val", 3), ("test", 4)) for name in ("cat", "dog")}
    report = probe(headless, class_folders(tmp_path / "pets", counts), methods=["knn"])
    assert (report.split, report.images, report.train_images, report.note) == ("test", 8, 12, "")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"methods": ["linaer"]}, UnknownName, "unknown probe method 'linaer'; did you mean 'linear'"),
        ({"methods": []}, ConfigError, "a probe needs a method: linear, ridge, knn, fewshot"),
        ({"shots": [5, 0]}, ConfigError, "shots must be whole numbers of at least 1, found 5, 0"),
        ({"seeds": 0}, ConfigError, "seeds must be at least 1, found 0"),
    ],
)
def test_mistakes_are_told_before_the_work(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        probe("no-such-model", "no-such-data", **options)


def test_data_without_a_training_split_are_refused(headless: Path, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "pets", {"val/cat": 2, "val/dog": 2})
    with pytest.raises(UnknownName, match="unknown split 'train'"):
        probe(headless, folder)


def test_a_bare_file_needs_no_labels(tmp_path: Path, photos: Path) -> None:
    save_file(network(KINDS["resnet"]).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(UnknownName, match="unknown model 'nosuch'"):
        probe(tmp_path / "x.safetensors", photos, model="nosuch")
