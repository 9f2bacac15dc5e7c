"""The one image decoder of training, evaluation, prediction and serving.

Bytes come from anywhere, so the policy is explicit: a list of allowed formats, a cap on the pixels that is checked
after the header and before any pixel is decoded, and one exception, `ImageError`, whatever is wrong. The rules:

- EXIF orientation is applied; colour profiles are not.
- 16-bit greys are scaled to 8 bits (not clipped); floating-point pixels have no agreed range and are refused.
- CMYK, YCCK, palettes and greys become RGB; transparency is composited on a background colour.
- The first frame of an animation stands for all of it.
- A truncated file is refused, never filled with grey.

Pillow decides what is an image and what its pixels are. Where simplejpeg is installed, it decodes the JPEGs that it has
no complaint about, to the same pixels, in less time.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitrail.errors import ImageError
from vitrail.types import Pixels

_simplejpeg: ModuleType | None = None
with contextlib.suppress(ImportError):  # the extra `fast`
    _simplejpeg = import_module("simplejpeg")

Size: TypeAlias = tuple[int, int]  # (rows, cols)

# Importing a plugin registers it. MPO (the cameras' multi-picture JPEG) is not named: it arrives as JPEG.
_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    GifImagePlugin,
    BmpImagePlugin,
    TiffImagePlugin,
    AvifImagePlugin,
    PpmImagePlugin,
)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

# Suffixes of the files that count as images in a folder. The last four are photos that this decoder cannot read: they
# count, so that they are reported by name instead of being passed over in silence.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".heic", ".heif", ".jp2", ".jxl"),
)

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSE = {  # EXIF orientation -> what turns the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURN: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {  # the same for (rows, cols, 3)
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
_AGAINST = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # axes of (3, rows, cols) that it reverses
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class DecodePolicy:
    """What an image may be: its pixels (rows times cols) and the colour behind its transparent parts (RGB)."""

    max_pixels: int = 120_000_000
    background: tuple[int, int, int] = (255, 255, 255)


_DEFAULT = DecodePolicy()


class Decoded(NamedTuple):
    """Pixels, upright; the (rows, cols) of the stored image, upright; by what these were divided, rounded up; and the
    axes of `pixels` that run against those of the file, so that a pixel for the rest of a division stands first."""

    pixels: Pixels
    size: Size
    divisor: int
    against: tuple[int, ...]


def decode(data: bytes, policy: DecodePolicy = _DEFAULT, at_least: int | None = None) -> Pixels:
    """The RGB pixels of an encoded image, upright. Raises ImageError with a short reason.

    With `at_least`, a JPEG may come at 1/2, 1/4 or 1/8 of its size as long as both sides keep that many pixels. For
    training; what a model is measured and used on is decoded for its preprocessing (preprocess.fit_encoded).
    """
    if at_least is None:
        return decode_shrunk(data, None, policy).pixels
    return decode_shrunk(data, lambda size: largest_divisor(size, (at_least, at_least)), policy).pixels


def decode_shrunk(data: bytes, divisor: Callable[[Size], int] | None, policy: DecodePolicy = _DEFAULT) -> Decoded:
    """An encoded image, perhaps at a part of its size. Raises ImageError.

    `divisor` says for the size of a JPEG, upright, whether it is decoded at 1/1, 1/2, 1/4 or 1/8 of it. libjpeg then
    computes that many pixels fewer from the same coefficients: each is close to the mean of those it stands for.
    """
    with _QUIET:
        image = _open(data, policy)
        try:
            cols, rows = image.size
            jpeg = image.format in ("JPEG", "MPO")
            orientation = _orientation(image) if jpeg else 1  # in a PNG it may stand behind the pixels
            turned = orientation >= 5
            by = divisor((cols, rows) if turned else (rows, cols)) if jpeg and divisor is not None else 1
            rgb = _fast(data, image, by, orientation) if jpeg else None
            if rgb is None:
                if by > 1:
                    image.draft(None, (cols // by, rows // by))
                image.load()
                upright = _TRANSPOSE.get(_orientation(image))
                rgb = _rgb(image if upright is None else image.transpose(upright), policy.background)
        except ImageError:
            raise
        except Exception as error:  # whatever hostile bytes make a plugin raise
            raise ImageError(_damage(image.format, error)) from error
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)
    size = (rgb.shape[0], rgb.shape[1]) if by == 1 else (cols, rows) if turned else (rows, cols)
    return Decoded(pixels, size, by, _AGAINST.get(orientation, ()))


def largest_divisor(size: Size, at_least: Size) -> int:
    """The largest of 1, 2, 4 and 8 by which both sides can be divided and still have `at_least` pixels."""
    most = min(size[0] // at_least[0], size[1] // at_least[1])
    return next((divisor for divisor in (8, 4, 2) if divisor <= most), 1)


def _fast(data: bytes, image: Image.Image, divisor: int, orientation: int) -> npt.NDArray[np.uint8] | None:
    """A JPEG's pixels at 1/divisor of its size, upright, by simplejpeg; None where Pillow has to decide.

    Both call libjpeg-turbo with the same settings. Here every warning counts as an error, so that a file which is cut
    short or odd in any way goes to Pillow. So do CMYK and the arithmetic coding that Pillow may lack.
    """
    if _simplejpeg is None or image.mode not in ("RGB", "L") or not _huffman(data):
        return None
    cols, rows = image.size
    smaller = {"min_height": -(-rows // divisor), "min_width": -(-cols // divisor)} if divisor > 1 else {}
    try:
        rgb: npt.NDArray[np.uint8] = _simplejpeg.decode_jpeg(data, "RGB", **smaller)
    except ValueError:
        return None
    if rgb.shape != (-(-rows // divisor), -(-cols // divisor), 3):  # it read another header than Pillow
        return None
    turn = _TURN.get(orientation)
    return rgb if turn is None else np.ascontiguousarray(turn(rgb))


def _huffman(data: bytes) -> bool:
    """Whether a JPEG's first frame is baseline, extended or progressive with Huffman codes, 8 bits deep."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker <= 0xC2 and data[at + 4] == 8
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def dimensions(data: bytes, policy: DecodePolicy = _DEFAULT) -> tuple[int, int]:
    """(rows, cols) of an encoded image after EXIF orientation, from its header alone.

    Raises ImageError where the header is already enough for `decode` to refuse the image.
    """
    with _QUIET:
        image = _open(data, policy)
        cols, rows = image.size
        # A TIFF's size counts its orientation already; a PNG's may stand behind the pixels, which are not read here.
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return rows, cols
        return (cols, rows) if _orientation(image) >= 5 else (rows, cols)


