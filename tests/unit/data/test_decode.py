"""One decoder, one policy: what each kind of image becomes, and one short reason for what is refused."""

import io
import random
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from pictures import encode, noise, smooth
from vitrail.data.decode import DecodePolicy, decode, dimensions
from vitrail.errors import ImageError

RED = (255, 0, 0)


def pixels(data: bytes, **policy: object) -> np.ndarray:
    """Decoded (rows, cols, 3)."""
    image = decode(data, DecodePolicy(**policy))
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


def reason(data: bytes, **policy: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, DecodePolicy(**policy))
    assert str(caught.value) == caught.value.reason
    assert len(caught.value.reason) < 160 and "\n" not in caught.value.reason
    return caught.value.reason


def png_of(rows: int, cols: int, depth: int, colour: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG put together by hand: Pillow writes neither 16-bit RGB nor impossible sizes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", cols, rows, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", raw) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(format):
    image = noise(5, 7)
    assert (pixels(encode(image, format, **({"lossless": True} if format == "WEBP" else {}))) == image).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_come_close(format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    image = smooth(40, 60)
    assert np.abs(pixels(encode(image, format, quality=95)).astype(int) - image).mean() < 5


def test_axes_are_channels_rows_cols():
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    image[0, 2] = RED
    decoded = decode(encode(image))
    assert decoded.shape == (3, 2, 3)
    assert decoded[:, 0, 2].tolist() == list(RED)


def test_the_tensor_can_be_written_to():
    decode(encode(noise(2, 2)))[:] = 0


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("P", 3, (9, 10, 11)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
    ],
)
def test_other_modes_become_rgb(mode, value, expected):
    image = Image.new(mode, (4, 4), value)
    if mode == "P":
        image.putpalette(list(range(48)))
    format = {"YCbCr": "JPEG", "CMYK": "TIFF"}.get(mode, "PNG")
    assert np.abs(pixels(encode(image, format))[0, 0].astype(int) - expected).max() <= 1


def test_cmyk_and_ycck_jpegs_become_rgb():
    image = Image.fromarray(smooth(32, 32)).convert("CMYK")
    rgb = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels(encode(image, "JPEG", quality=98, subsampling=0)).astype(int) - rgb).mean() < 4


def test_16_bit_greys_are_scaled_not_clipped():
    grey = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 128, 255]  # v / 257, rounded
    for data in (encode(Image.fromarray(grey), "PNG"), encode(Image.fromarray(grey), "TIFF")):
        assert pixels(data)[0, :, 0].tolist() == expected
        assert (pixels(data)[..., 0] == pixels(data)[..., 2]).all()


