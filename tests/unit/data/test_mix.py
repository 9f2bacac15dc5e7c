"""mixup and CutMix in closed form."""

import math
import statistics

import pytest
import torch

from vitrail.config import AugmentConfig
from vitrail.data.mix import cut_box, cutmix, mix, mixed_labels, mixup
from vitrail.types import Batch


def batch(count: int = 4, size: int = 8) -> Batch:
    """Image i is filled with i; its label is i."""
    images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(count, 3, size, size).contiguous()
    return Batch(images, torch.arange(count), torch.arange(10, 10 + count))


def test_mixup_is_the_weighted_sum_with_the_neighbour():
    images = mixup(batch().images, 0.75)
    assert images[:, 0, 0, 0].tolist() == [0.75, 1 * 0.75, 2 * 0.75 + 0.25, 3 * 0.75 + 0.5]
    assert torch.equal(mixup(batch().images, 1.0), batch().images)


def test_labels_share_as_the_images_do():
    labels = mixed_labels(torch.tensor([0, 2, 2]), 4, 0.75)
    assert labels.tolist() == [[0.75, 0, 0.25, 0], [0.25, 0, 0.75, 0], [0, 0, 1, 0]]
    again = mixed_labels(labels, 4, 0.5)  # soft labels mix as well
    assert again.sum(1).tolist() == [1, 1, 1]


def test_cutmix_replaces_the_box_and_counts_what_is_left():
    images, share = cutmix(batch().images, (1, 2, 5, 8))
    assert share == 1 - 4 * 6 / 64
    assert (images[1, :, 1:5, 2:8] == 0).all()
    assert (images[1].sum() / 3).item() == 64 - 24
    assert (images[0, :, 1:5, 2:8] == 3).all()


@pytest.mark.parametrize(
    ("share", "down", "across", "box"),
    [
        (0.75, 0.5, 0.5, (2, 4, 6, 12)),  # half of each side about the centre
        (0.75, 0.0, 0.0, (0, 0, 2, 4)),  # cut off at the corner
        (0.75, 0.99, 0.99, (5, 11, 8, 16)),
        (1.0, 0.5, 0.5, (4, 8, 4, 8)),  # empty
        (0.0, 0.5, 0.5, (0, 0, 8, 16)),  # everything
    ],
)
def test_cut_box(share, down, across, box):
    assert cut_box(8, 16, share, down, across) == box


def test_the_label_share_of_cutmix_is_the_area_that_is_left():
    config = AugmentConfig(cutmix=1.0)
    for seed in range(30):
        mixed = mix(batch(2, 16), config, classes=2, seed=seed)
        own = (mixed.images[1, 0] == 1).float().mean().item()
        assert mixed.labels[1, 1].item() == pytest.approx(own, abs=1e-6)


def test_mix_keeps_index_and_sums_to_one():
    mixed = mix(batch(), AugmentConfig(mixup=0.4), classes=7, seed=3)
    assert torch.equal(mixed.index, batch().index)
    assert mixed.labels.shape == (4, 7)
    assert torch.allclose(mixed.labels.sum(1), torch.ones(4))
    assert mixed.images[1, 0, 0, 0].item() == pytest.approx(mixed.labels[1, 1].item(), abs=1e-6)


def test_mix_is_a_function_of_its_seed_and_leaves_its_input_alone():
    config = AugmentConfig(mixup=0.8, cutmix=1.0)
    source = batch()
    one, two, other = (mix(source, config, 4, seed) for seed in (5, 5, 6))
    assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    assert not torch.equal(one.labels, other.labels)
    assert torch.equal(source.images, batch().images)


def test_what_is_off_stays_off():
    source = batch()
    assert mix(source, AugmentConfig(), 4, 0) is source
    assert mix(source, AugmentConfig(mixup=1.0, mix_probability=0.0), 4, 0) is source
    single = batch(1)
    assert mix(single, AugmentConfig(mixup=1.0), 4, 0) is single  # no neighbour


def test_shares_of_batches_and_of_methods():
    config = AugmentConfig(mixup=1.0, cutmix=1.0, mix_probability=0.5)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(600):
        mixed = mix(batch(2, 4), config, 2, seed)
        if not mixed.labels.is_floating_point():
            kinds["none"] += 1
        else:
            kinds["cutmix" if set(mixed.images.unique().tolist()) <= {0.0, 1.0} else "mixup"] += 1
    assert 250 < kinds["none"] < 350
    assert 110 < kinds["mixup"] < 190 and 110 < kinds["cutmix"] < 190


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_follows_the_beta_distribution(alpha):
    shares = [mix(batch(2, 2), AugmentConfig(mixup=alpha), 2, seed).labels[0, 0].item() for seed in range(400)]
    assert statistics.mean(shares) == pytest.approx(0.5, abs=0.05)
    spread = 1 / (4 * (2 * alpha + 1))  # variance of Beta(a, a)
    assert statistics.variance(shares) == pytest.approx(spread, rel=0.25)
    assert all(0 <= share <= 1 and math.isfinite(share) for share in shares)


@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_the_major_share_is_the_larger_of_the_two(alpha):
    """max(a, 1 - a) of the same draw, in the images and in the labels; CutMix keeps what it has."""
    for seed in range(100):
        plain = mix(batch(2, 2), AugmentConfig(mixup=alpha), 2, seed)
        major = mix(batch(2, 2), AugmentConfig(mixup=alpha, mixup_major=True), 2, seed)
        share = plain.labels[1, 1].item()
        assert major.labels[1, 1].item() == pytest.approx(max(share, 1 - share), abs=1e-6)
        assert major.images[1, 0, 0, 0].item() == pytest.approx(max(share, 1 - share), abs=1e-6)
    config = AugmentConfig(cutmix=1.0)
    both = [mix(batch(), c, 4, 3).labels for c in (config, config.model_copy(update={"mixup_major": True}))]
    assert torch.equal(*both)


def test_the_mean_of_a_mixed_batch_is_that_of_the_batch():
    """Every image gives as much as it takes: mixing moves no mean, of pixels or of labels."""
    images = torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = Batch(images, torch.arange(16) % 5, torch.arange(16))
    for seed in range(10):
        mixed = mix(source, AugmentConfig(mixup=0.8), 5, seed)
        assert torch.allclose(mixed.images.mean(0), images.mean(0), atol=1e-12)
        assert torch.allclose(mixed.labels.sum(0), torch.bincount(source.labels).float(), atol=1e-5)
