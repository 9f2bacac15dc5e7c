"""JPEGs: a second decoder that must agree with Pillow in all, and photos decoded smaller than they are stored."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pictures import encode, noise, smooth
from vitrail.config import Preprocess
from vitrail.data import decode as module
from vitrail.data.decode import DecodePolicy, decode, decode_shrunk, largest_divisor
from vitrail.data.preprocess import fit, fit_encoded, jpeg_divisor, resized
from vitrail.errors import ImageError
from vitrail.inference import Classifier, load

CONFIG = Preprocess(size=(32, 32), crop=0.9)


def answer(data: bytes, divisor: int) -> Any:
    """Pixels as bytes with their shape, or the reason for which they are refused."""
    try:
        pixels, full, *_ = decode_shrunk(data, lambda size: divisor)
    except ImageError as error:
        return error.reason
    return pixels.shape, full, pixels.numpy().tobytes()


@pytest.fixture
def pillow_too(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(data, divisor) -> both answers; `.fast` counts those that simplejpeg gave."""
    simplejpeg = pytest.importorskip("simplejpeg")

    def both(data: bytes, divisor: int = 1) -> tuple[Any, Any]:
        monkeypatch.setattr(module, "_simplejpeg", SimpleNamespace(decode_jpeg=counted))
        ours = answer(data, divisor)
        monkeypatch.setattr(module, "_simplejpeg", None)
        return ours, answer(data, divisor)

    def counted(*arguments: Any, **options: Any) -> Any:
        pixels = simplejpeg.decode_jpeg(*arguments, **options)
        both.fast += 1  # type: ignore[attr-defined]
        return pixels

    both.fast = 0  # type: ignore[attr-defined]
    return both


def kinds() -> list[bytes]:
    """A photo as cameras, phones and web sites write it."""
    photo = Image.fromarray(smooth(53, 74))
    found = [encode(photo, "JPEG", subsampling=s, progressive=p) for s in (0, 1, 2) for p in (False, True)]
    found += [encode(photo, "JPEG", restart_marker_blocks=2), encode(photo, "JPEG", keep_rgb=True, subsampling=0)]
    found += [encode(photo.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    found += [encode(noise(19, 17), "JPEG", quality=10), encode(photo, "MPO", save_all=True, append_images=[photo])]
    for orientation in range(1, 10):  # 9 is none
        exif = Image.Exif()
        exif[0x0112] = orientation
        found.append(encode(photo, "JPEG", exif=exif))
    return found


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_both_decoders_give_the_same_pixels(pillow_too: Any, divisor: int) -> None:
    for number, data in enumerate(kinds()):
        ours, pillows = pillow_too(data, divisor)
        assert ours == pillows, number
        assert not isinstance(ours, str)
    assert pillow_too.fast == len(kinds()) - 1  # all but CMYK


def test_both_decoders_accept_and_refuse_the_same(pillow_too: Any) -> None:
    chance = random.Random(0)
    refused = 0
    for _ in range(600):
        data = bytearray(chance.choice(kinds()[:12]))
        place = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + chance.randrange(1, 20)]
            case 2:
                data[place:place] = chance.randbytes(chance.randrange(1, 20))
            case 3:
                data[chance.randrange(min(300, len(data)))] = chance.randrange(256)
            case 4:
                data[place] = chance.randrange(256)
        ours, pillows = pillow_too(bytes(data), chance.choice((1, 2, 8)))
        assert ours == pillows
        refused += isinstance(ours, str)
    assert refused > 100
    assert pillow_too.fast > 100


def test_another_pixel_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(smooth(16, 16), "JPEG")
    monkeypatch.setattr(module, "_simplejpeg", None)
    before = answer(data, 1)
    wrong = decode(data).permute(1, 2, 0).numpy().copy()
    wrong[3, 5, 1] ^= 1
    monkeypatch.setattr(module, "_simplejpeg", SimpleNamespace(decode_jpeg=lambda *_: wrong))
    assert answer(data, 1) != before


@pytest.mark.parametrize("error", [b"arithmetic", b"lossless"])
def test_codes_that_pillow_may_lack_are_pillows_to_judge(monkeypatch: pytest.MonkeyPatch, error: bytes) -> None:
    data = bytearray(encode(smooth(16, 16), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1] = 0xC9 if error == b"arithmetic" else 0xC3
    used: list[int] = []
    monkeypatch.setattr(module, "_simplejpeg", SimpleNamespace(decode_jpeg=lambda *_: used.append(1)))
    answer(bytes(data), 1)
    assert not used


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((495, 800), 1),  # a cover of 248 pixels, twice: 496
        ((991, 1200), 1),
        ((992, 1200), 2),
        ((1984, 3000), 4),
        ((3024, 4032), 4),
        ((3968, 4032), 8),
        ((992, 992 * 65), 1),  # a sliver is cut first
    ],
)
def test_a_photo_is_decoded_smaller_where_twice_the_resized_sides_remain(size: tuple[int, int], expected: int) -> None:
    shown = Preprocess()
    assert jpeg_divisor(size, shown) == jpeg_divisor(size[::-1], shown) == expected
    assert jpeg_divisor(size, shown.model_copy(update={"jpeg": "full"})) == 1


