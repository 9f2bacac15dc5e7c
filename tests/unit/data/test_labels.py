"""Data whose images have several classes: the three tables, splits, batches, stand-ins, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pictures import class_folders
from vitrail.config import AugmentConfig, DataConfig, Preprocess
from vitrail.data.labels import counts_of, label_rows, places, used
from vitrail.data.loader import EvaluationPass, TrainLoader
from vitrail.data.sources import open_dataset
from vitrail.data.split import split_by_content
from vitrail.data.stores import MemorySource
from vitrail.errors import DataError

SETS = [["red", "round"], ["red"], [], ["round"], ["big", "red", "round"], ["big"]]
ROWS = [[0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 0, 0]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return class_folders(tmp_path, {"images": 6})


def jsonl(folder: Path, sets: list[object]) -> Path:
    lines = [json.dumps({"path": f"images/{i:03d}.png", "labels": labels}) for i, labels in enumerate(sets)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def csv(folder: Path, cells: list[str], column: str = "labels") -> Path:
    lines = [f"path,{column}", *(f"images/{i:03d}.png,{cell}" for i, cell in enumerate(cells))]
    (folder / "t.csv").write_text("\n".join(lines))
    return folder / "t.csv"


def parquet(folder: Path, values: object, metadata: dict[str, str] | None = None) -> Path:
    data = pa.array([path.read_bytes() for path in sorted((folder / "images").iterdir())])
    table = pa.table({"image_bytes": data, "labels": values})
    pq.write_table(table.replace_schema_metadata(metadata), folder / "t.parquet")
    return folder / "t.parquet"


def refusal(data: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(data)
    return str(caught.value)


def test_the_three_tables_say_the_same(images: Path):
    cells = ["red|round", "red", "", " round ", "round | big|red", "big"]
    for path in (jsonl(images, SETS), csv(images, cells), parquet(images, pa.array(SETS))):
        dataset = open_dataset(path)
        assert dataset.multilabel, path
        assert dataset.classes == ("big", "red", "round")
        assert dataset.whole.labels.tolist() == [[bool(v) for v in row] for row in ROWS]
        assert dataset.whole.read(4).label == (0, 1, 2) and dataset.whole.read(2).label == ()


def test_classes_that_a_schema_declares(images: Path):
    for feature in (
        {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "Sequence"},
        {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"},
        [{"names": ["x", "y"], "_type": "ClassLabel"}],
    ):
        told = {"huggingface": json.dumps({"info": {"features": {"labels": feature}}})}
        dataset = open_dataset(parquet(images, pa.array([[1], [0], [0, 1], [], [1], [0]]), told))
        assert dataset.classes == ("x", "y")
        assert dataset.whole.labels[2].tolist() == [True, True]
    beyond = parquet(images, pa.array([[1], [0], [0, 2], [], [1], [0]]), told)
    assert refusal(beyond) == "t.parquet, row 2: label 2 is outside the 2 declared classes"


def test_one_class_an_image_stays_one(images: Path):
    for path in (csv(images, ["a", "b"] * 3), csv(images, ["a|b", "c"] * 3, "label"), jsonl(images, ["a|b", "c"] * 3)):
        dataset = open_dataset(path)
        assert not dataset.multilabel and dataset.whole.labels.ndim == 1
    assert dataset.classes == ("a|b", "c")


def test_what_is_refused(images: Path):
    lists = "where images may have several labels each needs a list of names, [] for none, found "
    assert refusal(jsonl(images, [["a"], "b", *SETS[2:]])) == f't.jsonl, line 2: {lists}"b"'
    assert refusal(jsonl(images, [["a"], [1.5], *SETS[2:]])) == f"t.jsonl, line 2: {lists}[1.5]"
    assert refusal(jsonl(images, [[] for _ in SETS])) == "at least one image must have a label, found none in t.jsonl"
    empty = "t.csv, line 2: the column 'labels' is empty; every image needs a value"
    assert refusal(csv(images, ["", "a", "b", "a", "b", "a"])) == empty


def test_fingerprints_tell_one_class_from_a_set_of_one(images: Path):
    prints = {open_dataset(jsonl(images, sets)).fingerprint for sets in (["a", "b"] * 3, [["a"], ["b"]] * 3)}
    assert len(prints) == 2


def test_helpers():
    rows = label_rows([["b"], ["a", "b"], []], ["a", "b", "c"])
    assert [places(row) for row in rows] == [(1,), (0, 1), ()]
    assert counts_of(rows, 3) == [1, 2, 0] and used(rows) == {0, 1}
    single = np.array([2, 0, 2])
    assert counts_of(single, 3) == [1, 0, 2] and used(single) == {0, 2} and places(single[0]) == (2,)


def source_of(sets: list[tuple[int, ...]], classes: int, broken: tuple[int, ...] = ()) -> MemorySource:
    from pictures import encode, noise

    data = tuple(b"broken" if i in broken else encode(noise(8, 8, i)) for i in range(len(sets)))
    rows = label_rows(sets, range(classes))
    return MemorySource(tuple("abcdef"[:classes]), rows, data, tuple(f"{i}" for i in range(len(sets))))


@pytest.mark.parametrize("seed", range(5))
def test_splits_keep_the_share_of_rare_classes_and_train_every_class(seed: int):
    random = np.random.default_rng(seed)
    chances = np.array([0.5, 0.2, 0.05, 0.02])
    sets = [tuple(np.flatnonzero(random.random(4) < chances).tolist()) for _ in range(400)]
    source = source_of(sets, 4)
    train, val = split_by_content(source, 0.2)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(400))
    for k in np.flatnonzero(source.labels.any(axis=0)):
        held = source.labels[val, k].sum() / source.labels[:, k].sum()
        assert source.labels[train, k].any() and (0.1 <= held <= 0.35 or source.labels[:, k].sum() < 20), (k, held)


def test_a_class_is_never_measured_without_being_trained_on():
    train, val = split_by_content(source_of([(0,), (0, 1), (1, 2), (2,)] * 3, 3), 0.5)
    rows = source_of([(0,), (0, 1), (1, 2), (2,)] * 3, 3).labels
    assert used(rows[val]) <= used(rows[train])


def test_batches_hold_rows_and_stand_ins_share_the_labels():
    sets = [(0, 1), (0, 1), (2,), (), (2,), (0,)]
    source = source_of(sets, 3, broken=(0, 5))
    data = DataConfig(batch_size=6, workers=0, max_broken=0.5)
    loader = TrainLoader(source, Preprocess(size=(8, 8)), AugmentConfig(flip=0.0), data, seed=0)
    seen: dict[int, set[int]] = {}
    for batch in loader.batches(0, 8):
        assert batch.labels.dtype == torch.float32 and batch.labels.shape == (6, 3)
        assert torch.equal(batch.labels, torch.from_numpy(source.labels[batch.index.numpy()]).float())
        for place in batch.index.tolist():
            seen.setdefault(place, set()).add(place)
    assert set(seen) == {1, 2, 3, 4}  # 1 stands in for 0, which has its labels; any other for 5, which is alone
    assert set(loader.broken) == {"0", "5"}
    (held,) = EvaluationPass(source_of(sets, 3), Preprocess(size=(8, 8)))
    assert held.labels.tolist() == torch.from_numpy(source.labels).float().tolist()
