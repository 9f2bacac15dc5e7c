"""Options that single published models need."""

import pytest
import torch
from pydantic import ValidationError

from vitrail.config import ViTConfig
from vitrail.models.cost import parameters
from vitrail.models.trace import trace
from vitrail.models.vit import ViT


def make(**changes: object) -> ViT:
    options = {"image_size": 16, "patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp_dim": 40, "classes": 7}
    torch.manual_seed(0)
    model = ViT(ViTConfig(**options | changes)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def test_cut_patches_are_not_seen() -> None:
    model = make(image_size=(21, 19), cut_patches=True)
    assert model.config.grid == (2, 2)
    images = torch.randn(2, 3, 21, 19, dtype=torch.float64)
    changed = images.clone()
    changed[:, :, 16:], changed[..., 16:] = 7.0, 7.0
    assert torch.equal(model(images), model(changed))
    changed[:, :, 15:] = 7.0
    assert not torch.equal(model(images), model(changed))


@pytest.mark.parametrize("size", [(20, 16), (7, 16)])
def test_a_cut_patch_must_be_asked_for_and_never_be_the_only_one(size: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="image_size must be a multiple of patch_size"):
        make(image_size=size, cut_patches=size[0] < 8)


@pytest.mark.parametrize("changes", [{}, {"pre_logits": 12}, {"classes": 0}], ids=str)
def test_without_its_head_the_distillation_token_only_takes_part(changes: dict[str, object]) -> None:
    model = make(distillation_token=True, distillation_head=False, **changes)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    logits, record = trace(model, images)
    assert model.distillation_head is None
    assert model(images).shape == logits.shape == (2, model.config.classes or model.config.width)
    assert (model(images) - logits).abs().max() < 1e-12
    assert torch.equal(record.pooled, record.tokens[:, 0])
    assert parameters(model.config) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        model.distillation_token.normal_()
    assert (model(images) - logits).abs().max() > 1e-3
