"""Folders as data sets: layouts, what is ignored, what is refused with which sentence."""

import os
import shutil
from pathlib import Path

import pytest

from pictures import class_folders, encode, noise
from vitrail.data.sources import list_images, open_dataset
from vitrail.errors import DataError, ImageError, UnknownName


def refusal(data: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(data)
    return str(caught.value)


def ids(source) -> list[str]:
    return [source.id(index) for index in range(len(source))]


def test_class_folders_without_splits(tmp_path):
    root = class_folders(tmp_path / "pets", {"dog": 10, "cat": 5})
    dataset = open_dataset(root)
    assert (dataset.name, dataset.classes, dataset.declared) == ("pets", ("cat", "dog"), False)
    assert list(dataset.splits) == ["train", "val"]
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 12, "val": 3}
    assert sorted(ids(dataset.split("train")) + ids(dataset.split("val"))) == sorted(ids(dataset.whole))
    assert (dataset.held_out, dataset.validation) == ("val", "val")
    item = dataset.whole.read(0)
    assert (item.id, item.label, item.data) == ("cat/000.png", 0, (root / "cat/000.png").read_bytes())


@pytest.mark.parametrize(
    ("folders", "held_out", "validation"),
    [
        (("train", "val", "test"), "test", "val"),
        (("train", "validation"), "val", "val"),
        (("Train", "Test"), "test", "test"),
        (("val",), "val", "val"),
        (("training", "dev"), "val", "val"),
    ],
)
def test_split_folders(tmp_path, folders, held_out, validation):
    class_folders(tmp_path, {f"{folder}/{name}": 2 for folder in folders for name in ("a", "b")})
    dataset = open_dataset(tmp_path)
    assert dataset.declared
    assert [len(part) for part in dataset.splits.values()] == [4] * len(folders)
    assert (dataset.held_out, dataset.validation) == (held_out, validation)
    assert len(dataset.whole) == 4 * len(folders)
    first = dataset.splits[held_out]
    assert all(f"/{first.classes[first.read(i).label]}/" in f"/{first.id(i)}" for i in range(len(first)))


def test_a_lone_train_folder_is_split_by_content(tmp_path):
    class_folders(tmp_path, {"train/a": 5, "train/b": 5})
    dataset = open_dataset(tmp_path)
    assert not dataset.declared
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 8, "val": 2}


def test_classes_may_be_called_train_and_test(tmp_path):
    """A folder with images of trains is a class when other classes stand beside it."""
    class_folders(tmp_path, {"train": 3, "car": 3})
    assert open_dataset(tmp_path).classes == ("car", "train")


def test_stray_and_hidden_files_are_ignored(tmp_path):
    root = class_folders(tmp_path, {"a": 3, "b": 3, ".cache": 2, "__MACOSX/a": 2, "a/@eaDir": 1})
    (root / "README.md").write_text("about")
    (root / "classes.json").write_text("{}")
    (root / "loose.png").write_bytes(encode(noise(2, 2)))
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "._000.png").write_bytes(b"resource fork")
    (root / "docs").mkdir()
    dataset = open_dataset(root)
    assert dataset.classes == ("a", "b")
    assert len(dataset.whole) == 6


def test_images_in_deeper_folders_belong_to_the_class(tmp_path):
    class_folders(tmp_path, {"a/2024/may": 2, "a": 1, "b": 2})
    assert "a/2024/may/001.png" in ids(open_dataset(tmp_path).whole)


def test_every_image_suffix_counts_whatever_its_case(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "X.JPG").write_bytes(b"")
    (tmp_path / "a" / "phone.HEIC").write_bytes(b"")
    assert len(open_dataset(tmp_path).whole) == 6