def _open(data: bytes, policy: DecodePolicy) -> Image.Image:
    """The image of the first allowed format whose signature fits, header parsed and pixels counted.

    This is PIL.Image.open(formats=...) without its own, global pixel limit.
    """
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        fits = accept(data[:16]) if accept else True
        if isinstance(fits, str):
            raise ImageError(f"{name} is not built into this Pillow")
        if not fits:
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except Exception as error:
            raise ImageError(_damage(name, error)) from error
        cols, rows = image.size
        if rows < 1 or cols < 1:
            raise ImageError(f"no pixels: {rows} x {cols}")
        if rows * cols > policy.max_pixels:
            raise ImageError(f"too many pixels: {rows} x {cols} = {rows * cols:,}, more than {policy.max_pixels:,}")
        return image
    raise ImageError(_not_an_image(data))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the EXIF block is damaged: the pixels may still be good."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Pixels as (rows, cols, 3) uint8."""
    if image.mode in _SIXTEEN_BITS:
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range: save the image with 8 or 16 bits")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(under, over)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(grey: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """0..65535 scaled to 0..255, rounded."""
    if grey.dtype.itemsize > 2 and (grey.min() < 0 or grey.max() > 65535):
        raise ImageError("32-bit pixels have no agreed range: save the image with 8 or 16 bits")
    return ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _damage(format: str | None, error: Exception) -> str:
    """A short reason for an image whose signature was right and whose content was not."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"not enough memory to decode this {format} image"
    if "truncat" in text.lower() or isinstance(error, EOFError):
        return f"truncated {format} file"
    detail = "".join(c for c in text if c.isprintable())[:80]
    return f"damaged {format} file" + (f" ({detail})" if " " in detail else "")  # one word alone explains nothing


def _not_an_image(data: bytes) -> str:
    """A short reason for bytes that carry no allowed signature: what they look like instead."""
    if not data:
        return "empty file"
    if not any(data[:65536]):
        return "the file holds only zeros"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "HEIC images are not read: convert it to JPEG or PNG"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    signatures = {
        b"%pdf": "a PDF document",
        b"<!doctype html": "an HTML page",
        b"<html": "an HTML page",
        b"<svg": "an SVG drawing",
        b"pk\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip archive",
        b"8bps": "a Photoshop file",
        b"\x00\x00\x00\x0cjxl ": "a JPEG XL image",
        b"\xff\x0a": "a JPEG XL image",
        b"\x00\x00\x00\x0cjp  ": "a JPEG 2000 image",
        b"\xff\x4f\xff\x51": "a JPEG 2000 image",
        b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    }
    for signature, what in signatures.items():
        if start.startswith(signature):
            return f"not an image that is read, but {what}"
    if start.startswith(b"<?xml"):
        drawing = b"<svg" in data[:65536].lower()
        return f"not an image that is read, but {'an SVG drawing' if drawing else 'an XML file'}"
    text = data[:1024].decode("utf-8", errors="ignore")
    if len(text.encode()) >= min(len(data), 1024) - 3 and all(c.isprintable() or c.isspace() for c in text):
        return "not an image, but text"
    return "not an image in a known format"


class _Quiet:
    """Silences Pillow's warnings about odd files while an image is decoded, whatever filters the caller has set.

    `warnings.catch_warnings` restores a global list: threads that enter and leave in turn would restore each other's.
    So the first one in saves the list and the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._saved = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_QUIET = _Quiet()
