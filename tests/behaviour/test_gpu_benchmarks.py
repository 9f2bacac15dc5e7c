"""The benchmarks for a GPU run here in their small variants, and the variation of images on the device does what it
says."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pictures import class_folders
from programs import program

cifar = program("cifar10_scratch")
STILL = dict(pad=0, flip=0.0, draws=0, strength=0.0, cut_out=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def bytes_() -> torch.Tensor:
    return torch.randint(256, (64, 3, 16, 16), generator=generator(), dtype=torch.uint8)


def vary(images: torch.Tensor, seed: int = 0, **how: object) -> torch.Tensor:
    return cifar.vary(images, cifar.Variation(**(STILL | how)), generator(seed))


def test_nothing_asked_nothing_changed(bytes_: torch.Tensor) -> None:
    torch.testing.assert_close(vary(bytes_), bytes_ / 255, atol=2e-5, rtol=0)
    torch.testing.assert_close(vary(bytes_, draws=2), bytes_ / 255, atol=0.04, rtol=0.02)  # posterize to 256 levels


def test_a_mirror_is_exact_and_half_of_them(bytes_: torch.Tensor) -> None:
    torch.testing.assert_close(vary(bytes_, flip=1.0), bytes_.flip(3) / 255, atol=2e-5, rtol=0)
    kept = (vary(bytes_, flip=0.5) - bytes_ / 255).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert 20 < int(kept.sum()) < 44


def test_a_crop_moves_whole_pixels_and_shows_grey_outside(bytes_: torch.Tensor) -> None:
    moved, grey = vary(bytes_, pad=2), torch.full((64, 3, 20, 20), 0.5)
    grey[:, :, 2:-2, 2:-2] = bytes_ / 255
    places = set()
    for image, wide in zip(moved, grey, strict=True):
        found = [
            (r, c) for r in range(5) for c in range(5) if (image - wide[:, r : r + 16, c : c + 16]).abs().max() < 1e-4
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 15  # of 25


def test_it_is_a_function_of_the_seed_and_stays_in_range(bytes_: torch.Tensor) -> None:
    wide = dict(pad=4, flip=0.5, draws=2, strength=1.0, cut_out=0.5)
    first = vary(bytes_, **wide)
    assert first.shape == bytes_.shape and first.min() >= -1e-5 and first.max() <= 1 + 1e-5
    assert torch.equal(first, vary(bytes_, **wide)) and not torch.equal(first, vary(bytes_, seed=1, **wide))
    assert int(((first - bytes_ / 255).abs().amax(dim=(1, 2, 3)) > 0.05).sum()) > 60


@pytest.mark.parametrize("name", cifar.OPERATIONS)
def test_every_operation_changes_an_image_but_one(name: str) -> None:
    image = torch.linspace(0.2, 0.8, 3 * 16 * 16).reshape(1, 3, 16, 16) ** 1.5
    chosen, amount = torch.tensor([cifar.OPERATIONS.index(name)]), torch.tensor([0.7])
    changed = cifar.recolour(image, chosen, amount)
    by_map = name in ("identity", "rotate", "shear_x", "shear_y", "shift_x", "shift_y")
    assert torch.equal(changed, image) == by_map
    if name == "brightness":
        torch.testing.assert_close(changed, (image * 1.63).clamp(0, 1))
    if name == "autocontrast":
        assert (changed.min(), changed.max()) == (0, 1)


def test_cut_out_squares_have_their_size() -> None:
    drawn = torch.tensor([[0.0, 0.5, 0.5], [0.9, 0.5, 0.5]])  # the first is drawn, the second is not
    cut = cifar.cut_out(torch.ones(2, 3, 20, 20), cifar.Variation(cut_out=0.5, cut_side=0.4), drawn)
    assert [int((image != 1).sum()) for image in cut] == [3 * 8 * 8, 0]


def test_every_image_is_seen_once_an_epoch() -> None:
    data = cifar.Data(*(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.arange(100) % 2) * 2, classes=2)
    settings = cifar.Settings(**{**vars(cifar.SMALL), "batch": 20})
    shown = cifar.Preprocess(size=(8, 8))
    seen = [batch.index for batch in cifar.batches(data, settings, shown, steps=10, seed=3)]
    assert len(seen) == 10
    for epoch in (torch.cat(seen[:5]), torch.cat(seen[5:])):
        assert sorted(epoch.tolist()) == list(range(100))
    assert not torch.equal(torch.cat(seen[:5]), torch.cat(seen[5:]))


def test_the_small_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folders(tmp_path / "data", {f"{s}/{c}": 40 for s in ("train", "test") for c in ("ape", "bee")}, size=8)
    out = tmp_path / "score.json"
    arguments = ["--small", "--epochs", "3", "--seeds", "0", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["cifar10_scratch", str(data), *arguments])
    cifar.main()
    found = json.loads(out.read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert (found["train_images"], found["test_images"], found["steps"]) == (80, 80, 3)
    assert 0 <= found["top1_mean"] <= 1 and found["top1_standard_deviation"] is not None
    assert all(0.3 < run["last_loss"] < 1.2 for run in found["runs"])  # of noise: about ln 2


def test_the_full_variant_asks_for_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module, arguments in ((cifar, ["data"]), (program("throughput"), [])):
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 2 and "found none; give --small" in capsys.readouterr().err


def test_the_small_throughput_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "throughput.json"
    monkeypatch.setattr(sys, "argv", ["throughput", "--small", "--pairs", "3", "--out", str(out)])
    program("throughput").main()
    case = json.loads(out.read_text())["cases"]["tiny"]
    assert {len(seconds) for seconds in case["seconds"].values()} == {3}
    assert case["timm_over_vitrail"]["median"] > 0 and case["utilisation_of_product_rate"]["vitrail"] > 0
