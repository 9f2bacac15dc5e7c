"""What every test shares: the folder of photos and weights that lies beside a developer's checkout, where it exists."""

import os
import signal
from pathlib import Path

import pytest

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell starts what it puts in the background; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines keep what they build, in place of the user's own; processes that tests start see it too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["VITRAIL_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photos and real weights for measuring; not part of the project, so tests that need them skip without them."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real photos and weights is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a tiny untrained ViT with the classes `blue`, `green` and `red`, for 8 x 8 pixels."""
    import torch

    from vitrail.config import Preprocess, ViTConfig
    from vitrail.models.vit import ViT
    from vitrail.types import LabelSet
    from vitrail.weights.checkpoint import write_model_folder

    config = ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=8, depth=1, heads=2, mlp_dim=8, classes=3)
    model = ViT(config)
    model.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():  # a new head is zero and would call every class equally likely
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_model_folder(folder, model, Preprocess(size=(8, 8)), LabelSet(("blue", "green", "red")), {})
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders `blue`, `green` and `red`, each with eight PNG images of 12 x 10 pixels."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 60, (10, 12, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{name}{i}.png")
    return folder
