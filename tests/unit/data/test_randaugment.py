"""The sixteen operations of AugReg's RandAugment against values worked out by hand from the table of big_vision's
pp/archive/autoaugment.py, at the magnitudes that were published, and against Pillow where it has the same operation."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from PIL import ImageOps

from pictures import noise
from vitrail.data import randaugment
from vitrail.data.randaugment import OPERATIONS, contrast, equalize, posterize, rand_augment, rotate, solarize
from vitrail.data.three_augment import to_image, to_pixels

WITHOUT_ARGUMENT = {"AutoContrast", "Equalize", "Invert"}
MAGNITUDES = (0, 10, 15, 20)


def filled(*rgb: int, rows: int = 4, cols: int = 4) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).repeat(1, rows, cols)


def applied(name: str, pixels: torch.Tensor, magnitude: int, seed: int = 0, mended: bool = False) -> torch.Tensor:
    before = pixels.clone()
    result = OPERATIONS[name](pixels, magnitude / 10, random.Random(seed), mended)
    assert torch.equal(pixels, before) and result.dtype == torch.uint8 and result.shape == pixels.shape
    return result


def value(name: str, x: int, magnitude: int, **given: bool) -> int:
    """What becomes of an image filled with the grey x."""
    found = applied(name, filled(x, x, x), magnitude, **given).unique().tolist()
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("name", "x", "at_0", "at_10", "at_15", "at_20"),
    [
        ("Invert", 52, 203, 203, 203, 203),
        ("Posterize", 0b10110111, 0b10000000, 0b10110000, 0b10110100, 0b10110111),
        ("Posterize", 0b01111111, 0, 0b01110000, 0b01111100, 0b01111111),
        ("Solarize", 100, 155, 155, 100, 155),  # thresholds 0, 256, 384, 512 in 8 bits: 0, 0, 128, 0
        ("Solarize", 127, 128, 128, 127, 128),
        ("Solarize", 128, 127, 127, 127, 127),
        ("SolarizeAdd", 0, 0, 110, 165, 220),
        ("SolarizeAdd", 100, 100, 210, 255, 255),
        ("SolarizeAdd", 127, 127, 237, 255, 255),
        ("SolarizeAdd", 128, 128, 128, 128, 128),
        ("Brightness", 52, 5, 98, 145, 192),  # times 0.1, 1.9, 2.8, 3.7
        ("Brightness", 201, 20, 255, 255, 255),
        ("Contrast", 53, 5, 100, 148, 196),  # 4 x 4 pixels / 256 = 0: as Brightness
        ("Color", 52, 52, 52, 52, 52),  # grey has no colour
    ],
)
def test_values(name: str, x: int, at_0: int, at_10: int, at_15: int, at_20: int) -> None:
    assert [value(name, x, magnitude) for magnitude in MAGNITUDES] == [at_0, at_10, at_15, at_20]


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [(0, (131, 121, 116)), (10, (255, 78, 0)), (15, (255, 56, 0)), (20, (255, 35, 0))],
)
def test_color_moves_away_from_grey(magnitude: int, expected: tuple[int, ...]) -> None:
    """Grey of (200, 100, 50): 0.2989 * 200 + 0.587 * 100 + 0.114 * 50 = 124.18, by 255.5 / 255: 124.4."""
    assert applied("Color", filled(200, 100, 50), magnitude)[:, 0, 0].tolist() == list(expected)


@pytest.mark.parametrize(("magnitude", "expected"), [(0, 7), (10, 98), (15, 144), (20, 190)])
def test_contrast_blends_with_the_area_and_not_the_mean(magnitude: int, expected: int) -> None:
    """16 x 32 pixels / 256 = 2, whatever the image shows: 2 + factor * (53 - 2)."""
    assert applied("Contrast", filled(53, 53, 53, rows=16, cols=32), magnitude).unique().tolist() == [expected]
    assert applied("Contrast", filled(53, 53, 53, rows=16, cols=32), magnitude, mended=True).unique().tolist() == [53]


def test_contrast_at_the_published_size() -> None:
    assert contrast(filled(190, 190, 190, rows=224, cols=224), 1.9).unique().tolist() == [184]  # 196 - 1.9 * 6
    assert contrast(filled(190, 190, 190, rows=384, cols=384), 1.9).unique().tolist() == [131]  # 576 is cut to 255


@pytest.mark.parametrize(("magnitude", "centre", "beside"), [(0, 59, 9), (10, 208, 0), (15, 255, 0), (20, 255, 0)])
def test_sharpness(magnitude: int, centre: int, beside: int) -> None:
    """One pixel of 134 in black: smoothed it is 134 * 5 / 13 = 51.5 and its neighbours 134 / 13 = 10.3; the rim, one
    pixel wide, is left as it is."""
    pixels = torch.zeros(3, 7, 7, dtype=torch.uint8)
    pixels[:, 3, 3] = 134
    sharp = applied("Sharpness", pixels, magnitude)
    assert sharp[0, 3, 3] == centre
    assert all(sharp[0, 3 + y, 3 + x] == beside for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
    pixels = torch.full((3, 5, 5), 90, dtype=torch.uint8)
    pixels[:, 0, 2] = 200
    assert applied("Sharpness", pixels, magnitude)[0, 0].tolist() == [90, 90, 200, 90, 90]
    for small in (filled(9, 9, 9, rows=2, cols=9), filled(9, 9, 9, rows=1, cols=1)):  # all of it is rim
        assert torch.equal(applied("Sharpness", small, magnitude), small)


def test_autocontrast_stretches_each_channel() -> None:
    pixels = torch.tensor([[50, 61, 100], [0, 9, 255], [7, 7, 7]], dtype=torch.uint8).view(3, 1, 3)
    for magnitude in MAGNITUDES:
        assert applied("AutoContrast", pixels, magnitude).view(3, 3).tolist() == [[0, 56, 255], [0, 9, 255], [7, 7, 7]]


def test_equalize_by_hand() -> None:
    """300 of 10, 300 of 20, 165 of 30: a step is (765 - 165) // 255 = 2, so 0, (300 + 1) // 2 = 150, 300 -> 255."""
    channel = torch.tensor([10] * 300 + [20] * 300 + [30] * 165, dtype=torch.uint8).view(1, 45, 17)
    found = applied("Equalize", channel.repeat(3, 1, 1), 10)
    assert [found[0][channel[0] == x].unique().tolist() for x in (10, 20, 30)] == [[0], [150], [255]]
    constant = filled(9, 8, 7)
    assert torch.equal(equalize(constant), constant)


