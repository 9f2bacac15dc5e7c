from pathlib import Path

import pytest
import torch

from vitrail.errors import ConfigError
from vitrail.models.vit import ViT
from vitrail.train import batch_find
from vitrail.train.batch_find import BatchTrial, conclude, find_batch, sizes
from vitrail.train.job import choose, rehearsal

SMALL = ("width=8", "depth=1", "heads=2", "mlp_dim=8", "image_size=8", "patch_size=4", "batch_size=12", "mixup=0",
         "precision=float32")  # fmt: skip


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A memory for `most` images; tells the sizes that were asked for."""
    seen: list[int] = []
    forward = ViT.forward

    def small(self: ViT, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(ViT, "forward", small)
    return seen


@pytest.mark.parametrize(("batch", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16])])
def test_sizes(batch: int, expected: list[int]) -> None:
    assert sizes(batch) == expected


def test_everything_fits(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limit(monkeypatch, 12)
    heard: list[BatchTrial] = []
    found = find_batch(photos, overrides=SMALL, notify=heard.append)
    assert seen == [1, 1, 2, 2, 4, 4, 8, 8, 12, 12]
    assert tuple(heard) == found.trials and all(trial.fits for trial in heard)
    assert (found.largest, found.batch_size, found.recipe) == (12, 12, "scratch_small")
    assert found.accumulate == -(-12 // found.suggestion)


def test_memory_ends_the_search(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limit(monkeypatch, 5)
    found = find_batch(photos, overrides=SMALL)
    assert seen == [1, 1, 2, 2, 4, 4, 8]
    assert [trial.fits for trial in found.trials] == [True, True, True, False] and found.largest == 4


def test_memory_that_the_optimiser_lacks_counts_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(ConfigError, match=r"one of 8 x 8 px does not fit \((cpu|cuda)\): set checkpointing=true"):
        find_batch(photos, overrides=SMALL)


def test_a_defect_is_not_taken_for_want_of_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViT, "forward", lambda self, images: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        find_batch(photos, overrides=SMALL)


def test_a_slow_step_ends_the_search(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_find, "LONGEST", 0.0)
    assert [trial.images for trial in find_batch(photos, overrides=SMALL).trials] == [1]


def test_the_suggestion_is_the_smallest_that_is_nearly_fastest(photos: Path) -> None:
    job = rehearsal(choose(photos, None, None, None, 0, SMALL))
    rates = {1: 10.0, 2: 50.0, 4: 97.0, 8: 100.0}
    trials = [BatchTrial(images=n, fits=True, images_per_second=rate) for n, rate in rates.items()]
    found = conclude(job, [*trials, BatchTrial(images=12, fits=False)])
    assert (found.largest, found.suggestion, found.accumulate) == (8, 4, 3)
