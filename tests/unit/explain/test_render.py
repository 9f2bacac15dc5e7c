"""Maps as pictures: the colours, the scales, the geometry."""

import io
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrail.errors import UnknownName
from vitrail.explain import render


def lightness(colours: Tensor) -> Tensor:
    """CIE L* of sRGB colours (N 3)."""
    v = colours.double() / 255
    linear = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    y = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    return torch.where(y > 0.008856, 116 * y ** (1 / 3) - 16, 903.3 * y)


@pytest.mark.parametrize("table", ["viridis", "cividis"])
def test_a_sequential_table_grows_evenly_lighter(table: str) -> None:
    light = lightness(render.lut(table))
    steps = light[8:].unfold(0, 9, 8).diff(dim=1).sum(dim=1)
    assert float(light[0]) < 16 and float(light[-1]) > 90
    assert (steps > 0).all() and float(steps.max() / steps.min()) < 2.5


def test_viridis_has_its_published_colours() -> None:
    """Between the ten points it was made from: entries 64, 128 and 192 of the published 256."""
    published = torch.tensor([[59, 82, 139], [33, 145, 140], [94, 201, 98]])
    assert (render.lut("viridis")[[64, 128, 192]].long() - published).abs().max() <= 2


def test_the_diverging_table_is_grey_at_zero_and_equally_dark_at_both_ends() -> None:
    colours = render.lut("blue_orange")
    light = lightness(colours)
    assert float((light - light.flip(0)).abs().max()) < 4
    assert float(light[:128].diff().min()) > -0.5 and float(light[128:].diff().max()) < 0.5
    middle = render.colour(torch.zeros(1), -1, 1, "blue_orange")[0].long()
    assert int(middle.max() - middle.min()) <= 2
    low, high = (c.tolist() for c in render.colour(torch.tensor([-1.0, 1.0]), -1, 1, "blue_orange"))
    assert low[2] > low[0] and high[0] > high[2]


def test_a_scale_is_the_caller_s_and_ends_hold_what_lies_beyond() -> None:
    table = render.lut("viridis")
    found = render.colour(torch.tensor([[-1.0, 0.0], [0.5, 9.0]]), 0, 1)
    assert found.shape == (2, 2, 3) and found.dtype == torch.uint8
    assert torch.equal(found[0, 0], table[0]) and torch.equal(found[1, 1], table[255])
    assert torch.equal(found[1, 0], table[128])
    for wrong in (torch.tensor([float("nan")]), torch.tensor([float("inf")])):
        with pytest.raises(ValueError, match="finite"):
            render.colour(wrong, 0, 1)
    with pytest.raises(ValueError, match="from low to high"):
        render.colour(torch.zeros(1), 1, 1)
    with pytest.raises(UnknownName, match="viridis"):
        render.colour(torch.zeros(1), 0, 1, "viridus")


def test_the_bar_of_a_revealed_image_is_its_brightness() -> None:
    white = torch.full((3, 1, 3), 255, dtype=torch.uint8)
    values = torch.tensor([[0.0, 0.4, 1.0]])
    found = render.overlay(white, values, patch=(1, 1), low=0, high=1, mode="reveal")[:, 0].T
    assert (found.long() - render.colour(values[0], 0, 1, "grey").long()).abs().max() <= 1


def test_scales_are_shared_and_a_flat_map_looks_flat() -> None:
    sharp, flat = torch.zeros(2, 2), torch.full((2, 2), 0.01)
    sharp[0, 0] = 0.5
    assert render.shared_scale([sharp, flat]) == (0.0, 0.5)
    assert render.shared_scale([sharp, -2 * sharp]) == (-1.0, 1.0)
    assert render.shared_scale([sharp], signed=True) == (-0.5, 0.5)
    assert render.shared_scale([torch.zeros(2, 2)]) == (0.0, 1.0)
    shown = render.colour(flat, *render.shared_scale([sharp, flat]))
    assert shown.flatten(0, 1).unique(dim=0).shape[0] == 1
    nearly = flat + torch.tensor([[0.0, 1e-6], [2e-6, 3e-6]])
    assert render.colour(nearly, 0.0, 0.5).flatten(0, 1).unique(dim=0).shape[0] == 1
    assert render.colour(nearly, *render.own_scale(nearly)).flatten(0, 1).unique(dim=0).shape[0] == 4
    assert render.own_scale(torch.ones(3)) == (1.0, 2.0)


