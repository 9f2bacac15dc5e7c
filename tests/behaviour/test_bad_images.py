"""A folder as people have them: good photos among broken, huge, mislabelled and exotic files.

Nothing crashes, nothing is replaced in silence: evaluation names what it cannot read, training counts it.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import encode, noise, smooth
from vitrail.config import AugmentConfig, DataConfig, Preprocess
from vitrail.data.loader import EvaluationPass, TrainLoader
from vitrail.data.sources import open_dataset
from vitrail.data.stores import Subset
from vitrail.errors import DataError

RED, WHITE = (255, 0, 0), (255, 255, 255)
PLAIN = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
PIXELS = Preprocess(size=16, crop=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def huge_png() -> bytes:
    """Thirty thousand pixels a side in some hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def red(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (16, 16), RED).convert(mode)


def turned() -> bytes:
    """Red above blue, stored on its side with the orientation that says so."""
    upright = np.zeros((16, 16, 3), dtype=np.uint8)
    upright[:8], upright[8:] = RED, (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(np.ascontiguousarray(np.rot90(upright)), "JPEG", exif=exif, quality=95, subsampling=0)


def transparent() -> bytes:
    image = Image.new("RGBA", (16, 16), (*RED, 0))
    return encode(image)


def animation() -> bytes:
    return encode(red(), "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), (0, 0, 255))])


def deep() -> bytes:
    return encode(Image.fromarray(np.full((16, 16), 32768, dtype=np.uint16)))


BROKEN = {
    "empty.jpg": (b"", "empty file"),
    "truncated.jpg": (encode(smooth(64, 64), "JPEG")[:-200], "truncated JPEG file"),
    "truncated.png": (encode(noise(64, 64))[:-2000], "truncated PNG file"),
    "letter.jpg": (b"Dear Sir,\nplease find no image attached.\n", "not an image, but text"),
    "error.png": (b"<!DOCTYPE html><h1>404</h1>", "not an image that is read, but an HTML page"),
    "bomb.png": (huge_png(), "too many pixels: 30000 x 30000 = 900,000,000, more than 120,000,000"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC images are not read: convert it to JPEG or PNG"),
}
EXOTIC = {  # file -> (bytes, colour of its upper left)
    "cmyk.jpg": (encode(red("CMYK"), "JPEG", quality=95), RED),
    "palette.png": (encode(red("P")), RED),
    "grey.png": (encode(Image.new("L", (16, 16), 77)), (77, 77, 77)),
    "deep.png": (deep(), (128, 128, 128)),
    "transparent.png": (transparent(), WHITE),
    "animation.gif": (animation(), RED),
    "turned.jpg": (turned(), RED),
    "renamed.jpg": (encode(red(), "PNG"), RED),  # the content counts, not the name
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class `odd` holds every file of the tables and two good ones; class `good` forty good ones."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("odd", "good"):
        (root / name).mkdir()
    for name, (data, _) in (BROKEN | EXOTIC).items():
        (root / "odd" / name).write_bytes(data)
    for index in range(40):
        (root / "good" / f"{index:02d}.png").write_bytes(encode(noise(16, 16, index)))
    for index in range(2):
        (root / "odd" / f"fine-{index}.png").write_bytes(encode(noise(16, 16, 50 + index)))
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_every_broken_image_and_counts_every_other_once(folder, workers):
    source = open_dataset(folder).whole
    passes = EvaluationPass(source, PIXELS, batch_size=8, workers=workers)
    counted = sorted(source.id(int(i)) for batch in passes for i in batch.index)
    assert dict(passes.unreadable) == {f"odd/{name}": reason for name, (_, reason) in BROKEN.items()}
    assert len(passes.unreadable) == len(BROKEN)
    assert counted == sorted({source.id(i) for i in range(len(source))} - {name for name, _ in passes.unreadable})


def test_exotic_images_mean_what_a_viewer_shows(folder):
    source = open_dataset(folder).whole
    found = {}
    for batch in EvaluationPass(source, PIXELS, batch_size=8, workers=0):
        for index, image in zip(batch.index.tolist(), batch.images, strict=True):
            found[source.id(index).removeprefix("odd/")] = (image[:, 2, 2] * 255).round().int()
    for name, (_, colour) in EXOTIC.items():
        assert (found[name] - torch.tensor(colour)).abs().max() <= 3, name


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_with_stand_ins_of_the_class_and_counts(folder, workers):
    source = open_dataset(folder).whole
    loader = TrainLoader(
        source, PIXELS, PLAIN, DataConfig(batch_size=len(source), workers=workers, max_broken=0.5), seed=0
    )
    (batch,) = loader.batches(0, 1)
    assert loader.broken == {f"odd/{name}": reason for name, (_, reason) in BROKEN.items()}
    assert torch.bincount(batch.labels).tolist() == np.bincount(source.labels).tolist()
    assert {source.id(int(i)) for i in batch.index}.isdisjoint(loader.broken)


def test_training_stops_with_the_list_when_too_many_are_broken(folder):
    source = open_dataset(folder).whole
    loader = TrainLoader(source, PIXELS, PLAIN, DataConfig(batch_size=len(source), workers=0), seed=0)
    with pytest.raises(DataError) as caught:
        list(loader.batches(0, 1))
    text = str(caught.value)
    assert text.startswith("at most 1.0% of the images may be unreadable (data.max_broken), found 7 of 57 so far: ")
    assert all(f"odd/{name}: {reason}" in text for name, (_, reason) in BROKEN.items())
    assert text.endswith("Repair or remove them") and "\n" not in text


def test_opening_a_folder_keeps_its_broken_images(folder):
    """It only hashes bytes: a broken image has its place like any other."""
    dataset = open_dataset(folder)
    assert sum(len(part) for part in dataset.splits.values()) == len(dataset.whole) == 57


def test_a_good_image_is_not_called_broken(folder):
    """The negative control: the same folder without its broken files has none."""
    source = open_dataset(folder).whole
    good = [i for i in range(len(source)) if source.id(i).split("/")[1] not in BROKEN]
    passes = EvaluationPass(Subset(source, np.array(good)), PIXELS, batch_size=8, workers=0)
    assert sum(len(batch.index) for batch in passes) == len(good) and passes.unreadable == []
