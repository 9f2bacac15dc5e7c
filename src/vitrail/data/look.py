"""What one image looks like, in a few bytes: enough to find its copies among all others.

Copies that are the same bytes or the same pixels share a hash. Others (saved again, resized, cut a little, brightened)
are found in two steps: a 64-bit perceptual hash proposes pairs, and the pictures themselves, laid over each other at
thumbnail size, decide. The hash alone would not do: on photos of flowers as many strangers as copies lie within the
distance that a small cut moves it.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vitrail.data.decode import decode

SIDE = 32  # of a thumbnail; an image with a shorter side holds too little to be told from its likes
RADIUS = 14  # bits of 64 in which the hashes of copies may differ: the most seen in 400 altered photos (docs/log.md)
ALIKE = 0.95  # correlation of two thumbnails, laid over each other, from which they are copies: 0.96 was the least seen
FINER = 0.1  # most that the finer cuts are hoped to add; 0.04 was the most in 1,643 pairs of CIFAR-10 (docs/log.md)
HOPELESS = 0.55  # correlation of thumbnails as they are, below which no cut explains the difference

_INNER = 0.025  # share cut from each side for the second hash, so that hashes of a cut copy stay close
_FREQUENCIES = 8
_CUTS = np.arange(5) * 0.025  # shares of a side that a copy may lack, at either end
_SAMPLED = 16  # points a side at which thumbnails are compared
_CHUNK = 64  # pairs laid over each other at once

Thumbnails: TypeAlias = npt.NDArray[np.uint8]  # n SIDE SIDE 3
Hashes: TypeAlias = npt.NDArray[np.uint64]  # n 2


@dataclass(frozen=True)
class Look:
    """One image: its size in pixels, sha256 of its bytes and of its pixels, perceptual hashes of the whole and of the
    inner part, and a thumbnail of SIDE x SIDE pixels whatever its shape."""

    rows: int
    cols: int
    content: bytes
    pixels: bytes
    hashes: tuple[int, int]
    thumbnail: npt.NDArray[np.uint8]


def look(data: bytes) -> Look:
    """What an encoded image looks like. Raises ImageError where it cannot be decoded."""
    pixels = decode(data).permute(1, 2, 0).contiguous().numpy()
    rows, cols, _ = pixels.shape
    image = Image.fromarray(pixels)
    box = (_INNER * cols, _INNER * rows, (1 - _INNER) * cols, (1 - _INNER) * rows)
    whole, inner = (
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=part, reducing_gap=3.0) for part in (None, box)
    )
    digest = hashlib.sha256(f"{rows} {cols}\n".encode())
    digest.update(pixels.tobytes())
    return Look(
        rows=rows,
        cols=cols,
        content=hashlib.sha256(data).digest(),
        pixels=digest.digest(),
        hashes=(perceptual_hash(whole), perceptual_hash(inner)),
        thumbnail=np.asarray(whole),
    )


def perceptual_hash(image: Image.Image) -> int:
    """64 bits of a SIDE x SIDE image: which of its 8 x 8 lowest cosine frequencies lie above their median.

    The median leaves out the mean brightness, the first of them.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    values = (_COSINES @ grey @ _COSINES.T).ravel()
    bits = values > np.median(values[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: Hashes, thumbnails: Thumbnails, rows: int = 512) -> list[tuple[int, int, float]]:
    """(i, j, similarity) of all i < j that show the same picture, similarity being the correlation of the two.

    Every pair is compared, `rows` images with all after them at a time: time grows with the square of n, memory does
    not.
    """
    found: list[tuple[int, int, float]] = []
    flat = _standard(torch.from_numpy(thumbnails).float()).flatten(1)
    for start in range(0, len(hashes), rows):
        mine, others = hashes[start : start + rows, None], hashes[None, start:]
        bits = np.bitwise_count(mine[..., 0] ^ others[..., 0])
        for a, b in ((0, 1), (1, 0)):
            np.minimum(bits, np.bitwise_count(mine[..., a] ^ others[..., b]), out=bits)
        i, j = np.nonzero(bits <= RADIUS)
        i, j = (at[i < j] + start for at in (i, j))
        for k in range(0, len(i), 4096):
            left, right = torch.from_numpy(i[k : k + 4096]), torch.from_numpy(j[k : k + 4096])
            hopeful = (flat[left] * flat[right]).sum(1) > HOPELESS
            found += _verified(thumbnails, left[hopeful], right[hopeful])
    return found


def similarity(a: Float[Tensor, "n 32 32 3"], b: Float[Tensor, "n 32 32 3"]) -> Float[Tensor, " n"]:
    """Correlation of each a with its b after the best cut of either, -1 to 1: at most a tenth of a side at each end.

    Brightness and contrast do not count. Cuts are tried in steps of a twentieth, then of a fortieth around the best.
    """
    return torch.maximum(_cut_to(a, b), _cut_to(b, a))


def _verified(thumbnails: Thumbnails, i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> list[tuple[int, int, float]]:
    found = []
    for k in range(0, len(i), _CHUNK):
        a, b = i[k : k + _CHUNK], j[k : k + _CHUNK]
        alike = similarity(*(torch.from_numpy(thumbnails[at.numpy()]).float() for at in (a, b)))
        found += [(x, y, s) for x, y, s in zip(a.tolist(), b.tolist(), alike.tolist(), strict=True) if s >= ALIKE]
    return found


def _cut_to(a: Float[Tensor, "n 32 32 3"], b: Float[Tensor, "n 32 32 3"]) -> Float[Tensor, " n"]:
    """Correlation of b with the part of a that resembles it most."""
    whole = _WINDOWS[0, 0]
    target = _standard(torch.einsum("yi,nijc,xj->nyxc", whole, b, whole))
    coarse = _COARSE.expand(len(a), -1, -1)
    scores = _scores(a, target, coarse, coarse)
    found, best = scores.max(1)
    near = (found >= ALIKE - FINER).nonzero().flatten()
    if len(near):
        around_y, around_x = (
            (_COARSE[at][:, None] + _AROUND).clamp(0, len(_CUTS) - 1)
            for at in (best[near] // len(_COARSE), best[near] % len(_COARSE))
        )
        finer = _scores(a[near], target[near], around_y, around_x)
        found[near] = torch.maximum(found[near], finer.amax(1))
    return found


def _scores(
    a: Float[Tensor, "n 32 32 3"],
    target: Float[Tensor, "n 16 16 3"],
    cuts_y: Int[Tensor, "n k 2"],
    cuts_x: Int[Tensor, "n k 2"],
) -> Float[Tensor, "n kk"]:
    """Correlations of the targets with the parts of a that are left by each pair of cuts."""
    y, x = (_WINDOWS[cuts[..., 0], cuts[..., 1]] for cuts in (cuts_y, cuts_x))  # n k 16 32
    parts = torch.einsum("nkyi,nijc->nkyjc", y, a)
    parts = _standard(torch.einsum("nlxj,nkyjc->nklyxc", x, parts))
    return torch.einsum("nklyxc,nyxc->nkl", parts, target).flatten(1)


def _standard(images: Any) -> Any:
    """Images (... rows cols 3) with the mean of each channel taken off, of length 1; an even image becomes zero."""
    images = images - images.mean((-3, -2), keepdim=True)
    return images / images.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp_min(1.0)


def _cosines() -> npt.NDArray[np.float64]:
    """The _FREQUENCIES lowest rows of the orthonormal cosine transform (DCT-II) of SIDE points."""
    k, x = np.arange(_FREQUENCIES)[:, None], np.arange(SIDE)[None]
    rows = np.cos(np.pi * k * (2 * x + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows


def _windows() -> Float[Tensor, "5 5 16 32"]:
    """For each cut at the start and at the end, the matrix that averages what is left of SIDE points to _SAMPLED."""
    matrices = np.zeros((len(_CUTS), len(_CUTS), _SAMPLED, SIDE))
    at = np.arange(SIDE)
    for i, start in enumerate(_CUTS):
        for j, end in enumerate(_CUTS):
            edges = np.linspace(start * SIDE, (1 - end) * SIDE, _SAMPLED + 1)
            covered = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
            matrices[i, j] = np.clip(covered, 0, None) / np.diff(edges)[:, None]
    return torch.from_numpy(matrices).float()


_COSINES = _cosines()
_WINDOWS = _windows()
_COARSE = torch.tensor([(a, b) for a in (0, 2, 4) for b in (0, 2, 4)])  # 9 2, positions in _CUTS
_AROUND = torch.tensor([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)])
