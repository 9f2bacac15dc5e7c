"""`vitrail train` from the shell: a run, its continuation after Ctrl-C, and every mistake in one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from vitrail.cli import main
from vitrail.report import Report

Capture = pytest.CaptureFixture[str]

QUICK = ["--set", "epochs=3", "--set", "batch_size=16", "--set", "workers=0"]


def photo_folder(photos: Path, folder: Path) -> Path:
    shutil.copytree(photos, folder)
    return folder


def test_a_run_from_the_shell(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(["train", str(photos), "--out", str(run), "--seed", "3", *QUICK]) == 0
    out, err = capsys.readouterr()
    report = Report.load(run / "evaluation.json")
    assert out.startswith(report.markdown())
    assert f"report   {run / 'report.html'}" in out and f"use it   vitrail predict {run} PHOTO" in out
    assert (run / "report.html").is_file() and (run / "model" / "model.safetensors").is_file()
    stored = json.loads((run / "run.json").read_text())
    assert (stored["seed"], stored["recipe"]["epochs"], stored["recipe"]["name"]) == (3, 3.0, "scratch_small")
    assert err.startswith("photos: 3 classes, ")
    assert "step 1/" in err and "img/s" in err
    # the score that the run reports is the one that evaluation finds, on the images that training held out
    assert main(["evaluate", str(run), str(photos), "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["top1"], again["nll"], again["images"]) == (report.top1, report.nll, report.images)
    # a finished run is not overwritten
    assert main(["train", str(photos), "--out", str(run), "--seed", "3", *QUICK]) == 2
    sentence = f"vitrail: the run in {run} is finished and is not overwritten: choose another --out to train again\n"
    assert capsys.readouterr().err == sentence


def test_ctrl_c_saves_and_the_same_command_continues(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "vitrail", "train", str(photos), "--out", str(run), *QUICK, "--set", "epochs=150"]
    command.remove("epochs=3")
    command.remove("--set")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    *_, saved, last = err.splitlines()
    assert f"saved in {run}" in saved and "same command" in saved
    assert last == "vitrail: stopped"
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Continuing after step" in done.stderr
    steps = [row["step"] for row in map(json.loads, metrics.read_text().splitlines()) if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{photos}", "--recipe", "fintune"], "unknown recipe 'fintune'; did you mean 'finetune' or"),
        (
            ["{photos}", "--recipe", "finetune"],
            "the recipe finetune starts from trained weights: name some with --weights",
        ),
        (["{photos}", "--model", "Nano/8"], "unknown model 'Nano/8'; did you mean 'Nano/4'"),
        (["{photos}", "--set", "optim.lrr=1"], "a recipe has no field 'optim.lrr'; did you mean 'optim.lr'"),
        (["{photos}", "--set", "optim.lr=fast"], "optim.lr: should be a valid number"),
        (["{photos}", "--set", "optim.lr=-1"], "optim.lr: should be greater than 0, found -1"),
        (["{photos}", "--set", "optim.lr"], "a setting must be written field=value, found 'optim.lr'"),
        (["{photos}", "--set", "model.heads=5"], "model: width must be a multiple of heads"),
        (["{photos}", "--seed", "-1"], "seed: should be greater than or equal to 0, found -1"),
        (["{photos}", "--weights", "{photos}"], "{photos} holds no model.safetensors"),
        (["{photos}", "--out", "{photos}"], "the folder {photos} holds other files and no run: choose another --out"),
        (["{photos}x"], "no data set '{photos}x'; did you mean 'photos'?"),
        (["{empty}"], "{empty} holds no images"),
        (["{photos}/red/red0.png"], "a data set is a folder of class folders or a table"),
    ],
)
def test_a_mistake_is_one_sentence(
    photos: Path, tmp_path: Path, capsys: Capture, arguments: list[str], sentence: str
) -> None:
    names = {"photos": str(photos), "empty": str(tmp_path)}
    given = [a.format(**names) for a in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "run")]
    assert main(["train", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vitrail: " + sentence.format(**names)), err
    assert err.count("\n") == 1


def test_one_class_is_not_enough(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(photos / "red", tmp_path / "photos" / "red")
    assert main(["train", str(tmp_path / "photos"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "vitrail: a classifier needs at least two classes, found only 'red' in photos\n"


def test_a_class_that_is_not_trained_on(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "photos"
    photo_folder(photos, data / "train")
    photo_folder(photos, data / "val")
    shutil.rmtree(data / "train" / "blue")
    assert main(["train", str(data), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: every class must have training images")
    assert "'blue'" in err and "val" in err and err.count("\n") == 1


def test_a_table_without_labels(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "photos.csv").write_text("path,colour\na.png,red\n")
    assert main(["train", str(tmp_path / "photos.csv"), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: photos.csv") and "label" in err and "colour" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["empty", "cut off", "text", "renamed", "huge"])
def test_too_many_broken_images_stop_it_with_their_names(
    photos: Path, tmp_path: Path, capsys: Capture, kind: str
) -> None:
    data = photo_folder(photos, tmp_path / "photos")
    whole = (photos / "red" / "red0.png").read_bytes()
    huge = whole[:16] + (200_000).to_bytes(4, "big") * 2 + whole[24:]  # the header claims 40,000 megapixels
    content = {"empty": b"", "cut off": whole[:120], "text": b"hello", "renamed": b"%PDF-1.7 a document", "huge": huge}
    for i in range(4):
        (data / "red" / f"broken{i}.jpg").write_bytes(content[kind])
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *QUICK]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("vitrail: ")
    assert " found 4 of " in last
    assert all(f"red/broken{i}.jpg" in last for i in range(4)), last


def test_weights_that_do_not_fit_name_every_key(
    photos: Path, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    tensors = load_file(model_folder / "model.safetensors")
    del tensors["norm.bias"]
    tensors["stranger"] = tensors["norm.weight"].clone()
    tensors["blocks.0.norm1.weight"] = tensors["blocks.0.norm1.weight"][:-1].clone()
    folder = tmp_path / "weights"
    shutil.copytree(model_folder, folder)
    save_file(tensors, folder / "model.safetensors")
    table = json.loads((folder / "vitrail.json").read_text())
    table["sha256"] = {}  # or the folder would be refused for having been edited
    (folder / "vitrail.json").write_text(json.dumps(table))
    assert main(["train", str(photos), "--weights", str(folder), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for key in ("norm.bias", "stranger", "blocks.0.norm1.weight"):
        assert key in err, err


def test_a_pickle_is_refused_unread(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "weights.pth").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert main(["train", str(photos), "--weights", str(tmp_path / "weights.pth"), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: weights.pth is a pickle, which can run code when it is read")
    assert not Path("owned").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    tmp_path.chmod(0o500)
    assert main(["train", str(photos), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "Permission denied" in err and err.count("\n") == 1


def test_a_place_that_is_a_file(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", str(photos), "--out", str(tmp_path / "file" / "run")]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "file") in err and err.count("\n") == 1


def test_a_full_disk_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writing the first checkpoint hits it."""
    command = [sys.executable, "-m", "vitrail", "train", str(photos), "--out", str(tmp_path / "run"), *QUICK]
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.argv = ['vitrail', *sys.argv[1:]];"
        "runpy.run_module('vitrail', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", limited, *command[3:]], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]


def test_offline_a_hugging_face_id_is_one_sentence(
    photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    command = ["train", str(photos), "--weights", "someone/some-model", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("vitrail: there is no file or folder 'someone/some-model' here, and it can't be downloaded")
    assert err.count("\n") == 1
