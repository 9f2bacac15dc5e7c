"""What is chosen when the page opens, and texts that change with it.

A bind is a path with variables, as in `patches[{patch},17]`: the page prints the number that it leads to now, and the
script the one that it leads to after a choice. The variables are those of `variables`.
"""

import re
from collections.abc import Mapping

from markupsafe import Markup, escape

from vitrail.explain.illustrate.numbers import Numbers, text
from vitrail.explain.illustrate.walk import TOP, Walk
from vitrail.explain.illustrate.words.catalog import WORDS

_SUM = re.compile(r"\d+(?:\+\d+)+")


def variables(walk: Walk) -> dict[str, int]:
    """Their values when the page opens: the chosen patch as the query, and the head that looks most sharply from it."""
    config, terms = walk.config, walk.terms
    chosen = {"patch": walk.patch, "query": walk.query, "token": walk.query, "filter": terms.first}
    row, column = divmod(walk.patch, config.grid[1])
    chosen |= {"row": row, "column": column, "top": row * config.patch_pixels[0]}
    chosen |= {"left": column * config.patch_pixels[1], "dimension": int(terms.chosen[terms.first])}
    rows = [block.attention[0, :, walk.query] for block in walk.record.blocks]  # each h T
    sharpest = [float(row[:, config.prefix :].max()) for row in rows]
    block = max(range(config.depth), key=sharpest.__getitem__)
    head = int(rows[block][:, config.prefix :].amax(dim=1).argmax())
    chosen |= {"block": block, "head": head}
    keys = rows[block][head].topk(min(TOP, config.tokens)).indices.tolist()
    chosen |= {f"key{rank}": token for rank, token in enumerate(keys)}
    for number, every in enumerate(rows):
        chosen |= {f"best{number}_{h}": int(t) for h, t in enumerate(every.argmax(dim=1).tolist())}
    chosen |= {f"term{rank}": int(place) for rank, place in enumerate(terms.largest[walk.patch, terms.first])}
    if walk.similarity is not None:
        near = walk.similarity[walk.patch].clone()
        near[walk.patch] = -2  # itself
        nearest = near.topk(min(TOP, config.patches - 1)).indices.tolist()
        chosen |= {f"near{rank}": place for rank, place in enumerate(nearest)}
    return chosen


def resolved(bind: str, chosen: Mapping[str, int]) -> str:
    """The path that a bind leads to."""
    path = bind.format_map({name: str(value) for name, value in chosen.items()})
    return _SUM.sub(lambda found: str(sum(map(int, found[0].split("+")))), path)


def bound(numbers: Numbers, bind: str, form: str, chosen: Mapping[str, int]) -> Markup:
    """The number that a bind leads to, as an element that the script can renew."""
    path = resolved(bind, chosen)
    return Markup('<data data-bind="{}" data-path="{}" data-form="{}">{}</data>').format(
        bind, path, form, text(numbers.value(path), form)
    )


def say(key: str, values: Mapping[str, str | Markup]) -> Markup:
    """A text in both languages. KeyError for a text, or a place in it, that does not exist."""
    words = WORDS[key]
    return Markup('<span lang="en">{}</span><span lang="zh">{}</span>').format(
        *(Markup(escape(text)).format_map(_Escaped(values)) for text in words)
    )


class _Escaped(dict[str, str | Markup]):
    """Values of a text, each escaped unless it is markup."""

    def __init__(self, values: Mapping[str, str | Markup]) -> None:
        super().__init__({name: escape(value) for name, value in values.items()})


def prefix_keys(walk: Walk) -> list[tuple[str, int]]:
    """Text key and number of each prefix token."""
    config = walk.config
    names = [("token.class", 0)] * config.class_token + [("token.distillation", 0)] * config.distillation_token
    return names + [("token.register", number + 1) for number in range(config.registers)]


def token_name(walk: Walk, numbers: Numbers, token: int) -> Markup:
    """What a token is called."""
    prefix = walk.config.prefix
    if token < prefix:
        key, number = prefix_keys(walk)[token]
        return say(key, {"number": numbers.show(f"registers.number[{number - 1}]", "i")} if number else {})
    place = token - prefix
    where = {name: numbers.show(f"places.{name}[{place}]", "i") for name in ("row", "column")}
    return say("patch.at", where)


def named(walk: Walk, numbers: Numbers, variable: str, chosen: Mapping[str, int]) -> Markup:
    """The token that a variable holds, as an element that the script can renew."""
    name = token_name(walk, numbers, chosen[variable])
    return Markup('<span data-token="{}">{}</span>').format(variable, name)
