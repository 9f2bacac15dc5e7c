"""The page's parts: thumbnails, the confusion matrix, curves, and what is said where something is missing."""

import base64
import io
import re
from html import unescape
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports import NAMES, make_report
from vitrail.data.stores import MemorySource
from vitrail.errors import DataError, ImageError
from vitrail.evaluate.page import picture_mistakes, render, thumbnail
from vitrail.report import Mistake


def encoded(rows: int, cols: int, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (rows, cols, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def text_of(page: str) -> str:
    """The words of the page without style and tags."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize(
    ("rows", "cols", "format", "size"),
    [
        (600, 300, "JPEG", (120, 240)),
        (300, 600, "JPEG", (240, 120)),
        (100, 80, "JPEG", (80, 100)),
        (8, 8, "PNG", (8, 8)),
    ],
)
def test_a_thumbnail_is_small_and_keeps_the_shape(rows: int, cols: int, format: str, size: tuple[int, int]) -> None:
    address = thumbnail(encoded(rows, cols))
    assert address.startswith(f"data:image/{format.lower()};base64,")
    assert opened(address).size == size
    assert len(address) < 40_000
    Mistake(id="a", true="b", predicted="c", probability=0.5, thumbnail=address)  # what a Mistake accepts


def test_a_thumbnail_is_upright_and_carries_no_metadata() -> None:
    picture, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6  # turned
    exif[0x010E] = "taken at home"
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    address = thumbnail(out.getvalue())
    assert opened(address).size == (20, 40)
    assert b"taken at home" not in base64.b64decode(address.partition(",")[2])


def test_a_thumbnail_of_no_image() -> None:
    with pytest.raises(ImageError):
        thumbnail(b"no image")


def test_pictures_come_from_the_data_that_was_counted() -> None:
    data = tuple(encoded(20 + i, 20) for i in range(6))
    names = tuple(f"{i}.png" for i in range(6))
    source = MemorySource(("cat", "dog"), np.arange(6) % 2, data, names)
    report = make_report(fingerprint=source.fingerprint)
    found = picture_mistakes(report, source)
    assert [opened(m.thumbnail or "").size[1] for m in found] == [20 + (m.index or 0) for m in report.mistakes]
    assert picture_mistakes(report, source, most=1) == found[:1]
    with pytest.raises(DataError, match=r"the pictures must come from the data of the report \(pets\), found other"):
        picture_mistakes(make_report(), source)


def test_the_matrix_is_whole_for_few_classes_and_a_list_for_many() -> None:
    few, many = render(make_report(classes=20)), render(make_report(classes=21))
    assert few.count('class="right') == 20
    assert '<table class="matrix many">' in few
    assert '<table class="matrix' not in many
    assert "The most frequent mistakes among 21 classes." in text_of(many)
    assert "The other 1 classes" in text_of(many)


def test_the_matrix_counts() -> None:
    page = render(make_report())
    rows = re.findall(r'<tr><th scope="row"><bdi>(\w+)</bdi></th>((?:<td class="(?:right|wrong|zero).*?</td>)+)', page)
    found = {name: [int(n) for n in re.findall(r">(\d+)</td>", cells)] for name, cells in rows}
    assert found == {"cat": [3, 1], "dog": [1, 5]}


def test_curves_need_two_points_and_nothing_else() -> None:
    report = make_report()
    assert "Training" not in text_of(render(report))
    one = [{"step": 1, "epoch": 0.1, "loss": 2.0, "lr": 0.1}]
    assert render(report, history=one).count("<svg") == 1  # the reliability diagram
    rows: list[dict[str, Any]] = [
        {"step": 1, "epoch": 0.5, "loss": 2.0, "lr": 1e-3, "seconds": 0.1},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "lr": 5e-4, "gradient_norm": 3},
        {"step": 2, "epoch": 1.0, "val_top1": 0.5, "val_nll": 1.5},
        {"step": 3, "epoch": 1.5, "skipped": True, "loss": float("nan"), "lr": None},
        {"step": 4, "epoch": 2.0, "loss": 0.5, "lr": 0.0},
        {"step": 4, "epoch": 2.0, "val_top1": 0.75, "val_nll": 0.9},
    ]
    page = render(report, history=rows)
    assert re.findall(r"<figcaption>([^<]+)", page)[:3] == ["Loss, nats", "Held-out top-1, %", "Learning rate, × 10"]
    labels = re.findall(r'aria-label="([^"]+)"', page)
    assert "training loss from 2 to 0.5; held-out loss from 1.5 to 0.9" in labels
    assert "held-out top-1 from 50.0 % to 75.0 %" in labels
    assert "learning rate, at most 0.001, at last 0" in labels
    numbers = [re.findall(r">([^<]*)</td>", row) for row in re.findall(r"<tr>(<td class=\"n\">.*?)</tr>", page)]
    assert numbers[:2] == [
        ["2", "1", "1", "0.0005", "50.0\u202f%", "1.5"],
        ["4", "2", "0.5", "0", "75.0\u202f%", "0.9"],
    ]


def test_a_history_without_epochs_goes_by_steps() -> None:
    page = render(make_report(), history=[{"step": i, "loss": 1 / i} for i in range(1, 4)])
    assert ">step</text>" in page
    assert ">epoch</text>" not in page


def test_nothing_wrong_is_said_in_words() -> None:
    page = text_of(render(make_report(perfect=True)))
    assert "Nothing: every image was named right." not in page  # the matrix says it
    assert "The worst mistakes" not in page
    assert "Nothing: every image was named right." in text_of(render(make_report(classes=30, perfect=True)))


def test_how_many_mistakes_are_shown() -> None:
    report = make_report()
    assert "All 2 wrong answers, those first in" in text_of(render(report))
    assert "Of 2 wrong answers, the 1 in which" in text_of(render(report, mistakes=report.mistakes[:1]))
    assert "The only wrong answer." in text_of(
        render(report.model_copy(update={"top1_count": 9}), mistakes=report.mistakes[:1])
    )


@pytest.mark.parametrize(
    ("classes", "names", "kind"),
    [(6, NAMES, "matrix"), (7, NAMES, "matrix many"), (10, tuple("0123456789"), "matrix short")],
)
def test_long_names_stand_upright_over_many_columns(classes: int, names: tuple[str, ...], kind: str) -> None:
    assert f'<table class="{kind}">' in render(make_report(classes=classes, names=names))


def test_unreadable_images_are_listed() -> None:
    page = text_of(render(make_report(unreadable=2)))
    assert "2 of 12 images could not be read and count for nothing above. broken0.jpg truncated" in page
    assert "1 of 11 images could not be read and counts for nothing above." in text_of(
        render(make_report(unreadable=1))
    )


def test_a_note_stands_under_the_verdict() -> None:
    page = render(make_report(note="the model was trained on 1 % of them"))
    assert '<p class="note">The model was trained on 1\u202f% of them.</p>' in page


def test_top5_only_where_it_says_something() -> None:
    assert "<dt>top-5</dt>" not in render(make_report())
    assert "<dt>top-5</dt>" in render(make_report(classes=6))


def test_the_page_says_which_weights_were_measured():
    for averaged, words in (
        (True, "averaged over the last steps (EMA)"),
        (False, "those of the last step"),
        (None, None),
    ):
        report = make_report()
        model = report.model.model_copy(update={"averaged": averaged})
        page = render(report.model_copy(update={"model": model}))
        assert ("weights measured" in page) is (words is not None)
        assert words is None or words in page
