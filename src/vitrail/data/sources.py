"""Open a data set: a folder of class folders, a table (CSV, JSON lines, Parquet), or the built-in digits.

open_dataset("photos")             photos/cat/1.jpg ...            split by content hash
open_dataset("photos")             photos/{train,val,test}/cat/1.jpg
open_dataset("photos.csv")         columns path, label and perhaps split
open_dataset("cifar10")            cifar10/{train,test}.parquet    Hugging Face's image layout
open_dataset("digits")             1,797 handwritten digits
"""

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitrail.data import manifests
from vitrail.data.decode import SUFFIXES
from vitrail.data.digits import read_digits
from vitrail.data.labels import multilabel, used
from vitrail.data.manifests import SPLITS, Table, read_manifest, read_parquet
from vitrail.data.quarantine import Quarantine, read_quarantine
from vitrail.data.split import split_by_content
from vitrail.data.stores import FileSource, Source, Subset, label_indices, printable
from vitrail.errors import DataError, UnknownName, close_matches

__all__ = ["Dataset", "Source", "list_images", "open_dataset"]

BUILT_IN = ("digits",)
_NAMED = 5  # unknown images that an error lists


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set and its splits, which are called train, val and test; `whole` is all of it.

    `declared` tells whether the data came with splits; otherwise they were made by content hash. The images that
    `left_out` names are in none of them.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Source]
    declared: bool
    whole: Source
    left_out: "LeftOut | None" = None

    def split(self, name: str) -> Source:
        """The split of that name. Raises UnknownName."""
        key = SPLITS.get(name.lower(), name)
        if key not in self.splits:
            raise UnknownName("split", name, self.splits)
        return self.splits[key]

    @property
    def held_out(self) -> str:
        """The split that scores are reported on: test where there is one, else val. Raises DataError without either."""
        return self._first("test", "val")

    @property
    def validation(self) -> str:
        """The split that training watches: val where there is one, else test. Raises DataError without either."""
        return self._first("val", "test")

    def _first(self, *names: str) -> str:
        for name in names:
            if name in self.splits:
                return name
        raise DataError(
            f"{self.name} has no held-out images: give at least one class two different images, or a folder val"
        )

    @property
    def multilabel(self) -> bool:
        """Whether an image may have any number of classes, rather than exactly one."""
        return multilabel(self.whole.labels)

    @property
    def fingerprint(self) -> str:
        """sha256 over the splits: the same for the same data, split the same way, whatever is left out of them."""
        if self.left_out is not None:
            return self.left_out.fingerprint
        text = "\n".join(f"{name} {source.fingerprint}" for name, source in self.splits.items())
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class LeftOut:
    """What a quarantine list took away: how many images of each split, and the fingerprint of all that there was."""

    quarantine: Quarantine
    images: dict[str, int]
    fingerprint: str


def open_dataset(data: str | Path, *, val_share: float = 0.2, quarantine: str | Path | None = None) -> Dataset:
    """The data set at a path, or a built-in one by its name ("./digits" is a path).

    Data without splits, or with nothing but train, are split by content hash: `val_share` of each class is held out.
    `quarantine`: a list of images to leave out after they were split, so that it moves no other image between splits.
    Labels are sorted names; a Parquet file that declares its classes keeps their order. Raises DataError where the data
    or the list cannot be used, MissingExtra where an optional package is needed.
    """
    if not 0 < val_share < 1:
        raise DataError(f"val_share must lie between 0 and 1, found {val_share}")
    listed = None if quarantine is None else read_quarantine(quarantine)
    found = _open(data, val_share)
    return found if listed is None else _leave_out(found, listed)


def _open(data: str | Path, val_share: float) -> Dataset:
    """The whole data set; see open_dataset."""
    if data == "digits":
        return _dataset("digits", Table(read_digits(), None), val_share)
    path = Path(data)
    name = path.resolve().name or str(path)
    if path.is_dir():
        files = manifests.parquet_files(path)
        if files and not any(_images_below(path / folder) for folder in _folders(path)):
            return _dataset(name, read_parquet(manifests.by_split(files)), val_share)
        return _dataset(name, _read_folder(path), val_share)
    if path.is_file():
        if path.suffix.lower() not in manifests.SUFFIXES:
            tables = ", ".join(manifests.SUFFIXES)
            raise DataError(f"a data set is a folder of class folders or a table ({tables}), found the file {data}")
        return _dataset(name, read_manifest(path), val_share)
    raise _not_found("data set", path, BUILT_IN)


def list_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files among the paths and below the folders among them, in that order, each folder sorted.

    A file that is named is taken whatever its suffix. Raises DataError for a missing path or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [path / name for name in _images_below(path)]
            if not below:
                raise DataError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise _not_found("file or folder", path)
    return found


def _dataset(name: str, table: Table, val_share: float) -> Dataset:
    """Splits as the table declares them; by content hash where it declares none, or nothing but train."""
    source = table.source
    present = used(source.labels)
    declared = table.splits is not None and set(table.splits) != {"train"}
    if declared:
        of = np.array(table.splits)
        positions = {split: np.flatnonzero(of == split) for split in ("train", "val", "test")}
    else:
        positions = dict(zip(("train", "val"), split_by_content(source, val_share), strict=True))
    parts: dict[str, Source] = {split: Subset(source, where) for split, where in positions.items() if len(where)}
    if "train" in parts:
        if len(present) < 2 and not multilabel(source.labels):
            only = source.classes[min(present)]
            raise DataError(f"a classifier needs at least two classes, found only {only!r} in {name}")
        if not present:
            raise DataError(f"at least one image must have a label, found none in {name}")
        _check_trained(parts)
    return Dataset(name, source.classes, parts, declared, source)


