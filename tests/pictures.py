"""Images made in the tests: seeded, small, in any format."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """(rows, cols, 3) uint8, every pixel at random."""
    return np.random.default_rng(seed).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


def smooth(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """(rows, cols, 3) uint8, like a photo in that neighbours are alike: JPEG changes it little."""
    small = Image.fromarray(noise(4, 4, seed))
    return np.asarray(small.resize((cols, rows), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def class_folders(root: Path, counts: dict[str, int], size: int = 8, suffix: str = ".png", seed: int = 0) -> Path:
    """Folders of distinct images: counts gives {"cat": 3} or {"train/cat": 3}."""
    number = seed * 10_000
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            number += 1
            (folder / f"{index:03d}{suffix}").write_bytes(encode(noise(size, size, number)))
    return root
