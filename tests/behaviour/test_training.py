"""What a person may rely on while training: runs continue bit for bit, nothing is lost, mistakes are one sentence."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from pictures import class_folders
from vitrail.errors import ConfigError, DataError, StorageError, UnknownName, UserError, WeightsError
from vitrail.evaluate.predictions import read_csv
from vitrail.inference import load
from vitrail.train import run as run_module
from vitrail.train import state as state_module
from vitrail.train.progress import Progress
from vitrail.train.run import RunResult, train
from vitrail.weights.checkpoint import read_record

# Small, with everything random switched on: dropout, stochastic depth, crops, RandAugment, erasing, mixing.
TINY = (
    "width=8", "depth=2", "heads=2", "mlp_dim=8", "dropout=0.1", "stochastic_depth=0.2", "batch_size=8", "epochs=4",
    "rotate=5", "randaugment_layers=1", "erase=0.3", "mixup=0.5", "mix_probability=0.5", "ema=0.9", "precision=float32",
)  # fmt: skip
News = list[Progress]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """39 training and 9 held-out images of 8 px in three classes: the last batch of an epoch reaches into the next."""
    counts = {f"train/{name}": 13 for name in ("ape", "bee", "cat")} | {
        f"val/{name}": 3 for name in ("ape", "bee", "cat")
    }
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts)


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    return run(images, tmp_path_factory.mktemp("unbroken") / "run").folder


def run(
    data: Path, out: Path, *more: str, notify: Callable[[Progress], None] | None = None, **options: Any
) -> RunResult:
    return train(data, out=out, overrides=settings(*more), notify=notify or (lambda news: None), **options)


def settings(*more: str) -> list[str]:
    """TINY with some fields set otherwise."""
    return list({text.partition("=")[0]: text for text in (*TINY, *more)}.values())


def stop_at(kind: str, step: int, number: int = signal.SIGINT) -> Callable[[Progress], None]:
    """A listener that presses Ctrl-C at the first news of this kind at this step."""
    pressed: list[int] = []

    def notify(news: Progress) -> None:
        if (news.kind, news.step) == (kind, step) and not pressed:
            pressed.append(step)
            signal.raise_signal(number)

    return notify


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def last_state(folder: Path) -> dict[str, str]:
    """Hashes of everything in the newest checkpoint that is not a time."""
    newest = max((folder / "checkpoints").iterdir())
    manifest: dict[str, str] = json.loads((newest / "manifest.json").read_text())
    return {name: digest for name, digest in manifest.items() if name != "state.json"}


def assert_same_run(found: Path, expected: Path) -> None:
    assert weights_of(found) == weights_of(expected)
    assert last_state(found) == last_state(expected)
    assert metrics_of(found) == metrics_of(expected)


def test_a_run_leaves_everything_behind(unbroken: Path, images: Path) -> None:
    assert sorted(p.name for p in unbroken.iterdir()) == [
        "checkpoints", "evaluation.json", "metrics.jsonl", "model", "predictions.csv", "report.html", "run.json",
    ]  # fmt: skip
    rows = metrics_of(unbroken)
    assert [row["step"] for row in rows if "loss" in row] == list(
        range(1, 21)
    )  # 4 epochs of 39 images by 8: 19.5 steps
    assert [row["step"] for row in rows if "val_top1" in row] == [5, 10, 15, 20]
    record = json.loads((unbroken / "run.json").read_text())
    assert record["started"] and record["finished"] and record["metrics"]["images"] == 9
    assert record["data"]["splits"] == {"train": 39, "val": 9}
    stored = read_record(unbroken / "model")
    assert stored["selection"].startswith("none: the weights of the last step are kept")
    assert stored["recipe"]["optim"]["ema"] == 0.9 and stored["averaged"] and stored["broken_images"] == {}
    assert stored["data"]["fingerprint"] == record["data"]["fingerprint"] and stored["started_from"] is None
    page = (unbroken / "report.html").read_text()
    assert "zoo" in page and "<script" not in page


def test_the_kept_model_scores_what_the_run_says(unbroken: Path, images: Path) -> None:
    stored = json.loads((unbroken / "evaluation.json").read_text())
    results = read_csv(unbroken / "predictions.csv")
    assert (len(results), sum(r.right for r in results)) == (stored["images"], stored["top1_count"])
    again = vitrail.evaluate(load(unbroken), images, split="val")
    assert (again.top1_count, again.nll) == (stored["top1_count"], stored["nll"])
    assert metrics_of(unbroken)[-1]["val_top1"] == again.top1


@pytest.mark.parametrize("step", [1, 5, 7, 19])
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_and_the_same_command_give_the_unbroken_run(
    step: int, workers: int, images: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    heard: News = []
    press = stop_at("step", step)

    def notify(news: Progress) -> None:
        heard.append(news)
        press(news)

    with pytest.raises(KeyboardInterrupt):
        run(images, out, f"workers={workers}", notify=notify)
    assert heard[-1].kind == "stopped"
    assert heard[-1].text == f"Stopped after step {step} of 20; saved in {out}. The same command continues."
    assert not (out / "model").exists()
    told: News = []
    run(images, out, f"workers={1 - workers}", notify=told.append)  # and another number of workers
    assert told[0].kind == "start" and told[0].text.endswith(f"Continuing after step {step}.")
    assert_same_run(out, unbroken)


def test_stopping_during_an_evaluation_and_again(images: Path, unbroken: Path, tmp_path: Path) -> None:
    for notify in (stop_at("evaluating", 5), stop_at("evaluating", 5), stop_at("epoch", 10), stop_at("step", 12)):
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "run", notify=notify)
    run(images, tmp_path / "run")
    assert_same_run(tmp_path / "run", unbroken)


def test_sigterm_saves_and_exits_143(images: Path, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        run(images, tmp_path / "run", notify=stop_at("step", 3, signal.SIGTERM))
    assert error.value.code == 143
    run(images, tmp_path / "run")
    assert_same_run(tmp_path / "run", unbroken)


def test_the_usual_ctrl_c_is_back_afterwards(images: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", notify=stop_at("step", 2))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_ctrl_c_does_not_wait(images: Path, tmp_path: Path) -> None:
    def twice(news: Progress) -> None:
        if (news.kind, news.step) == ("step", 7):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", notify=twice)
    assert max((tmp_path / "run" / "checkpoints").iterdir()).name == "step-00000005"  # the last regular one


def test_another_seed_is_another_run(images: Path, unbroken: Path, tmp_path: Path) -> None:
    assert weights_of(run(images, tmp_path / "run", seed=1).folder) != weights_of(unbroken)


def test_a_run_leaves_the_callers_random_stream_alone(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(images, tmp_path / "run", "epochs=1")
    assert torch.equal(torch.rand(3), expected)


def test_a_damaged_checkpoint_is_told_and_made_good(images: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(images, out, notify=stop_at("step", 8))
    os.truncate(out / "checkpoints" / "step-00000008" / "weights.safetensors", 10)
    told: News = []
    run(images, out, notify=told.append)
    name = out / "checkpoints" / "step-00000008"
    assert told[0].text == f"Passed over the checkpoint {name}: weights.safetensors is not as written."
    assert told[1].text.endswith("Continuing after step 5.")
    assert_same_run(out, unbroken)


def test_a_finished_run_is_not_overwritten(images: Path, unbroken: Path) -> None:
    before = weights_of(unbroken)
    with pytest.raises(ConfigError, match=r"is finished and is not overwritten: choose another --out to train again"):
        run(images, unbroken)
    assert weights_of(unbroken) == before


def test_two_processes_do_not_train_into_one_folder(images: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(answers: "multiprocessing.connection.Connection") -> None:
        torch.set_num_threads(1)  # a forked child must not wait for threads that stayed with its parent
        try:
            run(images, tmp_path / "run")
        except StorageError as error:
            answers.send(str(error))
        answers.close()

    def at_step_3(news: Progress) -> None:
        if (news.kind, news.step) == ("step", 3):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(target=second, args=(there,))
            process.start()
            there.close()
            refused.append(here.recv())
            process.join()
            here.close()

    run(images, tmp_path / "run", notify=at_step_3)
    assert refused == [f"another process is training in {tmp_path / 'run'}: choose another --out"]


def test_ctrl_c_after_the_last_step_loses_nothing(
    images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: News = []
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", notify=lambda n: (heard.append(n), stop_at("evaluating", 20)(n))[0])
    assert heard[-1].text.startswith("Stopped after step 20 of 20; saved in ")
    run(images, tmp_path / "run")
    assert_same_run(tmp_path / "run", unbroken)


def test_another_torch_is_told(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", notify=stop_at("step", 2))
    told: News = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0")
        run(images, tmp_path / "run", "epochs=4", notify=told.append)
    assert "and goes on with 99.0: the last bits may differ." in told[0].text


def test_other_settings_or_data_do_not_continue_a_run(images: Path, tmp_path: Path) -> None:
    data, out = shutil.copytree(images, tmp_path / "zoo"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(data, out, notify=stop_at("step", 2))
    with pytest.raises(ConfigError) as error:
        run(data, out, "lr=0.01", "label_smoothing=0")
    assert str(error.value) == (
        f"the run in {out} was started differently (recipe.optim.lr 0.002, now 0.01; recipe.optim.label_smoothing 0.1, "
        "now 0.0): give what it was started with to continue it, or another --out, or --accept-changes to go on like "
        "this"
    )
    (data / "train" / "ape" / "000.png").unlink()
    with pytest.raises(ConfigError, match=r"was started differently \(.*data [0-9a-f]{64}, now [0-9a-f]{64}\)"):
        run(data, out)


def test_changes_are_accepted_where_told_and_written_down(images: Path, tmp_path: Path) -> None:
    data, out = shutil.copytree(images, tmp_path / "zoo"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(data, out, notify=stop_at("step", 6))
    (data / "train" / "ape" / "000.png").unlink()
    for setting in ("mlp_dim=16", "optimizer=sgd", "ema=0"):
        with pytest.raises(ConfigError, match=r"a run cannot change .* on its way: choose another --out"):
            run(data, out, setting, accept_changes=True)
    (data / "val" / "dog").mkdir()
    shutil.copy(data / "train" / "ape" / "001.png", data / "val" / "dog")
    shutil.copytree(data / "val" / "dog", data / "train" / "dog")
    with pytest.raises(ConfigError, match=r"a run cannot change .*the classes on its way"):
        run(data, out, accept_changes=True)
    shutil.rmtree(data / "val" / "dog")
    shutil.rmtree(data / "train" / "dog")
    report = run(data, out, "lr=0.001", accept_changes=True).report
    record = json.loads((out / "run.json").read_text())
    (change,) = record["changes"]
    assert [text.partition(" ")[0] for text in change["changed"]] == ["recipe.optim.lr", "data"]
    assert read_record(out / "model")["changes"] == record["changes"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, record["steps"] + 1))  # one run, whose steps are counted on
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert rates[7] < rates[6]
    assert report.images == 9 and record["finished"]


def test_the_default_folder_is_the_same_for_the_same_command(
    images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(images, overrides=TINY, notify=stop_at("step", 4))
    result = train(images, overrides=TINY, notify=lambda news: None)
    assert result.folder == Path("runs/zoo-scratch_small-seed0")
    assert_same_run(tmp_path / result.folder, unbroken)


class Full:
    """Disk full from the k-th write of a kind on."""

    def __init__(self, real: Callable[..., Any], k: int) -> None:
        self.real, self.left = real, k

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return self.real(*args, **options)


@pytest.mark.parametrize("k", [0, 3, 6, 9, 14])
def test_a_full_disk_while_saving_loses_nothing(
    k: int, images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "write_synced", Full(state_module.write_synced, k))
        with pytest.raises(StorageError, match="No space left on device") as error:
            run(images, tmp_path / "run")
    assert "\n" not in str(error.value)
    run(images, tmp_path / "run")
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.parametrize("name", ["write_model_folder", "write_text", "finish_run"])
def test_a_full_disk_at_the_very_end_loses_nothing(
    name: str, images: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise StorageError("the model could not be saved: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, name, full)
        with pytest.raises(StorageError, match="No space left"):
            run(images, tmp_path / "run")
    run(images, tmp_path / "run")
    assert_same_run(tmp_path / "run", unbroken)


def test_a_learning_rate_that_explodes_ends_in_a_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"not finite in 10 steps in a row, up to step \d+: lower optim\.lr \(now 1e\+30\)"
    ):
        run(images, tmp_path / "run", "lr=1e30", "warmup_steps=0", "epochs=20", "evaluate_every=20")
    rows = metrics_of(tmp_path / "run")
    assert sum(row.get("skipped", False) for row in rows) >= 10


def test_an_evaluation_that_meets_it_first_says_the_same(images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"training has diverged by step 5: lower optim\.lr \(now 1e\+30\) and choose"
    ):
        run(images, tmp_path / "run", "lr=1e30", "warmup_steps=0")


def test_a_step_in_micro_batches_is_the_same_step(images: Path, tmp_path: Path) -> None:
    calm = ("dropout=0", "stochastic_depth=0", "epochs=2")
    whole = metrics_of(run(images, tmp_path / "whole", *calm).folder)
    parts = metrics_of(run(images, tmp_path / "parts", *calm, "accumulate=3").folder)
    assert [row["loss"] for row in parts if "loss" in row] == pytest.approx(
        [row["loss"] for row in whole if "loss" in row], rel=1e-5
    )


def test_broken_images_are_counted_and_too_many_stop_the_run(images: Path, tmp_path: Path) -> None:
    data = shutil.copytree(images, tmp_path / "zoo")
    (data / "train" / "ape" / "003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"at most 1\.0% of the images may be unreadable .*train/ape/003\.png"):
        run(data, tmp_path / "strict")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(data, out, "max_broken=0.1", notify=stop_at("step", 12))
    folder = run(data, out, "max_broken=0.1").folder
    broken = read_record(folder / "model")["broken_images"]
    assert [name for name in broken if "ape/003.png" in name] == list(broken) and len(broken) == 1


def test_the_test_split_is_scored_once_and_val_is_watched(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": n for split, n in (("train", 8), ("val", 2), ("test", 4)) for name in ("ape", "bee")}
    folder = run(class_folders(tmp_path / "zoo", counts), tmp_path / "run", "epochs=2").folder
    assert {row["val_images"] for row in metrics_of(folder) if "val_top1" in row} == {4}
    report = json.loads((folder / "evaluation.json").read_text())
    assert (report["images"], report["data"]["split"], report["data"]["held_out"]) == (8, "test", True)


def test_it_learns_what_can_be_seen(photos: Path, tmp_path: Path) -> None:
    """Red, green and blue pictures: from scratch to no mistakes in seconds, through every part of the path."""
    result = train(
        photos, out=tmp_path / "run", overrides=("epochs=15", "depth=2", "batch_size=8"), notify=lambda n: None
    )
    assert result.report.top1 == 1.0
    red = load(result.folder).predict(photos / "red" / "red0.png")[0]
    assert red.labels[0] == "red"


def finetune(data: Path, weights: Path, out: Path, *more: str, recipe: str | None = "finetune") -> RunResult:
    overrides = ("epochs=2", "batch_size=8", "precision=float32", *more)
    return train(data, weights=weights, recipe=recipe, out=out, overrides=overrides, notify=lambda news: None)


def test_finetuning_gives_new_classes_a_new_head(unbroken: Path, photos: Path, tmp_path: Path) -> None:
    result = finetune(photos, unbroken, tmp_path / "run", recipe=None)
    record = read_record(result.folder / "model")
    assert record["recipe"]["name"] == "finetune" and record["started_from"] == str(unbroken)
    assert len(record["started_from_sha256"]) == 64
    assert load(result.folder).labels.names == ("blue", "green", "red")


def test_finetuning_the_same_classes_keeps_the_head(unbroken: Path, images: Path, photos: Path, tmp_path: Path) -> None:
    """Three classes each: as many as before is not enough, they must be the same."""
    from vitrail.train.start import find_start

    assert find_start(unbroken, None, ("ape", "bee", "cat")).model.head.weight.abs().sum() > 0
    for classes in (("bee", "ape", "cat"), ("blue", "green", "red"), ("ape", "bee")):
        head = find_start(unbroken, None, classes).model.head
        assert head.weight.shape == (len(classes), 8) and head.weight.abs().sum() == head.bias.abs().sum() == 0


def test_finetuning_at_another_size(unbroken: Path, photos: Path, tmp_path: Path) -> None:
    folder = finetune(photos, unbroken, tmp_path / "run", "image_size=12").folder
    classifier = load(folder)
    assert classifier.model.config.image_size == classifier.preprocess.size == (12, 12)


def test_finetuning_continues_bit_for_bit(unbroken: Path, photos: Path, tmp_path: Path) -> None:
    whole = finetune(photos, unbroken, tmp_path / "whole").folder
    options: dict[str, Any] = {"weights": unbroken, "overrides": ("epochs=2", "batch_size=8", "precision=float32")}
    with pytest.raises(KeyboardInterrupt):
        train(photos, out=tmp_path / "run", notify=stop_at("step", 2), **options)
    train(photos, out=tmp_path / "run", notify=lambda news: None, **options)
    assert_same_run(tmp_path / "run", whole)


def test_other_weights_do_not_continue_a_run(unbroken: Path, model_folder: Path, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path / "run", "overrides": ("epochs=2", "batch_size=8")}
    with pytest.raises(KeyboardInterrupt):
        train(photos, weights=unbroken, notify=stop_at("step", 2), **options)
    with pytest.raises(ConfigError, match=r"was started differently \(.*weights [0-9a-f]{64}, now [0-9a-f]{64}\)"):
        train(photos, weights=model_folder, notify=lambda news: None, **options)


MISTAKES: dict[str, tuple[dict[str, Any], type[UserError], str]] = {
    "recipe": ({"recipe": "finetun"}, UnknownName, "unknown recipe 'finetun'; did you mean 'finetune'"),
    "no weights": ({"recipe": "finetune"}, ConfigError, "the recipe finetune starts from trained weights"),
    "scratch and weights": (
        {"recipe": "scratch_small", "weights": "somewhere"},
        ConfigError,
        "the recipe scratch_small starts from random weights: leave out --weights, or use finetune",
    ),
    "model": ({"model": "Nano/5"}, UnknownName, "unknown model 'Nano/5'; did you mean 'Nano/4'"),
    "weights": ({"weights": "nowhere/at/all.pt"}, WeightsError, "nowhere/at/all.pt"),
    "field": (
        {"overrides": ["optim.lrr=1"]},
        ConfigError,
        "a recipe has no field 'optim.lrr'; did you mean 'optim.lr'",
    ),
    "value": ({"overrides": ["epochs=-1"]}, ConfigError, "epochs: should be greater than or equal to 0, found -1"),
    "share": (
        {"overrides": ["val_share=2"]},
        ConfigError,
        "data.val_share: should be greater than 0 and less than 1, found 2",
    ),
    "seed": ({"seed": -1}, ConfigError, "seed: should be greater than or equal to 0, found -1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_sentence_and_leaves_nothing(name: str, images: Path, tmp_path: Path) -> None:
    options, kind, text = MISTAKES[name]
    with pytest.raises(kind) as error:
        train(images, out=tmp_path / "run", notify=lambda news: None, **options)
    assert text in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_without_anything_to_hold_out_is_refused_at_once(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "zoo", {"ape": 1, "bee": 1})
    with pytest.raises(DataError, match="no held-out images"):
        run(data, tmp_path / "run")


CIFAR_SIZE = ("image_size=32", "patch_size=4", "width=48", "depth=3", "heads=3", "mlp_dim=96", "crop_scale=[0.6, 1]")


@pytest.fixture(scope="module")
def cifar_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `images`, of 32 px."""
    counts = {f"train/{name}": 13 for name in ("ape", "bee", "cat")} | {
        f"val/{name}": 3 for name in ("ape", "bee", "cat")
    }
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts, size=32)


