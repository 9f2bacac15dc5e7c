"""Every number of the illustrated page is an entry of a tensor; names are text; the page needs nothing but itself."""

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
import torch

from architectures import KINDS
from vitrail.config import Preprocess, ResNetConfig
from vitrail.errors import ConfigError, ImageError, UnknownName
from vitrail.explain.illustrate import coded, gather, illustrate
from vitrail.explain.illustrate.numbers import Numbers, text
from vitrail.explain.illustrate.words.catalog import SCRIPT, WORDS
from vitrail.inference import Classifier
from vitrail.models.resnet import ResNet
from vitrail.types import LabelSet
from walkthrough import LABELS, Printed, Truth, classifier, photo, wrong

HOSTILE = ('<script>alert("1")</script>', "{{ 7 * 7 }}", "a</style><b>", "' onload='x", "&lt;", "\u202eevil", "猫 & 狗")
PACKAGE = files("vitrail.explain.illustrate")


def quiet(doing: str) -> None:
    """Says nothing while the page is made."""


def page_of(kind: str, folder: Path) -> tuple[str, Truth]:
    model, image = classifier(kind), photo(folder)
    return illustrate(model, image, source="toy", notify=quiet), Truth(model, image)


@pytest.fixture(scope="module")
def token_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Truth]:
    return page_of("token", tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_an_entry_of_a_tensor(kind: str, tmp_path: Path) -> None:
    page, truth = page_of(kind, tmp_path)
    printed = Printed(page)
    assert len(printed.numbers) > 500
    assert wrong(printed.numbers, truth) == []
    assert loose(printed) == []


def loose(printed: Printed) -> list[str]:
    """Numbers without a path that do not stand in the catalogue's own sentences, as `figure 7` does."""
    known = {number for words in WORDS.values() for one in words for number in re.findall(r"\d+", one)}
    return [t for t in printed.texts if not set(re.findall(r"\d+", t)) <= known]


def test_the_check_of_the_numbers_can_fail(token_page: tuple[str, Truth]) -> None:
    page, truth = token_page
    printed = Printed(page)
    path, form, shown = next(n for n in printed.numbers if n[0].startswith("blocks.0.attention"))
    other = shown.replace(shown[0], str((int(shown[0]) + 1) % 10), 1)
    assert wrong([(path, form, other)], truth) != []
    assert loose(Printed("<p>about 4711 of them</p>")) == ["about 4711 of them"]


def test_another_class_can_be_explained(tmp_path: Path) -> None:
    model, image = classifier(), photo(tmp_path)
    least = LABELS[int(Truth(model, image).run.logits[0].argmin())]
    page = illustrate(model, image, label=least, notify=quiet)
    assert wrong(Printed(page).numbers, Truth(model, image, LABELS.index(least))) == []
    assert "Explained below is" in page


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_add_up_to_the_logit(kind: str, tmp_path: Path) -> None:
    walk = gather(classifier(kind), photo(tmp_path), notify=quiet)
    assert float(walk.tensors["added.gap"]) < 1e-3
    assert walk.fall.heads == (kind in ("token", "scaled, gated", "hybrid"))
    named = walk.tensors
    if walk.fall.heads:
        attention = named["added.heads"].sum(dim=1) + named["added.attention_bias"]
        torch.testing.assert_close(named["added"][1:-1:2], attention)


def test_of_a_tanh_layer_the_page_says_why_it_shows_no_heads(tmp_path: Path) -> None:
    model, image = classifier(pre_logits=16), photo(tmp_path)
    page = illustrate(model, image, notify=quiet)
    assert "a tanh layer before the head, which is not linear" in page and "What each head adds" not in page
    assert wrong(Printed(page).numbers, Truth(model, image)) == []


def test_the_terms_add_up_to_the_embedding(tmp_path: Path) -> None:
    for kind in ("token", "hybrid"):
        walk = gather(classifier(kind), photo(tmp_path), notify=quiet)
        found = walk.tensors["terms.product"].sum(dim=-1) + walk.tensors["terms.bias"]
        torch.testing.assert_close(found.float(), walk.tensors["patches"][:, walk.terms.chosen], atol=1e-4, rtol=1e-4)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    model = classifier(labels=HOSTILE)
    image = photo(tmp_path, "<img src=x onerror=alert(1)> {{ 7*7 }}.png")
    page = illustrate(model, image, source=HOSTILE[0], notify=quiet)
    assert "<script>alert" not in page and "<img src=x" not in page and "</style><b>" not in page
    assert "49" not in Printed(page).texts
    tags = {tag for tag, _ in Printed(page).tags}
    assert "b" not in tags
    assert [tag for tag, _ in Printed(page).tags].count("script") == 2
    assert "\u202e" not in page  # turns the text around it


def test_the_page_needs_nothing_and_runs_only_what_it_names(token_page: tuple[str, Truth]) -> None:
    page, _ = token_page
    policy = next(a["content"] for tag, a in Printed(page).tags if tag == "meta" and "http-equiv" in a) or ""
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind in ("script", "style"):
        inside = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for tag, attributes in Printed(page).tags:
        assert "style" not in attributes, tag  # the policy would refuse it
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/", "#")), attributes
    assert not re.search(r"https?://", page.replace("http-equiv", ""))
    assert not re.search(r"\bfetch\(|XMLHttp|import\(|eval\(", page)


def test_the_same_image_makes_the_same_bytes(token_page: tuple[str, Truth]) -> None:
    page, truth = token_page
    assert illustrate(truth.classifier, truth.image, source="toy", notify=quiet) == page


def test_what_the_script_reads_is_json_that_cannot_end_its_element(tmp_path: Path) -> None:
    page = illustrate(classifier(labels=HOSTILE), photo(tmp_path), notify=quiet)
    (data,) = re.findall(r'<script type="application/json" id="tensors">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert set(json.loads(data)["words"]) == set(SCRIPT)


def test_both_languages_have_every_sentence_with_the_same_places() -> None:
    for key, words in WORDS.items():
        assert all(words), key
        places = [{name for _, name, _, _ in Formatter().parse(one) if name} for one in words]
        assert places[0] == places[1], key
        assert words.en == words.zh or re.search(r"[\u4e00-\u9fff]", words.zh), key
    same = {key for key, words in WORDS.items() if words.en == words.zh}
    assert same == {"why.legrad", "why.grad_cam"}


def test_every_sentence_is_used_and_every_one_used_exists() -> None:
    sources = [p.read_text() for p in PACKAGE.joinpath("templates").iterdir()]
    sources += [PACKAGE.joinpath(name).read_text() for name in ("views.py", "state.py", "page.py", "illustrate.js")]
    quoted = set(re.findall(r'"([a-z_.]+)"', "\n".join(sources)))
    built = re.compile(
        r"(image|patches|embed|position|heads|depth|sum|why)\.title(\.patches)?|why\.(both|one|none)|theme\..*|unit\..*"
        r"|why\.[a-z_]+(\.says)?|position\.(learned|sincos2d|rope|none)|sum\.lead\.(reads|tanh)"
    )
    assert {key for key in WORDS if key not in quoted and not built.fullmatch(key)} == set()
    for key in re.findall(r'\bt\("([a-z_.]+)"[,)]', "\n".join(sources)):
        assert key in WORDS


def test_numbers_are_printed_in_their_form() -> None:
    assert text(5717416, "i") == "5\u202f717\u202f416"
    assert text(-0.25, "f2") == "\u22120.25"
    assert text(-0.001, "f2") == "0.00"
    assert text(0.5, "s1") == "+0.5"
    assert text(-0.5, "s1") == "\u22120.5"
    assert text(0.12345, "p1") == "12.3\u202f%"
    assert text(0.000042, "e1") == "4.2\u202f×\u202f10⁻⁵"
    assert text(0.0, "e1") == "0"
    assert text(3.0, "e1") == "3.0"


def test_a_path_that_leads_nowhere_is_refused() -> None:
    numbers = Numbers({"a.b": torch.arange(4.0).view(2, 2)})
    assert numbers.value("a.b[1,0]") == 2.0
    for path, kind in (("a.c[0]", KeyError), ("a.b[1]", IndexError), ("a.b[2,0]", IndexError), ("a.b[x]", KeyError)):
        with pytest.raises(kind):
            numbers.value(path)


def test_attention_is_carried_as_exactly_as_it_is_printed() -> None:
    torch.manual_seed(0)
    rows = (5 * torch.randn(2, 3, 40, 40)).softmax(dim=-1)
    found = coded.shares(rows)
    small = np.frombuffer(base64.b64decode(found["data"]), "u1").astype(int)
    large = iter(np.frombuffer(base64.b64decode(found["large"]), "<u2").astype(int))
    read = np.array([value if value < 255 else next(large) for value in small]).reshape(rows.shape)
    assert [f"{v / 100:.2f}" for v in read.flatten()] == [f"{100 * v:.2f}" for v in rows.double().flatten().tolist()]
    assert next(large, None) is None and (small == 255).sum() > 100


def test_a_page_carries_the_queries_that_fit() -> None:
    assert coded.queries_that_fit(12, 3, 197, 1) == list(range(197))
    few = coded.queries_that_fit(24, 16, 1025, 1)
    assert few[0] == 0 and 12 < len(few) < 40 and few[-1] < 1025
    assert 24 * 16 * 1025 * len(few) <= coded.LARGEST


def test_what_cannot_be_shown_is_said_in_a_sentence(tmp_path: Path) -> None:
    image = photo(tmp_path)
    config = ResNetConfig(image_size=(32, 32), layers=(1,), width=32, groups=8, classes=2)
    resnet = Classifier(ResNet(config), Preprocess(size=(32, 32)), LabelSet(("a", "b")), device="cpu")
    with pytest.raises(ConfigError, match="a ResNet, does not have"):
        illustrate(resnet, image, notify=quiet)
    with pytest.raises(UnknownName, match="unknown class 'bea'; did you mean 'bee'"):
        illustrate(classifier(), image, label="bea", notify=quiet)
    with pytest.raises(UnknownName, match=r"unknown language 'fr'\. Choices: en, zh"):
        illustrate(classifier(), image, language="fr", notify=quiet)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png: not an image, but text"):
        illustrate(classifier(), tmp_path / "text.png", notify=quiet)
    broken = classifier()
    with torch.no_grad():
        broken.model.head.bias.fill_(float("nan"))
    with pytest.raises(ConfigError, match="not finite"):
        illustrate(broken, image, notify=quiet)
