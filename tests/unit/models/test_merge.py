"""Token merging: what it merges, what it leaves, and that nothing changes where tokens are equal or none merge."""

import pytest
import torch

from architectures import gap, make
from vitrail.config import Preprocess, ResNetConfig
from vitrail.errors import ConfigError
from vitrail.models.fold import FoldedViT, fold
from vitrail.models.merge import merge
from vitrail.models.resnet import ResNet

PREPROCESS = Preprocess(size=(16, 24))


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_alike_tokens_merge_and_their_sizes_add_up() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    x[0, 1] = x[0, 6]  # image 0: patches 1 (first set) and 6 (second) are equal
    x[1, 3] = x[1, 8]
    merged, size = merge(x, torch.ones(2, 9, 1, dtype=torch.float64), x, 1, prefix=1)
    assert merged.shape == (2, 8, 6) and size.sum(dim=1).flatten().tolist() == [9.0, 9.0]
    assert torch.equal(merged[:, 0], x[:, 0])  # the class token stays first
    for image, twin in ((0, 6), (1, 8)):
        where = int(size[image].flatten().argmax())
        assert size[image, where] == 2 and gap(merged[image, where], x[image, twin]) < 1e-12


def test_the_weighted_mean_is_kept() -> None:
    """The sum of what tokens stand for does not change, whatever merges."""
    torch.manual_seed(0)
    x, size = torch.randn(3, 14, 5, dtype=torch.float64), torch.rand(3, 14, 1, dtype=torch.float64) + 1
    merged, sizes = merge(x, size, x, 4, prefix=2)
    assert merged.shape[1] == 10
    assert gap((merged * sizes).sum(dim=1), (x * size).sum(dim=1)) < 1e-12
    assert merge(x, size, x, 100, prefix=2)[0].shape[1] == 8  # at most half of the patches


@pytest.mark.parametrize("kind", ["token", "distilled", "hybrid"])
def test_merging_equal_tokens_changes_nothing(kind: str) -> None:
    """Where all patches are the same, a token that counts for two is two tokens: only then is merging exact."""
    model, _ = make(kind, position="none")
    one = torch.full((2, 3, 16, 24), 90, dtype=torch.uint8)
    with torch.no_grad():
        if kind == "hybrid":  # its stem sees the border, so its patches differ: here merging is no longer exact
            assert gap(fold(model, PREPROCESS, merge=2)(one), fold(model, PREPROCESS)(one)) > 1e-6
        else:
            assert gap(fold(model, PREPROCESS, merge=3)(one), fold(model, PREPROCESS)(one)) < 1e-9


def test_it_is_an_approximation_elsewhere() -> None:
    model, _ = make()
    with torch.no_grad():
        exact, merged = fold(model, PREPROCESS)(pixels()), fold(model, PREPROCESS, merge=4)(pixels())
    assert gap(exact, merged) > 1e-6
    folded = fold(model, PREPROCESS, merge=4)
    assert isinstance(folded, FoldedViT) and folded.merge == 4


@pytest.mark.parametrize("kind", ["gap", "rotary, registers", "map"])
def test_models_that_cannot_merge_say_so(kind: str) -> None:
    with pytest.raises(ConfigError, match="tokens merge in models"):
        fold(make(kind)[0], PREPROCESS, merge=2)


def test_nor_can_a_resnet_nor_fewer_than_none() -> None:
    config = ResNetConfig(image_size=(16, 24), layers=(), width=32, groups=8, classes=5)
    with pytest.raises(ConfigError, match="no tokens"):
        fold(ResNet(config), PREPROCESS, merge=2)
    with pytest.raises(ConfigError, match="0 or more"):
        fold(make()[0], PREPROCESS, merge=-1)