def train_in_a_child(data: Path, out: Path, last_fsync: int) -> None:
    """Train, and be killed at the fsync of that number."""
    torch.set_num_threads(1)  # a forked child must not wait for threads that stayed with its parent
    fsync, left = os.fsync, itertools.count(last_fsync, -1)

    def deadly(handle: int) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = deadly
    run_module.SAVE_SECONDS = 0.0  # a checkpoint after every step
    run(data, out, *CIFAR_SIZE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_any_moment_costs_only_time(cifar_size: Path, tmp_path: Path) -> None:
    """25 kills of a CIFAR-size run, every other one while something is written; every run ends as the unbroken one:
    weights, averaged weights, optimiser state and metrics."""
    # Forked from a server that has never differentiated: torch refuses to in a fork of a process that has.
    server, moments = multiprocessing.get_context("forkserver"), random.Random(0)
    server.set_forkserver_preload(["vitrail.train.run"])

    def sitting(out: Path, seconds: float | None = None, last_fsync: int = -1) -> bool:
        process = server.Process(target=train_in_a_child, args=(cifar_size, out, last_fsync))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        record = out / "run.json"
        return record.exists() and bool(json.loads(record.read_text())["finished"])  # also if killed right after that

    began = time.monotonic()
    assert sitting(tmp_path / "unbroken")
    whole = time.monotonic() - began
    kills, halfway = 0, 0
    for number in range(25):
        out = tmp_path / f"run{number}"
        while kills < 25:
            limits = {"seconds": moments.uniform(0, whole)} if kills % 2 else {"last_fsync": moments.randrange(1, 80)}
            if sitting(out, **limits):
                break
            kills += 1
            halfway += any(out.rglob(".tmp-*"))
        else:
            assert sitting(out)
        assert_same_run(out, tmp_path / "unbroken")
        if kills == 25:
            break
    assert kills == 25 and halfway >= 5
    assert sorted(last_state(tmp_path / "unbroken")) == [
        "average.safetensors", "moments.safetensors", "weights.safetensors",
    ]  # fmt: skip
