"""LoRA and distillation as a person meets them: whole runs, their continuation, what they leave, and the mistakes."""

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vitrail
from pictures import class_folders
from vitrail.errors import ConfigError
from vitrail.inference import load
from vitrail.train.job import decide
from vitrail.train.progress import Progress
from vitrail.train.run import new_state, train
from vitrail.train.state import DamagedCheckpoint, load_checkpoint
from vitrail.weights.checkpoint import read_record

SHAPE = ("width=8", "depth=2", "heads=2", "mlp_dim=8")
QUICK = ("batch_size=8", "epochs=2", "precision=float32", "workers=0", "mixup=0.5", "mix_probability=0.5", "ema=0.9")
LORA = ("lora.rank=2", "lora.targets=all", "optim.lr=0.01")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """39 training and 9 held-out images of 8 px in three classes."""
    names = ("ape", "bee", "cat")
    counts = {f"train/{name}": 13 for name in names} | {f"val/{name}": 3 for name in names}
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts)


@pytest.fixture(scope="module")
def start(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run: weights to start from, and a teacher."""
    return run(images, tmp_path_factory.mktemp("start") / "run", *SHAPE)


def run(data: Path, out: Path, *more: str, notify: Callable[[Progress], None] | None = None, **options: Any) -> Path:
    settings = {text.partition("=")[0]: text for text in (*QUICK, *more)}
    result = train(data, out=out, overrides=[*settings.values()], notify=notify or (lambda news: None), **options)
    return result.folder


def stop_at(step: int) -> Callable[[Progress], None]:
    def notify(news: Progress) -> None:
        if (news.kind, news.step) == ("step", step):
            signal.raise_signal(signal.SIGINT)

    return notify


def results(folder: Path) -> dict[str, Any]:
    """Everything that must be the same in a continued run: kept weights, newest checkpoint, metrics without times."""
    newest = max((folder / "checkpoints").iterdir())
    manifest = json.loads((newest / "manifest.json").read_text())
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "state": {name: digest for name, digest in manifest.items() if name != "state.json"},
        "metrics": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
    }


def test_a_lora_run_leaves_a_plain_model_folder(images: Path, start: Path, tmp_path: Path) -> None:
    told: list[str] = []
    folder = run(images, tmp_path / "run", *LORA, weights=start, notify=lambda news: told.append(news.text))
    # 2 blocks: qkv 3 * 2 * (8 + 8), three other matrices 2 * (8 + 8) each; the head 3 * (8 + 1)
    assert "parameters (411 train: updates of rank 2 and the head) at 8 x 8 px" in told[0], told[0]
    assert 2 * (6 * 16 + 3 * 32) + 27 == 411
    before, after = (load(f).model.state_dict() for f in (start, folder))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = ("attention.qkv", "attention.out", "mlp.fc1", "mlp.fc2")
    assert moved == {f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers} | {"head.weight", "head.bias"}
    # what was measured on the updated model is what the plain folder scores
    stored = json.loads((folder / "evaluation.json").read_text())
    again = vitrail.evaluate(load(folder), images, split="val")
    assert (again.top1_count, again.nll) == (stored["top1_count"], stored["nll"])
    assert read_record(folder / "model")["recipe"]["lora"] == {"rank": 2, "alpha": 16.0, "targets": "all"}


@pytest.mark.parametrize("step", [1, 7])
def test_first_blocks_that_stay_and_a_run_that_continues(step: int, images: Path, start: Path, tmp_path: Path) -> None:
    told: list[str] = []
    frozen = ("optim.frozen_blocks=1", "optim.lr=0.01")
    whole = run(images, tmp_path / "whole", *frozen, weights=start, notify=lambda news: told.append(news.text))
    assert "train; frozen blocks: 1) at 8 x 8 px" in told[0], told[0]
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", *frozen, weights=start, notify=stop_at(step))
    run(images, tmp_path / "run", *frozen, weights=start)
    assert results(tmp_path / "run") == results(whole)
    before, after = (load(f).model.state_dict() for f in (start, whole))
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.partition(".")[0] for name in before.keys() - stayed} == {"blocks", "norm", "head"}
    assert {name for name in before if name.startswith("blocks.0.")} <= stayed
    assert not {name for name in before if name.startswith("blocks.1.mlp")} & stayed


@pytest.mark.parametrize("step", [1, 7])
def test_a_lora_run_continues_bit_for_bit(step: int, images: Path, start: Path, tmp_path: Path) -> None:
    whole = run(images, tmp_path / "whole", *LORA, "head_steps=3", weights=start)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", *LORA, "head_steps=3", weights=start, notify=stop_at(step))
    run(images, tmp_path / "run", *LORA, "head_steps=3", weights=start)
    assert results(tmp_path / "run") == results(whole)
    frozen = "blocks.0.attention.qkv.parametrizations.weight.original"
    newest = max((whole / "checkpoints").iterdir())
    kept = {name: load_file(newest / f"{name}.safetensors") for name in ("weights", "average", "moments")}
    assert not any(frozen in name for tensors in kept.values() for name in tensors)
    for name in ("weights", "average"):
        assert sum(tensor.numel() for tensor in kept[name].values()) == 411, sorted(kept[name])


def test_a_checkpoint_of_other_frozen_weights_is_passed_over(images: Path, start: Path, tmp_path: Path) -> None:
    folder = run(images, tmp_path / "run", *LORA, weights=start)
    newest = max((folder / "checkpoints").iterdir())
    job = decide(images, None, start, None, tmp_path / "other", 0, [*QUICK, *LORA], lambda news: None)
    state = new_state(job)
    load_checkpoint(newest, state)
    with torch.no_grad():
        state.model.get_parameter("blocks.0.mlp.fc1.bias").add_(1.0)
    with pytest.raises(DamagedCheckpoint, match="it was made with other frozen weights"):
        load_checkpoint(newest, state)


DISTILL = ("distill.kind=soft", "distill.weight=0.7", "distill.temperature=2", "model.distillation_token=true")


def test_a_student_follows_its_teacher(images: Path, start: Path, tmp_path: Path) -> None:
    """Trained on the teacher's answers alone, the distilled head agrees with it more than the labels' head does."""
    told: list[str] = []
    options = [*SHAPE, "distillation_token=true", "epochs=25", "ema=0", "mixup=0", "optim.lr=0.005", "flip=0"]
    options += [
        "distill.kind=soft",
        "evaluate_every=25",
        "rotate=0",
        "shift=0",
        "crop_scale=[1, 1]",
    ]
    folder = run(
        images, tmp_path / "run", *options, f"distill.teacher={start}", notify=lambda news: told.append(news.text)
    )
    assert f" Its teacher is {start}." in told[0]
    record = read_record(folder / "model")["teacher"]
    assert record["source"] == str(start) and len(record["sha256"]) == 64
    student, teacher = load(folder).model, load(start).model
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 8, 8), generator=generator)
    batch = (pixels / 255 - 0.5) / 0.5  # images that neither has seen, of the kind of theirs
    with torch.no_grad():
        of_labels, of_teacher = student.head_logits(student.encode(batch))
        wanted = teacher(batch).log_softmax(1)
    distance = [
        torch.nn.functional.kl_div(logits.log_softmax(1), wanted, log_target=True, reduction="batchmean").item()
        for logits in (of_labels, of_teacher)
    ]
    assert distance[1] < 0.5 * distance[0], distance


@pytest.mark.parametrize("token", ["true", "false"])
def test_a_distilled_run_continues_bit_for_bit(token: str, images: Path, start: Path, tmp_path: Path) -> None:
    options = [*SHAPE, *DISTILL, f"model.distillation_token={token}", f"distill.teacher={start}", "accumulate=2"]
    whole = run(images, tmp_path / "whole", *options)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", *options, notify=stop_at(4))
    run(images, tmp_path / "run", *options)
    assert results(tmp_path / "run") == results(whole)


def test_the_loss_does_not_depend_on_how_a_step_is_cut(images: Path, start: Path, tmp_path: Path) -> None:
    losses = []
    for parts in (1, 3):
        options = (*SHAPE, *DISTILL, f"distill.teacher={start}", f"accumulate={parts}", "mixup=0", "epochs=1")
        rows = results(run(images, tmp_path / str(parts), *options))["metrics"]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != losses[1]


def test_without_a_teacher_both_heads_learn_the_labels(images: Path, tmp_path: Path) -> None:
    """The loss is that of their mean, which is what is evaluated."""
    folder = run(images, tmp_path / "run", *SHAPE, "model.distillation_token=true", "epochs=1")
    tensors = load(folder).model.state_dict()
    heads = [tensors[f"{head}.weight"] for head in ("head", "distillation_head")]
    assert all(head.abs().sum() > 0 for head in heads) and not torch.equal(*heads)


def test_another_teacher_does_not_continue_a_run(images: Path, start: Path, tmp_path: Path) -> None:
    other = run(images, tmp_path / "other", *SHAPE, "epochs=1", seed=1)
    link = tmp_path / "teacher"
    link.symlink_to(start)
    options = (*SHAPE, f"distill.teacher={link}")
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "run", *options, notify=stop_at(2))
    link.unlink()
    link.symlink_to(other)  # the same name, other weights
    with pytest.raises(ConfigError, match=r"was started differently \(teacher [0-9a-f]{64}, now [0-9a-f]{64}\)"):
        run(images, tmp_path / "run", *options)


def test_mistakes_leave_nothing(images: Path, start: Path, tmp_path: Path) -> None:
    for options, text in (
        (["lora.rank=8"], "lora.rank=8 trains small updates of trained weights: name some with --weights, or set "),
        (["distill.teacher=nowhere/at/all"], "nowhere/at/all"),
        ([*SHAPE, "frozen_blocks=1"], "optim.frozen_blocks=1 keeps trained weights as they are: name some with --weig"),
        ([*SHAPE, "frozen_blocks=3"], "optim.frozen_blocks is at most 2, the blocks of this model, found 3"),
    ):
        with pytest.raises(vitrail.errors.UserError) as error:
            run(images, tmp_path / "run", *options)
        assert text in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"lora\.rank should be at most 8, a side of this model's matrices, found 9"):
        run(images, tmp_path / "run", "lora.rank=9", weights=start)
    two = class_folders(tmp_path / "two", {"train/ape": 3, "train/dog": 3, "val/ape": 1, "val/dog": 1})
    with pytest.raises(
        ConfigError, match=r"it lacks 'dog' and it also knows 'bee', 'cat': train it on the same classes"
    ):
        run(two, tmp_path / "run", *SHAPE, f"distill.teacher={start}", "batch_size=4")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
