"""The built-in digits: scikit-learn's pixels, bytes that never change, a missing package named."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pictures import noise
from vitrail.data.decode import decode
from vitrail.data.digits import png
from vitrail.data.sources import open_dataset
from vitrail.errors import MissingExtra


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


def test_every_digit_is_there_with_its_label(digits):
    images, labels = load_digits(return_X_y=True)
    assert len(digits.whole) == 1797
    assert digits.classes == tuple("0123456789")
    assert (digits.whole.labels == labels).all()
    for index in range(0, 1797, 97):
        expected = np.round(images[index].reshape(8, 8) * 255 / 16)
        assert (decode(digits.whole.read(index).data).numpy() == expected).all()


def test_the_split_is_the_same_for_ever(digits):
    """A golden value: scores of the digits are comparable only while this holds."""
    assert {name: len(part) for name, part in digits.splits.items()} == {"train": 1438, "val": 359}
    assert np.bincount(digits.split("val").labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert digits.fingerprint == "29e503e58d538f5a080e5fc41b61c56f00045557c84de965d96ba61911e4b8fa"


def test_handmade_png_is_a_png():
    grey = noise(5, 9)[..., 0]
    assert (np.asarray(Image.open(io.BytesIO(png(grey)))) == grey).all()


def test_without_scikit_learn_the_package_is_named(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra) as caught:
        open_dataset("digits")
    assert str(caught.value) == (
        "the built-in data set digits needs the package scikit-learn: pip install 'vitrail[train]'"
    )
