"""The catalog's rows in their real size, up to B: the plain ones against timm's network, in float64."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.models.build import Network, build
from vitrail.models.catalog import MODELS, find_model
from vitrail.weights.formats.timm import TIMM
from vitrail.weights.rename import write_tensors

SIZES = ("Ti", "S", "M", "B")  # the larger ones are checked on the meta device: test_timm.py, test_hf_large.py
PLAIN = [name for name, c in MODELS.items() if isinstance(c, ViTConfig) and not c.stem and name.split("/")[0] in SIZES]
CONVOLUTIONAL = [
    name for name, c in MODELS.items() if isinstance(c, ResNetConfig) or (c.stem is not None and c.width <= 768)
]


def with_numbers(name: str, dtype: torch.dtype) -> Network:
    """Random-normal weights, of a spread that keeps a deep network's outputs in reach."""
    with torch.device("meta"):
        model = build(find_model(name))
    model = model.to(dtype).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.05 if p.ndim > 1 else 0.5)
    return model


def test_all_rows_are_here_or_too_large() -> None:
    large = [name for name in MODELS if name not in (*PLAIN, *CONVOLUTIONAL)]
    assert {name.split("/")[0] for name in large} == {"L", "So400m", "H", "g", "g-opt", "G", "R50+L", "Pico", "Nano"}


@pytest.mark.slow  # together half a minute
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_logits_equal_timm_s_in_the_real_size(name: str) -> None:
    ours, config = with_numbers(name, torch.float64), find_model(name)
    assert isinstance(config, ViTConfig)
    theirs = VisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.width, depth=config.depth,
        num_heads=config.heads, weight_init="skip", device="meta",
    )  # fmt: skip
    theirs.load_state_dict(write_tensors(ours.state_dict(), TIMM.rules(config)), strict=True, assign=True)
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    expected = theirs.eval()(images)
    assert expected.shape == (1, 1000) and expected.std() > 0.1
    assert (ours(images) - expected).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_hybrids_and_resnets_run_in_the_real_size(name: str) -> None:
    """Their numbers are held to the original code at toy size: tests/golden/test_jax.py."""
    model = with_numbers(name, torch.float32)
    logits = model(torch.randn(2, 3, *model.config.image_size))
    assert logits.shape == (2, model.config.classes)
    assert logits.isfinite().all() and (logits[0] - logits[1]).abs().max() > 1e-6, "images differ"
