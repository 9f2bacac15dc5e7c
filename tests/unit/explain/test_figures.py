"""Figures 6 and 7: their numbers are those of the model, and the pictures show the numbers."""

import io
import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from architectures import KINDS, gap, make
from pictures import class_folders
from vitrail.cli import main
from vitrail.config import Preprocess, ResNetConfig
from vitrail.data.decode import decode
from vitrail.data.preprocess import preprocess
from vitrail.errors import ConfigError, DataError
from vitrail.explain.attention import rollout
from vitrail.explain.drawing import Dot, Drawing, Line, Picture, Text, png_bytes, svg, wrapped
from vitrail.explain.figure_drawing import figure_6, figure_7, write_figures
from vitrail.explain.figures import Figures, even_distance, make_figures
from vitrail.explain.representation import attention_distance, position_similarity
from vitrail.models.build import Network, build
from vitrail.models.trace import trace
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

SHOWN_TO = Preprocess(size=(16, 24), resize="squash", crop=1.0)
SVG = "{http://www.w3.org/2000/svg}"


def stored(folder: Path, model: Network, size: tuple[int, int] = (16, 24)) -> Path:
    labels = LabelSet(tuple(f"class {i}" for i in range(model.config.classes)))
    write_model_folder(folder, model, SHOWN_TO.model_copy(update={"size": size}), labels, {})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("figures") / "photos", {"a": 5, "b": 4}, size=20)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_gets_its_figures(kind: str, tmp_path: Path, photos: Path) -> None:
    model, _ = make(kind)
    made = make_figures(stored(tmp_path / "model", model.float()), photos, images=4)
    numbers = made.numbers
    assert set(numbers.left_out) == ({"filters"} if kind == "hybrid" else {"similarity"} if "rotary" in kind else set())
    assert numbers.distances and torch.tensor(numbers.distances.mean).shape == (3, 3)
    assert numbers.rollouts and len(numbers.rollouts.images) == 4
    paths = write_figures(made, tmp_path / "out")
    names = ["figure-6.png", "figure-6.svg", "figure-7.png", "figure-7.svg", "figures.json"]
    assert [path.name for path in paths] == names
    for path in paths[1:4:2]:
        ElementTree.fromstring(path.read_text())
    assert Figures.model_validate_json(paths[4].read_bytes()) == numbers
    text = "".join(ElementTree.fromstring(paths[3].read_text()).itertext())
    assert ("Not drawn" in text) is bool(numbers.left_out)


def test_the_numbers_are_the_model_s(tmp_path: Path, photos: Path) -> None:
    model, _ = make("distilled")
    model = model.float()
    found = make_figures(stored(tmp_path / "model", model), photos, images=9).numbers
    files = sorted(photos.rglob("*.png"))
    x = torch.stack([preprocess(decode(file.read_bytes()), SHOWN_TO) for file in files])
    distance = attention_distance(model, trace(model, x)[1])
    assert found.distances and found.rollouts and found.similarity and found.filters and found.data
    assert gap(torch.tensor(found.distances.mean), distance.mean(0)) < 1e-3
    assert gap(torch.tensor(found.distances.deviation), distance.std(0, correction=0)) < 1e-3
    assert gap(torch.tensor(found.similarity.tiles).flatten(2).flatten(0, 1), position_similarity(model)) < 1e-5
    assert found.data.images == 9 and len(found.rollouts.images) == 6
    for shown in found.rollouts.images:
        expected = rollout(model, x[shown.index : shown.index + 1], torch.zeros(1, dtype=torch.int64))[0]
        assert gap(torch.tensor(shown.rollout), expected) < 1e-6
        assert files[shown.index].as_posix().endswith(shown.id)
    assert len({shown.index for shown in found.rollouts.images}) == 6
    assert found.filters.directions == 24 and math.isclose(sum(found.filters.shares), 1, rel_tol=1e-4)


