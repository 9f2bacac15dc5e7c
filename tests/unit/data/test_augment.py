"""Augmentation: a pure function of its seed; each transform does what it says, shown on images with a known answer."""

import builtins
import math
import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pictures import noise, smooth
from vitrail.config import AugmentConfig
from vitrail.data import augment as module
from vitrail.data.augment import Box, augment, check_extras, erase, mirror_pad, random_box, simple_crop, warp
from vitrail.data.randaugment import rand_augment
from vitrail.data.three_augment import color_jitter, three_augment
from vitrail.errors import MissingExtra

STILL = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
EVERYTHING = AugmentConfig(rotate=15.0, shift=0.1, randaugment_layers=2, erase=0.5)
PUBLISHED = AugmentConfig(
    crop="simple", crop_enlarge=1.2, crop_padding=4, randaugment="tf", randaugment_layers=2, three_augment=True,
    color_jitter=0.3,
)  # fmt: skip


def image(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(noise(rows, cols, seed)).permute(2, 0, 1)


def with_(**changes: object) -> AugmentConfig:
    """Everything off but the changes."""
    return STILL.model_copy(update=changes)


def test_everything_off_changes_nothing():
    pixels = image(8, 8)
    assert torch.equal(augment(pixels, (8, 8), STILL, seed=1), pixels)


@pytest.mark.parametrize("shape", [(8, 8), (40, 30), (3, 50), (1, 1), (300, 200)])
@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING, PUBLISHED], ids=["default", "everything", "published"])
@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_any_image_becomes_the_size_asked_for(shape, config, size):
    for seed in range(3):
        result = augment(image(*shape), size, config, seed)
        assert result.shape == (3, *size) and result.dtype == torch.uint8


