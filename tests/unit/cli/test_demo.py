"""What the demo shows of the digits, apart from training."""

import importlib
import io
import sys

import pytest
import torch

from vitrail.data.sources import Source, open_dataset
from vitrail.types import Prediction

demo = importlib.import_module("vitrail.cli.demo")  # `vitrail.cli.demo` as an attribute is the verb


@pytest.fixture(scope="module")
def digits() -> Source:
    return open_dataset("digits").split("val")


def test_a_picture_in_characters() -> None:
    pixels = torch.tensor([[0, 255], [128, 64]], dtype=torch.uint8).expand(3, 2, 2)
    assert demo.draw(pixels, " .:+#") == ["  ##", "::.."]


def test_digits_side_by_side_with_the_answers(digits: Source) -> None:
    labels = [digits.classes[int(digits.labels[i])] for i in (0, 1)]
    said = [Prediction("a", (labels[0],), (0,), (0.987,)), Prediction("b", ("x",), (0,), (0.5,))]
    lines = demo.gallery(digits, [0, 1], said).splitlines()
    assert len(lines) == 8 + 3  # the pixel rows, a gap, what it says, whether that is right
    assert "█" in "".join(lines[:8])
    assert f"{labels[0]}, 98.7 % sure" in lines[9] and "x, 50.0 % sure" in lines[9]
    assert lines[10].split("  ")[0] == "right" and f"wrong: it is a {labels[1]}" in lines[10]


def test_a_terminal_without_shades_gets_plain_characters(digits: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = demo.gallery(digits, [0], [Prediction("a", ("1",), (1,), (0.9,))])
    assert text.isascii() and "##" in text


def test_four_different_digits_are_chosen(digits: Source) -> None:
    class NoMistakes:
        mistakes = ()

    class OneMistake:
        class worst:
            index = 5

        mistakes = (worst,)

    chosen = demo.choose(NoMistakes, digits)
    assert len({int(digits.labels[i]) for i in chosen}) == 4
    chosen = demo.choose(OneMistake, digits)
    assert chosen[-1] == 5 and len({int(digits.labels[i]) for i in chosen}) == 4
