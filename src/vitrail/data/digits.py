"""The built-in data set: the 1,797 handwritten digits that scikit-learn carries (8 x 8 pixels, 17 grey levels)."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

from vitrail.data.stores import MemorySource
from vitrail.errors import MissingExtra


def read_digits() -> MemorySource:
    """All digits as PNG bytes, so that the one decoder reads them; grey v of 0..16 becomes round(v * 255 / 16).

    Raises MissingExtra where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "train", "the built-in data set digits") from error
    images, labels = load_digits(return_X_y=True)
    grey = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return MemorySource(
        classes=tuple(str(digit) for digit in range(10)),
        labels=labels.astype(np.int64),
        data=tuple(png(image) for image in grey),
        names=tuple(f"digit-{index:04d}" for index in range(len(grey))),
    )


def png(grey: npt.NDArray[np.uint8]) -> bytes:
    """A (rows, cols) grey image as a PNG whose pixels are stored uncompressed.

    The split of a data set follows the bytes of its images; a compressor's output would change from one version to the
    next, these bytes never do.
    """
    rows, cols = grey.shape
    lines = b"".join(b"\0" + line.tobytes() for line in grey)  # filter type 0 before each line
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines  # one block, at most 64 KiB
    stored += struct.pack(">I", zlib.adler32(lines))
    header = struct.pack(">IIBBBBB", cols, rows, 8, 0, 0, 0, 0)  # 8 bits, grey
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", stored) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
