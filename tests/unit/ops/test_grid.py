"""Patches, their order, and position resampling."""

import pytest
import torch
from scipy.ndimage import zoom

from vitrail.config import ViTConfig
from vitrail.models.vit import ViT
from vitrail.ops.grid import patchify, resample_positions, unpatchify


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
