"""Numbers of the page and where each comes from: nothing is printed that has no path to an entry of a tensor.

A path is a tensor's name and the entry's place in it, as in `blocks.3.attention[2,0,17]`. The page's script writes
numbers in the same formats; both are compared with the tensors by the tests.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from markupsafe import Markup, escape
from torch import Tensor

Show: TypeAlias = Callable[..., Markup]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PATH = re.compile(r"([\w.]+)(?:\[(\d+(?:,\d+)*)\])?")


class Numbers:
    """Named tensors, and the only way from their entries to text on the page."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def value(self, path: str) -> float:
        """The entry at `path`. KeyError for a name, IndexError for a place that does not exist."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise KeyError(path)
        tensor = self.tensors[found[1]]
        place = tuple(int(i) for i in found[2].split(",")) if found[2] else ()
        if len(place) != tensor.ndim:
            raise IndexError(f"{path}: {found[1]} has {tensor.ndim} axes")
        return float(tensor[place])

    def show(self, path: str, form: str) -> Markup:
        """The number as an element that says where it comes from; a list of the forms is at `text`."""
        return Markup('<data data-path="{}" data-form="{}">{}</data>').format(path, form, text(self.value(path), form))

    def svg(self, path: str, form: str) -> Markup:
        """The same inside a picture."""
        shown = text(self.value(path), form)
        return Markup('<tspan data-path="{}" data-form="{}">{}</tspan>').format(path, form, shown)

    def text(self, path: str, form: str) -> str:
        """The number alone."""
        return text(self.value(path), form)


def text(value: int | float, form: str) -> str:
    """A number as it is printed. i: whole, in groups of three; f2: two decimals; s2: the same with its sign; p1:
    percent with one decimal; e1: one decimal times a power of ten."""
    kind, digits = form[0], int(form[1:] or 0)
    if kind == "i":
        return _signed(f"{round(value):,}").replace(",", "\u202f")
    if kind == "p":
        return _signed(f"{100 * value:.{digits}f}") + "\u202f%"
    if kind == "e":
        size, power = f"{value:.{digits}e}".split("e")
        if value == 0:
            return "0"
        return _signed(size) + (f"\u202f×\u202f10{str(int(power)).translate(_RAISED)}" if int(power) else "")
    plain = _signed(f"{value:.{digits}f}")
    return plain if kind == "f" or plain.startswith("\u2212") or value == 0 else f"+{plain}"


def _signed(plain: str) -> str:
    """With the minus of print, and none before a zero."""
    if plain.startswith("-"):
        return f"\u2212{plain[1:]}" if any(c in "123456789" for c in plain) else plain[1:]
    return plain


def given(words: str) -> Markup:
    """Words that come from outside (a file's or a class's name), escaped, kept apart from the direction of the rest."""
    return Markup('<bdi class="given">{}</bdi>').format(escape(words))