def test_the_pictures_show_the_numbers(tmp_path: Path, photos: Path) -> None:
    model, _ = make()
    made = make_figures(stored(tmp_path / "model", model.float()), photos, images=3)
    numbers = made.numbers
    assert numbers.distances and numbers.rollouts
    shapes = figure_7(numbers).shapes
    axis = next(s for s in shapes if isinstance(s, Line) and s.x1 == s.x2 and s.y2 - s.y1 > 300)
    marks = [s for s in shapes if isinstance(s, Text) and s.anchor == "end" and axis.x1 - 7 < s.x < axis.x1]
    zero, top = min(marks, key=lambda m: -m.y), min(marks, key=lambda m: m.y)
    unit = (zero.y - top.y) / float(top.text)  # a pixel of distance
    dots = [s for s in shapes if isinstance(s, Dot)][:9]
    found = [(zero.y - 3.5 - dot.y) / unit for dot in dots]
    expected = list(itertools.chain(*numbers.distances.mean))
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-6
    drawing = figure_6(made)
    assert drawing is not None
    pictures = [s for s in drawing.shapes if isinstance(s, Picture)]
    assert torch.equal(pictures[0].pixels, made.pictures[0])
    bright = pictures[1].pixels.double().sum(0) / made.pictures[0].double().sum(0).clamp_min(1)
    values = torch.tensor(numbers.rollouts.images[0].rollout)
    patches = bright.unflatten(0, (4, 4)).unflatten(2, (6, 4)).mean(dim=(1, 3))
    order = torch.corrcoef(torch.stack([patches.flatten(), values.flatten().double()]))[0, 1]
    assert float(order) > 0.7


def test_equal_input_gives_equal_files(tmp_path: Path, photos: Path) -> None:
    folder = stored(tmp_path / "model", make()[0].float())
    files = [
        {
            path.name: path.read_bytes()
            for path in write_figures(make_figures(folder, photos, images=2), tmp_path / name)
        }
        for name in ("one", "other")
    ]
    assert files[0] == files[1]
    other = write_figures(make_figures(folder, photos, images=3), tmp_path / "third")
    assert {path.name: path.read_bytes() for path in other} != files[0]


def test_what_needs_images_is_left_out_without_them(tmp_path: Path) -> None:
    model, _ = make()
    made = make_figures(stored(tmp_path / "model", model.float()))
    assert set(made.numbers.left_out) == {"rollouts", "distances"} and made.numbers.filters and made.numbers.similarity
    assert figure_6(made) is None
    assert [path.name for path in write_figures(made, tmp_path / "out")] == [
        "figure-7.png",
        "figure-7.svg",
        "figures.json",
    ]


def test_a_model_of_one_patch_and_of_zeros_has_figures(tmp_path: Path, photos: Path) -> None:
    model, _ = make("gap", patch_size=(16, 24))
    with torch.no_grad():
        model.patch_embedding.weight.zero_()
    made = make_figures(stored(tmp_path / "model", model.float()), photos, images=2)
    found = made.numbers
    assert found.distances and found.distances.even == 0 and found.filters and set(found.filters.shares) == {0.0}
    assert len(write_figures(made, tmp_path / "out")) == 5


def test_a_model_without_a_head_has_figures(tmp_path: Path, photos: Path) -> None:
    model, _ = make("token", classes=0)
    made = make_figures(stored(tmp_path / "model", model.float()), photos, images=2)
    assert not made.numbers.left_out and made.numbers.model.classes == 0


