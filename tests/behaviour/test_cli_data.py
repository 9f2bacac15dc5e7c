"""`vitrail data check`, and the list it writes in training and evaluation: the same data less the listed images."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.cli import main
from vitrail.data.quarantine import read_quarantine
from vitrail.evaluate.findings import DataReport
from vitrail.train import train

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def faulty(tmp_path: Path, photos: Path) -> Path:
    """The photos in splits, with a broken file, a leak and a repeated image in train."""
    folder = tmp_path / "faulty"
    for label in ("blue", "green", "red"):
        for split, numbers in (("train", range(6)), ("val", (6, 7))):
            (folder / split / label).mkdir(parents=True)
            for i in numbers:
                shutil.copy(photos / label / f"{label}{i}.png", folder / split / label)
    (folder / "train/red/a.png").write_bytes(b"")
    shutil.copy(folder / "val/green/green6.png", folder / "train/green/leak.png")
    shutil.copy(folder / "train/blue/blue0.png", folder / "train/blue/z.png")
    return folder


LISTED = {"train/red/a.png", "train/green/leak.png", "train/blue/z.png"}


def test_page_json_and_list(faulty: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(["data", "check", str(faulty), "--out", str(out), "--json", str(tmp_path / "f.json")]) == 0
    text, err = capsys.readouterr()
    report = DataReport.model_validate_json((out / "check.json").read_bytes())
    assert err == ""
    assert text.startswith(report.markdown())
    assert (tmp_path / "f.json").read_text() == report.json()
    assert read_quarantine(out / "quarantine.jsonl").ids == LISTED
    assert "quarantine.jsonl (3 images)" in text
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # two of the leak, two of the repeated image
    assert page.index("Shown in several splits") < page.index("Unreadable") < page.index("Copies within a split")


def test_an_edited_list_is_not_overwritten(faulty: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/quarantine.jsonl").write_text("# mine\n")
    assert main(["data", "check", str(faulty), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith(
        "quarantine.jsonl exists and may have been edited: choose another --out, or remove it\n"
    )
    assert (tmp_path / "out/quarantine.jsonl").read_text() == "# mine\n"


def test_json_on_stdout_is_nothing_but_json(faulty: Path, capsys: Capture) -> None:
    assert main(["data", "check", str(faulty), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["unreadable"][0]["image"]["id"] == "train/red/a.png"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["chekc", "{data}"], "ACTION"),
        (["check", "{data}y"], "no data set '{data}y'; did you mean 'faulty'?"),
        (["check", "{data}", "--quarantine-labels"], "--quarantine-labels puts labels in doubt on the list: give"),
        (
            ["check", "{data}", "--out", "{data}/train/red/a.png"],
            "cannot write into {data}/train/red/a.png: it is",
        ),
    ],
)
def test_a_mistake_is_one_sentence(faulty: Path, capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert main(["data", *(a.format(data=faulty) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: " + sentence.format(data=faulty)), err
    assert err.count("\n") == 1


def settings(*more: str) -> list[str]:
    return ["epochs=1", "data.batch_size=8", "workers=0", *more]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest()


def test_quarantined_is_as_deleted_to_the_last_bit(faulty: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "check", str(faulty), "--out", str(tmp_path / "out")]) == 0
    listed = tmp_path / "out/quarantine.jsonl"
    deleted = tmp_path / "deleted"
    shutil.copytree(faulty, deleted)
    for name in LISTED:
        (deleted / name).unlink()
    news: list[str] = []
    train(faulty, out=tmp_path / "a", overrides=settings(f"quarantine={listed}"), notify=lambda n: news.append(n.text))
    train(deleted, out=tmp_path / "b", overrides=settings(), notify=lambda n: None)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert f"{listed} leaves out 3 images: 3 of train." in news[0]
    run = json.loads((tmp_path / "a/run.json").read_text())
    assert run["data"]["quarantine"]["left_out"] == {"train": 3, "val": 0}
    assert run["data"]["quarantine"]["sha256"] == read_quarantine(listed).sha256
    assert run["data"]["splits"] == {"train": 18, "val": 6}
    assert run["broken_images"] == {}
    with_fault = tmp_path / "c"
    train(faulty, out=with_fault, overrides=settings("max_broken=0.5"), notify=lambda n: None)
    assert weights(with_fault) != weights(tmp_path / "a")

    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "a"), str(faulty)]) == 0
    assert "Its training left images out by the list" in capsys.readouterr().out.replace("\n", " ")
    assert main(["evaluate", str(tmp_path / "a"), str(faulty), "--quarantine", str(listed)]) == 0
    assert "0 images are left out by the quarantine list" in capsys.readouterr().out


def test_a_run_is_continued_with_the_same_list_alone(faulty: Path, tmp_path: Path, capsys: Capture) -> None:
    first, moved, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    first.write_text('{"id": "train/red/a.png"}\n')
    moved.write_text('# the same\n{"id": "train/red/a.png", "reason": "empty"}\n')
    other.write_text('{"id": "train/red/a.png"}\n{"id": "train/blue/z.png"}\n')

    def command(listed: Path) -> int:
        chosen = [f"--set={s}" for s in settings(f"quarantine={listed}")]
        return main(["train", str(faulty), "--out", str(tmp_path / "run"), *chosen])

    assert command(first) == 0
    run = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**run, "finished": None}))
    capsys.readouterr()
    assert command(other) == 2
    err = capsys.readouterr().err
    assert "was started differently (" in err
    assert "quarantine " in err
    assert command(moved) == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("quarantine={folder}/none.jsonl", "cannot read the quarantine list {folder}/none.jsonl: No such file"),
        ("quarantine=3", "data.quarantine: should be the name of a file, found 3"),
        ("quarantine={folder}/odd.jsonl", "every image of a quarantine list must be one of the data's, but 1 of 1 on "),
    ],
)
def test_a_bad_list_is_one_sentence(faulty: Path, tmp_path: Path, capsys: Capture, setting: str, sentence: str) -> None:
    (tmp_path / "odd.jsonl").write_text('{"id": "train/red/b.png"}\n')
    assert main(["train", str(faulty), "--out", str(tmp_path / "run"), "--set", setting.format(folder=tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: " + sentence.format(folder=tmp_path)), err
    assert err.count("\n") == 1


def test_labels_in_doubt_go_on_the_list_when_asked(
    faulty: Path, tmp_path: Path, model_folder: Path, capsys: Capture
) -> None:
    pytest.importorskip("cleanlab")
    (faulty / "train/red/red1.png").rename(faulty / "train/blue/turned.png")
    out = tmp_path / "out"
    assert (
        main(["data", "check", str(faulty), "--model", str(model_folder), "--out", str(out), "--quarantine-labels"])
        == 0
    )
    assert "train/blue/turned.png" in read_quarantine(out / "quarantine.jsonl").ids
    page = (out / "report.html").read_text()
    assert "Labels in doubt" in page
    assert "train/blue/turned.png" in page


@pytest.mark.slow
def test_faults_planted_in_real_photos_are_found(shared: Path, tmp_path: Path) -> None:
    """The bar of docs/benchmarks.md without the model: every altered copy across splits, every broken file."""
    from vitrail.evaluate.audit import audit

    data = tmp_path / "flowers"
    random = np.random.default_rng(4)
    images = sorted((shared / "data/flowers").glob("*/*/*.jpg"))[::6]
    copies, broken = {}, set()
    for place, image in enumerate(images):
        split, label, name = image.parts[-3:]
        (data / split / label).mkdir(parents=True, exist_ok=True)
        (data / split / label / name).symlink_to(image)
        if place % 20 == 0:
            other = data / ("val" if split == "train" else "train") / label / f"copy{place}.jpg"
            other.parent.mkdir(parents=True, exist_ok=True)
            photo = Image.open(image)
            cut = [round(x) for x in random.uniform(0, 0.05, 4) * (photo.size * 2)]
            photo = photo.crop((cut[0], cut[1], photo.width - cut[2], photo.height - cut[3]))
            photo.resize((photo.width * 2 // 3, photo.height * 2 // 3)).save(other, quality=60)
            copies[other.relative_to(data).as_posix()] = f"{split}/{label}/{name}"
        if place % 20 == 10:
            (data / split / label / f"broken{place}.jpg").write_bytes(image.read_bytes()[: 500 * (place % 3)])
            broken.add(f"{split}/{label}/broken{place}.jpg")
    found = audit(data)
    together = [{m.id for m in group.members} for group in found.leaks]
    missed = [copy for copy, original in copies.items() if not any({copy, original} <= group for group in together)]
    assert missed == []
    assert {u.image.id for u in found.unreadable} == broken
    assert len(found.leaks) <= len(copies) + 2  # the photos have a few copies of their own
