"""The measures of faithfulness, where the right answer is known."""

import itertools

import pytest
import torch
from torch import Tensor

from architectures import KINDS, make
from vitrail.explain import faithfulness as measure
from vitrail.explain.attention import rollout
from vitrail.explain.catalog import METHODS
from vitrail.explain.cells import Baseline, stand_in_for
from vitrail.models.vit import ViT


class Additive:
    """A model whose probability is a sum over the patches that are there."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights


def additive(monkeypatch: pytest.MonkeyPatch, weights: Tensor) -> None:
    def probability(model: ViT, images: Tensor, classes: Tensor, kept: Tensor, stand_in: Tensor | None) -> Tensor:
        return kept.to(weights) @ weights + 1.5

    monkeypatch.setattr(measure, "_probability", probability)


def test_of_an_additive_model_deletion_and_insertion_sum_to_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make()
    weights = torch.randn(24, dtype=torch.float64)
    additive(monkeypatch, weights)
    for seed in range(3):
        maps = measure.random_map(model, x, torch.zeros(2, dtype=torch.int64), seed)
        found = measure.curves(model, x, torch.zeros(2, dtype=torch.int64), maps, points=25)
        ends = (weights.sum() + 1.5) + 1.5
        assert (found.deletion_auc + found.insertion_auc - ends).abs().max() < 1e-10


def test_of_an_additive_model_the_true_order_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make()
    weights = torch.randn(24, dtype=torch.float64)
    additive(monkeypatch, weights)
    classes = torch.zeros(2, dtype=torch.int64)
    best = measure.curves(model, x, classes, weights.view(1, 4, 6).expand(2, -1, -1), points=25)
    for seed in range(50):
        other = measure.curves(model, x, classes, measure.random_map(model, x, classes, seed), points=25)
        assert (best.deletion_auc <= other.deletion_auc + 1e-12).all()
        assert (best.insertion_auc >= other.insertion_auc - 1e-12).all()


@pytest.mark.parametrize("baseline", ["drop", "mean", "blur"])
@pytest.mark.parametrize("kind", ["token", "gap", "rotary, registers", "hybrid"])
def test_the_curves_begin_and_end_at_the_whole_image(kind: str, baseline: Baseline) -> None:
    model, x = make(kind)
    classes = torch.tensor([3, 5])
    found = measure.curves(model, x, classes, rollout(model, x, classes), baseline, points=4)
    whole = model(x).softmax(1).gather(1, classes[:, None])[:, 0].detach()
    assert (found.deletion[:, 0] - whole).abs().max() < 1e-10
    assert (found.insertion[:, -1] - whole).abs().max() < 1e-10
    assert found.deletion.shape == (2, 4) and found.removed.tolist()[0] == 0 and found.removed.tolist()[-1] == 1
    if baseline != "drop":
        assert (found.deletion[:, -1] - found.insertion[:, 0]).abs().max() < 1e-10


def test_a_blurred_image_is_smoother_and_a_constant_one_stays() -> None:
    x = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    blurred = stand_in_for(x, "blur")
    assert blurred is not None and blurred.shape == x.shape
    assert float(blurred.std()) < 0.5 * float(x.std())
    flat = torch.full_like(x, 0.7)
    assert (stand_in_for(flat, "blur") - flat).abs().max() < 1e-12  # type: ignore[operator]


def test_saco_is_one_where_the_order_agrees_and_minus_one_where_it_is_reversed() -> None:
    values = sorted(torch.rand(10).tolist(), reverse=True)
    effects = torch.rand(10).tolist()
    assert abs(measure.saco(values, sorted(effects, reverse=True)) - 1) < 1e-12
    assert abs(measure.saco(values, sorted(effects)) + 1) < 1e-12
    assert measure.saco([1.0, 1.0], [0.2, 0.4]) == 0.0
    pairs = list(itertools.combinations(range(3), 2))
    assert len(pairs) == 3 and abs(measure.saco([3.0, 2.0, 1.0], [0.5, 0.9, 0.1]) - (2 + 1 - 1) / 4) < 1e-12


def test_groups_of_salience_are_by_rank() -> None:
    model, x = make()
    classes = torch.tensor([3, 5])
    found = measure.salience_effects(model, x, classes, rollout(model, x, classes), groups=4)
    assert len(found) == 2
    for values, effects in found:
        assert len(values) == len(effects) == 4
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_randomised_model_keeps_only_the_blocks_below(kind: str) -> None:
    model, _ = make(kind)
    state = model.state_dict()
    for blocks in (0, 2):
        other = measure.randomised(model, blocks).state_dict()
        for name, value in state.items():
            if name.startswith("blocks."):
                if value.ndim >= 2:
                    assert torch.equal(value, other[name]) is (int(name.split(".")[1]) < 3 - blocks), name
            elif name.startswith(("patch_embedding", "class_token", "position_embedding")):
                assert torch.equal(value, other[name]), name
    assert not torch.equal(state["norm.weight"], other["norm.weight"])


def test_sanity_of_the_whole_model_is_one_and_falls_with_random_blocks() -> None:
    model, x = make()
    found = measure.sanity(model, x, torch.tensor([3, 5]), rollout)
    assert len(found) == 4
    assert abs(found[0] - 1) < 1e-12  # rollout does not ask the head
    assert found[-1] < 0.9


def test_an_edge_detector_does_not_fall() -> None:
    def edges(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
        return images.diff(dim=3).abs().sum(1)[:, ::4, :6]

    model, x = make()
    assert measure.sanity(model, x, torch.tensor([3, 5]), edges) == [pytest.approx(1.0)] * 4


def test_rank_correlation() -> None:
    x = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5]], dtype=torch.float64)
    y = torch.tensor([[10.0, 20, 30, 40], [4, 3, 2, 1], [1, 2, 3, 4]], dtype=torch.float64)
    found = measure.spearman(x, y).tolist()
    assert found == [pytest.approx(1.0), pytest.approx(-1.0), pytest.approx(0.0)]


def test_equal_values_share_a_rank() -> None:
    """Two maps that are mostly zero agree in nothing by that."""
    x = torch.zeros(1, 100, dtype=torch.float64)
    y = x.clone()
    x[0, 3], y[0, 90] = 1, 1
    assert abs(float(measure.spearman(x, y))) < 0.02
    assert abs(float(measure.spearman(x, x)) - 1) < 1e-12
    a, b = torch.tensor([[1.0, 2, 2, 3]]), torch.tensor([[1.0, 3, 2, 4]])
    assert abs(float(measure.spearman(a, b)) - 0.9486833) < 1e-6  # as scipy.stats.spearmanr


def test_known_ends_change_nothing() -> None:
    model, x = make()
    classes, maps = torch.tensor([3, 5]), torch.rand(2, 4, 6)
    for baseline in ("drop", "mean"):
        known = measure.ends(model, x, classes, baseline)
        one = measure.curves(model, x, classes, maps, baseline, 5, known)
        other = measure.curves(model, x, classes, maps, baseline, 5)
        assert torch.equal(one.deletion, other.deletion) and torch.equal(one.insertion, other.insertion)


def test_pointing_and_overlap() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1:3, 2:4] = True
    inside, outside = mask.double(), (~mask).double()
    assert measure.pointing(inside, mask).tolist() == [1.0]
    assert measure.pointing(outside, mask).tolist() == [0.0]
    assert measure.pointing(outside, torch.ones_like(mask)).tolist() == [1.0]
    assert measure.pointing(torch.zeros_like(inside), mask).tolist() == [pytest.approx(4 / 24)]  # flat: no hit
    assert measure.overlap(inside, mask).tolist() == [1.0]
    assert measure.overlap(outside, mask).tolist() == [0.0]


def test_random_maps_follow_from_the_seed_and_are_in_the_table() -> None:
    model, x = make()
    classes = torch.tensor([0, 0])
    one, again, other = (measure.random_map(model, x, classes, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert METHODS["random"].method is measure.random_map
