"""Runs whose head is solved for: what the folder holds, resuming, and what `evaluate` says of it."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pictures import class_folders
from vitrail.config import Preprocess, ViTConfig
from vitrail.data.sources import open_dataset
from vitrail.data.stores import MemorySource
from vitrail.errors import ConfigError
from vitrail.evaluate import evaluate
from vitrail.evaluate.features import features
from vitrail.evaluate.head import fit_head, head_logits
from vitrail.inference import load
from vitrail.models.vit import ViT
from vitrail.train.progress import Progress
from vitrail.train.run import train
from vitrail.train.solve import some_of_each_class
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

SILENT: dict[str, Any] = {"notify": lambda news: None}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"{split}/{name}": n for split, n in (("train", 30), ("val", 10)) for name in ("ape", "bee", "cat")}
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny model with four classes of its own."""
    config = ViTConfig(image_size=8, patch_size=4, width=8, depth=3, heads=2, mlp_dim=8, classes=4)
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(0))
    place = tmp_path_factory.mktemp("weights") / "tiny"
    write_model_folder(place, model, Preprocess(size=(8, 8)), LabelSet(("a", "b", "c", "d")), {"licence": "mit"})
    return place


@pytest.mark.parametrize(
    ("solver", "precision"), [("logistic", "float32"), ("ridge", "float32"), ("logistic", "bfloat16")]
)
def test_a_probe_is_a_whole_run(solver: Any, precision: str, zoo: Path, weights: Path, tmp_path: Path) -> None:
    chosen = [f"head_solver={solver}", f"precision={precision}"]
    result = train(zoo, weights=weights, recipe="probe", out=tmp_path / "run", overrides=chosen, **SILENT)
    classifier, dataset = load(result.folder), open_dataset(zoo)
    config = classifier.model.config
    assert isinstance(config, ViTConfig) and (config.pool, config.pool_blocks) == ("token_gap", 3)
    base = load(weights).model
    body = {k: v for k, v in classifier.model.state_dict().items() if not k.startswith("head.")}
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in body.items())
    half = torch.bfloat16 if precision == "bfloat16" else None
    known = features(classifier.model, classifier.preprocess, dataset.split("train"), half=half)
    exact, val = (features(classifier.model, classifier.preprocess, dataset.split(s)) for s in ("train", "val"))
    assert torch.equal(known.values, exact.values) is (half is None)
    head = fit_head(known.values, known.labels, 3, solver)
    assert torch.equal(classifier.model.head.weight, head.weight) and torch.equal(classifier.model.head.bias, head.bias)
    right = int((head_logits(head, val.values).argmax(1) == val.labels).sum())
    assert result.report.top1_count == right == evaluate(classifier, zoo).top1_count
    run = json.loads((result.folder / "run.json").read_text())
    assert (
        run["head"] == {"solver": solver, "penalty": head.penalty, "images": 90, "features": 32} and run["steps"] == 0
    )
    assert (result.folder / "report.html").is_file()


def test_the_pool_of_the_weights_can_be_kept(zoo: Path, weights: Path, tmp_path: Path) -> None:
    keep = ["model.pool=token", "model.pool_blocks=1"]
    result = train(zoo, weights=weights, recipe="probe", out=tmp_path / "run", overrides=keep, **SILENT)
    assert json.loads((result.folder / "model" / "vitrail.json").read_text())["format"] == "timm"
    with pytest.raises(ConfigError, match="the weights have no attention_pool"):
        more = ["model.pool=map", "model.pool_blocks=1"]
        train(zoo, weights=weights, recipe="probe", out=tmp_path / "map", overrides=more, **SILENT)


def test_training_goes_on_from_the_solved_head(zoo: Path, weights: Path, tmp_path: Path) -> None:
    """Warm start: the first step's loss is the solved head's, far from that of a head of zeros."""
    losses = {}
    for solver in ("none", "logistic"):
        news: list[Progress] = []
        more = [f"head_solver={solver}", "epochs=1", "batch_size=30", "label_smoothing=0", "ema=0.5"]
        train(zoo, weights=weights, out=tmp_path / solver, overrides=more, notify=news.append)
        losses[solver] = next(p.loss for p in news if p.kind == "step")
    assert losses["none"] == pytest.approx(1.0986, abs=1e-3) and losses["logistic"] != losses["none"]


def test_a_choice_for_the_solver_has_some_of_each_class() -> None:
    """Of 2,000, 500 and 3 images in turn: a tenth of the first two, all of the third, the same at each call."""
    labels = np.array([0, 0, 0, 0, 1] * 500 + [2] * 3)
    names = tuple(map(str, range(len(labels))))
    source = MemorySource(("a", "b", "c"), labels, tuple(map(str.encode, names)), names)
    chosen = some_of_each_class(source, 250)
    assert np.bincount(chosen.labels).tolist() == [200, 50, 3]
    assert [chosen.id(i) for i in range(5)] == ["0", "4", "12", "25", "37"], "every tenth of each, in order"
    assert chosen.fingerprint == some_of_each_class(source, 250).fingerprint
    assert np.bincount(some_of_each_class(source, 5).labels).tolist() == [10, 10, 3], "never fewer than ten"
    assert some_of_each_class(source, 2503) is source


def test_a_head_solved_on_some_images(zoo: Path, weights: Path, tmp_path: Path) -> None:
    """The run says on how many; one that was broken among them is passed over, and training knows of it."""
    data = tmp_path / "zoo"
    shutil.copytree(zoo, data)
    broken = sorted((data / "train" / "ape").iterdir())[0]
    broken.write_bytes(b"no picture")
    more = ["head_images=36", "epochs=1", "batch_size=30", "max_broken=0.02", "workers=0"]
    result = train(data, weights=weights, out=tmp_path / "run", overrides=more, **SILENT)
    run = json.loads((result.folder / "run.json").read_text())
    assert run["head"]["images"] == 35 and list(run["broken_images"]) == [f"train/ape/{broken.name}"]


def test_a_run_that_was_stopped_ends_with_the_same_bits(zoo: Path, weights: Path, tmp_path: Path) -> None:
    """Stopped while the features are read, then after the head was solved, then at a step."""
    more = ["head_solver=ridge", "epochs=2", "batch_size=30", "ema=0.5", "randaugment_layers=0"]
    whole = train(zoo, weights=weights, out=tmp_path / "whole", overrides=more, **SILENT)
    pending = ["features", "message", "step"]

    def stop(news: Progress) -> None:
        if pending and news.kind == pending[0]:
            pending.pop(0)
            signal.raise_signal(signal.SIGINT)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train(zoo, weights=weights, out=tmp_path / "cut", overrides=more, notify=stop)
    assert pending == []
    cut = train(zoo, weights=weights, out=tmp_path / "cut", overrides=more, notify=stop)
    one, two = ((r.folder / "model" / "model.safetensors").read_bytes() for r in (whole, cut))
    assert one == two
