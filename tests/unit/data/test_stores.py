"""Sources: what the fingerprint sees, what a subset passes on, and the reasons for files that cannot be read."""

import numpy as np
import pytest

from vitrail.data.stores import FileSource, MemorySource, Subset, file_size, printable, read_file
from vitrail.errors import ImageError


def memory(classes=("a", "b"), labels=(0, 1), data=(b"x", b"yy"), names=("1", "2")) -> MemorySource:
    return MemorySource(classes, np.array(labels, dtype=np.int64), data, names)


def test_the_fingerprint_sees_classes_labels_names_and_sizes():
    base = memory().fingerprint
    assert base == memory().fingerprint == memory(data=(b"z", b"zz")).fingerprint  # content is the checksum's business
    others = [
        memory(classes=("a", "c")),
        memory(labels=(1, 0)),
        memory(data=(b"x", b"yyy")),
        memory(names=("1", "3")),
        memory(labels=(0,), data=(b"x",), names=("1",)),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 6


def test_a_file_and_its_bytes_have_the_same_fingerprint(tmp_path):
    for name, content in (("1", b"x"), ("2", b"yy")):
        (tmp_path / name).write_bytes(content)
    files = FileSource(("a", "b"), np.array([0, 1], dtype=np.int64), tmp_path, ("1", "2"))
    assert files.fingerprint == memory().fingerprint
    assert files.read(1) == memory().read(1)


def test_a_subset_keeps_its_order_and_renumbers():
    part = Subset(memory(), np.array([1, 0, 1]))
    assert len(part) == 3 and part.classes == ("a", "b")
    assert part.labels.tolist() == [1, 0, 1]
    assert [part.id(i) for i in range(3)] == ["2", "1", "2"]
    assert [part.size(i) for i in range(3)] == [2, 1, 2]
    assert part.read(0) == memory().read(1)
    assert Subset(part, np.array([1])).read(0) == memory().read(0)
    assert part.fingerprint != memory().fingerprint


def test_long_tables_stay_out_of_messages():
    assert "yy" not in repr(memory()) and len(repr(Subset(memory(), np.arange(2)))) < 100


def test_reasons_for_files_that_cannot_be_read(tmp_path, monkeypatch):
    def reason(path) -> str:
        with pytest.raises(ImageError) as caught:
            read_file(path)
        return caught.value.reason

    assert reason(tmp_path / "none.png") == "file not found"
    assert reason(tmp_path) == "the file cannot be read (Is a directory)"
    assert reason(tmp_path / "a\0b") == "the file cannot be read (embedded null byte)"
    assert file_size(tmp_path / "none.png") == file_size(tmp_path / "a\0b") == -1

    def forbidden(path):
        raise PermissionError

    monkeypatch.setattr(type(tmp_path), "read_bytes", forbidden)
    assert reason(tmp_path / "secret.png") == "no permission to read the file"


def test_printable_replaces_what_is_no_utf_8():
    assert printable("caf\udce9.png") == "caf�.png"
    assert printable("日本.png") == "日本.png"
