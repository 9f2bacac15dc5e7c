"""Tables as data sets: CSV, JSON lines and Parquet, their columns, and what is refused with which sentence."""

import builtins
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pictures import class_folders, encode, noise
from vitrail.data import manifests
from vitrail.data.sources import open_dataset
from vitrail.errors import DataError, ImageError, MissingExtra

PATHS = "the path of each image (path, image, file, filename, file_name, image_path, img)"
LABELS = "the label of each image (label, class, target, labels, category)"
HEAD, SPLIT = "path,label\n", "path,label,split\n"


def refusal(data: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(data)
    return str(caught.value)


@pytest.fixture
def images(tmp_path) -> Path:
    return class_folders(tmp_path, {"images": 6})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(*labels: str) -> list[tuple[str, str]]:
    return [(f"images/{index:03d}.png", label) for index, label in enumerate(labels)]


@pytest.mark.parametrize("path_column", ["path", "image", "file", "filename", "file_name", "Path"])
@pytest.mark.parametrize("label_column", ["label", "class", "target", "LABEL"])
def test_csv_columns_go_by_several_names(images, path_column, label_column):
    lines = [f"{label},{path},x" for path, label in rows("b", "a", "b", "a", "b", "a")]
    dataset = open_dataset(write(images / "t.csv", "\n".join([f"{label_column},{path_column},note", *lines])))
    assert (dataset.classes, dataset.declared) == (("a", "b"), False)
    assert dataset.whole.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert dataset.whole.read(1).data == (images / "images/001.png").read_bytes()
    assert dataset.whole.id(1) == "images/001.png"


def test_tsv_quotes_byte_order_marks_and_absolute_paths(images):
    absolute = images / "images/000.png"
    write(images / "t.tsv", f'\ufeffpath\tlabel\n{absolute}\tx, y\n"images/001.png"\tz\n')
    dataset = open_dataset(images / "t.tsv")
    assert dataset.classes == ("x, y", "z")
    assert dataset.whole.read(0).data == absolute.read_bytes()


def test_spreadsheets_that_write_semicolons_and_blanks(images):
    write(images / "t.csv", "path;label;note\nimages/000.png; cat ;a,b\nimages/001.png;dog;c,d\nimages/002.png;cat;\n")
    assert open_dataset(images / "t.csv").classes == ("cat", "dog")


def test_json_lines(images):
    lines = [
        json.dumps({"path": path, "label": int(label), "split": "train"})
        for path, label in rows(*["10", "2", "9", "10", "2", "9"])
    ]
    dataset = open_dataset(write(images / "t.jsonl", "\n\n".join(lines)))
    assert dataset.classes == ("2", "9", "10")  # numbers sort by value
    assert dataset.whole.labels.tolist() == [2, 0, 1, 2, 0, 1]


def test_text_labels_sort_as_text(images):
    text = "path,label\n" + "\n".join(",".join(row) for row in rows("10", "2", "10", "2"))
    assert open_dataset(write(images / "t.csv", text)).classes == ("10", "2")


def test_a_split_column_declares_the_splits(images):
    splits = ("train", "Validation", "test", "train", "dev", "TEST")
    labels = ("a", "a", "b", "b", "b", "a")
    text = "path,label,split\n" + "\n".join(f"{p},{lab},{s}" for (p, lab), s in zip(rows(*labels), splits, strict=True))
    dataset = open_dataset(write(images / "t.csv", text))
    assert dataset.declared
    assert {name: [part.id(i)[-5] for i in range(len(part))] for name, part in dataset.splits.items()} == {
        "train": ["0", "3"],
        "val": ["1", "4"],
        "test": ["2", "5"],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,label\na.png,x\n", f"t.csv needs a column with {PATHS}, found the columns 'name', 'label'"),
        ("path,kind\na.png,x\n", f"t.csv needs a column with {LABELS}, found the columns 'path', 'kind'"),
        ("", f"t.csv needs a column with {PATHS}, found the columns none"),
        (HEAD, "t.csv lists no images: add one row an image below the header"),
        (HEAD + "000.png,a\n001.png\n", "t.csv, line 3: the column 'label' is empty; every image needs a value"),
        (HEAD + ",a\n", "t.csv, line 2: the column 'path' is empty; every image needs a value"),
        (
            HEAD + "x.png,a\ny.png,b\n",
            "no image that t.csv lists exists, the first is 'x.png': a path is absolute or relative to the folder of "
            "the table",
        ),
        (SPLIT + "000.png,a,trian\n", "t.csv: unknown split 'trian'; did you mean 'train'? Choices: train, val, test"),
        (HEAD + "000.png,a\n001.png,a\n", "a classifier needs at least two classes, found only 'a' in t.csv"),
        (
            SPLIT + "000.png,a,train\n001.png,b,train\n002.png,c,val\n",
            "every class must have training images; val has 'c', which train lacks",
        ),
    ],
)
def test_csv_refusals(images, text, expected):
    assert refusal(write(images / "images" / "t.csv", text)) == expected


