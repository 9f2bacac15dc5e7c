"""Faults planted in generated pictures are found, with a model and without; sound data give no finding."""

import shutil

import numpy as np
import pytest
import torch

from pictures import encode
from vitrail.data.sources import open_dataset
from vitrail.errors import DataError, MissingExtra
from vitrail.evaluate.audit import alike_pairs, audit, out_of_fold
from vitrail.evaluate.features import Features


def picture(hue: int, seed: int) -> np.ndarray:
    """48 x 48 px in one of three colours, with a coarse pattern that is its own."""
    random = np.random.default_rng(100 * hue + seed)
    pattern = np.kron(random.integers(0, 90, (6, 6, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    pattern[..., hue] += 140
    return pattern


@pytest.fixture
def sound(tmp_path):
    """Thirty images of three colours in train, and nine in val."""
    for split, seeds in (("train", range(10)), ("val", range(10, 13))):
        for hue, name in enumerate(("red", "green", "blue")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for seed in seeds:
                (folder / f"{seed}.png").write_bytes(encode(picture(hue, seed)))
    return tmp_path / "data"


def test_sound_data_give_no_finding(sound):
    found = audit(sound)
    assert (found.images, found.splits, found.copies, found.unreadable) == (39, {"train": 30, "val": 9}, (), ())
    assert found.imbalance is None
    assert found.model is None
    assert "--model MODEL" in found.not_done[0]


def test_planted_faults_are_found_without_a_model(sound):
    (sound / "val/red/leak.jpg").write_bytes(encode(picture(0, 4)[1:47, 2:48], "JPEG", quality=80))
    shutil.copy(sound / "train/green/2.png", sound / "train/blue/wrong.png")
    shutil.copy(sound / "train/green/3.png", sound / "train/green/again.png")
    (sound / "train/blue/cut.png").write_bytes((sound / "train/blue/0.png").read_bytes()[:60])
    (sound / "train/blue/wide.png").write_bytes(encode(np.zeros((40, 300, 3), np.uint8)))
    found = audit(sound)
    assert [{m.id for m in g.members} for g in found.leaks] == [{"train/red/4.png", "val/red/leak.jpg"}]
    assert [{m.id for m in g.members} for g in found.conflicts] == [{"train/green/2.png", "train/blue/wrong.png"}]
    assert [{m.id for m in g.members} for g in found.repeats] == [{"train/green/3.png", "train/green/again.png"}]
    assert [(u.image.id, u.reason) for u in found.unreadable] == [("train/blue/cut.png", "truncated PNG file")]
    assert [o.image.id for o in found.odd_sizes] == ["train/blue/wide.png"]
    left_out = {row.id for row in found.quarantine()}
    assert left_out == {
        "train/red/4.png",
        "train/green/2.png",
        "train/blue/wrong.png",
        "train/green/again.png",
        "train/blue/cut.png",
    } or left_out == {
        "train/red/4.png",
        "train/green/2.png",
        "train/blue/wrong.png",
        "train/green/3.png",
        "train/blue/cut.png",
    }


def test_nothing_readable_is_refused(sound):
    for file in sound.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 39 images of data can be read"):
        audit(sound)


def test_a_model_finds_flipped_labels_and_look_alikes(sound, model_folder):
    pytest.importorskip("cleanlab")
    flipped = {"train/blue/f.png", "train/red/g.png"}
    (sound / "train/red/5.png").rename(sound / "train/blue/f.png")
    (sound / "val/green/11.png").rename(sound / "train/red/g.png")
    mirrored = np.ascontiguousarray(picture(1, 7)[:, ::-1])
    (sound / "val/green/mirror.png").write_bytes(encode(mirrored))
    told: list[tuple[str, int, int]] = []
    found = audit(sound, model_folder, notify=lambda *news: told.append(news))
    assert found.model is not None
    suggested = {d.image.id: d.suggested for d in found.doubts}
    assert {name: suggested.get(name) for name in flipped} == {"train/blue/f.png": "red", "train/red/g.png": "green"}
    assert len(found.doubts) <= 4  # of 40: the model is untrained and hardly sees colours
    assert all(d.suggested_probability > d.probability for d in found.doubts)
    assert {what for what, _, _ in told} == {"read", "features"}
    assert found.not_done == ()


def test_rare_classes_are_not_asked_about(sound, model_folder):
    pytest.importorskip("cleanlab")
    for file in sorted((sound / "train/blue").iterdir())[1:]:
        file.unlink()
    for file in sorted((sound / "val/blue").iterdir()):
        file.unlink()
    (sound / "val/blue").rmdir()
    found = audit(sound, model_folder)
    assert found.doubts == ()
    assert found.not_done == ("labels of 1 classes with fewer than 5 readable images: blue.",)


def test_without_cleanlab_the_command_is_named(sound, model_folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(MissingExtra, match=r"labels needs the package cleanlab: pip install 'vitrail\[data"):
        audit(sound, model_folder)


def test_copies_are_asked_about_by_a_head_that_saw_none_of_them():
    """Twins with one wrong label: where a fold could hold one and ask about the other, the label would be believed."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(40, 30, generator=random)
    labels = torch.arange(40) % 2
    values[:, 0] += 4.0 * (labels * 2 - 1)
    twins = values[:20].clone()
    odd = torch.cat([values, twins]), torch.cat([labels, labels[:20]])
    own = torch.arange(60)
    own[40:] = torch.arange(20)
    odd[1][0] = odd[1][40] = 1 - labels[0]
    seen = Features(*odd, index=torch.arange(60))
    shares = out_of_fold(seen, own.numpy(), 2)
    assert np.allclose(shares.sum(1), 1)
    assert shares[0, int(odd[1][0])] < 0.5
    assert shares[40, int(odd[1][40])] < 0.5
    assert np.allclose(shares[0], shares[40])


def test_alike_pairs_in_blocks_are_those_of_the_whole():
    random = torch.Generator().manual_seed(1)
    values = torch.randn(30, 8, generator=random)
    values[20] = 1.01 * values[3]
    values[29] = values[28] + 0.01
    found = alike_pairs(values, rows=7)
    assert {(i, j) for i, j, _ in found} == {(i, j) for i, j, _ in alike_pairs(values)} >= {(3, 20), (28, 29)}


def test_a_model_that_was_trained_on_the_images_is_not_an_impartial_judge(sound, model_folder, monkeypatch):
    pytest.importorskip("cleanlab")
    from vitrail.evaluate import audit as room

    load = room.load_weights

    def trained(source):
        loaded = load(source)
        loaded.record["data"] = {"fingerprint": open_dataset(sound).fingerprint}
        return loaded

    monkeypatch.setattr(room, "load_weights", trained)
    assert "the model was trained on these images" in room.audit(sound, model_folder).not_done[0]