def _check_trained(parts: dict[str, Source], remedy: str = "") -> None:
    """Raises DataError where a class is measured that is not trained on."""
    trained = used(parts["train"].labels)
    for split, part in parts.items():
        if missing := sorted(used(part.labels) - trained):
            names = ", ".join(repr(part.classes[label]) for label in missing[:20])
            raise DataError(f"every class must have training images; {split} has {names}, which train lacks{remedy}")


def _leave_out(dataset: Dataset, listed: Quarantine) -> Dataset:
    """The data set without the listed images. Raises DataError for ids that it lacks, or where too little is left."""
    ids = [dataset.whole.id(index) for index in range(len(dataset.whole))]
    if unknown := sorted(listed.ids - set(ids)):
        shown = ", ".join(repr(name) for name in unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
        raise DataError(
            f"every image of a quarantine list must be one of the data's, but {len(unknown)} of {len(listed.ids)} on "
            f"{listed.path} are not in {dataset.name}: {shown}{_near(unknown[0], ids)}; mend the list, or make a "
            "new one with `vitrail data check`"
        )
    stays = np.array([name not in listed.ids for name in ids], dtype=bool)
    parts: dict[str, Source] = {}
    counts: dict[str, int] = {}
    for split, part in dataset.splits.items():
        kept = np.array([part.id(index) not in listed.ids for index in range(len(part))], dtype=bool)
        counts[split] = int((~kept).sum())
        if kept.any():
            parts[split] = Subset(part, np.flatnonzero(kept))
    emptied = [split for split in dataset.splits if split not in parts]
    if emptied:
        raise DataError(f"the quarantine list {listed.path} leaves no image in {' and '.join(emptied)}: shorten it")
    if "train" in parts:
        _check_trained(parts, f" once {listed.path} is left out: shorten the list")
    left_out = LeftOut(listed, counts, dataset.fingerprint)
    return replace(dataset, splits=parts, whole=Subset(dataset.whole, np.flatnonzero(stays)), left_out=left_out)


def _near(name: str, ids: Sequence[str]) -> str:
    """The id that is most like the name, in brackets; nothing where none is, or where there are too many to look."""
    near = difflib.get_close_matches(name, ids, n=1, cutoff=0.8) if len(ids) <= 20_000 else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def _read_folder(root: Path) -> Table:
    """A folder of class folders, or of split folders that hold class folders. Other files at its root are ignored."""
    folders = _folders(root)
    by_split = {folder: SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS}
    nested = [folder for folder in by_split if any(_images_below(root / folder / c) for c in _folders(root / folder))]
    if nested or (by_split and len(by_split) == len(folders)):
        return _read_splits(root, by_split)
    return Table(_class_folders(root, [Path()])[0], None)


def _read_splits(root: Path, by_split: dict[str, str]) -> Table:
    if len(set(by_split.values())) < len(by_split):
        raise DataError(f"{root.name} holds two folders for one split: {', '.join(sorted(by_split))}; keep one of each")
    source, counts = _class_folders(root, [Path(folder) for folder in by_split])
    splits = [split for split, count in zip(by_split.values(), counts, strict=True) for _ in range(count)]
    return Table(source, splits)


def _class_folders(root: Path, parents: Sequence[Path]) -> tuple[FileSource, list[int]]:
    """Images of the class folders below each parent (relative to root), and how many each parent has."""
    names: list[str] = []
    labels: list[str] = []
    counts: list[int] = []
    for parent in parents:
        before = len(names)
        for folder in _folders(root / parent):
            images = [(parent / folder / name).as_posix() for name in _images_below(root / parent / folder)]
            names += images
            labels += [printable(folder)] * len(images)
        counts.append(len(names) - before)
        if counts[-1] == 0:
            raise _no_class_folders(root / parent)
    classes = sorted(set(labels))
    return FileSource(tuple(classes), label_indices(labels, classes), root, tuple(names)), counts


def _no_class_folders(folder: Path) -> DataError:
    with os.scandir(folder) as entries:
        loose = sum(_is_image(entry) for entry in entries)
    if loose:
        return DataError(
            f"{folder} holds {loose} images but no class folders: "
            "move the images of each class into a folder with the name of the class"
        )
    return DataError(f"{folder} holds no images: it needs one folder a class, each with images ({', '.join(SUFFIXES)})")


def _folders(root: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir())


def _images_below(folder: Path) -> list[str]:
    """Image files anywhere below a folder, as sorted paths relative to it."""
    found: list[str] = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        with os.scandir(parent) as entries:
            found += [os.path.relpath(entry.path, folder) for entry in entries if _is_image(entry)]
    return sorted(found)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file counts as an image. A broken link counts: it is reported as an image that cannot be read."""
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in SUFFIXES and not _hidden(entry.name) and (entry.is_file() or entry.is_symlink())


def _hidden(name: str) -> bool:
    """Hidden, or left behind by an archiver or a file server."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _not_found(what: str, path: Path, choices: Sequence[str] = ()) -> DataError:
    """The error for a missing path, with what lies beside it."""
    try:
        beside = [printable(name) for name in sorted(os.listdir(path.parent)) if not _hidden(name)]
    except OSError:
        beside = []
    return DataError(f"no {what} {str(path)!r}{close_matches(path.name, [*beside, *choices])}")