def test_16_bit_big_endian_tiff_and_32_bit_integers_up_to_16_bits():
    grey = np.array([[0, 257, 65535]], dtype=">u2")
    data = io.BytesIO()
    Image.frombytes("I;16B", (3, 1), grey.tobytes()).save(data, "TIFF")
    assert pixels(data.getvalue())[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(encode(Image.fromarray(grey.astype(np.int32)), "TIFF"))[0, :, 0].tolist() == [0, 1, 255]


def test_16_bit_pgm():
    assert pixels(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_rgb_and_alpha_png_are_scaled():
    rgb = png_of(1, 2, 16, 2, zlib.compress(b"\0" + struct.pack(">6H", 0, 257, 65535, 0x8080, 0x4040, 0)))
    assert pixels(rgb).reshape(-1).tolist() == [0, 1, 255, 128, 64, 0]
    rgba = png_of(1, 1, 16, 6, zlib.compress(b"\0" + struct.pack(">4H", 65535, 0, 0, 0)))
    assert pixels(rgba)[0, 0].tolist() == [255, 255, 255]  # fully transparent: the background


def test_32_bit_integers_beyond_16_bits_and_floats_are_refused():
    deep = Image.fromarray(np.array([[0, 70_000]], dtype=np.int32))
    assert reason(encode(deep, "TIFF")) == "32-bit pixels have no agreed range: save the image with 8 or 16 bits"
    floating = Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))
    assert reason(encode(floating, "TIFF")) == (
        "floating-point pixels have no agreed range: save the image with 8 or 16 bits"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB"])
def test_transparency_is_composited_on_the_background(mode):
    """Transparent red is the background, not red."""
    options = {}
    if mode == "RGBA":
        image = Image.new("RGBA", (2, 1), (*RED, 0))
        image.putpixel((1, 0), (*RED, 255))
    elif mode == "LA":
        image = Image.new("LA", (2, 1), (0, 0))
        image.putpixel((1, 0), (76, 255))
    elif mode == "PA":  # a GIF's kind, through WebP
        image = Image.new("RGBA", (2, 1), (*RED, 0))
        image.putpixel((1, 0), (*RED, 255))
    else:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([255, 0, 0, 254, 0, 0])
        image.putpixel((1, 0), 1)
        options = {"transparency": 0}
        if mode == "RGB":  # a colour that counts as transparent
            image, options = image.convert("RGB"), {"transparency": RED}
    data = encode(image, "WEBP" if mode == "PA" else "PNG", **(options | ({"lossless": True} if mode == "PA" else {})))
    left, right = pixels(data, background=(1, 2, 3))[0]
    assert left.tolist() == [1, 2, 3]
    assert right[0] in (76, 254, 255)
    assert pixels(data)[0, 0].tolist() == [255, 255, 255]


def test_half_transparent_is_half_background():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert abs(int(pixels(encode(image), background=(200, 100, 0))[0, 0, 0]) - 100) <= 1


def test_an_opaque_alpha_channel_changes_nothing():
    rgb = noise(6, 6)
    image = Image.fromarray(rgb)
    image.putalpha(255)
    assert (pixels(encode(image), background=(0, 255, 0)) == rgb).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    upright = smooth(24, 40, seed=3)
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # stored turned left, shown turned right
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(inverse(upright))
    data = encode(stored, format, exif=exif, **({"quality": 98} if format in ("JPEG", "WEBP") else {}))
    assert dimensions(data) == (24, 40)
    decoded = pixels(data)
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 5


def test_damaged_exif_does_not_cost_the_image():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\xff\xff" * 3
    image = smooth(16, 24)
    assert pixels(encode(image, "JPEG", exif=exif)).shape == (16, 24, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation_counts(format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    middle = pixels(data)[8, 8].astype(int)
    assert np.abs(middle - RED).max() <= 6


def test_the_first_picture_of_a_camera_file_counts():
    """MPO: several JPEGs in one file, as phones write them."""
    data = encode(Image.new("RGB", (8, 8), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert np.abs(pixels(data)[4, 4].astype(int) - RED).max() < 4


@pytest.mark.parametrize(
    ("at_least", "expected"), [(201, (200, 400)), (101, (200, 400)), (100, (100, 200)), (50, (50, 100)), (1, (25, 50))]
)
@pytest.mark.parametrize("format", ["JPEG", "MPO"])
def test_a_jpeg_may_come_smaller_where_that_is_enough(format, at_least, expected):
    image = smooth(200, 400)
    data = encode(image, format, quality=95)
    full, small = decode(data), decode(data, at_least=at_least)
    assert small.shape == (3, *expected)
    assert full.shape == (3, 200, 400)
    reference = np.asarray(Image.fromarray(image).resize(expected[::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(small.permute(1, 2, 0).numpy() - reference).mean() < 3
    assert decode(encode(image, "PNG"), at_least=at_least).shape == (3, 200, 400)


def test_a_smaller_jpeg_is_still_upright_and_still_counted_at_full_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(smooth(64, 128), "JPEG", exif=exif)
    assert decode(data, at_least=16).shape == (3, 32, 16)
    with pytest.raises(ImageError, match="too many pixels: 64 x 128"):
        decode(data, DecodePolicy(max_pixels=5000), at_least=8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_dimensions_are_rows_and_cols_from_the_header(format):
    data = encode(noise(6, 11), format)
    assert dimensions(data) == (6, 11)
    if format in ("JPEG", "PNG", "BMP", "PPM"):  # the pixels need not be there
        assert dimensions(data[: len(data) - 20]) == (6, 11)


def test_too_many_pixels_are_refused_from_the_header():
    bomb = png_of(20_000, 20_000, 8, 2, b"")
    assert reason(bomb) == "too many pixels: 20000 x 20000 = 400,000,000, more than 120,000,000"
    with pytest.raises(ImageError, match="too many pixels"):
        dimensions(bomb)
    assert reason(encode(noise(10, 11)), max_pixels=109).startswith("too many pixels: 10 x 11 = 110")
    assert pixels(encode(noise(10, 11)), max_pixels=110).shape == (10, 11, 3)


def test_the_cap_is_this_policy_and_not_pillows(monkeypatch):
    """Pillow's own limit is global: it neither refuses nor warns here, and is not changed."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert pixels(encode(noise(8, 8))).shape == (8, 8, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (bytes(1000), "the file holds only zeros"),
        (b"Roses are red\n", "not an image, but text"),
        ("Zwölf Boxkämpfer".encode() * 100, "not an image, but text"),
        (b"<!DOCTYPE html><title>404</title>", "not an image that is read, but an HTML page"),
        (b"\n  <html>", "not an image that is read, but an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image that is read, but an SVG drawing"),
        (b'<?xml version="1.0"?><svg/>', "not an image that is read, but an SVG drawing"),
        (b'<?xml version="1.0"?><a/>', "not an image that is read, but an XML file"),
        (b"%PDF-1.7\n\x93\x8c", "not an image that is read, but a PDF document"),
        (b"PK\x03\x04\x14\0", "not an image that is read, but a ZIP archive"),
        (b"8BPS\0\x01", "not an image that is read, but a Photoshop file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC images are not read: convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "not an image that is read, but a JPEG XL image"),
        (b"\xff\x0a\xfa\x1f", "not an image that is read, but a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "not an image that is read, but a JPEG 2000 image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS pointer: run `git lfs pull`"),
        (b"\x80\x04\x95\xff\xfe\x00\x11", "not an image in a known format"),
        (
            b"\0\0\x01\0\x01\0\x10\x10",
            "not an image in a known format",
        ),  # an icon: Pillow knows it, the policy does not
    ],
)
def test_what_is_no_image_is_named(data, expected):
    assert reason(data).endswith(expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_a_truncated_file_is_refused(format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encode(noise(64, 64), format)
    for keep in (0.9, 0.5, 0.2):
        text = reason(data[: int(len(data) * keep)])
        assert format in text and ("truncated" in text or "damaged" in text)


def test_the_size_of_a_format_without_pixels_is_refused():
    assert "PNG" in reason(png_of(0, 4, 8, 2, b""))


def test_pillow_formats_outside_the_list_are_refused():
    for format in ("ICO", "TGA", "PCX", "SGI", "JPEG2000"):
        reason(encode(noise(16, 16), format))


def test_no_warning_escapes_and_the_callers_filters_come_back():
    """A palette with transparency in bytes makes Pillow warn; warnings are errors in this test run."""
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 255, 0])
    before = list(warnings.filters)
    assert pixels(encode(image, "PNG", transparency=b"\x00\xff"))[0, 0].tolist() == [255, 255, 255]
    assert warnings.filters == before


def test_threads_do_not_leave_warnings_silenced():
    data = encode(noise(64, 64))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def _mutants(seed: int) -> list[bytes]:
    """Truncated, bit-flipped, spliced and padded images of every format."""
    rng = random.Random(seed)
    originals = [
        encode(smooth(24, 24), "JPEG"),
        encode(noise(12, 12), "PNG"),
        encode(smooth(24, 24), "JPEG", progressive=True),
    ]
    originals += [encode(noise(12, 12), f) for f in ("GIF", "BMP", "TIFF", "WEBP", "PPM")]
    originals += [
        encode(noise(12, 12), "TIFF", compression=c) for c in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
    ]
    mutants = []
    for original in originals:
        for _ in range(50):
            data = bytearray(original)
            kind = rng.randrange(4)
            if kind == 0:
                del data[rng.randrange(len(data)) :]
            elif kind == 1:
                for _ in range(rng.randrange(1, 20)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            elif kind == 2:
                at = rng.randrange(len(data))
                data[at : at + rng.randrange(1, 30)] = rng.randbytes(rng.randrange(1, 30))
            else:
                data = data[:8] + bytearray(rng.randbytes(rng.randrange(200)))
            mutants.append(bytes(data))
    return mutants


def test_hostile_bytes_raise_image_error_and_nothing_else():
    good = refused = 0
    for data in _mutants(seed=0):
        for read in (decode, dimensions):
            try:
                read(data, DecodePolicy(max_pixels=1_000_000))
                good += 1
            except ImageError as error:
                assert error.reason and "\n" not in error.reason
                refused += 1
    assert good > 100 and refused > 100  # both outcomes are exercised


def test_a_cut_png_is_refused_unless_every_pixel_is_there():
    image = noise(6, 6)
    data = encode(image)
    refused = 0
    for length in range(len(data)):
        try:
            assert (pixels(data[:length]) == image).all()
        except ImageError:
            refused += 1
    assert refused >= len(data) - 20  # the checksums and the closing chunk behind the pixels
