"""The list of images to leave out: as written, as edited, as refused, and what it does to a data set."""

import pytest

from pictures import class_folders
from vitrail.data.quarantine import Entry, list_text, read_quarantine
from vitrail.data.sources import open_dataset
from vitrail.errors import DataError


def test_what_is_written_is_read(tmp_path):
    odd = 'a/"quoted" #1\u2028\t.png'
    text = list_text(
        [Entry("a/1.png", "empty file"), Entry(odd, "copy", 3), Entry("b/2.png", "?", active=False)], "T\nU"
    )
    assert text.startswith("# T\n# U\n{")
    path = tmp_path / "list.jsonl"
    path.write_text(text)
    assert read_quarantine(path).ids == {"a/1.png", odd}
    path.write_text(text.replace("# {", "{"))
    assert read_quarantine(path).ids == {"a/1.png", odd, "b/2.png"}


def test_its_identity_is_that_of_its_ids(tmp_path):
    texts = [
        '{"id": "a"}\n{"id": "b"}\n',
        '# note\n\n{"id": "b", "reason": "x"}\n{"id": "a"}\r\n{"id": "a"}',
        '{"id": "a"}',
    ]
    sums = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}").write_text(text)
        sums.append(read_quarantine(tmp_path / f"{number}").sha256)
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize("line", ["rose/1.jpg", '{"name": "a"}', '{"id": 3}', '["a"]', '{"id": "a"', "[" * 100_000])
def test_another_line_is_refused_by_its_number(tmp_path, line):
    path = tmp_path / "list.jsonl"
    path.write_text('# mine\n{"id": "a"}\n' + line)
    with pytest.raises(DataError, match=r"line 3: each line must be a comment \(#\) or an object such as"):
        read_quarantine(path)


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the quarantine list .*: No such file"):
        read_quarantine(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not a text file in UTF-8"):
        read_quarantine(tmp_path / "bytes")


def quarantined(root, *ids, **more):
    path = root.parent / "list.jsonl"
    path.write_text(list_text([Entry(i, "test") for i in ids], "test"))
    return open_dataset(root, quarantine=path, **more)


def names(part):
    return [part.id(i) for i in range(len(part))]


def test_listed_images_are_in_no_split_and_no_other_image_moves(tmp_path):
    root = class_folders(tmp_path / "pets", {"cat": 20, "dog": 20})
    whole = open_dataset(root)
    gone = {names(whole.split("train"))[0], *names(whole.split("val"))[:2]}
    less = quarantined(root, *gone)
    for split in ("train", "val"):
        assert names(less.split(split)) == [name for name in names(whole.split(split)) if name not in gone]
    assert names(less.whole) == [name for name in names(whole.whole) if name not in gone]
    assert less.left_out is not None
    assert less.left_out.images == {"train": 1, "val": 2}
    assert less.fingerprint == whole.fingerprint
    assert less.split("train").labels.tolist() == [int(n.startswith("dog")) for n in names(less.split("train"))]
    assert quarantined(root).left_out.images == {"train": 0, "val": 0}


def test_unknown_ids_are_one_sentence(tmp_path):
    root = class_folders(tmp_path / "pets", {"cat": 3, "dog": 3})
    with pytest.raises(DataError) as caught:
        quarantined(root, "cat/000.pmg", "dog/001.png", "emu/1.png")
    text = str(caught.value)
    assert "2 of 3 on" in text
    assert "are not in pets: 'cat/000.pmg', 'emu/1.png' (did you mean 'cat/000.png'?)" in text


def test_too_much_left_out_is_refused(tmp_path):
    root = class_folders(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    with pytest.raises(DataError, match=r"leaves no image in val: shorten it"):
        quarantined(root, "val/cat/000.png", "val/dog/000.png")
    with pytest.raises(DataError, match=r"val has 'cat', which train lacks once .*list.jsonl is left out: shorten"):
        quarantined(root, "train/cat/000.png", "train/cat/001.png")