def test_each_patch_is_a_rectangle_of_its_own_also_off_the_square() -> None:
    image = torch.full((3, 7, 13), 100, dtype=torch.uint8)  # 2 x 3 patches of 3 x 4; a row and a column are cut off
    values = torch.arange(6.0).view(2, 3)
    found = render.overlay(image, values, patch=(3, 4), low=0, high=5)
    assert found.shape == image.shape and found.dtype == torch.uint8
    wanted = render.colour(values, 0, 5).double() * render.OPACITY + 100 * (1 - render.OPACITY)
    for row in range(2):
        for col in range(3):
            patch = found[:, 3 * row : 3 * row + 3, 4 * col : 4 * col + 4].double()
            assert (patch - wanted[row, col][:, None, None]).abs().max() <= 0.5
    assert (found[:, 6:] == 100).all() and (found[:, :, 12:] == 100).all()  # what no patch covers


def test_reveal_shows_the_image_itself_where_the_map_is_high() -> None:
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    values = torch.tensor([[0.0, 1.0, 2.0]])
    found = render.overlay(image, values, patch=(4, 2), low=0, high=2, mode="reveal")
    assert torch.equal(found[:, :, 4:], image[:, :, 4:])
    assert (found[:, :, :2].double() - image[:, :, :2] * render.DIM).abs().max() <= 0.5
    signed = render.overlay(image, values - 1, patch=(4, 2), low=-1, high=1, mode="reveal")
    assert torch.equal(signed[:, :, :2], signed[:, :, :2].minimum(image[:, :, :2]))
    assert (signed[:, :, 2:4].double() - image[:, :, 2:4] * render.DIM).abs().max() <= 0.5  # zero speaks for nothing
    wider = render.overlay(torch.cat([image, image[:, :, :1]], 2), values, patch=(4, 2), low=0, high=2, mode="reveal")
    assert (wider[:, :, 6].double() - image[:, :, 0] * render.DIM).abs().max() <= 0.5
    with pytest.raises((UnknownName, TypeError), match="mode"):  # TypeError where the tests check annotations first
        render.overlay(image, values, patch=(4, 2), low=0, high=2, mode="jet")  # type: ignore[arg-type]


def test_a_png_holds_the_pixels_and_nothing_else() -> None:
    image = torch.randint(0, 256, (3, 5, 8), dtype=torch.uint8)
    data = render.png(image)
    again = Image.open(io.BytesIO(data))
    assert again.size == (8, 5) and again.info == {} and data == render.png(image)
    assert again.tobytes() == image.permute(1, 2, 0).contiguous().numpy().tobytes()
    assert render.data_address(image).startswith("data:image/png;base64,")
    assert render.enlarge(image, 12).shape == (3, 15, 24) and torch.equal(render.enlarge(image, 5), image)
    assert torch.equal(render.enlarge(image, 12)[:, ::3, ::3], image)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (-3.2, 3.2, (-2.0, 0.0, 2.0)),
        (0.0, 7e-5, (0.0, 2e-5, 4e-5, 6e-5)),
        (2.1, 2.2, (2.1, 2.125, 2.15, 2.175, 2.2)),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: tuple[float, ...]) -> None:
    assert render.ticks(low, high) == wanted


def test_the_colour_bar_names_its_unit_and_is_sound_xml() -> None:
    bar = render.colour_bar(-2, 2, "blue_orange", "logits <b>")
    root = ElementTree.fromstring(bar)
    texts = [e.text for e in root.iter() if e.tag == "text"]
    assert texts == ["\u22122", "\u22121", "0", "1", "2", "logits <b>"]
    assert root.attrib["aria-label"] == "\u22122 to 2, logits <b>"
    rects = [e.attrib["fill"] for e in root.iter() if e.tag == "rect"]
    assert rects[0] == "#" + bytes(render.lut("blue_orange")[0].tolist()).hex() and len(rects) == 64
