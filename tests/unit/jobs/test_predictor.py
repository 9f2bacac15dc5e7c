"""The Predictor as frameworks use it: pickled, constructed elsewhere, called with tables."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.predictor import ADDED, Predictor


@pytest.fixture
def files(photos: Path, tmp_path: Path) -> list[str]:
    """Five photos and one that cannot be read."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    return [*map(str, sorted(photos.rglob("*.png"))[::5]), str(broken)]


def column(values: list[object]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        made[at] = value
    return made


def test_paths_bytes_and_pixels_give_what_predict_gives(model_folder: Path, files: list[str]) -> None:
    expected = vitrail.load(model_folder).predict(files, top=2)
    predictor = vitrail.Predictor(model_folder, top=2, batch_size=4)
    names = np.arange(len(files))
    by_path = predictor({"path": np.array(files), "name": names})
    by_bytes = predictor({"bytes": column([Path(f).read_bytes() for f in files]), "name": names})
    assert list(by_path) == ["path", "name", *ADDED]
    assert list(by_bytes) == ["name", *ADDED]
    for found in (by_path, by_bytes):
        assert all(len(values) == len(files) for values in found.values())
        assert found["label"].tolist() == [p.labels[0] if p.labels else None for p in expected]
        assert found["index"].tolist() == [p.indices[0] if p.indices else -1 for p in expected]
        assert found["labels"].tolist() == [list(p.labels) for p in expected]
        for shares, p in zip(found["probabilities"], expected, strict=True):
            assert shares == pytest.approx(list(p.probabilities), abs=1e-6)
        assert found["error"].tolist() == [None] * 5 + ["not an image, but text"]
        assert np.isnan(found["probability"]).tolist() == [False] * 5 + [True]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files[:5]])  # as Ray's read_images gives them
    assert predictor({"image": pixels})["label"].tolist() == by_path["label"].tolist()[:5]
    assert {len(values) for values in predictor({"path": column([])}).values()} == {0}


def test_it_is_pickled_without_its_model(model_folder: Path, files: list[str]) -> None:
    predictor = Predictor(str(model_folder), top=1)
    before = predictor({"path": np.array(files)})
    data = pickle.dumps(predictor)
    assert len(data) < 1000
    assert pickle.loads(data)({"path": np.array(files)})["label"].tolist() == before["label"].tolist()
    code = (
        "import pickle, sys, numpy as np\n"
        "predictor, files = pickle.load(sys.stdin.buffer)\n"
        "print(predictor({'path': np.array(files)})['label'].tolist())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((predictor, files)), capture_output=True, check=True
    )
    assert there.stdout.decode().strip() == str(before["label"].tolist())


def test_as_ray_data_calls_it(model_folder: Path, files: list[str]) -> None:
    """map_batches constructs the class in a worker and calls it with a dict of arrays, batch after batch."""
    predictor = Predictor(*(str(model_folder),), top=1)
    blocks = [{"path": np.array(files[:4])}, {"path": np.array(files[4:])}]
    found = [predictor(block) for block in blocks]
    whole = predictor({"path": np.array(files)})
    assert [label for block in found for label in block["label"]] == whole["label"].tolist()


@pytest.mark.filterwarnings("default:::ray")  # its own code warns of its own deprecations
def test_with_ray(model_folder: Path, files: list[str]) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    data = ray.data.from_items([{"path": file} for file in files])
    rows = data.map_batches(Predictor, fn_constructor_args=(str(model_folder),), concurrency=1).take_all()
    expected = {p.id: p.labels[0] if p.labels else None for p in vitrail.load(model_folder).predict(files)}
    assert {row["path"]: row["label"] for row in rows} == expected


def test_as_spark_calls_it(model_folder: Path, files: list[str]) -> None:
    """mapInPandas sends a pickled function to a worker and gives it an iterator of frames."""
    pandas = pytest.importorskip("pandas")
    predictor = Predictor(str(model_folder), top=2)
    function = pickle.loads(pickle.dumps(predictor.frames))
    contents = [Path(file).read_bytes() for file in files]
    frames = [
        pandas.DataFrame({"path": files[:4], "content": contents[:4]}),
        pandas.DataFrame({"path": files[4:], "content": contents[4:]}),
    ]
    found = list(function(iter(frames)))
    assert [len(frame) for frame in found] == [4, 2]
    declared = [field.split()[0] for field in predictor.schema("path string").split(", ")]
    assert list(found[0].columns) == declared == ["path", *ADDED]
    whole = predictor({"path": np.array(files)})
    assert [label for frame in found for label in frame["labels"]] == whole["labels"].tolist()


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"label": np.array(["a"])}, "a column of images, image or bytes or content or path; found label"),
        ({"image": column([7])}, "an image should be a path, bytes, or uint8 pixels .* found int"),
        ({"image": np.zeros((1, 4, 4))}, r"found float64 \(4, 4\)"),
    ],
)
def test_another_table_is_a_sentence(model_folder: Path, batch: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Predictor(model_folder)(batch)


def test_mistakes_before_the_first_table(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="top should be at least 1"):
        Predictor(model_folder, top=0)
    with pytest.raises(DataError, match="a column of images, photo; found path"):
        Predictor(model_folder, column="photo")({"path": np.array(["a.jpg"])})
