"""Comparing runs: what is read, what differs, whom each run is compared with, what is said; and the page's promises."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from behaviour.test_page import ALLOWED, HOSTILE, Outline, luminance
from reports import make_report
from vitrail.errors import ConfigError, DataError
from vitrail.evaluate.comparison import compare, mark
from vitrail.evaluate.comparison_page import kind, render_comparison
from vitrail.evaluate.comparison_report import Comparison, p_value, signed
from vitrail.evaluate.predictions import ImageResult, to_csv
from vitrail.evaluate.runs import read_run
from vitrail.ops.paired import difference_interval, mcnemar
from vitrail.train import folder as run_folder

RIGHT = "1111111000"  # of ten images, which are named right


def make_run(
    folder: Path,
    *,
    right: str | None = RIGHT,
    finished: bool = True,
    fingerprint: str = "f" * 64,
    recipe: dict[str, Any] | None = None,
    epochs: float = 2.0,
) -> Path:
    """A run folder as `vitrail train` leaves it. `right`: None where it kept no predictions.csv."""
    folder.mkdir(parents=True)
    record = {
        "recipe": {"name": "scratch_small", "epochs": epochs, "seed": 0, "optim": {"lr": 0.001}, **(recipe or {})},
        "data": {"name": "pets", "fingerprint": "d" * 64, "splits": {"train": 40, "val": 10}},
        "started_from": None,
        "precision": "float32",
        "device": "cpu",
        "versions": {"vitrail": "0.1.0", "torch": "2.11.0"},
        "started": "2026-11-22T12:00:00+00:00",
        "finished": "2026-11-22T12:01:00+00:00" if finished else None,
    }
    (folder / "run.json").write_text(json.dumps(record | ({"seconds": 61.0} if finished else {})))
    rows = [{"step": i, "epoch": i / 2, "loss": 2 / i, "lr": 1e-3 / i, "seconds": 10.0 * i} for i in range(1, 5)]
    rows += [{"step": i, "epoch": i / 2, "val_top1": 0.2 * i, "val_nll": 1 / i} for i in (2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    if finished:
        count = (right or RIGHT).count("1")
        report = make_report(fingerprint=fingerprint)
        report.model_copy(update={"top1": count / 10, "top1_count": count}).save(folder / "evaluation.json")
        if right is not None:
            results = (
                ImageResult(f"{i}.png", "cat", "cat" if r == "1" else "dog", 0.9, 0.9 if r == "1" else 0.1, r == "1")
                for i, r in enumerate(right)
            )
            (folder / "predictions.csv").write_text(to_csv(results))
    return folder


def page_of(*folders: Path) -> str:
    return render_comparison(*compare(folders))


def test_the_names_of_the_files_are_those_that_training_writes() -> None:
    from vitrail.evaluate import runs

    assert (runs.RUN_FILE, runs.METRICS_FILE) == (run_folder.RUN_FILE, run_folder.METRICS_FILE)


def test_runs_are_paired_on_the_same_images(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", right="1111100000")
    b = make_run(tmp_path / "b", right="1101111110")
    comparison, _ = compare([a, b])
    (d,) = comparison.differences
    assert (d.run, d.than, d.images, d.only_run, d.only_than) == ("B", "A", 10, 4, 1)
    assert d.difference == pytest.approx(0.3)
    assert (d.interval, d.p) == (difference_interval(4, 1, 10), mcnemar(4, 1))
    assert "B against A: +30.0 points" in d.sentence() and "may be chance" in d.sentence()
    assert comparison.verdict() == (
        "B is right most often: 80.0 % of 10 held-out images of pets, against 50.0 % in A, which may be chance."
    )
    assert comparison.same_images and comparison.unpaired == ()


def test_a_difference_beyond_chance_is_called_so(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", right="0" * 10), make_run(tmp_path / "b", right="1" * 10)
    comparison, _ = compare([a, b])
    (d,) = comparison.differences
    assert d.p < 0.05 and d.sentence().endswith("this is more than chance explains.")
    assert comparison.verdict().endswith("against 0.0 % in A.")


@pytest.mark.parametrize("why", ["other images", "no predictions", "fewer read"])
def test_runs_that_cannot_be_paired_are_not(tmp_path: Path, why: str) -> None:
    a = make_run(tmp_path / "a")
    fingerprint = "e" * 64 if why == "other images" else "f" * 64
    b = make_run(tmp_path / "b", fingerprint=fingerprint, right=None if why == "no predictions" else RIGHT)
    if why == "fewer read":
        lines = (b / "predictions.csv").read_text().splitlines(keepends=True)
        (b / "predictions.csv").write_text("".join(lines[:-1]))
    comparison, _ = compare([a, b])
    assert (comparison.differences, comparison.unpaired) == ((), ("B",))
    assert "Not compared image by image: B." in comparison.markdown()
    assert comparison.same_images == (why != "other images")
    assert ("different images" in comparison.verdict()) == (why == "other images")


def test_what_differs_and_what_does_not(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", recipe={"optim": {"lr": 0.001, "clip": None}, "augment": {"flip": 0.5}})
    b = make_run(tmp_path / "b", recipe={"optim": {"lr": 0.002, "clip": None, "loss": "bce"}, "augment": {"flip": 0.0}})
    comparison, _ = compare([a, b])
    assert {s.field: s.values for s in comparison.settings} == {
        "optim.lr": {"A": 0.001, "B": 0.002},
        "augment.flip": {"A": 0.5, "B": 0.0},
    }
    shared = {s.field: s for s in comparison.shared}
    assert shared["optim.clip"].text("A") == "none"
    assert shared["optim.loss"].text("A") == "–" and shared["optim.loss"].text("B") == "bce"  # A is of an older version
    assert "The training losses are not on one scale" in page_of(a, b)


def test_one_recipe_under_several_seeds_is_a_mean_and_a_spread(tmp_path: Path) -> None:
    rights = ("1111111000", "1111111100", "1111111110")
    runs = [make_run(tmp_path / f"{i}", right=r, recipe={"seed": i}) for i, r in enumerate(rights)]
    said = compare(runs)[0].verdict()
    assert said.startswith("One recipe under 3 seeds: top-1 70.0 % to 90.0 %, mean 80.00 %, standard deviation 10.00")
    other = make_run(tmp_path / "other", right=rights[0], recipe={"seed": 9, "name": "finetune"})
    assert "seeds" not in compare([*runs, other])[0].verdict()


def test_unfinished_runs_are_shown_as_far_as_they_came(tmp_path: Path) -> None:
    done, stopped = make_run(tmp_path / "done"), make_run(tmp_path / "stopped", finished=False, epochs=9.0)
    comparison, _ = compare([done, stopped])
    facts = comparison.runs[1]
    assert (facts.finished, facts.step, facts.scores, facts.last_top1) == (False, 4, None, pytest.approx(0.6))
    assert facts.seconds == 40.0
    assert "2.0 of 9" in comparison.markdown() and "unfinished, after step 4" in page_of(done, stopped)
    assert "No run is finished yet" in compare([stopped])[0].verdict()


def test_equals_are_not_ranked(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, epochs=i) for i, name in enumerate("abc")]
    assert compare(runs)[0].verdict() == "A, B and C are right equally often: 70.0 % of 10 held-out images of pets."


def test_namesakes_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "old" / "run"), make_run(tmp_path / "new" / "run"), make_run(tmp_path / "third")]
    assert [run.name for run in compare(runs)[0].runs] == ["old/run", "new/run", "third"]


def test_the_json_is_the_comparison(tmp_path: Path) -> None:
    comparison, _ = compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", finished=False)])
    assert Comparison.model_validate_json(comparison.json()) == comparison


def test_marks_kinds_and_signs() -> None:
    assert [mark(i) for i in (0, 25, 26, 27, 52, 701, 702)] == ["A", "Z", "AA", "AB", "BA", "ZZ", "AAA"]
    assert len({kind(i) for i in range(18)}) == 18
    assert [signed(x) for x in (0.0, 0.0004, -0.0004, 0.012, -0.012)] == ["0.0", "0.0", "0.0", "+1.2", "−1.2"]
    assert [p_value(p) for p in (1.0, 0.0314, 1e-9)] == ["1", "0.031", "< 0.0001"]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ("missing", "a run is a folder that `vitrail train` made, but '{path}x' does not exist; did you mean 'a'?"),
        ("file", "a run is a folder that `vitrail train` made, but '{path}/run.json' is a file"),
        ("empty", "a run is a folder that `vitrail train` made, but '{path}' has no run.json"),
        ("json", "{path}/run.json is not the record of a run"),
        ("evaluation", "{path}/evaluation.json is not a saved evaluation"),
        ("predictions", "{path}/predictions.csv is not a table of predictions"),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path: Path, spoil: str, error: str) -> None:
    path = make_run(tmp_path / "a")
    asked = {"missing": Path(f"{path}x"), "file": path / "run.json"}.get(spoil, path)
    if spoil == "empty":
        (path / "run.json").unlink()
    elif spoil in ("json", "evaluation", "predictions"):
        name = {"json": "run.json", "evaluation": "evaluation.json", "predictions": "predictions.csv"}[spoil]
        (path / name).write_text("[1]")
    with pytest.raises(DataError) as raised:
        read_run(asked)
    assert str(raised.value).startswith(error.format(path=path))


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="is named twice"):
        compare([a, tmp_path / "." / "a"])
    with pytest.raises(ConfigError, match="at least one"):
        compare([])


@pytest.mark.parametrize("text", [t.replace("/", "") for t in HOSTILE])
def test_names_are_text_on_the_page(tmp_path: Path, text: str) -> None:
    plain = make_run(tmp_path / "plain", recipe={"name": "a"})
    hostile = make_run(tmp_path / text, recipe={"name": text, text: text})
    outline = Outline(page_of(plain, hostile))
    allowed = ALLOWED | {"input", "label"}
    assert {tag for tag, _ in outline.tags} <= allowed and outline.open == []
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert text in "".join(outline.texts)


def test_the_page_stands_alone_and_holds_every_axis(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", finished=False), make_run(tmp_path / "c"))
    assert "<script" not in page and not re.search(r"(src|href)=|url\(|@import", page)
    drawings = [a for tag, a in Outline(page).tags if tag == "svg"]
    assert len(drawings) == 2 + 3 * 4  # scores, differences; four quantities over epochs, steps and time
    assert all(len(a.get("aria-label", "")) > 20 for a in drawings)
    radios = [a for tag, a in Outline(page).tags if tag == "input"]
    assert [("checked" in a) for a in radios] == [True, False, False]
    for axis in ("epoch", "step", "time"):
        assert f"#over-{axis}:checked ~ .of-{axis}" in page and f'id="over-{axis}"' in page
    assert page == page_of(*(tmp_path / name for name in "abc"))


def test_a_single_run_has_a_page_too(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"))
    assert "What differs" not in page and "Is the difference real?" not in page
    assert "It names the right class of 70.0\u202f%" in page and "settings</summary>" in page


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_of_a_run_stands_out_from_the_ground(tmp_path: Path, dark: bool) -> None:
    style = page_of(make_run(tmp_path / "a"))
    parts = style.split("prefers-color-scheme: dark") if dark else style.split("\n:root {")  # not the nested ones
    colours = {n: c for part in parts[1:] for n, c in re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part.split("}")[0])}
    assert {f"h{x}" for x in "abcdef"} <= set(colours)
    for name in (f"h{x}" for x in "abcdef"):
        light, low = sorted((luminance(colours[name]), luminance(colours["paper"])), reverse=True)
        assert (light + 0.05) / (low + 0.05) >= 4.5, name
