"""The illustrated page in Chromium: what pointing and choosing print are the tensors' numbers, by mouse and by
keyboard; nothing is asked of the network; everybody can read it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from browsing import barriers
from vitrail.explain.illustrate import illustrate
from walkthrough import Printed, Truth, classifier, photo, wrong

TALL = {"width": 1280, "height": 900}

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@dataclass
class Opened:
    """A page in the browser, what it complained of and what it asked for."""

    page: Any
    truth: Truth
    complaints: list[str]
    requests: list[str]

    def wrong(self) -> list[str]:
        return wrong(Printed(self.page.content()).numbers, self.truth)

    def numbers(self, selector: str) -> list[tuple[str, str, str]]:
        """The numbers that can be seen in a part of the page."""
        script = (
            "part => [...part.querySelectorAll('data')].filter(d => d.offsetParent)"
            ".map(d => [d.dataset.path, d.dataset.form, d.textContent])"
        )
        return [tuple(found) for found in self.page.locator(selector).first.evaluate(script)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """The page of a model with a class token and two registers, not square."""
    folder = tmp_path_factory.mktemp("page")
    truth = Truth(classifier(registers=2), photo(folder))
    file = folder / "page.html"
    file.write_text(illustrate(truth.classifier, truth.image, source="toy", notify=lambda doing: None))
    return file, truth


def open_page(browser: Any, written: tuple[Path, Truth], **options: Any) -> Opened:
    file, truth = written
    page = browser.new_context(viewport=TALL, **options).new_page()
    opened = Opened(page, truth, [], [])
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(file.as_uri())
    return opened


@pytest.fixture
def opened(browser: Any, written: tuple[Path, Truth]) -> Iterator[Opened]:
    found = open_page(browser, written)
    yield found
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
    found.page.context.close()


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(opened: Opened, written: tuple[Path, Truth]) -> None:
    assert opened.requests[0] == written[0].as_uri()
    assert opened.page.title().startswith("From pixels to")
    assert opened.wrong() == []


def test_pointing_at_a_head_prints_the_attention_of_the_tensor(opened: Opened) -> None:
    config = opened.truth.model.config
    heads = opened.page.locator("button.head")
    assert heads.count() == config.depth * config.heads
    for place in (0, 4, 8):
        canvas = heads.nth(place).locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        rows, cols = config.grid
        beside = 2  # a column of prefix tokens and a gap
        for row, col, key in ((0, 0, 0), (1, 0, 1), (2, beside + 3, config.prefix + 2 * cols + 3)):
            x = box["x"] + (col + 0.5) * box["width"] / (cols + beside)
            opened.page.mouse.move(x, box["y"] + (row + 0.5) * box["height"] / rows)
            numbers = opened.numbers("[data-readout]")
            head, block = divmod(place, config.depth)
            path = numbers[-1][0] if numbers[-1][1] == "p2" else next(n[0] for n in numbers if n[1] == "p2")
            assert re.fullmatch(rf"blocks\.{block}\.attention\[{head},\d+,{key}\]", path)
            assert wrong(numbers, opened.truth) == []


def test_choosing_renews_every_number_and_picture(opened: Opened) -> None:
    page, config = opened.page, opened.truth.model.config
    before = page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.toDataURL())")
    page.locator('[data-picker="patches"] [role="gridcell"]').nth(17).click()
    page.locator("button.filter").nth(6).click()
    page.locator("button.head").nth(5).click()
    assert opened.wrong() == []
    paths = {path for path, _, _ in Printed(page.content()).numbers}
    chosen = config.prefix + 17
    assert f"norms.embedded[{chosen}]" in paths and "terms.bias[6]" in paths
    assert any(re.fullmatch(rf"blocks\.2\.attention\[1,{chosen},\d+\]", path) for path in paths)
    after = page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.toDataURL())")
    assert sum(a != b for a, b in zip(before, after, strict=True)) > config.depth * config.heads
    page.locator("[data-tokens] button").nth(1).click()  # a register
    assert opened.wrong() == []
    assert any(",1," in path for path, _, _ in opened.numbers("[data-readout]") if "attention" in path)


def test_the_pictures_of_the_script_are_those_of_the_page(opened: Opened) -> None:
    """What is drawn when the page opens has the pixels of the pictures that stand there without scripts."""
    still = opened.page.context.browser.new_context(java_script_enabled=False, viewport=TALL).new_page()
    still.goto(opened.page.url)
    for name in ("patch", "weights", "products", "vector", "similarity"):
        source = still.locator(f'img[data-draw="{name}"]').first.get_attribute("src")
        gap = opened.page.evaluate(COMPARE, [source, f'canvas[data-draw="{name}"]'])
        assert gap <= 1, name
    source = still.locator(".head img").nth(4).get_attribute("src")
    assert opened.page.evaluate(COMPARE, [source, ".head:nth-of-type(5) canvas"]) <= 1
    still.context.close()


COMPARE = """async ([source, selector]) => {
  const image = new Image(); image.src = source; await image.decode();
  const canvas = document.querySelector(selector), other = document.createElement('canvas');
  if (image.width !== canvas.width || image.height !== canvas.height) return 999;
  Object.assign(other, {width: image.width, height: image.height});
  other.getContext('2d').drawImage(image, 0, 0);
  const read = c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  const [a, b] = [read(canvas), read(other)];
  return Math.max(...a.map((v, i) => Math.abs(v - b[i])));
}"""


def test_the_keyboard_does_what_the_pointer_does(opened: Opened) -> None:
    page, config = opened.page, opened.truth.model.config
    (rows, cols) = config.grid
    cell = page.locator('[data-picker="query"] [role="gridcell"][tabindex="0"]')
    assert cell.count() == 1
    cell.focus()
    for key in ("ArrowUp",) * rows + ("Home", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "row 2, column 3"
    assert f"norms.embedded[{config.prefix + cols + 2}]" in {n[0] for n in Printed(page.content()).numbers}
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"row 2, column {cols}"
    assert opened.wrong() == []
    keys = page.locator('[data-keys] [role="gridcell"][tabindex="0"]')
    keys.focus()
    page.keyboard.press("ArrowDown")
    numbers = opened.numbers("[data-readout]")
    assert wrong(numbers, opened.truth) == []
    share = next(text for _, form, text in numbers if form == "p2")
    pytest.importorskip("playwright.sync_api").expect(page.locator("[data-live]")).to_contain_text(share)
    page.locator("button.head").nth(2).focus()
    page.keyboard.press("Enter")
    assert page.locator("button.head").nth(2).get_attribute("aria-pressed") == "true"


def test_language_and_appearance_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    assert page.locator("#heads-title").inner_text() == "Attention: who looks at whom"
    page.locator("#lang-zh").check(force=True)
    assert page.locator("#heads-title").inner_text() == "注意力：谁看向谁"
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.title().startswith("从像素到")
    assert page.locator("button.head").first.get_attribute("aria-label") == "第 1 块第 1 头"
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme-dark").check(force=True)
    assert page.evaluate(colour) != light
    page.locator("#theme-auto").check(force=True)
    assert page.evaluate(colour) == light


def test_without_scripts_the_page_is_whole(browser: Any, written: tuple[Path, Truth]) -> None:
    still = open_page(browser, written, java_script_enabled=False)
    assert still.wrong() == []
    page = still.page
    assert page.locator("canvas").count() == 0
    assert page.locator(".head img").count() == 9
    assert not page.locator("#patches .scripted").first.is_visible()
    page.locator("#lang-zh").check(force=True)
    assert page.locator("#heads-title").inner_text() == "注意力：谁看向谁"
    page.emulate_media(media="print")
    assert not page.locator(".switches").is_visible()
    assert still.complaints == []
    page.context.close()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, written: tuple[Path, Truth], scheme: str, language: str) -> None:
    opened = open_page(browser, written, color_scheme=scheme)
    opened.page.locator(f"#lang-{language}").check(force=True)
    assert barriers(opened.page) == []
    opened.page.context.close()


def test_axe_can_find_something(browser: Any, written: tuple[Path, Truth]) -> None:
    opened = open_page(browser, written)
    opened.page.evaluate("document.querySelector('.hero img').removeAttribute('alt')")
    assert barriers(opened.page)
    opened.page.context.close()


def test_the_page_fits_a_phone(browser: Any, written: tuple[Path, Truth]) -> None:
    opened = open_page(browser, written)
    opened.page.set_viewport_size({"width": 360, "height": 780})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    small = """[...document.querySelectorAll('button, summary, .switch label')].filter(b => b.offsetParent)
      .map(b => b.getBoundingClientRect()).filter(r => Math.min(r.width, r.height) < 24).length"""
    assert opened.page.evaluate(small) == 0
    opened.page.context.close()