def test_any_text_may_name_a_class(tmp_path):
    names = ("<script>", "a b", "héron", "日本", "x;y,z", "%s{0}")
    class_folders(tmp_path, dict.fromkeys(names, 2))
    assert open_dataset(tmp_path).classes == tuple(sorted(names))


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_names_that_are_no_utf_8_are_shown_with_a_replacement(tmp_path):
    class_folders(tmp_path, {"a": 1, "b": 1})
    try:
        shutil.copy(tmp_path / "a/000.png", os.fsencode(tmp_path) + b"/a/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    whole = open_dataset(tmp_path).whole
    at = ids(whole).index("a/caf�.png")
    assert whole.read(at).data == (tmp_path / "a/000.png").read_bytes()
    assert len(whole.fingerprint) == 64


def test_the_order_and_fingerprint_do_not_depend_on_when_files_were_made(tmp_path):
    first = class_folders(tmp_path / "1", {"a": 3, "b": 3})
    second = tmp_path / "2"
    for path in sorted(first.rglob("*.png"), reverse=True):
        target = second / path.relative_to(first)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, two = open_dataset(first), open_dataset(second)
    assert ids(one.whole) == ids(two.whole)
    assert one.fingerprint == two.fingerprint
    assert one.split("val").fingerprint == two.split("val").fingerprint != one.split("train").fingerprint


def test_the_fingerprint_follows_ids_labels_sizes_and_splits(tmp_path):
    root = class_folders(tmp_path / "d", {"a": 4, "b": 4})
    seen = {open_dataset(root).fingerprint, open_dataset(root, val_share=0.5).fingerprint}
    (root / "a/000.png").write_bytes(b"other size")
    seen.add(open_dataset(root).fingerprint)
    (root / "a/000.png").rename(root / "a/zzz.png")
    seen.add(open_dataset(root).fingerprint)
    (root / "a/zzz.png").rename(root / "b/zzz.png")
    seen.add(open_dataset(root).fingerprint)
    assert len(seen) == 5


def test_split_takes_common_names_and_refuses_others(tmp_path):
    dataset = open_dataset(class_folders(tmp_path, {"a": 5, "b": 5}))
    assert dataset.split("validation") is dataset.splits["val"]
    with pytest.raises(UnknownName) as caught:
        dataset.split("tran")
    assert str(caught.value) == "unknown split 'tran'; did you mean 'train'? Choices: train, val"


def test_one_image_a_class_leaves_nothing_held_out(tmp_path):
    dataset = open_dataset(class_folders(tmp_path / "tiny", {"a": 1, "b": 1}))
    assert list(dataset.splits) == ["train"]
    assert len(dataset.whole) == 2
    for name in ("held_out", "validation"):
        with pytest.raises(
            DataError, match=r"^tiny has no held-out images: give at least one class two different images"
        ):
            getattr(dataset, name)


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(tmp_path).startswith(
        f"{tmp_path} holds no images: it needs one folder a class, each with images (.jpg"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert "holds no images" in refusal(tmp_path)


def test_a_folder_of_loose_images_is_refused(tmp_path):
    class_folders(tmp_path, {".": 3})
    assert refusal(tmp_path) == (
        f"{tmp_path} holds 3 images but no class folders: "
        "move the images of each class into a folder with the name of the class"
    )


def test_split_folders_of_loose_images_are_refused(tmp_path):
    class_folders(tmp_path, {"train": 3, "test": 3})
    assert f"{tmp_path / 'test'} holds 3 images but no class folders" in refusal(tmp_path)


def test_an_empty_split_folder_is_refused(tmp_path):
    class_folders(tmp_path, {"train/a": 2, "train/b": 2})
    (tmp_path / "val").mkdir()
    assert f"{tmp_path / 'val'} holds no images" in refusal(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path):
    class_folders(tmp_path, {f"{s}/{c}": 1 for s in ("train", "val", "valid") for c in ("a", "b")})
    assert refusal(tmp_path).endswith("holds two folders for one split: train, val, valid; keep one of each")


def test_one_class_is_refused(tmp_path):
    root = class_folders(tmp_path / "pets", {"cat": 4})
    assert refusal(root) == "a classifier needs at least two classes, found only 'cat' in pets"


def test_a_class_that_training_lacks_is_refused(tmp_path):
    class_folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1, "val/d": 1})
    assert refusal(tmp_path) == "every class must have training images; val has 'c', 'd', which train lacks"


def test_a_class_may_be_missing_in_val(tmp_path):
    class_folders(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1})
    assert open_dataset(tmp_path).split("val").classes == ("a", "b")


def test_a_missing_path_lists_close_matches(tmp_path):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "birds").mkdir()
    assert refusal(tmp_path / "flower") == (
        f"no data set {str(tmp_path / 'flower')!r}; did you mean 'flowers'? Choices: birds, flowers, digits"
    )
    assert "no data set" in refusal(tmp_path / "no" / "such")


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    assert refusal(tmp_path / "photos.zip") == (
        "a data set is a folder of class folders or a table (.csv, .tsv, .jsonl, .ndjson, .parquet), "
        f"found the file {tmp_path / 'photos.zip'}"
    )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_val_share_lies_between_0_and_1(share):
    with pytest.raises(DataError, match=f"val_share must lie between 0 and 1, found {share}"):
        open_dataset("digits", val_share=share)


def test_a_file_that_vanishes_is_an_image_error(tmp_path):
    whole = open_dataset(class_folders(tmp_path, {"a": 2, "b": 2})).whole
    (tmp_path / "a/000.png").unlink()
    with pytest.raises(ImageError, match=r"^file not found$"):
        whole.read(0)
    assert whole.size(0) == -1


def test_a_broken_link_counts_as_an_image_that_cannot_be_read(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "gone.png")
    whole = open_dataset(tmp_path).whole
    with pytest.raises(ImageError, match="file not found"):
        whole.read(ids(whole).index("a/link.png"))


def test_list_images_is_sorted_within_each_folder_and_recursive(tmp_path):
    class_folders(tmp_path, {"b": 2, "b/c": 1, "a": 1, ".hidden": 1})
    odd = tmp_path / "scan.xyz"
    odd.write_bytes(b"")
    found = list_images([str(odd), tmp_path / "b", tmp_path / "a" / "000.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "scan.xyz", "b/000.png", "b/001.png", "b/c/000.png", "a/000.png",
    ]  # fmt: skip


def test_list_images_refuses_missing_paths_and_empty_folders(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        list_images([tmp_path / "foto.jpg"])
    assert str(caught.value).startswith(f"no file or folder {str(tmp_path / 'foto.jpg')!r}; did you mean 'photo.jpg'?")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        list_images([tmp_path / "empty"])


def test_real_folders(shared):
    flowers = open_dataset(shared / "data/flowers")
    assert flowers.declared and {name: len(part) for name, part in flowers.splits.items()} == {
        "train": 3015,
        "val": 517,
    }
    assert flowers.classes == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    samples = open_dataset(shared / "data/imagenet_samples")
    assert (len(samples.whole), len(samples.classes), samples.declared) == (200, 200, False)
