"""Images with several classes from end to end: train, evaluate, predict, report, check, and what is refused."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli import main
from vitrail.errors import ConfigError, DataError
from vitrail.evaluate import evaluate
from vitrail.evaluate.head import cross_entropy, fit_head, head_logits
from vitrail.evaluate.multilabel_report import MultilabelReport, load_report
from vitrail.evaluate.probe import probe
from vitrail.inference import load
from vitrail.ops.multilabel import mean_average_precision
from vitrail.report import Report
from vitrail.train import train
from vitrail.weights.checkpoint import read_stored

COLOURS = ("blue", "green", "red")
TINY = [
    *("width=16", "depth=1", "heads=2", "mlp_dim=16", "image_size=8", "patch_size=4", "batch_size=16", "lr=0.01"),
    *("epochs=12", "precision=float32", "crop_scale=[1,1]", "crop_ratio=[1,1]", "randaugment_layers=0", "rotate=0"),
]


def draw(folder: Path, count: int, random: np.random.Generator, prefix: str) -> list[tuple[str, list[str]]]:
    """Pictures of 8 px, each with a bright patch of a random set of the colours; and what is on them."""
    found = []
    for i in range(count):
        chosen = random.random(3) < 0.45
        pixels = random.integers(0, 60, (8, 8, 3), dtype=np.uint8)
        for k in np.flatnonzero(chosen):
            pixels[4 * (k % 2) : 4 * (k % 2) + 4, 4 * (k // 2) : 4 * (k // 2) + 4, 2 - k] += 180
        Image.fromarray(pixels).save(folder / f"{prefix}{i:03d}.png")
        found.append((f"{prefix}{i:03d}.png", [COLOURS[k] for k in np.flatnonzero(chosen)]))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tags")
    random = np.random.default_rng(0)
    rows = [(*row, split) for split, n in (("train", 160), ("val", 60)) for row in draw(folder, n, random, split)]
    lines = ["path,labels,split", *(f"{path},{'|'.join(labels)},{split}" for path, labels, split in rows)]
    (folder / "tags.csv").write_text("\n".join(lines))
    return folder / "tags.csv"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tags"
    train(data, out=out, overrides=TINY, notify=lambda news: None)
    return out


def test_a_run_learns_and_its_folder_says_that_there_are_several(run: Path):
    report = load_report(run / "evaluation.json")
    assert isinstance(report, MultilabelReport)
    assert report.mean_average_precision is not None and report.mean_average_precision > 0.9  # chance: 0.45
    assert (report.images, [c.name for c in report.classes]) == (60, list(COLOURS))
    stored = read_stored(run / "model")
    assert stored.labels is not None and stored.labels.multilabel
    assert json.loads((run / "model/config.json").read_text())["problem_type"] == "multi_label_classification"
    recipe = json.loads((run / "run.json").read_text())
    assert recipe["recipe"]["optim"]["loss"] == "sigmoid"
    assert recipe["metrics"]["mean_average_precision"] == report.mean_average_precision
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_map"] for row in rows if "val_map" in row][-1] == report.mean_average_precision


def test_the_report_is_what_the_logits_say(run: Path, data: Path):
    classifier = load(run)
    report = evaluate(classifier, data)
    assert isinstance(report, MultilabelReport)
    table = [row for row in csv.DictReader(io.StringIO(data.read_text())) if row["split"] == "val"]
    truth = torch.tensor([[colour in row["labels"].split("|") for colour in COLOURS] for row in table])
    logits = torch.cat([classifier.logits(classifier.prepare(data.parent / row["path"])[None]) for row in table])
    assert report.mean_average_precision == pytest.approx(mean_average_precision(logits, truth), abs=1e-9)
    given = logits.sigmoid() >= 0.5
    assert report.exact_count == int((given == truth).all(1).sum())
    hits = int((given & truth).sum())
    assert report.f1 == pytest.approx(2 * hits / int(given.sum() + truth.sum()))
    strict = evaluate(classifier, data, threshold=0.9)
    assert isinstance(strict, MultilabelReport)
    assert strict.mean_average_precision == report.mean_average_precision
    assert strict.recall is not None and report.recall is not None and strict.recall <= report.recall
    with pytest.raises(ConfigError, match=r"a threshold is a probability above 0 and below 1, found 1\.5"):
        evaluate(classifier, data, threshold=1.5)


def test_evaluate_and_predict_from_the_command_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "page.html"
    assert main(["evaluate", str(run), str(data), "--html", str(page), "--csv", str(tmp_path / "p.csv")]) == 0
    told = capsys.readouterr().out
    assert "mean average precision" in told and "top-1" not in told
    html = page.read_text()
    assert "mean average precision" in html and "<script" not in html and "top-1" not in html
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert len(rows) == 60
    for row in rows:
        assert (row["label"] == row["predicted"]) == (row["right"] == "1")
    picture = str(data.parent / "val000.png")
    assert main(["predict", str(run), picture, "--threshold", "0", "--json", "-"]) == 0
    every = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert sorted(p["label"] for p in every) == list(COLOURS)
    assert sum(p["probability"] for p in every) != pytest.approx(1.0, abs=1e-3)  # each on its own
    assert main(["predict", str(run), picture, "--csv", "-"]) == 0
    named = [row["label"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert named == [p["label"] for p in every if p["probability"] >= 0.5]
    assert main(["predict", str(run), picture, "--threshold", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split("\t") == [picture, "none"]
    assert main(["predict", str(run), picture, "--threshold", "2"]) == 2
    assert "--threshold should be a probability between 0 and 1, found 2" in capsys.readouterr().err


def test_runs_are_compared_by_what_they_get_exactly_right(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(data, out=tmp_path / "other", overrides=[*TINY, "loss=bce"], seed=1, notify=lambda news: None)
    assert main(["report", str(run), str(tmp_path / "other"), "--html", str(tmp_path / "c.html")]) == 0
    told = capsys.readouterr().out
    assert (
        "mean AP" in told
        and "exactly right" in told
        and "top-1" not in told
        and re.search(r"A against B|B against A", told)
    )
    assert "Held-out mean average precision" in (tmp_path / "c.html").read_text()


def test_a_stopped_run_continues_bit_for_bit(run: Path, data: Path, tmp_path: Path):
    def stop_at(step: int):
        def notify(news):
            if news.kind == "step" and news.step == step:
                raise KeyboardInterrupt

        return notify

    with pytest.raises(KeyboardInterrupt):
        train(data, out=tmp_path / "again", overrides=TINY, notify=stop_at(47))
    train(data, out=tmp_path / "again", overrides=TINY, notify=lambda news: None)
    weights = [(folder / "model/model.safetensors").read_bytes() for folder in (run, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_a_head_is_solved_for_each_class_on_its_own():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 5, generator=generator)
    rows = (features @ torch.randn(5, 4, generator=generator) + torch.randn(300, 4, generator=generator) > 0.8).float()
    rows[:, 3] = 0.0
    rows = torch.cat([rows, torch.ones(300, 1)], dim=1)  # one that no image has, and one that all have
    for method in ("logistic", "ridge"):
        head = fit_head(features, rows, 5, method)
        logits = head_logits(head, features)
        assert bool((logits[:, 3] < -50).all()) and bool((logits[:, 4] > 50).all())
        value = mean_average_precision(logits[:, :3], rows[:, :3] > 0)
        assert value is not None and value > 0.8
    # The logistic head is the minimum of its objective: any step away from it costs.
    head = fit_head(features, rows, 5, "logistic")
    deviation = features.double().std(0, correction=0)

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        loss = cross_entropy(features.double() @ weight.T + bias, rows[:, :3].double())
        return float(loss + head.penalty / 2 * (weight * deviation).square().sum())

    weight, bias = head.weight[:3].double(), head.bias[:3].double()
    best = objective(weight, bias)
    for seed in range(10):
        step = 0.02 * torch.randn(3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(weight + step[:, :5], bias + step[:, 5]) > best


def test_the_recipe_probe_solves_for_such_a_head(run: Path, data: Path, tmp_path: Path):
    for solver in ("logistic", "ridge"):
        result = train(
            data, weights=run, recipe="probe", out=tmp_path / solver, overrides=[f"head_solver={solver}"],
            notify=lambda news: None,
        )  # fmt: skip
        assert isinstance(result.report, MultilabelReport)
        assert result.report.score > 0.9


def test_what_needs_one_class_an_image_is_refused(
    run: Path, data: Path, photos: Path, model_folder: Path, tmp_path: Path
):
    for setting in ("loss=softmax", "sampler=balanced"):
        told = rf"{setting} needs one class an image, and images of tags\.csv may have several: set it to"
        with pytest.raises(ConfigError, match=told):
            train(data, out=tmp_path / "no", overrides=[*TINY, setting], notify=lambda news: None)
    assert not (tmp_path / "no").exists()
    with pytest.raises(DataError, match=r"images of tags\.csv may have several"):
        probe(run, data)
    with pytest.raises(DataError, match="the model gives an image one class"):
        evaluate(model_folder, data)
    with pytest.raises(ConfigError, match="a threshold is for a model whose images may have several classes"):
        evaluate(model_folder, photos, threshold=0.3)
    assert isinstance(evaluate(model_folder, photos), Report)


def test_a_model_of_several_on_data_with_one_class_an_image(run: Path, photos: Path):
    report = evaluate(run, photos)
    assert isinstance(report, MultilabelReport)
    assert report.labels_each == 1.0
    assert report.data.note.endswith("the data name one class an image, and all others were taken as absent")


def test_classes_weigh_the_same_where_asked(data: Path, tmp_path: Path):
    result = train(data, out=tmp_path / "w", overrides=[*TINY, "class_weights=balanced"], notify=lambda news: None)
    assert result.report.score > 0.9


def test_data_check_takes_such_data(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", str(data), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in found["classes"]] == list(COLOURS)
    table = [row for row in csv.DictReader(io.StringIO(data.read_text())) if row["split"] == "train"]
    assert found["classes"][2]["images"]["train"] == sum("red" in row["labels"] for row in table)


@pytest.mark.parametrize("target", ["timm", "transformers"])
def test_other_layouts_say_so_too(target: str, run: Path, tmp_path: Path):
    assert main(["convert", str(run), str(tmp_path / "out"), "--to", target, "--allow-loss", "preprocess"]) == 0
    found = read_stored(tmp_path / "out")
    told = (found.description or {}).get("problem_type")
    assert told == "multi_label_classification"
    assert load(tmp_path / "out").labels.multilabel
