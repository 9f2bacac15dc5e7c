"""Every page that is no walk-through in Chromium: reports, comparisons, checks, range tests and explanations, light and
dark, wide and narrow, for everybody."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from behaviour.test_multilabel import draw
from behaviour.test_page import HISTORY
from browsing import barriers
from reports import make_report
from unit.evaluate.test_comparison import make_run
from vitrail.config import Preprocess, ViTConfig
from vitrail.data.sources import open_dataset
from vitrail.evaluate import evaluate, picture_mistakes, render
from vitrail.evaluate.audit import audit
from vitrail.evaluate.comparison import compare
from vitrail.evaluate.comparison_page import render_comparison
from vitrail.evaluate.findings import LabelDoubt, OddSize
from vitrail.evaluate.findings_page import render_findings
from vitrail.evaluate.page import thumbnail
from vitrail.explain import page as explain_page
from vitrail.explain.explanation import Request, explain
from vitrail.inference import Classifier
from vitrail.models.vit import ViT
from vitrail.train.lr_find import LrFinding, LrPoint
from vitrail.train.lr_page import render as render_lr
from vitrail.types import LabelSet
from walkthrough import LABELS, classifier, photo

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

LONG = "Chesapeake Bay retriever, a dog that fetches ducks from cold water for people who do not want to get wet"
UNBROKEN = "a_name_without_a_single_space_at_which_it_could_be_broken_into_lines_" * 2


def explained(folder: Path, **more: Any) -> str:
    names = (LONG, *LABELS[1:])
    model, methods = classifier(labels=names), ("rollout", "grad_cam", "occlusion")
    request = Request(methods, random=2, **more)
    images = [photo(folder, name) for name in ("a.png", f"{UNBROKEN}.png")]
    found = [explain(model, image, request, name=image.name) for image in images]
    explain_page.write(folder / "out", found, request, model=UNBROKEN, mode="heatmap")
    return (folder / "out" / "index.html").read_text()


def report(folder: Path, classes: int) -> str:
    names = (LONG, UNBROKEN, *(f"class {i}" for i in range(2, 1000)))
    made = make_report(classes=classes, names=names, name=UNBROKEN, unreadable=2, note="half of it was seen before")
    picture = thumbnail(photo(folder).read_bytes())
    shown = [m.model_copy(update={"thumbnail": picture}) for m in made.mistakes]
    return render(made, history=HISTORY, mistakes=shown, title=UNBROKEN)


def several(folder: Path) -> str:
    """Of a model that gives an image any number of classes."""
    rows = draw(folder, 12, np.random.default_rng(0), UNBROKEN)
    lines = ["path,labels,split", *(f"{path},{'|'.join(labels)},val" for path, labels in rows)]
    (folder / "tags.csv").write_text("\n".join(lines))
    config = ViTConfig(image_size=(8, 8), patch_size=(4, 4), width=8, depth=1, heads=2, mlp_dim=8, classes=3)
    model = ViT(config)
    torch.nn.init.normal_(model.head.weight, std=3.0, generator=torch.Generator().manual_seed(1))
    labels = LabelSet(("blue", "green", "red"), multilabel=True)
    made = evaluate(Classifier(model, Preprocess(size=(8, 8)), labels), folder / "tags.csv")
    return render(made, mistakes=picture_mistakes(made, open_dataset(folder / "tags.csv")), title=UNBROKEN)


def compared(folder: Path) -> str:
    rights = ("1111111000", "1111111100", "0101011111")
    runs = [make_run(folder / f"{name}", right=right) for name, right in zip("abc", rights, strict=True)]
    make_run(folder / UNBROKEN, finished=False, recipe={"augment": {"mixup": 0.4}, "epochs": 3.0})
    return render_comparison(*compare([*runs, folder / UNBROKEN]))


def checked(folder: Path) -> str:
    """Of copies, leaks, files that are none, and what a model would say."""
    picture = photo(folder)
    for place in ("train/rose/a.png", "train/rose/b.png", "train/fern/c.png", f"val/fern/{UNBROKEN}.png"):
        (folder / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / "data" / place)
    (folder / "data/train/rose/text.png").write_text("no picture")
    (folder / "data/val/rose").mkdir()
    data = open_dataset(folder / "data")
    found = audit(data, None)
    image = found.leaks[0].members[0]
    doubt = LabelDoubt(image=image, probability=0.1, suggested=LONG, suggested_probability=0.8)
    odd = OddSize(image=image, reason="40 x 52 pixels, the others 400 x 520")
    return render_findings(found.model_copy(update={"doubts": (doubt,), "odd_sizes": (odd,), "model": "toy"}), data)


def range_test(folder: Path) -> str:
    points = tuple(LrPoint(lr=1e-6 * 1.2**i, loss=2 - i / 50, smoothed=2 - i / 50) for i in range(80))
    return render_lr(
        LrFinding(
            data=UNBROKEN, recipe="finetune", optimizer="adamw", started_from=None, seed=0, recipe_lr=1e-3,
            suggestion=0.01, stopped="end", points=points,
        )
    )  # fmt: skip


PAGES: dict[str, Callable[[Path], str]] = {
    "explain": explained,
    "report of two classes": lambda folder: report(folder, 2),
    "report of many classes": lambda folder: report(folder, 21),
    "report of several classes an image": several,
    "comparison": compared,
    "data check": checked,
    "lr-find": range_test,
}


@pytest.fixture(scope="module", params=PAGES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(PAGES[request.param](folder), "utf-8")
    return folder / "page.html"


def test_everybody_can_read_it(browser: Any, written: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(120_000)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri())
    assert barriers(page) == []
    page.emulate_media(color_scheme="dark")
    assert barriers(page, ["color-contrast"]) == []  # the only rule that colours can break
    for width in (400, 320):
        page.set_viewport_size({"width": width, "height": 780})
        assert page.evaluate(BEYOND, width) == []
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    context.close()


BEYOND = """width => document.documentElement.scrollWidth <= width ? [] : [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.wide') && e.getBoundingClientRect().right > width + 1)
  .map(e => e.outerHTML.slice(0, 120))"""
