"""Patches, their order, and position resampling."""

import pytest
import torch
from scipy.ndimage import zoom

from vitrail.config import ViTConfig
from vitrail.models.vit import ViT
from vitrail.ops.grid import patchify, resample_patch_kernel, resample_positions, unpatchify


def test_patchify_is_row_major_and_undone() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(images, (2, 3))
    assert patches.shape == (2, 4, 18)
    assert torch.equal(patches[0, 1], images[0, :, :2, 3:].flatten())
    assert torch.equal(patches[0, 2], images[0, :, 2:, :3].flatten())
    assert torch.equal(unpatchify(patches, (2, 2), (2, 3)), images)


def test_the_patch_embedding_is_one_linear_map_of_each_patch() -> None:
    model = ViT(ViTConfig(image_size=(8, 12), patch_size=(4, 4), width=6, depth=1, heads=1, mlp_dim=4)).double()
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    weight, bias = model.patch_embedding.weight, model.patch_embedding.bias
    linear = patchify(images, (4, 4)) @ weight.flatten(1).T + bias
    assert (model.patch_embedding(images).flatten(2).transpose(1, 2) - linear).abs().max() < 1e-12


@pytest.mark.parametrize("new", [(6, 6), (3, 5), (9, 4)])
def test_the_paper_s_rule_is_scipy_s_linear_zoom(new: tuple[int, int]) -> None:
    rows = torch.randn(1, 1 + 4 * 4, 5)
    grid = rows[0, 1:].reshape(4, 4, 5).numpy()
    expected = zoom(grid, (new[0] / 4, new[1] / 4, 1), order=1).reshape(-1, 5)
    found = resample_positions(rows, (4, 4), new, rule="paper")
    assert (found[0, 1:] - torch.from_numpy(expected)).abs().max() < 1e-5
    assert torch.equal(found[:, 0], rows[:, 0])


def test_the_rules_differ_and_the_same_grid_is_untouched() -> None:
    rows = torch.randn(1, 1 + 4 * 4, 5)
    made = [resample_positions(rows, (4, 4), (3, 3), rule=rule) for rule in ("paper", "timm", "transformers")]
    assert all((a - b).abs().max() > 1e-3 for a, b in [(made[0], made[1]), (made[1], made[2]), (made[0], made[2])])
    assert resample_positions(rows, (4, 4), (4, 4)) is rows
    with pytest.raises(ValueError, match="16 positions are not a grid of 3 x 4"):
        resample_positions(rows, (3, 4), (4, 4))


def test_flexivit_s_positions_go_linearly_between_the_middles_of_patches() -> None:
    """Two patches at 1/4 and 3/4 of the side become four at 1/8 ... 7/8; outside them there is nothing to go to."""
    rows = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 4, 1)
    found = resample_positions(rows, (2, 2), (2, 4), prefix=0, rule="flexivit")
    assert found.flatten().tolist() == [0.0, 0.25, 0.75, 1.0] * 2


@torch.no_grad()
def test_a_kernel_for_larger_patches_embeds_enlarged_patches_as_before() -> None:
    kernel = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    patch = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    larger = torch.nn.functional.interpolate(patch, (9, 6), mode="bilinear", align_corners=False)
    embed = torch.nn.functional.conv2d
    difference = embed(larger, resample_patch_kernel(kernel, (9, 6))) - embed(patch, kernel)
    assert difference.abs().max() < 1e-12


def test_a_kernel_for_half_the_patch_sums_its_pairs() -> None:
    """The bilinear resize by one half is the mean of pairs where it is not antialiased, so its inverse sums them."""
    kernel = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    sums = 4 * torch.nn.functional.avg_pool2d(kernel, 2)
    assert (resample_patch_kernel(kernel, (4, 4)) - sums).abs().max() < 1e-12
