"""Whatever a user writes after --set, and whatever a file holds where a recipe is expected: a recipe, or one sentence
that names the field and what was found. Never another exception."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vitrail import cli
from vitrail.config import KINDS, OptimConfig, Preprocess, Recipe, ResNetConfig, ViTConfig
from vitrail.errors import ConfigError, config_error
from vitrail.train.settings import change, evaluation_steps, field_paths, parse_changes, total_steps

TOY = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=8, classes=3)
RECIPES = {
    "ViT": Recipe(name="toy", model=TOY, preprocess=Preprocess(size=8), optim=OptimConfig(warmup_steps=20)),
    "ResNet": Recipe(
        name="toy",
        model=ResNetConfig(image_size=(8, 8), layers=(1,), width=32, classes=3),
        preprocess=Preprocess(size=8),
    ),
    "steps": Recipe(name="toy", model=TOY, preprocess=Preprocess(size=8), steps=7, preset="paper"),
    "probe": Recipe(name="toy", model=TOY, preprocess=Preprocess(size=8), epochs=0, head_solver="ridge"),
}
PATHS = field_paths()

numbers = st.one_of(
    st.integers(),
    st.integers(-3, 40),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 10**400, 1e-320, 1e308, math.nan]),
)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["null", "~", "true", "no", "on", ".nan", ".inf", "-.inf", "1e400", "0x10", "0o7", "1_000", "1:30",
                     "2026-01-01", "2026-01-01 01:00", "!!binary aGk=", "!!set {a, b}", "!!python/object:os.abort x",
                     "!!omap [a: 1]", "&a [*a]", "*a", "? a", "- 1", "{a: [1, 2]}", "[[[[]]]]", "%TAG", "@", "`", "|",
                     "\x00", "\ud800", "“1”", "1,5", "5 %", "1e-4 # small", "'", '"', "a: b: c", "<<: {a: 1}"]),
)  # fmt: skip
values = st.one_of(
    numbers.map(str),
    words,
    st.recursive(st.one_of(numbers, words), lambda inner: st.lists(inner, max_size=3), max_leaves=6).map(str),
    st.dictionaries(words, numbers, max_size=2).map(str),
)


def outcome(recipe: Recipe, overrides: list[str]) -> Recipe | str:
    """What comes of the settings: a recipe that can be run and stored, or the sentence."""
    try:
        changed = change(recipe, parse_changes(overrides), n_train=100, from_weights=False)
    except ConfigError as error:
        return str(error)
    assert Recipe.model_validate_json(changed.model_dump_json()) == changed
    steps = total_steps(changed, 100)
    assert not steps or max(evaluation_steps(changed, 100)) == steps
    return changed


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PATHS), values, st.sampled_from(sorted(RECIPES)))
@example("optim.clip", "&a [*a]", "ViT")
@example("epochs", "1e308", "ViT")
@example("epochs", "1e-320", "ViT")
@example("steps", "1" + "0" * 9, "ViT")
@example("steps", "1" + "0" * 400, "ViT")
@example("data.batch_size", "1" + "0" * 400, "ViT")
@example("evaluate_every", "1" + "0" * 400, "ViT")
@example("optim.warmup_steps", "1" + "0" * 400, "ViT")
@example("model.image_size", "10" * 200, "ViT")
@example("steps", "null", "steps")
@example("model.stem", "{layers: [1], width: 32}", "ViT")
def test_any_value_of_any_field_is_a_recipe_or_a_sentence_about_that_field(path: str, value: str, kind: str) -> None:
    found = outcome(RECIPES[kind], [f"{path}={value}"])
    if isinstance(found, str):
        assert len(found.splitlines()) == 1 or "\n" in value or "\r" in value or not value.isprintable()
        section, _, leaf = path.partition(".")
        assert section in found or leaf.rpartition(".")[2] in found, found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=2, max_size=6), st.sampled_from(sorted(RECIPES)))
def test_any_settings_together(pairs: list[tuple[str, str]], kind: str) -> None:
    assert outcome(RECIPES[kind], [f"{path}={value}" for path, value in pairs])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PATHS), st.integers(0, 30), st.characters(codec="ascii", categories=["L"]))
def test_a_misspelt_field_is_answered_with_the_right_one(path: str, at: int, letter: str) -> None:
    """One letter more anywhere in the name of a field, which then is no field of its own."""
    leaf = path.rpartition(".")[2]
    wrong = path[: len(path) - len(leaf)] + leaf[: at % (len(leaf) + 1)] + letter + leaf[at % (len(leaf) + 1) :]
    if wrong in PATHS:
        return
    found = outcome(RECIPES["ViT"], [f"{wrong}=1"])
    assert isinstance(found, str) and found.startswith(f"a recipe has no field {wrong!r}")
    assert path in found and (len(leaf) < 4 or "did you mean" in found)


tables = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(sorted({part for path in PATHS for part in path.split(".")})), st.text(max_size=4)
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "extra"]), tables, max_size=8))
def test_any_table_is_a_recipe_or_a_sentence(table: dict[str, Any]) -> None:
    """What a damaged or foreign run.json may hold."""
    full = RECIPES["ViT"].model_dump() | table
    for candidate in (table, full):
        try:
            recipe = Recipe.model_validate(candidate)
        except ValidationError as error:
            assert str(config_error(error, "recipe", PATHS, hidden=KINDS))
        else:
            assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(PATHS), st.one_of(values, words))
@example("optim.lr", "-1")
def test_the_command_line_exits_with_2(path: str, value: str) -> None:
    """On data that are not there, so that what is accepted ends in a sentence too."""
    with suppress(UnicodeEncodeError):  # pytest's stream cannot show a lone surrogate, a terminal can
        assert cli.main(["train", "no-such-data", "--set", f"{path}={value}"]) == cli.MISTAKE


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("lr=-1", "optim.lr: should be greater than 0, found -1"),
        ("optimiser=adam", "a recipe has no field 'optimiser'; did you mean 'optim.optimizer'"),
        ("optimizer=adam", "optim.optimizer: should be 'adamw', 'sgd', 'lamb', 'lion' or 'muon', found 'adam'"),
        ("randaugment=tff", "augment.randaugment: should be 'torchvision', 'tf' or 'tf_mended', found 'tff'"),
        ("crop_enlarge=9", "augment.crop_enlarge: should be less than or equal to 4, found 9"),
        ("steps=0", "steps: should be greater than 0, found 0"),
        ("rank=-1", "lora.rank: should be greater than or equal to 0, found -1"),
    ],
)
def test_sentences(setting: str, sentence: str) -> None:
    found = outcome(RECIPES["ViT"], [setting])
    assert isinstance(found, str) and found.startswith(sentence)
