"""`field=value` changes to a recipe: found by name, parsed, checked, and kept consistent with each other."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from vitrail.config import KINDS, Config, Recipe, ResNetConfig, ViTConfig
from vitrail.errors import ConfigError, close_matches, config_error
from vitrail.models.catalog import paper

FIXED = {  # fields that something else decides, and what
    "name": "it is the name of the recipe function",
    "expected": "it belongs to the recipe function",
    "model.classes": "the data decide it",
}
MOST_EPOCHS = 1_000_000  # a bound on what is planned ahead, far above any use
OF_WEIGHTS = (
    "image_size",
    "dropout",
    "stochastic_depth",
    "patch_dropout",
    "pool",
    "pool_blocks",
)  # model fields that trained weights leave free
WEIGHING = ("data.sampler", "optim.class_weights", "optim.logit_adjustment")  # a solver of heads knows none of it
SIZE, INPUT = "model.image_size", "preprocess.size"  # one fact, stored twice: the model's and the pixels' side of it


def field_paths(kinds: Sequence[type[Config]] = (ViTConfig, ResNetConfig)) -> tuple[str, ...]:
    """Dotted paths of all fields that can be set, such as `optim.lr`, where the model is of one of these kinds."""
    return tuple(path for path in _fields(Recipe, "", kinds) if path not in FIXED)


def _fields(config: type[Config], prefix: str, kinds: Sequence[type[Config]]) -> dict[str, object]:
    """Dotted path and type of every field."""
    fields: dict[str, object] = {}
    for name, field in config.model_fields.items():
        inner, path = field.annotation, f"{prefix}{name}"
        if path == "model":
            for kind in kinds:
                fields |= _fields(kind, "model.", kinds)
        elif isinstance(inner, type) and issubclass(inner, Config):
            fields |= _fields(inner, f"{path}.", kinds)
        else:
            fields[path] = inner
    return fields


def parse_changes(overrides: Iterable[str]) -> dict[str, Any]:
    """`field=value` texts as path -> value, values read as YAML. The field is a dotted path, or its last part where no
    other field ends so. Raises ConfigError."""
    changes: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"a setting must be written field=value, found {text!r}")
        path = find_path(name.strip())
        if path in changes:
            raise ConfigError(f"the field {path} is set twice: {changes[path]!r} and {value!r}")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        changes[path] = value.strip() if isinstance(parsed, bool) and path not in _switches() else parsed
    return changes


def find_path(name: str) -> str:
    """The full path of the field called `name`. Raises ConfigError with close matches."""
    paths = field_paths()
    if name in paths:
        return name
    if name in FIXED:
        raise ConfigError(f"the field {name} cannot be set: {FIXED[name]}")
    ends = [path for path in paths if path.endswith("." + name)]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"the field {name!r} could be {' or '.join(ends)}: write one of them")
    raise ConfigError(f"a recipe has no field {name!r}{_near(name, paths)}")


def change(recipe: Recipe, changes: Mapping[str, Any], *, n_train: int, from_weights: bool) -> Recipe:
    """The recipe with `changes` made and everything that follows from them: input size and pixel size go together,
    warm-up and the time between evaluations keep their share of the run, micro-batches their size. Raises ConfigError.
    """
    changes = dict(changes)
    if from_weights:
        fixed = [p for p in changes if p.startswith("model.") and p.removeprefix("model.") not in OF_WEIGHTS]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} cannot be set: the weights decide it; with weights the model's "
                f"{', '.join(OF_WEIGHTS)} can be, or train from scratch"
            )
    paths = field_paths([type(recipe.model)])
    if odd := [path for path in changes if path not in paths]:
        raise ConfigError(f"the recipe of this model has no field {odd[0]!r}{_near(odd[0], paths)}")
    if SIZE in changes and INPUT not in changes:
        changes[INPUT] = changes[SIZE]
    if INPUT in changes and SIZE not in changes:
        changes[SIZE] = changes[INPUT]
    if changes.get("epochs") is not None and changes.get("steps") is not None:
        raise ConfigError("a run is as long as epochs or as steps says: set one of them, found both")
    if "epochs" in changes:
        changes["steps"] = None  # of a recipe that counts in steps
    if changes.get("preset") == "paper" and recipe.preset != "paper":
        recipe = paper_preset(recipe, from_weights)
    if changes.keys() & set(WEIGHING) and recipe.head_solver != "none" and total_steps(recipe, n_train):
        changes.setdefault("head_solver", "none")
    if changes.get("epochs") == 0:
        changes.setdefault("head_images", None)  # some are enough for a head to start from, not for one to end with
    table = recipe.model_dump(exclude={"expected"} if changes.keys() - {"seed"} else set())  # another run's score
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        inner = table
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    try:
        changed = Recipe.model_validate(table)
    except ValidationError as error:
        raise config_error(error, "recipe", paths, hidden=KINDS) from error
    if changed.model.image_size != changed.preprocess.size:
        raise ConfigError(
            f"{SIZE} and {INPUT} must be equal, found {changed.model.image_size} and {changed.preprocess.size}"
        )
    seen = changed.epochs if changed.steps is None else changed.steps * changed.data.batch_size / n_train
    if seen > MOST_EPOCHS:
        raise ConfigError(
            f"a run sees the data at most {MOST_EPOCHS:,} times, found {seen:,.0f}: lower steps or epochs"
        )
    if recipe.optim.accumulate > 1 and "optim.accumulate" not in changes:
        changed = _split_alike(changed, recipe)
    return _rescaled(changed, recipe, changes, n_train)


def _split_alike(changed: Recipe, recipe: Recipe) -> Recipe:
    """Micro-batches keep their size when the batch changes: that size is what fits into memory."""
    parts = -(-recipe.optim.accumulate * changed.data.batch_size // recipe.data.batch_size)
    return changed.model_copy(update={"optim": changed.optim.model_copy(update={"accumulate": parts})})


def _rescaled(changed: Recipe, recipe: Recipe, changes: Mapping[str, Any], n_train: int) -> Recipe:
    """Warm-up, cool-down, the steps of the head alone and the time between evaluations keep their share of a run that
    was made shorter or longer."""
    before, after = total_steps(recipe, n_train), total_steps(changed, n_train)
    if not before:
        return changed
    update: dict[str, Any] = {}
    for name in ("warmup_steps", "cooldown_steps", "head_steps"):
        old = getattr(recipe.optim, name)
        if old and f"optim.{name}" not in changes:
            update[name] = max(name == "cooldown_steps", round(old / before * after))  # wsd needs one
    changed = changed.model_copy(update={"optim": changed.optim.model_copy(update=update)})
    if "evaluate_every" in changes:
        return changed
    share = total_epochs(changed, n_train) / total_epochs(recipe, n_train)
    return changed.model_copy(update={"evaluate_every": max(1, round(recipe.evaluate_every * share))})


def paper_preset(recipe: Recipe, from_weights: bool) -> Recipe:
    """The recipe with every choice of the original JAX code that later libraries changed: in the model (see
    models/catalog.py), and squashed images, in [-1, 1], for evaluation. ConfigError where weights say otherwise."""
    model, pixels = recipe.model, recipe.preprocess
    if isinstance(model, ViTConfig):
        model = paper(model)
        fixed = ("gelu", "norm_eps", "norm_after_pool", "position_rule")
        wrong = [
            f"model.{f} {getattr(recipe.model, f)}" for f in fixed if getattr(recipe.model, f) != getattr(model, f)
        ]
        if from_weights and wrong:
            raise ConfigError(f"preset=paper cannot be set: the weights have {', '.join(wrong)}; train from scratch")
    squash: dict[str, object] = {"resize": "squash", "crop": 1.0, "interpolation": "bilinear", "antialias": False}
    scale = {} if from_weights else {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    pixels = pixels.model_copy(update=squash | scale)
    return recipe.model_copy(update={"model": recipe.model if from_weights else model, "preprocess": pixels})


def total_steps(recipe: Recipe, n_train: int) -> int:
    """Steps of the whole run, every one a full batch of the training stream: at least one, but none for no epochs."""
    if recipe.steps is not None:
        return recipe.steps
    return max(1, round(recipe.epochs * n_train / recipe.data.batch_size)) if recipe.epochs else 0


def total_epochs(recipe: Recipe, n_train: int) -> float:
    """Passes over the training images of the whole run."""
    return recipe.epochs if recipe.steps is None else recipe.steps * recipe.data.batch_size / n_train


def evaluation_steps(recipe: Recipe, n_train: int) -> set[int]:
    """Steps after which the held-out split is evaluated: the first with `evaluate_every` more epochs seen, and the
    last."""
    steps, images = total_steps(recipe, n_train), recipe.evaluate_every * n_train
    return {
        -(-k * images // recipe.data.batch_size) for k in range(1, steps * recipe.data.batch_size // images + 1)
    } | {steps}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`field old value, now new value` for every leaf in which two JSON tables differ."""
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {_shown(a)}, now {_shown(b)}")
    return found


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _switches() -> Sequence[str]:
    """Fields that are true or false; elsewhere YAML's `yes` and `on` are mistakes, not the number one."""
    return [path for path, kind in _fields(Recipe, "", (ViTConfig, ResNetConfig)).items() if kind is bool]


def _near(name: str, paths: Sequence[str]) -> str:
    """Likely corrections, by the last part of a path; where nothing is close, all choices."""
    leaves = {path.rpartition(".")[2]: path for path in paths}
    near = difflib.get_close_matches(name.casefold().rpartition(".")[2], leaves, n=3, cutoff=0.55)
    if not near:
        return close_matches(name, paths, most=len(paths))
    return f"; did you mean {' or '.join(repr(leaves[leaf]) for leaf in near)}?"