def test_files_that_are_no_tables_are_refused(images):
    (images / "t.csv").write_bytes(b"\xff\xfe\x00path")
    assert refusal(images / "t.csv").startswith("t.csv is not a table that can be read (UTF-8, separated by commas): ")
    assert refusal(write(images / "t.jsonl", "{path")).startswith(
        "t.jsonl is not a file of JSON lines that can be read: "
    )
    assert refusal(write(images / "t.jsonl", "[1]")) == (
        't.jsonl, line 1: each line must be an object such as {"path": "a.jpg", "label": "cat"}'
    )
    assert refusal(write(images / "t.jsonl", "\n")) == "t.jsonl lists no images: add one row an image below the header"
    assert refusal(write(images / "t.parquet", "PAR1 no")).startswith(
        "t.parquet is not a Parquet file that can be read: "
    )


def test_some_missing_files_are_left_to_the_reader(images):
    dataset = open_dataset(write(images / "t.csv", "path,label\nimages/000.png,a\ngone.png,b\nimages/002.png,b\n"))
    with pytest.raises(ImageError, match="file not found"):
        dataset.whole.read(1)


def hugging_face(path: Path, labels: list[int], names: list[str] | None, seed: int = 0, **columns: list) -> Path:
    """A file in the Hugging Face image layout."""
    image = [{"bytes": encode(noise(4, 4, seed + i)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": image, "label": labels, **columns})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_hugging_face_layout(tmp_path):
    names = ["zebra", "ant", "unused"]  # declared order stays: label 0 is the zebra
    hugging_face(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0], names)
    hugging_face(tmp_path / "train-00001-of-00002.parquet", [1, 1], names, seed=10)
    hugging_face(tmp_path / "test.parquet", [1, 0], names, seed=20)
    dataset = open_dataset(tmp_path)
    assert (dataset.classes, dataset.declared) == (("zebra", "ant", "unused"), True)
    assert dataset.splits["train"].labels.tolist() == [0, 1, 0, 1, 1]
    assert dataset.splits["test"].labels.tolist() == [1, 0]
    assert dataset.splits["train"].id(3) == "train-00001-of-00002/0.png"
    assert dataset.splits["train"].read(3).data == encode(noise(4, 4, 10))
    assert dataset.splits["test"].read(1).data == encode(noise(4, 4, 21))
    assert dataset.splits["test"].size(1) == len(encode(noise(4, 4, 21)))


def test_hugging_face_data_folder_and_a_single_file(tmp_path):
    file = hugging_face(tmp_path / "data" / "train.parquet", [0, 1] * 5, ["a", "b"])
    for data in (tmp_path, file):
        dataset = open_dataset(data)
        assert not dataset.declared
        assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 8, "val": 2}
        assert dataset.whole.id(3) == "3.png"


def test_paths_that_do_not_tell_images_apart_are_replaced_by_rows(tmp_path):
    table = pa.table(
        {"img": [{"bytes": encode(noise(2, 2, i)), "path": None} for i in range(4)], "label": ["a", "b"] * 2}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    dataset = open_dataset(tmp_path / "t.parquet")
    assert dataset.whole.id(2) == "t[2]"
    assert dataset.classes == ("a", "b")


def test_parquet_of_paths_and_of_bytes(images):
    paths = [path for path, _ in rows(*"ababab")]
    split = ["train", "train", "val", "val", "test", "test"]
    pq.write_table(pa.table({"path": paths, "label": [5, 7] * 3, "split": split}), images / "paths.parquet")
    dataset = open_dataset(images / "paths.parquet")
    assert (dataset.classes, list(dataset.splits)) == (("5", "7"), ["train", "val", "test"])
    assert dataset.whole.read(4).data == (images / paths[4]).read_bytes()
    assert dataset.whole.size(4) == (images / paths[4]).stat().st_size
    data = [(images / path).read_bytes() for path in paths]
    pq.write_table(pa.table({"bytes": data, "label": ["a", "b"] * 3}), images / "bytes.parquet")
    assert open_dataset(images / "bytes.parquet").whole.read(4).data == data[4]


def test_structs_without_bytes_name_files(images):
    image = [{"bytes": None, "path": path} for path, _ in rows(*"abab")]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(image, kind), "label": ["a", "b"] * 2}), images / "t.parquet")
    assert open_dataset(images / "t.parquet").whole.read(3).data == (images / "images/003.png").read_bytes()


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, -1], ["a", "b"], "t.parquet, row 1: label -1 is outside the 2 declared classes"),
        ([0, 2], ["a", "b"], "t.parquet, row 1: label 2 is outside the 2 declared classes"),
        ([0, None], ["a", "b"], "t.parquet, row 1: the image has no label"),
        ([0, 1], ["a", "a"], "t.parquet declares two classes of the same name: a"),
        ([], ["a", "b"], "t.parquet lists no images"),
    ],
)
def test_parquet_label_refusals(tmp_path, labels, names, expected):
    if not labels:
        table = pa.table({"bytes": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
        pq.write_table(table, tmp_path / "t.parquet")
    else:
        hugging_face(tmp_path / "t.parquet", labels, names)
    assert refusal(tmp_path / "t.parquet") == expected


def test_parquet_column_refusals(tmp_path):
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), tmp_path / "t.parquet")
    assert refusal(tmp_path / "t.parquet").endswith("found the columns 'pixels', 'label'")
    pq.write_table(pa.table({"image": [1], "label": [0]}), tmp_path / "t.parquet")
    assert refusal(tmp_path / "t.parquet") == "t.parquet: the images must be bytes or paths, found int64"
    hugging_face(tmp_path / "two" / "train.parquet", [0, 1], None)
    hugging_face(tmp_path / "two" / "test.parquet", [0, 1], None, extra=[1, 2])
    assert (
        refusal(tmp_path / "two")
        == "train.parquet has other columns than test.parquet: all files of a data set must agree"
    )


