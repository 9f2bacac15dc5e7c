"""Explanations where the truth is known: the glyph decides the class, and the maps of a model that has learned it point
at the glyph."""

import pytest
import torch

from programs import program

glyphs = program("glyphs")
# docs/benchmarks.md says why: at the last block it points at chance, and its deletion lies in the random band in some
# models. At the first block (`grad_cam, block 0`) it has to beat every random map, as the others do
WORSE = {"grad_cam": {"pointing", "deletion"}}


def test_images_follow_from_the_seed() -> None:
    one, again, other = (glyphs.draw(8, seed, 0.5) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.images, other.images)


def painted(tile: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """(shape, colour) of the largest shape whose pixels all have one colour; the texture never has. Tile: 8 8 3."""
    shapes = [torch.tensor([[c == "#" for c in row] for row in shape]) for shape in glyphs.SHAPES]
    shapes.append(torch.ones(6, 6, dtype=torch.bool))
    found = [(int(s.sum()), i, tile[1:7, 1:7][s]) for i, s in enumerate(shapes)]
    same = [(size, i, pixels[0]) for size, i, pixels in found if bool((pixels == pixels[0]).all())]
    return [(i, colour) for _, i, colour in sorted(same, key=lambda one: -one[0])[:1]]


@pytest.mark.parametrize("grid", [(8, 8), (4, 6)])
def test_the_masked_patch_alone_decides_the_class(grid: tuple[int, int]) -> None:
    test = glyphs.draw(60, 5, 0.5, grid)
    none = len(glyphs.SHAPES)  # the class of images without a glyph, and the square's place
    empty = test.labels == none
    assert torch.equal(test.masks.flatten(1).sum(1), 1 - empty.long()) and 15 < int(empty.sum()) < 45
    tiles = test.images.unflatten(2, (grid[0], 8)).unflatten(4, (grid[1], 8)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
    for image, label, mask in zip(tiles, test.labels.tolist(), test.masks.flatten(1), strict=True):
        seen = [(place, *one) for place, tile in enumerate(image) for one in painted(tile)]
        assert len(seen) == glyphs.DISTRACTORS + glyphs.SQUARES + (label != none)
        magenta = [
            (place, shape) for place, shape, colour in seen if float((colour - torch.tensor(glyphs.KEY)).norm()) < 1
        ]
        deciding = [(place, shape) for place, shape in magenta if shape != none]
        assert deciding == ([(int(mask.nonzero()), label)] if label != none else [])
        assert len(magenta) - len(deciding) == glyphs.SQUARES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", ["token", "gap"])
def test_every_attribution_points_at_the_glyph(pool: str) -> None:
    model = glyphs.train_small(glyphs.pooled_by(pool))
    assert glyphs.accuracy(model, glyphs.draw(300, glyphs.UNSEEN + 1, glyphs.EMPTY)) > 0.97
    rows = glyphs.evidence(model, glyphs.draw(32, glyphs.UNSEEN))
    for name in rows:
        if not name.startswith("random"):
            worse = {m for m in ("pointing", "deletion") if not glyphs.outside(rows, name, m)}
            assert worse <= WORSE.get(name, set()), (name, rows[name], rows["random low"], rows["random high"])
    assert not glyphs.outside(rows, "random low", "pointing")  # the measure can fail
