"""The range test: the sweep is the recipe's own steps, the suggestion follows its rule, nothing is left behind."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pictures import class_folders
from vitrail.errors import ConfigError
from vitrail.train.lr_find import HIGHEST, LOWEST, LrFinding, LrPoint, find_lr, suggest
from vitrail.train.lr_page import render, summary

TINY = ("width=8", "depth=1", "heads=2", "mlp_dim=8", "batch_size=8", "precision=float32", "workers=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"{split}/{name}": n for split, n in (("train", 12), ("val", 2)) for name in ("ape", "bee")}
    return class_folders(tmp_path_factory.mktemp("data") / "zoo", counts)


@pytest.fixture(scope="module")
def found(folder: Path) -> LrFinding:
    return find_lr(folder, overrides=TINY, steps=40)


def curve(values: list[float]) -> list[LrPoint]:
    return [LrPoint(lr=10.0 ** (i / 10 - 5), loss=v, smoothed=v) for i, v in enumerate(values)]


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    valley = [2.0 + abs(i - 30) / 30 for i in range(50)]
    assert suggest(curve(valley)) == pytest.approx(10.0 ** (30 / 10 - 5) / 10)
    assert suggest(curve([2.0 + i / 100 for i in range(50)])) is None  # it only rose
    assert suggest(curve([2.0 - i / 10_000 for i in range(50)])) is None  # a hundredth is noise
    assert suggest([]) is None


def test_rates_grow_by_one_factor_and_the_smoothed_loss_is_the_mean_it_says(found: LrFinding) -> None:
    rates = [p.lr for p in found.points]
    factor = (HIGHEST / LOWEST) ** (1 / 39)
    assert rates == pytest.approx([LOWEST * factor**i for i in range(len(rates))])
    weights = [0.9 ** (len(rates) - 1 - i) for i in range(len(rates))]
    wanted = sum(w * p.loss for w, p in zip(weights, found.points, strict=True)) / sum(weights)
    assert found.points[-1].smoothed == pytest.approx(wanted)
    assert found.points[0].smoothed == pytest.approx(found.points[0].loss)


def test_the_first_loss_is_that_of_the_recipe_s_first_step(found: LrFinding, folder: Path, tmp_path: Path) -> None:
    from vitrail.train import train

    rows = []
    train(folder, out=tmp_path / "run", overrides=[*TINY, "epochs=1"], notify=rows.append)
    first = next(news for news in rows if news.kind == "step")
    assert found.points[0].loss == first.loss


def test_it_repeats_leaves_no_file_and_follows_the_seed(found: LrFinding, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.parent.rglob("*"))
    assert find_lr(folder, overrides=TINY, steps=40) == found
    assert find_lr(folder, overrides=TINY, steps=40, seed=1).points != found.points
    assert sorted(folder.parent.rglob("*")) == before


def test_a_loss_that_explodes_ends_the_test(folder: Path) -> None:
    told: list[int] = []
    wild = find_lr(folder, overrides=[*TINY, "clip=1000"], steps=200, notify=lambda step, steps: told.append(step))
    assert wild.stopped == "diverged" and len(wild.points) < 200 and len(told) <= len(wild.points)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 19}, "a range test needs at least 20 steps, found 19"),
        ({"recipe": "probe"}, "the recipe probe starts from trained weights"),
        ({"overrides": ["epochs=0", "head_solver=ridge"]}, "the recipe scratch_small takes no steps"),
        (
            {"overrides": ["epochs=0"]},
            "epochs=0 trains nothing: set epochs or steps above 0, or head_solver=ridge or logistic",
        ),
    ],
)
def test_mistakes_are_sentences(folder: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_lr(folder, **options)


def test_the_page_shows_the_curve_and_the_words(found: LrFinding) -> None:
    page = render(found)
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    lines = ElementTree.fromstring(svg).findall("polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [len(found.points)] * 2
    marked = found.model_copy(update={"suggestion": 0.001, "data": "<b>zoo"})
    assert ">0.001</text>" in render(marked) and "<b>zoo" not in render(marked)
    assert "--set optim.lr=0.001" in summary(marked) and "the recipe has 0.002" in summary(marked)
    assert "No suggestion" in summary(found.model_copy(update={"suggestion": None}))
    assert "<svg" not in render(found.model_copy(update={"points": ()}))