def test_pillow_agrees_where_it_has_the_operation() -> None:
    pixels = torch.from_numpy(noise(40, 50, 3)).permute(2, 0, 1) // 3 + 20
    image = to_image(pixels)
    assert torch.equal(equalize(pixels), to_pixels(ImageOps.equalize(image)))
    assert torch.equal(solarize(pixels, 60), to_pixels(ImageOps.solarize(image, 60)))
    for bits in (1, 3, 4, 8):
        assert torch.equal(posterize(pixels, bits), to_pixels(ImageOps.posterize(image, bits)))
    ours, theirs = (x.int() for x in (applied("AutoContrast", pixels, 10), to_pixels(ImageOps.autocontrast(image))))
    assert (ours - theirs).abs().max() <= 1  # Pillow goes by a table


def dots(*places: tuple[int, int], side: int = 5) -> torch.Tensor:
    """Black, with white at (row, column) counted from the centre."""
    pixels = torch.zeros(3, side, side, dtype=torch.uint8)
    for row, col in places:
        pixels[:, side // 2 + row, side // 2 + col] = 255
    return pixels


@pytest.mark.parametrize(
    ("magnitude", "start", "end"),
    [
        (10, (0, 2), (-1, 2)),  # 30 degrees: (-1, 2) comes from (0.13, 2.23)
        (15, (0, 1), (-1, 1)),  # 45 degrees: (-1, 1) comes from (0, 1.41)
        (20, (0, 2), (-2, 1)),  # 60 degrees: (-2, 1) comes from (-0.13, 2.23)
    ],
)
def test_rotate_turns_either_way(magnitude: int, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Counter-clockwise or, with the same odds, clockwise, which is its mirror image."""
    turned = {1: 0, -1: 0}
    for seed in range(200):
        found = applied("Rotate", dots(start), magnitude, seed)
        white = [(int(y) - 2, int(x) - 2) for y, x in torch.nonzero(found[0] == 255)]
        assert white in ([end], [(-end[0], end[1])])
        turned[-1 if white == [end] else 1] += 1
    assert min(turned.values()) > 70


def test_rotate_fills_with_grey() -> None:
    corners = rotate(dots(), 45.0)[:, [0, 0, 4, 4], [0, 4, 0, 4]]
    assert (corners == 128).all() and (rotate(dots(), 0.0) == 0).all()
    assert torch.equal(rotate(dots((0, 2), (2, 2), side=7), 90.0), dots((-2, 0), (-2, 2), side=7))


@pytest.mark.parametrize(("magnitude", "moved"), [(0, 0), (10, 3), (15, 5), (20, 6)])
@pytest.mark.parametrize("axis", ["X", "Y"])
def test_shear(magnitude: int, moved: int, axis: str) -> None:
    """Row 10 moves by 10 * 0.3 = 3, 4.5 (halves go away from zero) and 6 pixels, either way; row 0 never moves."""
    ramp = torch.arange(30, dtype=torch.uint8).repeat(3, 11, 1)
    pixels = ramp if axis == "X" else ramp.transpose(1, 2)
    rows = [applied(f"Shear{axis}", pixels, magnitude, seed) for seed in range(20)]
    rows = [row if axis == "X" else row.transpose(1, 2) for row in rows]
    assert all(torch.equal(row[:, 0], ramp[:, 0]) for row in rows)
    left = list(range(moved, 30)) + [128] * moved
    # x - 4.5 is rounded away from zero too: 0.5 -> 1, but -0.5 -> -1, which lies outside
    right = [128] * moved + list(range(30 - moved)) if magnitude != 15 else [128] * 5 + list(range(1, 26))
    assert {tuple(row[0, 10].tolist()) for row in rows} == {tuple(left), tuple(right)}


@pytest.mark.parametrize(("magnitude", "moved"), [(0, 0), (10, 100), (15, 150), (20, 200)])
@pytest.mark.parametrize("axis", [1, 2])
def test_translate_goes_by_pixels(magnitude: int, moved: int, axis: int) -> None:
    for side, mended in ((224, False), (224, True), (112, False)):
        by = min(moved, side)
        pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        grey = torch.full_like(pixels, 128)
        one = torch.cat([pixels.narrow(axis, by, side - by), grey.narrow(axis, 0, by)], axis)
        other = torch.cat([grey.narrow(axis, 0, by), pixels.narrow(axis, 0, side - by)], axis)
        found = [applied(f"Translate{'_YX'[axis]}", pixels, magnitude, seed, mended) for seed in range(12)]
        assert all(any(torch.equal(f, wanted) for wanted in (one, other)) for f in found)
        assert any(torch.equal(f, one) for f in found) and any(torch.equal(f, other) for f in found)


@pytest.mark.parametrize(("magnitude", "half"), [(0, 0), (10, 40), (15, 60), (20, 80)])
def test_cutout(magnitude: int, half: int) -> None:
    pixels = torch.zeros(3, 224, 224, dtype=torch.uint8)
    sides = set()
    for seed in range(200):
        cut = applied("Cutout", pixels, magnitude, seed) == 128
        rows, cols = cut[0].any(1).sum().item(), cut[0].any(0).sum().item()
        assert cut.sum().item() == 3 * rows * cols
        sides |= {rows, cols}
    assert max(sides) == 2 * half and half <= min(sides) <= half + 20


def test_every_operation_is_drawn_evenly_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda x, m, rng, mended, name=name: (drawn.append(name), x)[1])
    pixels, twice = filled(1, 2, 3), 0
    for seed in range(3200):
        drawn_before = len(drawn)
        rand_augment(pixels, 2, 10, seed)
        twice += len(set(drawn[drawn_before:])) == 1
    counts = Counter(drawn)
    assert len(OPERATIONS) == len(counts) == 16 and sum(counts.values()) == 6400
    assert all(330 < count < 470 for count in counts.values())  # 400 +- 3.6 standard deviations
    assert 145 < twice < 255  # one in sixteen


def test_it_is_a_pure_function_of_its_seed() -> None:
    pixels = torch.from_numpy(noise(32, 24, 1)).permute(2, 0, 1)
    state = torch.get_rng_state()
    found = [rand_augment(pixels, 2, 15, seed) for seed in range(40)]
    random.seed(3)
    torch.manual_seed(3)
    assert all(torch.equal(rand_augment(pixels, 2, 15, seed), found[seed]) for seed in range(40))
    torch.set_rng_state(state)
    assert sum(torch.equal(f, found[0]) for f in found) < 5
    assert torch.equal(rand_augment(pixels, 0, 15, 0), pixels)


def test_light1_is_not_nothing_unless_mended() -> None:
    """At magnitude 0 the published operations still darken, posterize and invert."""
    pixels = torch.from_numpy(noise(64, 64, 1)).permute(2, 0, 1)
    changed = {name for name in OPERATIONS if not torch.equal(applied(name, pixels, 0), pixels)}
    assert {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"} <= changed
    mended = {name for name in OPERATIONS if not torch.equal(applied(name, pixels, 0, mended=True), pixels)}
    assert mended <= WITHOUT_ARGUMENT


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - WITHOUT_ARGUMENT))
def test_mended_operations_grow_with_the_magnitude(name: str) -> None:
    y, x = torch.meshgrid(torch.arange(112), torch.arange(112), indexing="ij")
    pixels = torch.stack([x, y, (x + y) // 2]).to(torch.uint8) + 60
    before = pixels.int()
    for seed in range(3):
        changes = [
            (applied(name, pixels, m, seed, mended=True).int() - before).abs().float().mean() for m in range(0, 11, 2)
        ]
        assert changes[0] == 0 and all(a <= b + 0.5 for a, b in pairwise(changes))
        assert changes[-1] > 1 or name == "Sharpness"  # a smooth picture cannot be sharpened much


def test_mended_values() -> None:
    assert [value("Posterize", 0b10110111, m, mended=True) for m in MAGNITUDES] == [183, 0b10110000, 0b10000000, 128]
    assert [value("Solarize", 200, m, mended=True) for m in (0, 2, 3, 10, 20)] == [200, 200, 55, 55, 55]
    found = {applied("Brightness", filled(52, 52, 52), 5, seed, mended=True)[0, 0, 0].item() for seed in range(20)}
    assert found == {28, 75}  # 52 * 0.55 and 52 * 1.45
    small = torch.arange(112, dtype=torch.uint8).repeat(3, 112, 1)
    found = {applied("TranslateX", small, 10, seed, mended=True)[0, 0, 56].item() for seed in range(20)}
    assert found == {6, 106}  # 50 of 112 pixels
    sides = {(applied("Cutout", small * 0, 10, seed, mended=True) == 128)[0].any(1).sum().item() for seed in range(60)}
    assert max(sides) == 40


def test_the_names_are_the_published_ones() -> None:
    assert set(randaugment.OPERATIONS) == {
        "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness",
        "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
    }  # fmt: skip
