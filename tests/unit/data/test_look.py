"""Perceptual hash and laid-over comparison: copies are found however they were saved, likes are not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import encode, noise, smooth
from vitrail.data.look import ALIKE, RADIUS, look, near_pairs, perceptual_hash, similarity
from vitrail.errors import ImageError


def scene(seed: int, rows: int = 120, cols: int = 160) -> Image.Image:
    """Like a photo: large even parts with some detail in them."""
    coarse = Image.fromarray(noise(6, 8, seed)).resize((cols, rows), Image.Resampling.BICUBIC)
    fine = Image.fromarray(noise(24, 32, seed + 1000)).resize((cols, rows), Image.Resampling.BICUBIC)
    return Image.blend(coarse, fine, 0.35)


def changed(image: Image.Image, change: str) -> Image.Image:
    cols, rows = image.size
    if change == "cut":
        return image.crop((6, 3, cols - 4, rows - 6))
    if change == "half size":
        return image.resize((cols // 2, rows // 2), Image.Resampling.LANCZOS)
    if change == "brighter":
        return Image.fromarray(np.clip(np.asarray(image, float) * 1.2, 0, 255).astype(np.uint8))
    if change == "all":
        return changed(changed(changed(image, "cut"), "half size"), "brighter")
    return image


def pairs(images: list[bytes]) -> list[tuple[int, int, float]]:
    looks = [look(data) for data in images]
    hashes = np.array([one.hashes for one in looks], dtype=np.uint64)
    return near_pairs(hashes, np.stack([one.thumbnail for one in looks]))


@pytest.mark.parametrize("change", ["saved again", "cut", "half size", "brighter", "all"])
def test_a_changed_copy_is_found_among_strangers(change):
    strangers = [encode(scene(seed)) for seed in range(20)]
    copy = encode(changed(scene(3), change), "JPEG", quality=70)
    found = pairs([*strangers, copy])
    assert [(i, j) for i, j, _ in found] == [(3, 20)]
    assert ALIKE <= found[0][2] <= 1.0001


def test_a_large_cut_and_a_mirror_are_other_pictures():
    image = scene(0)
    cols, rows = image.size
    quarter = image.crop((0, 0, cols // 2, rows // 2))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert pairs([encode(image), encode(quarter), encode(mirrored)]) == []


def test_blocks_of_rows_find_the_same_pairs():
    data = [encode(scene(seed % 7), "JPEG", quality=60 + seed) for seed in range(21)]
    looks = [look(one) for one in data]
    hashes = np.array([one.hashes for one in looks], dtype=np.uint64)
    thumbnails = np.stack([one.thumbnail for one in looks])
    whole = {(i, j) for i, j, _ in near_pairs(hashes, thumbnails)}
    assert whole == {(i, j) for i, j, _ in near_pairs(hashes, thumbnails, rows=4)}
    assert whole == {(i, j) for i in range(21) for j in range(i + 1, 21) if (j - i) % 7 == 0}


def test_even_pictures_are_not_copies_of_each_other():
    even = [encode(np.full((40, 40, 3), value, np.uint8)) for value in (0, 90, 255)]
    assert pairs(even) == []


def test_the_hash_is_the_cosine_transform_by_its_definition():
    image = Image.fromarray(smooth(32, 32, seed=5))
    grey = np.asarray(image.convert("L"), dtype=float)
    x = np.arange(32)
    values = np.array(
        [
            [
                sum(
                    grey[i, j] * np.cos(np.pi * u * (2 * i + 1) / 64) * np.cos(np.pi * v * (2 * j + 1) / 64)
                    for i in x
                    for j in x
                )
                * (2 / 32)
                / (2 ** (0.5 * ((u == 0) + (v == 0))))
                for v in range(8)
            ]
            for u in range(8)
        ]
    ).ravel()
    bits = (values > np.median(values[1:])).astype(int)
    assert f"{perceptual_hash(image):064b}" == "".join(map(str, bits))


def test_hashes_of_strangers_lie_far_apart():
    hashes = [look(encode(scene(seed))).hashes[0] for seed in range(30)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > RADIUS
    assert 28 < np.mean(distances) < 36


def test_similarity_does_not_depend_on_order_or_brightness():
    a, b = (torch.from_numpy(smooth(32, 32, seed).copy()).float()[None] for seed in (1, 2))
    assert similarity(a, b) == pytest.approx(similarity(b, a).item())
    assert similarity(a, 0.5 * a + 20).item() == pytest.approx(1.0, abs=1e-5)
    assert similarity(a, b) < ALIKE


def test_pixels_and_bytes_have_hashes_of_their_own():
    pixels = noise(9, 7)
    png, other = look(encode(pixels)), look(encode(pixels, "BMP"))
    assert (png.rows, png.cols, png.thumbnail.shape) == (9, 7, (32, 32, 3))
    assert png.pixels == other.pixels
    assert png.content != other.content
    assert look(encode(pixels.reshape(7, 9, 3))).pixels != png.pixels  # the same numbers in another shape


def test_what_cannot_be_decoded_is_an_image_error():
    whole = io.BytesIO(encode(scene(0), "JPEG")).getvalue()
    with pytest.raises(ImageError, match="truncated JPEG file"):
        look(whole[: len(whole) // 2])