def test_an_unreadable_image_is_named_and_not_counted(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", {"a": 3, "b": 3}, size=20)
    (folder / "a" / "001.png").write_bytes(b"no picture")
    model = stored(tmp_path / "model", make()[0].float())
    found = make_figures(model, folder).numbers
    assert found.data and found.data.images == 5
    assert [u.id for u in found.data.unreadable] == ["a/001.png"]
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 6 images of photos can be read"):
        make_figures(model, folder)


def test_what_cannot_be_drawn_is_said(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resnet = build(ResNetConfig(image_size=(32, 32), layers=(1, 1), width=8, groups=4, classes=3))
    with pytest.raises(ConfigError, match="a ResNet"):
        make_figures(stored(tmp_path / "resnet", resnet, (32, 32)))
    folder = str(stored(tmp_path / "model", make()[0].float()))
    file = tmp_path / "file"
    file.write_text("")
    mistakes = {
        ("--images", "3", "--out", str(tmp_path / "o")): "name them with --data",
        ("--images", "0", "--data", str(photos), "--out", str(tmp_path / "o")): "at least 1: found 0",
        ("--out", str(file)): "is a file",
        (): "--out",
    }
    for arguments, sentence in mistakes.items():
        assert main(["figures", folder, *arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert main(["figures", folder, "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "figure-7.svg" in said and "not drawn: rollouts: attention is seen on images" in said


def test_the_distance_of_a_model_that_looks_everywhere_alike() -> None:
    points = [(16 * i, 8 * j) for i in range(3) for j in range(5)]
    expected = sum(math.dist(a, b) for a in points for b in points) / len(points) ** 2
    assert abs(even_distance((3, 5), (16, 8)) - expected) < 1e-10


def test_both_drawings_have_the_same_shapes() -> None:
    red = torch.zeros(3, 2, 2, dtype=torch.uint8)
    red[0] = 255
    shapes = (
        Line(0, 50, 100, 50, "#0000ff", 2),
        Dot(80, 20, 5, "#00ff00"),
        Picture(10, 10, 20, 20, red, "red & square"),
        Text(50, 90, "a < b", 12),
    )
    drawing = Drawing(100, 100, "all & every", shapes)
    pixels = Image.open(io.BytesIO(png_bytes(drawing))).convert("RGB")
    assert pixels.size == (200, 200)
    colours = [pixels.getpixel((2 * x, 2 * y)) for x, y in ((50, 50), (80, 20), (20, 20), (50, 30))]
    assert colours == [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)]
    root = ElementTree.fromstring(svg(drawing))
    assert [child.tag.removeprefix(SVG) for child in root] == ["rect", "line", "circle", "image", "text"]
    assert root.get("aria-label") == "all & every" and root[4].text == "a < b"
    dark = sum(v < 128 for v in pixels.crop((100, 150, 200, 190)).convert("L").tobytes())
    assert dark > 20  # the text is there


def test_an_enlarged_picture_keeps_its_squares_and_a_reduced_one_is_averaged() -> None:
    checks = torch.zeros(3, 2, 2, dtype=torch.uint8)
    checks[:, 0, 0] = checks[:, 1, 1] = 255
    for side, colours, pixelated in ((10, {(0, 0, 0), (255, 255, 255)}, True), (0.5, {(128, 128, 128)}, False)):
        drawing = Drawing(20, 20, "", (Picture(0, 0, side, side, checks, ""),))
        pixels = (
            Image.open(io.BytesIO(png_bytes(drawing))).convert("RGB").crop((0, 0, round(2 * side), round(2 * side)))
        )
        assert {colour for _, colour in pixels.getcolors() or ()} == colours
        assert ("pixelated" in svg(drawing)) is pixelated


def test_upright_text_stands_where_its_neighbour_in_svg_does() -> None:
    drawing = Drawing(60, 100, "", (Text(30, 50, "upright", 12, "middle", up=True),))
    ink = Image.open(io.BytesIO(png_bytes(drawing))).convert("L").point(lambda v: 255 * (v < 128))
    left, top, right, bottom = (v / 2 for v in ink.getbbox() or (0, 0, 0, 0))
    assert abs((top + bottom) / 2 - 50) < 2 and 28 < right < 34 and 18 < left < 24
    assert "rotate(-90 30 50)" in svg(drawing)


def test_long_text_is_broken_between_words() -> None:
    text = "a sentence that is much longer than one line of the panel is wide"
    lines = wrapped(text, 100, 11)
    assert len(lines) > 2 and " ".join(lines) == text
    assert wrapped("short", 100) == ["short"] and re.fullmatch(r"\S+", wrapped("x" * 80, 10)[0])
