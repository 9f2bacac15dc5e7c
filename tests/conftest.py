"""What every test shares: the folder of photos and weights that lies beside a developer's checkout, where it exists."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photos and real weights for measuring; not part of the project, so tests that need them skip without them."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real photos and weights is not beside this checkout")
    return folder
