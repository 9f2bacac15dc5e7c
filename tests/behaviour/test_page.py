"""The report's page needs nothing but itself, runs nothing, shows strangers' names as text, and speaks to everybody."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports import make_report
from vitrail.evaluate import render
from vitrail.report import Mistake, Report

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</title></style></script><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
)
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
HISTORY: list[dict[str, Any]] = [
    {"step": i, "epoch": i / 2, "loss": 1 / i, "lr": 1e-3 / i, "val_top1": 1 - 0.5 / i, "val_nll": 0.5 / i}
    for i in range(1, 9)
]
VOID = {"meta", "img", "br", "link", "input", "hr"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "h3", "p", "div"),
    *("dl", "dt", "dd", "ul", "li", "span", "b", "bdi", "strong", "sup", "br", "figure", "figcaption", "img"),
    *("details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "line", "polyline", "circle", "rect", "text"),
}


class Outline(HTMLParser):
    """Every tag with its attributes, the text, and whether each tag that opens closes in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def hostile_page() -> str:
    report = make_report(names=HOSTILE, name=HOSTILE[0], note=HOSTILE[1], unreadable=1)
    report = report.model_copy(
        update={
            "unreadable": (report.unreadable[0].model_copy(update={"id": HOSTILE[2], "reason": HOSTILE[3]}),),
            "model": report.model.model_copy(update={"source": HOSTILE[4], "config": {HOSTILE[0]: HOSTILE[1]}}),
        }
    )
    mistakes = [
        Mistake(id=HOSTILE[i], true=HOSTILE[i - 1], predicted=HOSTILE[i - 2], probability=0.9, thumbnail=PIXEL)
        for i in range(6)
    ]
    return render(report, history=HISTORY, mistakes=mistakes, title=HOSTILE[2])


def plain_page() -> str:
    report = make_report()
    mistakes = [m.model_copy(update={"thumbnail": PIXEL}) for m in report.mistakes]
    return render(report, history=HISTORY, mistakes=mistakes, title="Pets")


@pytest.mark.parametrize("make", [plain_page, hostile_page])
def test_the_page_is_whole_and_holds_nothing_that_runs_or_is_fetched(make: Any) -> None:
    page = make()
    outline = Outline(page)
    assert not outline.open
    assert {tag for tag, _ in outline.tags} <= ALLOWED
    for tag, attributes in outline.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert set(attributes) & {"href", "srcset", "action", "formaction", "xlink:href", "data", "poster"} == set()
        if "src" in attributes:
            assert tag == "img"
            assert re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", attributes["src"])
        if "style" in attributes:
            assert re.fullmatch(r"--(share|shade):[0-9.]+%", attributes["style"])
    assert "url(" not in page
    assert "@import" not in page


def test_hostile_names_do_not_change_the_shape_of_the_page() -> None:
    tags = [tag for tag, _ in Outline(hostile_page()).tags]
    report = make_report(unreadable=1, note="a note")
    mistakes = [Mistake(id="a", true="b", predicted="c", probability=0.9, thumbnail=PIXEL)] * 6
    assert tags == [tag for tag, _ in Outline(render(report, history=HISTORY, mistakes=mistakes, title="Pets")).tags]


def test_hostile_names_are_shown_as_they_are() -> None:
    text = "".join(Outline(hostile_page()).texts)
    for name in HOSTILE:
        assert name in text
    assert "49" not in text.replace("49.0", "")  # 7 * 7 was not computed


def test_marks_that_turn_the_text_around_or_ring_the_bell_are_spelled_out() -> None:
    page = render(make_report(), title="pets\u202egpj.exe\x07")
    assert "pets\\u202egpj.exe\\x07" in page


def test_the_browser_is_told_to_allow_pictures_and_style_only() -> None:
    metas = [a for tag, a in Outline(plain_page()).tags if tag == "meta"]
    policy = next(a["content"] for a in metas if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert {"charset": "utf-8"} in metas
    assert any(a.get("name") == "viewport" for a in metas)
    # Before anything that the policy governs.
    assert plain_page().index("Content-Security-Policy") < plain_page().index("<style>")


def test_the_same_report_gives_the_same_bytes() -> None:
    assert plain_page() == plain_page()
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d", plain_page())  # no dates, no times


def test_a_saved_report_gives_the_same_page(tmp_path: Path) -> None:
    report = make_report(unreadable=1)
    report.save(tmp_path / "evaluation.json")
    assert render(Report.load(tmp_path / "evaluation.json"), title="Pets") == render(report, title="Pets")
    text = "".join(Outline(render(report)).texts)
    assert "0.png" not in text  # right answers are nobody's mistakes
    assert all(m.id in text for m in report.mistakes)  # told by name where there is no picture


def test_the_order_of_the_page() -> None:
    page = plain_page()
    landmarks = ['class="verdict"', 'class="figures"', 'class="curves"', 'class="matrix', 'class="classes"']
    landmarks += ["how sure it is, %", 'class="mistakes"', 'class="provenance"']
    places = [page.index(mark) for mark in landmarks]
    assert places == sorted(places)
    headings = re.findall(r"<h([123])", page)
    assert headings[0] == "1"
    assert headings.count("1") == 1


def test_everybody_gets_the_numbers_behind_the_pictures() -> None:
    tags = Outline(plain_page()).tags
    drawings = [a for tag, a in tags if tag == "svg"]
    assert len(drawings) == 4
    assert all(a.get("role") == "img" and len(a.get("aria-label", "")) > 20 for a in drawings)
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    assert sum(tag == "details" for tag, _ in tags) == 2  # a table for the curves, one for the diagram
    assert all(a.get("scope") in ("col", "row") for tag, a in tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags


def test_dark_light_print_and_phone_are_thought_of() -> None:
    style = re.search(r"<style>(.*?)</style>", plain_page(), re.S)
    assert style
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert query in style[1]
    defined = set(re.findall(r"(--[a-z]+):", style[1].partition("@media")[0]))
    used = set(re.findall(r"var\((--[a-z]+)\)", style[1])) - {"--share", "--shade"}
    assert used <= defined
    dark = style[1].split("prefers-color-scheme: dark")[1].partition("* {")[0]
    assert set(re.findall(r"(--[a-z]+):", dark)) == defined


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("front", "back"), [("ink", "paper"), ("soft", "paper"), ("rust", "paper"), ("on", "hit")])
def test_text_stands_out_from_its_ground(dark: bool, front: str, back: str) -> None:
    style = plain_page().partition("@media print")[0]
    part = style.split("prefers-color-scheme: dark")[1] if dark else style.partition("@media")[0]
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part))
    light, low = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (light + 0.05) / (low + 0.05) >= 4.5
