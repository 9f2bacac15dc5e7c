"""What applies to a ResNet, which has no tokens, and what is said of the rest."""

import pytest
import torch
from torch import Tensor

from architectures import gap
from vitrail.config import ResNetConfig
from vitrail.errors import ConfigError
from vitrail.explain.catalog import METHODS, check
from vitrail.explain.cells import baselines, cell_pixels, grid, per_cell, without
from vitrail.explain.faithfulness import curves, randomised, salience_effects, sanity
from vitrail.explain.gradient import integrate
from vitrail.explain.perturbation import occlusion
from vitrail.models.resnet import ResNet

CLASSES = torch.tensor([3, 5])
APPLY = [name for name, row in METHODS.items() if not row.tokens]


def make(size: tuple[int, int] = (48, 40)) -> tuple[ResNet, Tensor]:
    torch.manual_seed(0)
    config = ResNetConfig(image_size=size, layers=(1, 1), width=32, groups=8, classes=7)
    model = ResNet(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model, torch.randn(2, 3, *size, dtype=torch.float64)


def test_the_cells_cover_the_image_also_where_they_do_not_fit() -> None:
    model, _ = make((48, 40))
    assert (grid(model), cell_pixels(model)) == ((12, 14), (4, 3))  # the last column is one pixel wide
    ones = torch.ones(1, 48, 40)
    found = per_cell(model, ones)
    assert found.shape == (1, 12, 14) and float(found.sum()) == 48 * 40
    assert found[0, 0].tolist() == [12.0] * 13 + [4.0]


def test_the_methods_that_apply_are_these() -> None:
    assert [
        *("grad_cam", "input_gradient", "smooth_gradient", "integrated_gradients", "occlusion", "rise", "random"),
    ] == APPLY


@pytest.mark.parametrize("name", APPLY)
def test_a_method_that_applies_gives_a_map_of_the_cells(name: str) -> None:
    model, x = make()
    found = METHODS[name].method(model, x, CLASSES)
    assert found.shape == (2, 12, 14) and found.isfinite().all() and not found.requires_grad
    assert float(found.flatten(1).std(dim=1).min()) > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name not in APPLY])
def test_the_others_say_why_not(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs attention, and a ResNet has none"):
        check(name, make()[0])


def test_occlusion_is_what_the_mean_colour_costs() -> None:
    model, x = make()
    found = occlusion(model, x, CLASSES)
    covered = x.clone()
    covered[1, :, 8:12, 39:40] = x[1].mean(dim=(1, 2))[:, None, None]  # row 2, column 13
    lost = (model(x)[1, 5] - model(covered)[1, 5]).detach()
    assert abs(float(found[1, 2, 13] - lost)) < 1e-10


def test_the_gap_of_integrated_gradients_is_told_where_it_cannot_close() -> None:
    """Without a bias before the first group norm the answer is the same all along the way to the mean colour, where it
    jumps: no number of steps sees that, and the gap says so."""
    model, x = make()
    assert gap(model(0.01 * x), model(x)) < 0.05 * gap(model(0 * x), model(x))
    found = integrate(model, x, CLASSES, steps=64)
    assert gap(found.map.sum(dim=(1, 2)) - found.change, found.gap) < 1e-10
    assert (found.gap.abs() > 0.9 * found.change.abs()).all()


def test_faithfulness_covers_pixels() -> None:
    model, x = make()
    assert baselines(model) == ("mean", "blur")
    maps = METHODS["occlusion"].method(model, x, CLASSES)
    for baseline in baselines(model):
        found = curves(model, x, CLASSES, maps, baseline, points=3)
        whole = model(x).softmax(1).gather(1, CLASSES[:, None])[:, 0].detach()
        assert gap(found.deletion[:, 0], whole) < 1e-10 and gap(found.insertion[:, -1], whole) < 1e-10
    assert len(salience_effects(model, x, CLASSES, maps)[0][0]) == 10
    with pytest.raises(ConfigError, match="no tokens to leave out"):
        without(model, x, torch.ones(2, 168, dtype=torch.bool))


def test_the_cascade_goes_by_stages_and_leaves_no_class_without_a_gradient() -> None:
    model, x = make()
    other = randomised(model, 1).state_dict()
    for name, value in model.state_dict().items():
        if value.ndim == 4:
            assert torch.equal(value, other[name]) is not name.startswith("stages.1"), name
    found = sanity(model, x, CLASSES, METHODS["input_gradient"].method)
    assert len(found) == 3 and found[-1] < 0.9 and found[-1] != 0.0
