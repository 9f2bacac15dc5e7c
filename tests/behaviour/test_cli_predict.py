"""`vitrail predict`: photos in, names out; what cannot be read is named and stops nothing."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vitrail
from vitrail.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mixed(photos: Path, tmp_path: Path) -> Path:
    """Two photos, a text file that calls itself one, an empty one, and one cut off."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(photos / "red" / "red0.png", folder / "a.png")
    shutil.copy(photos / "blue" / "blue0.png", folder / "b.png")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((photos / "red" / "red1.png").read_bytes()[:150])
    (folder / "notes.txt").write_text("ignored")
    return folder


def test_the_table_agrees_with_python(model_folder: Path, photos: Path, capsys: Capture) -> None:
    assert main(["predict", str(model_folder), str(photos), "--top", "2"]) == 0
    out, err = capsys.readouterr()
    head, *rows = [line.split("\t") for line in out.splitlines()]
    assert err == ""
    assert head == ["image", "label", "probability", "then"]
    images = sorted(photos.rglob("*.png"))
    assert [row[0] for row in rows] == [str(path) for path in images]
    for row, expected in zip(rows, vitrail.load(model_folder).predict(images, top=2), strict=True):
        assert row[1] == expected.labels[0]
        assert row[2] == f"{100 * expected.probabilities[0]:.1f} %"
        assert row[3] == f"{expected.labels[1]} {100 * expected.probabilities[1]:.1f} %"


