"""The engine of bidirectional key tables: a format is a list of rules, read in one direction and written in the other.

Every key of the file and every tensor of the model is accounted for: what is unknown, missing or of another shape is
one error that names all of it, in the file's own words.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vitrail.config import Preprocess
from vitrail.errors import WeightsError
from vitrail.models.catalog import ModelConfig
from vitrail.types import LabelSet

Tensors: TypeAlias = Mapping[str, Tensor]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rule:
    """One tensor of the model and the tensors of the file that make it; `write` undoes `read`.

    Both work on meta tensors too, so that a rule states the shapes it expects of a file.
    """

    ours: str
    theirs: tuple[str, ...]
    read: Callable[[Sequence[Tensor]], Tensor]
    write: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Hints:
    """What is known beside the tensors: the model named by the user, the image size asked for, a config.json."""

    model: ModelConfig | None = None
    image_size: tuple[int, int] | None = None
    description: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Format:
    """One published layout of weights. A file is of this format when it has all of `markers` and none of `absent`;
    `a|b` is a marker that a file has when it has one of the two.

    `companions` gives the JSON files that its library wants beside the tensors, or raises WeightsError naming what
    the library cannot hold.
    """

    name: str
    markers: tuple[str, ...]
    absent: tuple[str, ...]
    infer: Callable[[Shapes, Hints], ModelConfig]  # the architecture, from shapes and hints
    rules: Callable[[Any], list[Rule]]
    preprocess: Callable[[tuple[int, int]], Preprocess]  # its own library's evaluation, where nothing is stored
    headless: Callable[[tuple[int, int]], Preprocess] | None = None  # the same for a network without a head
    prepare: Callable[[Tensors], Tensors] = dict  # to the keys of `rules`: strips a prefix, unstacks layers
    finish: Callable[[Tensors], Tensors] = dict  # back, where passengers need it
    passengers: tuple[str, ...] = ()  # keys (regular expressions) that classification does not use; they survive
    describe: Callable[[Any, Preprocess], dict[str, Any] | None] | None = None  # its library's config.json
    read_description: Callable[[Mapping[str, Any], tuple[int, int]], Preprocess] | None = None  # and back
    read_processor: Callable[[Mapping[str, Any]], Preprocess] | None = None  # from preprocessor_config.json
    companions: Callable[[Any, Preprocess, LabelSet | None], dict[str, dict[str, Any]]] | None = None


class HeadsNotTold(WeightsError):
    """A file whose sizes do not tell the number of heads, with nothing beside it that does."""

    def __init__(self, why: str = "") -> None:
        super().__init__(f"the number of heads is not in the file{why}")


def claims(form: Format, keys: Container[str]) -> bool:
    """Whether a file with these keys is of this format."""
    marked = all(any(name in keys for name in marker.split("|")) for marker in form.markers)
    return marked and not any(key in keys for key in form.absent)


def usual(form: Format, config: ModelConfig) -> Preprocess:
    """The evaluation of a format's own library for a network, where nothing beside the file tells it."""
    headless = form.headless if not config.classes else None
    return (headless or form.preprocess)(config.image_size)


def same(ours: str, theirs: str) -> Rule:
    """The same tensor under another name."""
    return Rule(ours, (theirs,), lambda t: t[0], lambda t: [t])


def read_tensors(theirs: Tensors, rules: Sequence[Rule], expected: Shapes, source: str) -> dict[str, Tensor]:
    """The model's tensors from a file's. `expected` are the shapes of the model's tensors.

    Raises WeightsError naming every unknown, missing and mis-shaped key at once.
    """
    check_shapes({key: tuple(tensor.shape) for key, tensor in theirs.items()}, rules, expected, source)
    return {rule.ours: rule.read([theirs[key] for key in rule.theirs]).contiguous() for rule in rules}


def check_shapes(theirs: Shapes, rules: Sequence[Rule], expected: Shapes, source: str) -> None:
    """WeightsError naming every unknown, missing and mis-shaped key of a file at once."""
    shapes = file_shapes(rules, expected)
    unknown = sorted(theirs.keys() - shapes.keys())
    missing = [key for key in shapes if key not in theirs]
    misshaped = [
        f"{key} {theirs[key]} instead of {shape}"
        for key, shape in shapes.items()
        if key in theirs and theirs[key] != shape
    ]
    parts = [("missing", missing), ("unknown", unknown), ("mis-shaped", misshaped)]
    if problems := [f"{kind}: {', '.join(keys)}" for kind, keys in parts if keys]:
        raise WeightsError(f"{source} does not hold the weights of this model; {'; '.join(problems)}")


def write_tensors(ours: Tensors, rules: Sequence[Rule]) -> dict[str, Tensor]:
    """A file's tensors from the model's, the inverse of `read_tensors`. KeyError where a rule's tensor is absent."""
    uncovered = ours.keys() - {rule.ours for rule in rules}
    assert not uncovered, f"no rule writes {sorted(uncovered)}"
    return {
        key: tensor.contiguous()
        for rule in rules
        for key, tensor in zip(rule.theirs, rule.write(ours[rule.ours]), strict=True)
    }


def file_shapes(rules: Sequence[Rule], expected: Shapes) -> dict[str, tuple[int, ...]]:
    """Shape of every key a file must have, from the shapes of the model's tensors."""
    ours = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    return {key: tuple(tensor.shape) for key, tensor in write_tensors(ours, rules).items()}


def file_grid(patches: int, patch: tuple[int, int], *sizes: tuple[int, int] | None) -> tuple[int, int]:
    """The (rows, cols) of a file's positions: the grid of the first image size that fits, else the square one.

    Raises WeightsError where neither fits.
    """
    for size in sizes:
        if size is not None and (grid := (size[0] // patch[0], size[1] // patch[1]))[0] * grid[1] == patches:
            return grid
    side = round(patches**0.5)
    if side * side != patches:
        raise WeightsError(
            f"the file's {patches} positions are not a square grid; say the image size (rows, cols), as in "
            "`vitrail convert FILE FOLDER --to vitrail --image-size 224x320`"
        )
    return side, side


def shape_of(shapes: Shapes, pattern: str, rank: int) -> tuple[int, ...]:
    """The shape of the first key that fits the regular expression, which must have this rank. WeightsError."""
    for key, shape in shapes.items():
        if re.fullmatch(pattern, key):
            if len(shape) != rank:
                raise WeightsError(f"{key} should have {rank} axes, found the shape {shape}")
            return shape
    raise WeightsError(f"the file has no key of the form {pattern.replace(chr(92) + 'd+', 'N').replace(chr(92), '')}")


def count_of(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the regular expression's group finds in a key; 0 where it finds none."""
    return max((int(m[1]) + 1 for key in shapes if (m := re.match(pattern, key))), default=0)