@pytest.mark.parametrize("config", [EVERYTHING, PUBLISHED], ids=["everything", "published"])
def test_it_is_a_pure_function_of_its_arguments(config):
    pixels = image(40, 30)
    before = pixels.clone()
    torch.manual_seed(5)
    random.seed(5)
    state = torch.get_rng_state()
    first = augment(pixels, (16, 16), config, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    random.seed(99)
    assert torch.equal(augment(pixels, (16, 16), config, 7), first)
    assert not torch.equal(augment(pixels, (16, 16), config, 8), first)
    assert torch.equal(pixels, before)


def test_a_failing_transform_puts_the_generator_back(monkeypatch):
    def fail(pixels):
        raise RuntimeError

    monkeypatch.setattr(module, "_rand_augment_transform", lambda *_: fail)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        augment(image(8, 8), (8, 8), with_(randaugment_layers=1), 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_flip_mirrors_left_and_right_with_its_probability():
    pixels = image(6, 6)
    assert torch.equal(augment(pixels, (6, 6), with_(flip=1.0), 0), pixels.flip(2))
    flipped = sum(torch.equal(augment(pixels, (6, 6), with_(flip=0.3), s), pixels.flip(2)) for s in range(500))
    assert 110 < flipped < 190


def test_a_crop_is_a_resized_part_of_the_image():
    """torchvision's resized_crop of the same box gives the same pixels."""
    pixels, config = image(60, 80), AugmentConfig(flip=0.0)
    for seed in range(10):
        box = random_box((60, 80), (24, 24), config, random.Random(seed))
        expected = v2.functional.resized_crop(
            pixels, box.top, box.left, box.height, box.width, [24, 24], v2.InterpolationMode.BICUBIC, antialias=True
        )
        assert torch.equal(augment(pixels, (24, 24), config, seed), expected)


def test_boxes_keep_to_scale_and_ratio_and_cover_the_image():
    rows, cols, config = 200, 300, AugmentConfig()
    boxes = [random_box((rows, cols), (224, 224), config, random.Random(seed)) for seed in range(1500)]
    areas = [box.height * box.width / (rows * cols) for box in boxes]
    ratios = [box.width / box.height for box in boxes]
    assert all(0 <= b.top <= rows - b.height and 0 <= b.left <= cols - b.width for b in boxes)
    assert 0.075 < min(areas) < 0.1 and max(areas) > 0.85
    assert 0.73 < min(ratios) < 0.78 and 1.3 < max(ratios) < 1.36
    assert min(b.top for b in boxes) == 0 and max(b.top + b.height for b in boxes) == rows
    assert sum(areas) / len(areas) == pytest.approx(theirs_mean_area(rows, cols), abs=0.02)


def theirs_mean_area(rows: int, cols: int) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crop = v2.RandomResizedCrop(224)
        found = [crop.make_params([torch.empty(3, rows, cols)]) for _ in range(1500)]
    return sum(p["height"] * p["width"] for p in found) / (1500 * rows * cols)


@pytest.mark.parametrize(
    ("image_size", "size", "ratio", "expected"),
    [
        ((10, 10), (8, 8), (1.0, 1.0), Box(0, 0, 10, 10)),
        ((10, 20), (8, 8), (1.0, 1.0), Box(0, 5, 10, 10)),  # the centred square
        ((20, 10), (8, 8), (1.0, 1.0), Box(5, 0, 10, 10)),
        ((10, 20), (8, 16), (1.0, 1.0), Box(0, 0, 10, 20)),  # the target's own shape
        ((10, 10), (8, 16), (1.0, 1.0), Box(2, 0, 5, 10)),
        ((30, 40), (8, 8), (0.75, 4 / 3), Box(0, 0, 30, 40)),  # an allowed shape is kept whole
        ((10, 100), (8, 8), (0.5, 2.0), Box(0, 40, 10, 20)),
        ((1, 1), (8, 8), (0.75, 4 / 3), Box(0, 0, 1, 1)),
    ],
)
def test_without_random_crop_the_largest_centred_box_is_taken(image_size, size, ratio, expected):
    config = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=ratio)
    assert random_box(image_size, size, config, random.Random(0)) == expected


WHOLE = Box(0, 0, 8, 8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_warp_turns_mirrors_and_shifts_exactly_where_pixels_meet_pixels(interpolation):
    pixels = image(8, 8)

    def warped(flip=False, angle=0.0, shift=(0.0, 0.0)):
        return warp(pixels, WHOLE, (8, 8), flip, angle, shift, interpolation)

    assert torch.equal(warped(), pixels)
    assert torch.equal(warped(flip=True), pixels.flip(2))
    for quarter in (1, 2, 3):
        assert torch.equal(warped(angle=90.0 * quarter), torch.rot90(pixels, quarter, (1, 2)))  # counter-clockwise
    down = warped(shift=(0.25, 0.0))
    assert torch.equal(down[:, 2:], pixels[:, :6]) and (down[:, :2] == 0).all()
    right = warped(shift=(0.0, 0.125))
    assert torch.equal(right[:, :, 1:], pixels[:, :, :7]) and (right[:, :, :1] == 0).all()
    both = warped(flip=True, angle=90.0, shift=(0.125, 0.0))  # mirrored, then turned, then shifted
    assert torch.equal(both[:, 1:], torch.rot90(pixels.flip(2), 1, (1, 2))[:, :7])


def test_warp_turns_in_square_pixels_whatever_the_shape():
    """A disc stays a disc on a wide target."""
    rows, cols = 40, 80
    y, x = torch.meshgrid(torch.arange(rows) - 19.5, torch.arange(cols) - 39.5, indexing="ij")
    disc = ((x**2 + y**2 < 15**2) * 200).to(torch.uint8).expand(3, rows, cols).contiguous()
    turned = warp(disc, Box(0, 0, rows, cols), (rows, cols), False, 37.0, (0.0, 0.0), "bilinear")
    assert (turned.float() - disc.float()).abs().mean() < 2


@pytest.mark.parametrize("angle", [-30.0, 10.0, 45.0])
def test_warp_agrees_with_torchvision(angle):
    pixels = torch.from_numpy(smooth(32, 32).copy()).permute(2, 0, 1)
    ours = warp(pixels, Box(0, 0, 32, 32), (32, 32), False, angle, (0.125, -0.25), "bilinear").int()
    theirs = v2.functional.affine(
        pixels, angle=-angle, translate=[-8, 4], scale=1.0, shear=[0.0, 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
    ).int()  # fmt: skip
    assert (ours - theirs).abs().max() <= 1


def test_warp_of_a_box_is_the_crop_enlarged():
    pixels = torch.from_numpy(smooth(20, 20).copy()).permute(2, 0, 1)
    box = Box(3, 5, 8, 8)
    ours = warp(pixels, box, (16, 16), False, 0.0, (0.0, 0.0), "bilinear").int()
    theirs = v2.functional.resize(pixels[:, 3:11, 5:13], [16, 16], v2.InterpolationMode.BILINEAR, antialias=False).int()
    assert (ours - theirs)[:, 1:-1, 1:-1].abs().max() <= 1  # the rim sees the pixels around the box


def test_warp_antialiases_what_it_shrinks():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    small = warp(stripes, Box(0, 0, 64, 64), (8, 8), False, 0.0, (0.0, 0.0), "bilinear")
    assert (small.int() - 127).abs().max() <= 6  # plain sampling would give stripes of 0 and 255


def test_rotation_and_shift_stay_in_their_bounds():
    """A bright line that starts level tilts by at most the angle; a dot moves by at most the shift."""
    dot = torch.zeros(3, 33, 33, dtype=torch.uint8)
    dot[:, 16, 16] = 255
    places = []
    for seed in range(60):
        moved = augment(dot, (33, 33), with_(shift=0.2), seed, "bilinear")[0].float()
        rows, cols = (
            (moved.sum(1) @ torch.arange(33.0)) / moved.sum(),
            (moved.sum(0) @ torch.arange(33.0)) / moved.sum(),
        )
        places.append((rows.item() - 16, cols.item() - 16))
    assert max(abs(v) for place in places for v in place) <= 0.2 * 33 + 0.1
    assert all(max(p[axis] for p in places) > 4 and min(p[axis] for p in places) < -4 for axis in (0, 1))
    line = torch.zeros(3, 33, 33, dtype=torch.uint8)
    line[:, 16, 4:29] = 255
    tilts = []
    for seed in range(40):
        turned = augment(line, (33, 33), with_(rotate=20.0), seed, "bilinear")[0].float()
        y, x = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
        tilts.append(math.degrees(math.atan((turned * x * y).sum() / (turned * x * x).sum())))
    assert max(map(abs, tilts)) <= 20.5 and max(tilts) > 10 and min(tilts) < -10


def test_erase_paints_one_grey_rectangle_of_bounded_area():
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    areas = []
    for seed in range(100):
        erased = erase(pixels, random.Random(seed))
        rows, cols = (erased[0] == 128).any(1).sum().item(), (erased[0] == 128).any(0).sum().item()
        assert (erased == 128).sum().item() == 3 * rows * cols
        areas.append(rows * cols / 1024)
    assert 0.01 <= min(areas) < 0.06 and 0.25 < max(areas) <= 0.36
    assert not pixels.any()
    assert torch.equal(
        erase(torch.zeros(3, 1, 1, dtype=torch.uint8), random.Random(0)), torch.zeros(3, 1, 1, dtype=torch.uint8)
    )


def test_erase_comes_with_its_probability():
    pixels = image(16, 16)
    changed = sum(not torch.equal(augment(pixels, (16, 16), with_(erase=0.25), s), pixels) for s in range(400))
    assert 70 < changed < 130


def test_randaugment_is_torchvisions_with_grey_fill():
    pixels = image(16, 16)
    transform = v2.RandAugment(2, 9, 31, v2.InterpolationMode.BILINEAR, fill=[128, 128, 128])
    config = with_(randaugment_layers=2)
    for seed in range(5):
        rng = random.Random(seed)
        random_box((16, 16), (16, 16), config, rng)
        rng.random()  # the flip's draw
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(63))
            expected = transform(pixels)
        assert torch.equal(augment(pixels, (16, 16), config, seed), expected)


def test_without_torchvision_only_randaugment_is_missed(monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    module._rand_augment_transform.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    augment(image(8, 8), (8, 8), AugmentConfig(rotate=10.0), 0)
    check_extras(AugmentConfig())
    with pytest.raises(MissingExtra) as caught:
        check_extras(AugmentConfig(randaugment_layers=1))
    assert str(caught.value) == "RandAugment needs the package torchvision: pip install 'vitrail[train]'"


@pytest.mark.parametrize("mended", [False, True])
def test_the_other_randaugment_needs_no_torchvision(monkeypatch, mended):
    pixels, kind = image(16, 16), "tf_mended" if mended else "tf"
    config = with_(randaugment=kind, randaugment_layers=2, randaugment_magnitude=15)
    monkeypatch.setattr(module, "_rand_augment_transform", None)  # a call of it would fail
    check_extras(config)
    for seed in range(5):
        rng = random.Random(seed)
        random_box((16, 16), (16, 16), config, rng)
        rng.random()  # the flip's draw
        expected = rand_augment(pixels, 2, 15, rng.getrandbits(63), mended)
        assert torch.equal(augment(pixels, (16, 16), config, seed), expected)


def test_three_augment_and_jitter_are_applied_in_turn():
    pixels = image(16, 16)
    config = with_(three_augment=True, color_jitter=0.3)
    for seed in range(5):
        rng = random.Random(seed)
        random_box((16, 16), (16, 16), config, rng)
        rng.random()
        expected = color_jitter(three_augment(pixels, rng), 0.3, rng)
        assert torch.equal(augment(pixels, (16, 16), config, seed), expected)


SIMPLE = with_(crop="simple")


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (32, 32), (1, 1), (3, 500)])
def test_a_simple_crop_is_a_place_of_the_fitted_image(shape):
    """torchvision's Resize of the shorter side, reflecting pad and crop give the same pixels."""
    config = SIMPLE.model_copy(update={"crop_padding": 4, "crop_enlarge": 1.25})
    pixels = image(*shape)
    for seed in range(6):
        fitted, box = simple_crop(pixels, (16, 16), config, random.Random(seed), "bicubic")
        whole = v2.functional.resize(pixels, [20], v2.InterpolationMode.BICUBIC, antialias=True)
        if shape != (3, 500):  # cut to a length of 64 times its width first
            assert torch.equal(fitted, v2.functional.pad(whole, [4] * 4, padding_mode="reflect"))
        cut = fitted[:, box.top : box.top + 16, box.left : box.left + 16]
        assert torch.equal(augment(pixels, (16, 16), config, seed), cut)


def test_simple_crops_are_everywhere_with_even_odds():
    boxes = [simple_crop(image(24, 16), (16, 16), SIMPLE, random.Random(seed), "bicubic")[1] for seed in range(900)]
    tops = [box.top for box in boxes]
    assert {box.left for box in boxes} == {0} and set(tops) == set(range(9))
    assert all(65 < tops.count(top) < 135 for top in range(9))


def test_a_simple_crop_can_be_turned_and_shifted():
    config = SIMPLE.model_copy(update={"crop_padding": 4, "rotate": 10.0, "shift": 0.1})
    assert augment(image(40, 30), (16, 24), config, 0).shape == (3, 16, 24)


@pytest.mark.parametrize(("side", "padding"), [(5, 4), (3, 7), (2, 3), (1, 2)])
def test_mirrored_padding_is_numpys(side, padding):
    pixels = image(side, side + 1)
    expected = np.pad(pixels.numpy(), [(0, 0), (padding, padding), (padding, padding)], mode="reflect")
    assert torch.equal(mirror_pad(pixels, padding), torch.from_numpy(expected))
    assert torch.equal(mirror_pad(pixels, 0), pixels)