def test_json_and_csv_hold_the_same(model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    photo = photos / "red" / "red0.png"
    files = tmp_path / "p.json", tmp_path / "p.csv"
    assert main(["predict", str(model_folder), str(photo), "--json", str(files[0]), "--csv", str(files[1])]) == 0
    (record,) = json.loads(files[0].read_text())
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    (expected,) = vitrail.load(model_folder).predict([photo])
    assert record["image"] == str(photo)
    assert record["error"] is None
    assert [p["label"] for p in record["predictions"]] == list(expected.labels)
    assert [p["index"] for p in record["predictions"]] == list(expected.indices)
    assert [p["probability"] for p in record["predictions"]] == list(expected.probabilities)
    assert [(r["image"], int(r["rank"]), r["label"], int(r["index"]), float(r["probability"])) for r in rows] == [
        (str(photo), rank, *row)
        for rank, row in enumerate(zip(expected.labels, expected.indices, expected.probabilities, strict=True), start=1)
    ]
    assert len(rows) == 3  # fewer classes than the 5 of --top


def test_json_on_stdout_is_nothing_but_json(model_folder: Path, photos: Path, capsys: Capture) -> None:
    assert main(["predict", str(model_folder), str(photos), "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 24


def test_broken_images_are_named_and_the_others_predicted(model_folder: Path, mixed: Path, capsys: Capture) -> None:
    csv_file = mixed.parent / "p.csv"
    assert main(["predict", str(model_folder), str(mixed), "--json", "-", "--csv", str(csv_file)]) == 0
    out, err = capsys.readouterr()
    records = {Path(record["image"]).name: record for record in json.loads(out)}
    assert sorted(records) == ["a.png", "b.png", "cut.png", "empty.png", "text.jpg"]
    broken = {name for name, record in records.items() if record["error"]}
    assert broken == {"cut.png", "empty.png", "text.jpg"}
    assert all(records[name]["predictions"] == [] for name in broken)
    assert all(len(records[name]["predictions"]) == 3 for name in ("a.png", "b.png"))
    lines = err.splitlines()
    assert lines == [
        f"vitrail: {mixed / name}: {records[name]['error']}" for name in ("cut.png", "empty.png", "text.jpg")
    ]
    rows = [row for row in csv.DictReader(csv_file.read_text().splitlines()) if row["error"]]
    assert [(row["image"], row["error"], row["label"]) for row in rows] == [
        (str(mixed / name), records[name]["error"], "") for name in ("cut.png", "empty.png", "text.jpg")
    ]


def test_nothing_readable_is_2(model_folder: Path, mixed: Path, capsys: Capture) -> None:
    assert main(["predict", str(model_folder), str(mixed / "text.jpg"), str(mixed / "empty.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3
    assert err.splitlines()[-1] == "vitrail: none of the 2 images could be read"


def test_a_name_that_is_not_text_is_shown_and_predicted(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    odd = os.fsdecode(b"r\xf6t\x1b[31m.png")  # Latin-1, with the code that turns a terminal red
    try:
        shutil.copy(photos / "red" / "red0.png", tmp_path / odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert main(["predict", str(model_folder), str(tmp_path / odd), "--csv", str(tmp_path / "p.csv")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "\\x1b[31m.png" in out
    assert "\\x1b[31m.png" in (tmp_path / "p.csv").read_text()


def test_a_reader_that_goes_away_is_quiet(model_folder: Path, photos: Path) -> None:
    command = f'"{sys.executable}" -m vitrail predict "$0" "$1" | head -n 1; exit "${{PIPESTATUS[0]}}"'
    many = [str(photos)] * 40  # more than a pipe holds
    done = subprocess.run(
        ["bash", "-c", command.replace('"$1"', '"$@"'), str(model_folder), *many],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    assert done.stdout == "image\tlabel\tprobability\tthen\n"
    assert done.returncode == 141


def test_out_writes_a_file_and_goes_on(model_folder: Path, mixed: Path, tmp_path: Path, capsys: Capture) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "answers.parquet"
    command = ["predict", str(model_folder), str(mixed), "--out", str(out)]
    assert main(command) == 0
    said, complaints = capsys.readouterr()
    assert said.startswith(f"{out}: 5 images, 3 of them unreadable; ")
    assert [line.split(":")[1].strip() for line in complaints.splitlines()] == [
        str(mixed / name) for name in ("cut.png", "empty.png", "text.jpg")
    ]
    rows = pyarrow.read_table(out).to_pylist()
    expected = vitrail.load(model_folder).predict(sorted(p for p in mixed.iterdir() if p.suffix != ".txt"))
    assert [(row["image"], row["label"], row["error"]) for row in rows] == [
        (p.id, p.labels[0] if p.labels else None, p.error) for p in expected
    ]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: done before, 5 images, 3 of them unreadable\n"
    assert main([*command, "--top", "1"]) == 2
    assert capsys.readouterr().err == (
        f"vitrail: {out} was made with another --top: give the same again, name another file, or start anew with "
        "--fresh\n"
    )
    assert main([*command, "--top", "1", "--fresh"]) == 0


def test_parts_of_a_job_have_files_of_their_own(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["predict", str(model_folder), str(photos), "--top", "1", "--out", str(tmp_path / "a.csv")]
    for part in ("2/3", "1/3", "3/3"):
        assert main([*command, "--part", part]) == 0
    rows = [
        row["image"]
        for number in (1, 2, 3)
        for row in csv.DictReader((tmp_path / f"a-{number}-of-3.csv").read_text().splitlines())
    ]
    assert rows == [str(path) for path in sorted(photos.rglob("*.png"))]


def test_a_killed_job_goes_on(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    """The real thing once; benchmarks/predict_kills.py does it at twenty random moments."""
    images = tmp_path / "many"
    images.mkdir()
    for number in range(12_000):
        os.link(photos / "red" / "red0.png", images / f"{number:05d}.png")
    out = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "vitrail", "predict", str(model_folder), str(images), "--out", str(out)]
    with subprocess.Popen([*command, "--top", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("answers.jsonl.parts/0*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not out.exists()
    deadline = time.monotonic() + 20  # the processes that read images follow the one that was killed
    while any(os.fsencode(images) in _command(process) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = subprocess.run([*command, "--top", "1"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("vitrail: going on after ")
    rows = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert rows == [str(images / f"{number:05d}.png") for number in range(12_000)]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def test_parquet_without_its_package_is_a_pip_command(
    model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["predict", str(model_folder), str(photos), "--out", "answers.parquet"]) == 2
    assert capsys.readouterr().err == (
        "vitrail: writing Parquet needs the package pyarrow: pip install 'vitrail[parquet]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{model}", "{photos}", "--top", "0"], "--top should be at least 1, found 0"),
        (["{model}", "{photos}/gren"], "no file or folder '{photos}/gren'; did you mean 'green' or 'red'?"),
        (["{model}", "{empty}"], "{empty} holds no images"),
        (["{model}", "{photos}", "--json", "{photos}"], "cannot write {photos}: it is a folder; name a file"),
        (["{model}", "{photos}", "--json", "-", "--csv", "-"], "--json - and --csv - would mix on stdout"),
        (["{model}", "{photos}", "--out", "x.txt"], "--out should end in .parquet, .csv, .jsonl, found 'x.txt'"),
        (["{model}", "{photos}", "--out", "-"], "--out should be a file, which can be continued, not stdout"),
        (["{model}", "{photos}", "--out", "a.csv", "--json", "b"], "--out writes as the images come"),
        (["{model}", "{photos}", "--fresh"], "--fresh goes with --out FILE"),
        (["{model}", "{photos}", "--part", "1/2"], "--part goes with --out FILE"),
        (["{model}", "{photos}", "--out", "a.csv", "--part", "3/2"], "--part should be I/N with I from 1 to N, as in"),
        (["{model}", "{photos}", "--workers", "-1"], "--workers should be at least 0, found -1"),
        (["{empty}/model", "{photos}"], "no weights at '{empty}/model'"),
        (["{empty}", "{photos}"], "{empty} holds no model.safetensors"),
        (["{model}", "{photos}", "--model", "B/61"], "unknown model 'B/61'; did you mean 'B/16'"),
    ],
)
def test_a_mistake_is_one_sentence(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: Capture, arguments: list[str], sentence: str
) -> None:
    names = {"model": str(model_folder), "photos": str(photos), "empty": str(tmp_path)}
    assert main(["predict", *(a.format(**names) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vitrail: " + sentence.format(**names))
    assert err.count("\n") == 1
