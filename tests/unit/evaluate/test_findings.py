"""What the findings say and what goes on the list, worked out by hand."""

import json

import pytest

from vitrail.data.quarantine import Entry
from vitrail.data.sources import open_dataset
from vitrail.evaluate.findings import (
    ClassCount,
    CopyGroup,
    DataReport,
    LabelDoubt,
    LookAlike,
    Member,
    OddSize,
    Unread,
)
from vitrail.evaluate.findings_page import render_findings


def member(index: int, split: str = "train", label: str = "rose", name: str | None = None) -> Member:
    return Member(index=index, id=name or f"{split}/{label}/{index}.jpg", split=split, label=label)


def group(number: int, *members: Member, kind: str = "near") -> CopyGroup:
    return CopyGroup(number=number, kind=kind, similarity=0.97, members=members)


def report(**more: object) -> DataReport:
    counts = (ClassCount(name="rose", images={"train": 3, "val": 1}), ClassCount(name="fern", images={"train": 3}))
    splits = {"train": 6, "val": 1}
    return DataReport(name="pets", fingerprint="f", images=7, splits=splits, declared=True, classes=counts, **more)


LEAK = group(1, member(0), member(1), member(6, "val"), kind="bytes")
REPEAT = group(2, member(2), member(3))
CONFLICT = group(3, member(4), member(5, label="fern"))
BOTH = group(4, member(0), member(6, "val", "fern"))


def test_a_group_is_filed_once_and_leaks_come_before_all():
    found = report(copies=(REPEAT, CONFLICT, LEAK, BOTH))
    assert (found.leaks, found.conflicts, found.repeats) == ([LEAK, BOTH], [CONFLICT], [REPEAT])
    text = found.markdown()
    assert text.index("Shown in several splits") < text.index("One picture, two labels") < text.index("Copies within")
    assert "Do not trust a score on these data yet: 2 images" in " ".join(text.split())


def test_what_is_left_out():
    found = report(
        copies=(LEAK, REPEAT, CONFLICT),
        unreadable=(Unread(image=member(9), reason="empty file"),),
        doubts=(doubt(2), doubt(3)),
        look_alikes=(LookAlike(first=member(0), second=member(2), similarity=0.95),),
        odd_sizes=(OddSize(image=member(2), reason="tiny"),),
    )
    rows = found.quarantine()
    assert [(row.id, row.group) for row in rows if row.active] == [
        ("train/rose/9.jpg", None),
        ("train/rose/0.jpg", 1),  # the held-out copy stays
        ("train/rose/1.jpg", 1),
        ("train/rose/3.jpg", 2),  # the first copy stays
        ("train/rose/4.jpg", 3),  # nobody knows which label is right
        ("train/fern/5.jpg", 3),
    ]
    assert rows[1].reason == "copy of val/rose/6.jpg: same file"
    assert rows[5].reason == "also labelled rose: same picture, 0.970"
    assert rows[-1] == Entry("train/rose/2.jpg", "label in doubt: fern 90% likely, rose 4%", active=False)
    assert found.quarantine(doubts=True)[-1].active
    assert len(rows) == 7  # 3 is a copy already and is not named twice


def doubt(index: int) -> LabelDoubt:
    return LabelDoubt(image=member(index), suggested="fern", probability=0.04, suggested_probability=0.9)


def test_an_image_that_is_listed_twice_is_not_lost():
    twice = group(1, member(0, name="a.jpg"), member(1, name="a.jpg"), member(2, name="b.jpg"))
    assert [row.id for row in report(copies=(twice,)).quarantine()] == ["b.jpg"]


def test_test_is_kept_before_val_and_val_before_train():
    assert group(1, member(0), member(1, "val"), member(2, "test")).kept == member(2, "test")
    assert group(1, member(0), member(1, "val")).kept == member(1, "val")


def test_the_text_fits_a_terminal_and_says_what_was_not_done():
    found = report(copies=(LEAK,) * 9, doubts=(doubt(2),), not_done=("wrong labels, which need a model: " + 9 * "x ",))
    lines = found.markdown().splitlines()
    assert max(map(len, lines)) <= 80
    assert "- and 4 more" in lines
    assert any(line.startswith("Not done: wrong labels") for line in lines)
    assert "| labels in doubt                  | –      |" in "\n".join(lines)  # no model: not zero, but not looked for


def test_without_faults_it_says_so():
    assert report().verdict() == "Each of the 7 images can be read, and no picture was found twice."
    assert report().quarantine() == []


def test_json_is_the_report():
    found = report(copies=(LEAK,), doubts=(doubt(2),))
    assert DataReport.model_validate_json(found.json()) == found
    assert json.loads(found.json())["copies"][0]["kind"] == "bytes"


def test_names_are_escaped(tmp_path):
    from pictures import class_folders

    bad = "<img onerror=alert(1)>"
    root = class_folders(tmp_path / "pets", {bad: 3, "fern": 3}, size=40)
    copy = root / bad / "copy\u202egpj.png"
    copy.write_bytes((root / bad / "000.png").read_bytes())
    from vitrail.evaluate.audit import audit

    data = open_dataset(root)
    found = audit(data)
    page = render_findings(found, data)
    assert bad not in page
    assert page.count("&lt;img onerror=alert(1)&gt;") >= 3
    assert "\u202e" not in page
    assert "\u202e" not in found.markdown()
    assert page.count("data:image/png;base64,") == 2
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_the_page_is_made_from_the_data_of_the_report():
    from vitrail.errors import DataError

    with pytest.raises(DataError, match="must come from the data of the report"):
        render_findings(report(), open_dataset("digits"))
