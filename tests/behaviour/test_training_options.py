"""What a recipe may ask of a run beyond the defaults: it is honoured, recorded, and continues bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from behaviour.test_training import TINY, News, assert_same_run, last_state, metrics_of, stop_at, weights_of
from pictures import class_folders
from vitrail.models.vit import ViT
from vitrail.train import run as run_module
from vitrail.train.progress import Progress
from vitrail.train.run import RunResult, train
from vitrail.types import Batch

BASE = tuple(text for text in TINY if not text.startswith(("epochs", "precision")))


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 training images in three classes of 20, 8 and 4, and 6 held-out ones."""
    counts = {"train/ape": 20, "train/bee": 8, "train/cat": 4} | {f"val/{name}": 2 for name in ("ape", "bee", "cat")}
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts)


def run(data: Path, out: Path, *more: str, notify: Callable[[Progress], None] = lambda news: None) -> RunResult:
    changed = {text.partition("=")[0]: text for text in (*BASE, "precision=float32", "workers=0", *more)}
    return train(data, out=out, overrides=list(changed.values()), notify=notify)


EVERYTHING = {
    "muon": (
        "steps=8", "optimizer=muon", "schedule=rsqrt", "cooldown_steps=3", "head_steps=4", "loss=bce",
        "sampler=balanced", "precision=float16", "checkpointing=true",
    ),
    "lion": ("steps=8", "optimizer=lion", "betas=[0.9, 0.99]", "lr=1e-4", "class_weights=balanced", "loss=sigmoid"),
    "lamb": ("steps=8", "optimizer=lamb", "logit_adjustment=1", "schedule=wsd", "cooldown_steps=4", "accumulate=2"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERYTHING)
def test_everything_at_once_continues_bit_for_bit(name: str, unequal: Path, tmp_path: Path) -> None:
    whole = run(unequal, tmp_path / "whole", *EVERYTHING[name])
    with pytest.raises(KeyboardInterrupt):
        run(unequal, tmp_path / "run", *EVERYTHING[name], notify=stop_at("step", 3))
    run(unequal, tmp_path / "run", *EVERYTHING[name])
    assert_same_run(tmp_path / "run", whole.folder)
    recorded = json.loads((whole.folder / "run.json").read_text())["recipe"]
    asked = dict(text.split("=", 1) for text in EVERYTHING[name])
    flat = {**recorded, **recorded["optim"], **recorded["data"]}
    assert {key: str(flat[key]).lower() for key in asked if key not in ("lr", "logit_adjustment")} == {
        key: value for key, value in asked.items() if key not in ("lr", "logit_adjustment")
    }


def test_a_run_may_be_counted_in_steps(unequal: Path, tmp_path: Path) -> None:
    heard: News = []
    folder = run(unequal, tmp_path / "run", "steps=6", notify=heard.append).folder
    assert [row["step"] for row in metrics_of(folder) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert "6 steps (1.5 epochs) in float32" in heard[0].text
    assert {news.epochs for news in heard if news.kind in ("step", "epoch")} == {1.5}


def test_balanced_turns_are_what_the_run_sees(unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    steps = run_module.train_steps

    def watch(state: Any, batches: Any, *rest: Any) -> Any:
        def told(batch: Batch) -> Batch:
            seen.append(batch.index)
            return batch

        return steps(state, map(told, batches), *rest)

    monkeypatch.setattr(run_module, "train_steps", watch)
    run(unequal, tmp_path / "run", "steps=6", "sampler=balanced")
    index = torch.cat(seen)
    classes = torch.bucketize(index, torch.tensor([20, 28]), right=True)  # in order: 20 apes, 8 bees, 4 cats
    assert classes.bincount().tolist() == [16, 16, 16]


def test_a_skipped_step_names_its_images(unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image that makes the loss infinite can be found in metrics.jsonl."""
    make = run_module.make_loss

    def poisoned(*given: Any) -> Callable[[Any, Batch], torch.Tensor]:
        loss = make(*given)
        return lambda model, batch: loss(model, batch) + torch.where(batch.index == 9, torch.inf, 0.0)

    monkeypatch.setattr(run_module, "make_loss", poisoned)
    rows = metrics_of(run(unequal, tmp_path / "run", "steps=4").folder)  # one epoch
    (skipped,) = [row for row in rows if row.get("skipped")]
    assert "train/ape/009.png" in skipped["images"] and len(skipped["images"]) == 8 and "loss" not in skipped
    assert not any("images" in row for row in rows if "loss" in row)


def test_out_of_memory_is_told_once_and_ends_as_the_setting_it_names(
    unequal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: News = []
    expected = run(unequal, tmp_path / "set", "steps=6", "accumulate=2").folder
    forward = ViT.forward

    def small(self: ViT, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(ViT, "forward", small)
    with pytest.raises(KeyboardInterrupt):
        run(unequal, tmp_path / "run", "steps=6", notify=stop_at("step", 3))
    run(unequal, tmp_path / "run", "steps=6", notify=heard.append)
    assert not [news for news in heard if news.kind == "message"], "known when it continues"
    run(unequal, tmp_path / "other", "steps=6", notify=heard.append)
    (message,) = [news.text for news in heard if news.kind == "message"]
    assert message == (
        "Step 1 did not fit in memory: from here on each step of 8 images is computed in 2 parts of up to 4, with the "
        "same loss. --set accumulate=2 starts a run so."
    )
    for folder in ("run", "other"):
        assert weights_of(tmp_path / folder) == weights_of(expected)
        assert last_state(tmp_path / folder) == last_state(expected)
        assert metrics_of(tmp_path / folder) == metrics_of(expected)
