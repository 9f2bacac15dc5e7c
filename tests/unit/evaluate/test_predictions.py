"""What was said about each image: the same images and answers as the report counts, kept and read without loss."""

from pathlib import Path

import pytest

from vitrail.errors import DataError
from vitrail.evaluate import evaluate_each
from vitrail.evaluate.predictions import COLUMNS, ImageResult, read_csv, to_csv


def test_each_image_is_there_once_and_they_add_up_to_the_report(model_folder: Path, photos: Path) -> None:
    report, results = evaluate_each(model_folder, photos)
    names = [r.image for r in results]
    assert len(names) == len(set(names)) == report.images == 24
    assert sum(r.right for r in results) == report.top1_count
    assert all(r.image.startswith(r.label + "/") for r in results)
    assert all(r.right == (r.predicted == r.label) for r in results)
    assert all(r.confidence == pytest.approx(r.label_probability, rel=1e-12) for r in results if r.right)
    assert all(r.confidence >= r.label_probability for r in results)
    worst = min((r for r in results if not r.right), key=lambda r: r.label_probability)
    assert (worst.image, worst.predicted) == (report.mistakes[0].id, report.mistakes[0].predicted)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    results = (
        ImageResult('a, "b".png', "left\ttwin", "right", 0.75, 0.25, False),
        ImageResult("é/ü.png", "crane", "crane", 1.0, 1.0, True),
        ImageResult("namesake.png", "crane", "crane", 0.5, 0.375, False),  # two classes with one name
    )
    path = tmp_path / "predictions.csv"
    path.write_text(to_csv(results), encoding="utf-8")
    assert read_csv(path) == results


HEAD = ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "its first line names other columns"),
        ("image,label\n", "its first line names other columns"),
        (HEAD + "a.png,cat,dog\n", "not enough values to unpack"),
        (HEAD + "a.png,cat,dog,much,0.1,0\n", "could not convert string to float: 'much'"),
        (HEAD + "a.png,cat,dog,0.5,0.1,yes\n", "invalid literal for int"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="is not a table of predictions") as raised:
        read_csv(path)
    assert reason in str(raised.value)


def test_no_table_at_all_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "predictions.csv")