@pytest.mark.parametrize(
    "change", [{"jpeg": "full"}, {"antialias": False}, {"interpolation": "nearest"}, {"interpolation": "area"}]
)
def test_a_resize_that_does_not_average_gets_every_pixel(change: dict[str, Any]) -> None:
    shown = CONFIG.model_copy(update=change)
    data = encode(smooth(300, 400), "JPEG")
    assert jpeg_divisor((300, 400), CONFIG) == 4
    assert torch.equal(fit_encoded(data, shown), fit(decode(data), shown))
    assert not torch.equal(fit_encoded(data, CONFIG), fit(decode(data), CONFIG))


@pytest.mark.parametrize("rows_cols", [(301, 403), (259, 515), (287, 290)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_smaller_photo_is_cut_like_the_whole_one(rows_cols: tuple[int, int], orientation: int, resize: Any) -> None:
    """Sides that are no multiple of the divisor: the place of the crop follows from the stored size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(smooth(*rows_cols), "JPEG", quality=95, exif=exif)
    shown = Preprocess(size=(32, 28), resize=resize)
    upright = rows_cols if orientation < 5 else rows_cols[::-1]
    pixels, full, divisor, _ = decode_shrunk(data, lambda size: jpeg_divisor(size, shown))
    assert full == upright
    assert pixels.shape[1:] == tuple(-(-side // divisor) for side in upright) and divisor > 1
    difference = (fit_encoded(data, shown).int() - fit(decode(data), shown).int()).abs()
    assert difference.float().mean() < 0.5
    assert difference.max() <= 4
    assert fit_encoded(data, shown).shape == (3, 32, 28)
    shifted = fit(decode(data), shown).int().roll(1, dims=2) - fit(decode(data), shown).int()
    assert shifted[:, :, 1:].abs().float().mean() > 2  # what a shift by one pixel would cost


def test_the_cap_counts_the_stored_pixels() -> None:
    with pytest.raises(ImageError, match="too many pixels: 300 x 400"):
        fit_encoded(encode(smooth(300, 400), "JPEG"), CONFIG, DecodePolicy(max_pixels=50_000))


def test_the_resized_size_and_the_divisors() -> None:
    assert resized((300, 400), CONFIG) == (35, 46)
    assert resized((300, 400), CONFIG.model_copy(update={"resize": "squash"})) == (35, 35)
    assert [largest_divisor((800, 900), (n, n)) for n in (801, 401, 400, 200, 100, 1)] == [1, 1, 2, 4, 8, 8]


def test_files_bytes_and_evaluation_show_the_model_the_same(model_folder: Any, tmp_path: Any) -> None:
    """No skew between what is measured and what is used: one function makes the pixels."""
    from vitrail.data.loader import EvaluationPass
    from vitrail.data.sources import open_dataset

    classifier: Classifier = load(model_folder)
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        for number in range(2):
            photo = encode(smooth(200 + number, 300, number), "JPEG")
            (tmp_path / name / f"{number}.jpg").write_bytes(photo)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert jpeg_divisor((200, 300), classifier.preprocess) == 8
    (batch,) = EvaluationPass(open_dataset(tmp_path).whole, classifier.preprocess, 8, workers=0)
    by_file = torch.stack([classifier.prepare(file) for file in files])
    assert torch.equal(by_file, batch.images)
    assert torch.equal(by_file, torch.stack([classifier.prepare(file.read_bytes()) for file in files]))
    predicted = [p.probabilities for p in classifier.predict(files, top=3)]
    alone = classifier.scores(torch.stack([classifier.fit(file) for file in files])).softmax(-1, torch.float64)
    assert torch.equal(torch.tensor(predicted, dtype=torch.float64), alone.sort(descending=True).values)
