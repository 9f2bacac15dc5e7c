"""The walk as one HTML page: it needs nothing else, every name is escaped, every number says where it comes from.

The same bytes for the same walk. Scripts and styles are named in the page's own rule (a content security policy) by
their hashes, so nothing else can run in it.
"""

import base64
import hashlib
import json
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitrail.errors import UnknownName
from vitrail.explain.illustrate import charts, views
from vitrail.explain.illustrate.numbers import Numbers, given
from vitrail.explain.illustrate.payload import payload
from vitrail.explain.illustrate.state import bound, named, say, variables
from vitrail.explain.illustrate.walk import Notify, Walk, gather
from vitrail.explain.illustrate.words.catalog import LANGUAGES, WORDS
from vitrail.inference import Classifier
from vitrail.report import printable


def illustrate(
    classifier: Classifier,
    image: str | Path,
    *,
    source: str = "",
    label: str | None = None,
    language: str = "en",
    notify: Notify = print,
) -> str:
    """The page of an image file. `source`: what the model is called on it; `label`: the class to explain, by default
    the most probable one; `language`: the one the page opens in, `en` or `zh`.

    Raises ConfigError for a model without tokens, ImageError for a file that is no image, UnknownName for a class or
    language that does not exist.
    """
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    return render(gather(classifier, image, source=source, label=label, notify=notify), language)


def render(walk: Walk, language: str = "en") -> str:
    """The page of a walk."""
    chosen = variables(walk)
    numbers = Numbers(walk.tensors | views.scales(walk))
    here = files("vitrail.explain.illustrate")
    style = views.style(walk, here.joinpath("illustrate.css").read_text(encoding="utf-8"))
    script = here.joinpath("illustrate.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("vitrail.explain.illustrate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    environment.globals.update(
        t=lambda key, values=None: say(key, values or {}),
        n=numbers.show,
        b=lambda bind, form: bound(numbers, bind, form, chosen),
        named=lambda variable: named(walk, numbers, variable, chosen),
        value=numbers.value,
        given=lambda words: given(printable(words)),
        **{name: getattr(charts, name) for name in ("share_bar", "key_mark")},
    )
    context: dict[str, Any] = {
        "language": language,
        "title": printable(WORDS["title"]._asdict()[language].format(label=walk.label_name(walk.label))),
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "steps": views.STEPS,
        "state": chosen,
        "payload": Markup(_data(payload(walk, numbers, chosen))),
        "version": metadata.version("vitrail"),
        "torch_version": torch.__version__,
    }
    for part in (views.frame, views.entry, views.inside, views.why):
        context |= part(walk, numbers, chosen)
    return environment.get_template("page.html.j2").render(context)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(content: dict[str, Any]) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