def test_parquet_files_of_unknown_split_beside_others_are_refused(tmp_path):
    for name in ("train", "extra"):
        hugging_face(tmp_path / f"{name}.parquet", [0, 1], ["a", "b"])
    assert refusal(tmp_path) == ("cannot tell the split of extra.parquet: name each file train*, val* or test*.parquet")


def test_a_parquet_file_beside_class_folders_is_a_stray_file(tmp_path):
    hugging_face(tmp_path / "metadata.parquet", [0, 1], ["a", "b"])
    class_folders(tmp_path, {"x": 2, "y": 2})
    assert open_dataset(tmp_path).classes == ("x", "y")


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch):
    file = hugging_face(tmp_path / "t.parquet", [0, 1], ["a", "b"])
    monkeypatch.setattr(manifests.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": 8}[name])
    assert refusal(file).endswith("unpack the images into class folders")


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    file = hugging_face(tmp_path / "t.parquet", [0, 1], ["a", "b"])
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra) as caught:
        open_dataset(file)
    assert str(caught.value) == "reading Parquet needs the package pyarrow: pip install 'vitrail[train]'"


def test_cifar10(shared):
    dataset = open_dataset(shared / "data/cifar10")
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 50_000, "test": 10_000}
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    assert dataset.whole.read(59_999).data[:2] == b"\xff\xd8"
    assert len(set(dataset.whole.names)) == 60_000
