import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.config import DataConfig, OptimConfig, Preprocess, Recipe, ViTConfig
from vitrail.errors import ConfigError
from vitrail.train.settings import (
    change,
    differences,
    evaluation_steps,
    field_paths,
    find_path,
    parse_changes,
    total_epochs,
    total_steps,
)

RECIPE = Recipe(
    name="toy",
    model=ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=8, classes=3),
    preprocess=Preprocess(size=8),
    data=DataConfig(batch_size=10),
    optim=OptimConfig(warmup_steps=20),
    epochs=20,
    expected="90 % in a second",
)


WITH_HEAD = RECIPE.model_copy(update={"head_solver": "logistic"})


def changed(*overrides: str, n_train: int = 100, from_weights: bool = False) -> Recipe:
    return change(RECIPE, parse_changes(overrides), n_train=n_train, from_weights=from_weights)


def refused(*overrides: str, from_weights: bool = False) -> str:
    with pytest.raises(ConfigError) as error:
        changed(*overrides, from_weights=from_weights)
    return str(error.value)


def test_a_dotted_path_or_the_last_part_of_one() -> None:
    assert changed("optim.lr=1e-4").optim.lr == changed("lr=1e-4").optim.lr == 1e-4
    assert changed("epochs=3").epochs == 3


def test_every_field_is_reachable_by_both_names_unless_ambiguous() -> None:
    paths = field_paths()
    assert {"epochs", "seed", "model.width", "augment.mixup", "data.val_share", "preprocess.mean"} <= set(paths)
    assert not {"name", "expected", "model.classes", "model", "optim"} & set(paths)
    leaves = [path.rpartition(".")[2] for path in paths]
    for path, leaf in zip(paths, leaves, strict=True):
        assert find_path(path) == path
        if leaves.count(leaf) == 1:
            assert find_path(leaf) == path


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("clip=null", "optim.clip", None),
        ("betas=[0.8, 0.9]", "optim.betas", (0.8, 0.9)),
        ("image_size=16", "model.image_size", (16, 16)),
        ("image_size=[16, 24]", "model.image_size", (16, 24)),
        ("qkv_bias=no", "model.qkv_bias", False),
        ("precision=float32", "precision", "float32"),
        ("mean=[0, 0, 0.5]", "preprocess.mean", (0.0, 0.0, 0.5)),
        ("workers=0", "data.workers", 0),
        ("lr = 1e-3", "optim.lr", 1e-3),
    ],
)
def test_values(text: str, path: str, value: object) -> None:
    found: object = changed(text)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_an_unknown_field_suggests_close_ones() -> None:
    assert refused("optim.lrr=1") == "a recipe has no field 'optim.lrr'; did you mean 'optim.lr'?"
    assert "did you mean 'augment.randaugment_layers'" in refused("augment.randaugment_layer=2")
    assert "did you mean 'epochs'" in refused("epoch=2")
    text = refused("qqqqqqq=1")
    assert text.startswith("a recipe has no field 'qqqqqqq'. Choices: ") and "augment.mixup" in text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr=fast", "optim.lr: should be a valid number, unable to parse string as a number, found 'fast'"),
        ("lr=-1", "optim.lr: should be greater than 0, found -1"),
        ("lr=yes", "optim.lr: should be a valid number, unable to parse string as a number, found 'yes'"),
        ("lr=.inf", "optim.lr: should be a finite number, found inf"),
        ("width=7.5", "model.width: should be a valid integer, got a number with a fractional part, found 7.5"),
        ("flip=2", "augment.flip: should be less than or equal to 1, found 2"),
        ("precision=16", "precision: should be 'auto', 'float32', 'bfloat16' or 'float16', found 16"),
        ("width=9", "model: width must be a multiple of heads: 9 / 2"),
        ("lr={a: 1}", "optim.lr: should be a valid number, found {'a': 1}"),
        ("image_size=10", "model: image_size must be a multiple of patch_size: 10 rows / 4"),
        ("lr", "a setting must be written field=value, found 'lr'"),
        ("=3", "a setting must be written field=value, found '=3'"),
        ("name=x", "the field name cannot be set: it is the name of the recipe function"),
        ("model.classes=4", "the field model.classes cannot be set: the data decide it"),
    ],
)
def test_a_wrong_value_is_one_sentence(text: str, sentence: str) -> None:
    assert refused(text) == sentence


def test_twice_is_a_mistake() -> None:
    assert refused("lr=1", "optim.lr=2") == "the field optim.lr is set twice: 1 and '2'"


@given(st.text(max_size=30))
def test_any_text_is_a_change_or_a_sentence(text: str) -> None:
    for setting in (text, f"lr={text}", f"{text}=1", f"image_size={text}"):
        try:
            changed(setting)
        except ConfigError as error:
            assert str(error)


def test_model_and_pixels_change_their_size_together() -> None:
    for text in ("image_size=[16, 24]", "preprocess.size=[16, 24]"):
        recipe = changed(text)
        assert recipe.model.image_size == recipe.preprocess.size == (16, 24)
    assert refused("image_size=16", "preprocess.size=12") == (
        "model.image_size and preprocess.size must be equal, found (16, 16) and (12, 12)"
    )
    assert changed("image_size=16", "preprocess.size=16").preprocess.size == (16, 16)


def test_a_remedy_for_unequal_classes_leaves_the_head_to_the_steps() -> None:
    assert WITH_HEAD.head_solver == "logistic"
    for text in ("data.sampler=balanced", "class_weights=balanced", "logit_adjustment=1.0"):
        assert change(WITH_HEAD, parse_changes([text]), n_train=100, from_weights=True).head_solver == "none"
    kept = change(WITH_HEAD, parse_changes(["lr=0.01"]), n_train=100, from_weights=True)
    assert kept.head_solver == "logistic"


def test_weights_decide_the_architecture() -> None:
    assert refused("width=16", "depth=2", from_weights=True) == (
        "model.width, model.depth cannot be set: the weights decide it; with weights the model's image_size, dropout, "
        "stochastic_depth, patch_dropout, pool, pool_blocks can be, or train from scratch"
    )
    recipe = changed("image_size=16", "dropout=0.1", "stochastic_depth=0.2", "lr=1e-3", from_weights=True)
    assert (recipe.model.dropout, recipe.model.stochastic_depth) == (0.1, 0.2)


def test_the_warmup_keeps_its_share() -> None:
    assert RECIPE.optim.warmup_steps == 20 and total_steps(RECIPE, 100) == 200
    assert changed("epochs=2").optim.warmup_steps == 2
    assert changed("batch_size=20").optim.warmup_steps == 10
    assert changed("epochs=2", "warmup_steps=7").optim.warmup_steps == 7


def test_evaluations_keep_their_share() -> None:
    recipe = RECIPE.model_copy(update={"evaluate_every": 4})
    found = [change(recipe, {"epochs": epochs}, n_train=100, from_weights=False) for epochs in (5, 1, 100)]
    assert [r.evaluate_every for r in found] == [1, 1, 20]
    assert change(recipe, {"epochs": 5, "evaluate_every": 3}, n_train=100, from_weights=False).evaluate_every == 3


def test_the_expected_score_is_that_of_the_untouched_recipe() -> None:
    assert changed().expected == changed("seed=4").expected == RECIPE.expected
    assert changed("lr=1e-4").expected == ""


def test_total_steps() -> None:
    assert total_steps(RECIPE, 105) == 210
    assert total_steps(RECIPE, 1) == 2
    assert total_steps(RECIPE.model_copy(update={"epochs": 0.001}), 1) == 1


@pytest.mark.parametrize(
    ("n_train", "epochs", "every", "expected"),
    [
        (100, 3, 1, {10, 20, 30}),
        (105, 3, 1, {11, 21, 32}),  # 31.5 steps are rounded to 32
        (100, 3, 2, {20, 30}),
        (100, 2.5, 1, {10, 20, 25}),
        (100, 2, 5, {20}),
        (4, 5, 1, {1, 2}),
    ],
)
def test_evaluation_steps(n_train: int, epochs: float, every: int, expected: set[int]) -> None:
    recipe = RECIPE.model_copy(update={"epochs": epochs, "evaluate_every": every})
    assert evaluation_steps(recipe, n_train) == expected


@given(st.integers(1, 500), st.integers(1, 64), st.floats(0.01, 20), st.integers(1, 7))
def test_evaluations_lie_inside_the_run_and_include_its_end(n: int, batch: int, epochs: float, every: int) -> None:
    recipe = RECIPE.model_copy(update={"epochs": epochs, "evaluate_every": every, "data": DataConfig(batch_size=batch)})
    steps = total_steps(recipe, n)
    found = evaluation_steps(recipe, n)
    assert max(found) == steps and min(found) >= 1


def test_differences_name_leaves() -> None:
    old = {"recipe": {"optim": {"lr": 0.1, "clip": None}, "epochs": 3}, "data": "a"}
    new = {"recipe": {"optim": {"lr": 0.2, "clip": 1.0}, "epochs": 3}, "data": "a", "weights": "w"}
    assert differences(old, new) == [
        "recipe.optim.lr 0.1, now 0.2",
        "recipe.optim.clip none, now 1.0",
        "weights none, now w",
    ]
    assert differences(old, old) == []


def test_micro_batches_keep_their_size() -> None:
    recipe = RECIPE.model_copy(
        update={"data": DataConfig(batch_size=4096), "optim": OptimConfig(accumulate=32, warmup_steps=1)}
    )
    for batch, parts in ((4096, 32), (256, 2), (100, 1), (8192, 64), (130, 2)):
        found = change(recipe, {"data.batch_size": batch}, n_train=10_000, from_weights=False)
        assert found.optim.accumulate == parts
    chosen = {"data.batch_size": 256, "optim.accumulate": 5}
    assert change(recipe, chosen, n_train=10_000, from_weights=False).optim.accumulate == 5
    assert changed("batch_size=1000").optim.accumulate == 1  # a batch that was not cut stays whole


def test_steps_instead_of_epochs() -> None:
    in_steps = changed("steps=50")
    assert (total_steps(in_steps, 100), total_epochs(in_steps, 100), total_epochs(RECIPE, 100)) == (50, 5.0, 20)
    assert in_steps.optim.warmup_steps == 5 and RECIPE.evaluate_every == 1
    again = change(in_steps, parse_changes(["epochs=10"]), n_train=100, from_weights=False)
    assert (again.steps, total_steps(again, 100), again.optim.warmup_steps) == (None, 100, 10)
    assert refused("steps=50", "epochs=2") == (
        "a run is as long as epochs or as steps says: set one of them, found both"
    )


def test_other_shares_of_a_run_follow_its_length_too() -> None:
    optim = OptimConfig(warmup_steps=20, cooldown_steps=40, schedule="wsd", head_steps=10)
    recipe = RECIPE.model_copy(update={"optim": optim, "evaluate_every": 4})
    half = change(recipe, parse_changes(["epochs=10"]), n_train=100, from_weights=False)
    assert (half.optim.warmup_steps, half.optim.cooldown_steps, half.optim.head_steps) == (10, 20, 5)
    assert half.evaluate_every == 2
    kept = change(recipe, parse_changes(["epochs=10", "head_steps=3"]), n_train=100, from_weights=False)
    assert kept.optim.head_steps == 3
    short = change(recipe, parse_changes(["steps=1"]), n_train=100, from_weights=False)
    assert short.optim.cooldown_steps == 1, "wsd without a decay is no wsd"


def test_no_epochs_are_no_steps() -> None:
    solved = changed("epochs=0", "head_solver=ridge")
    assert total_steps(solved, 100) == 0 and evaluation_steps(solved, 100) == {0}
    assert total_steps(changed("epochs=0.001"), 100) == 1
    assert "epochs=0 trains nothing: set epochs or steps above 0, or head_solver=ridge or logistic" in refused(
        "epochs=0"
    )
    back = change(solved, parse_changes(["epochs=3"]), n_train=100, from_weights=False)
    assert total_steps(back, 100) == 30


def test_a_head_to_end_with_is_solved_on_all_images() -> None:
    recipe = WITH_HEAD.model_copy(update={"head_images": 20})
    found = [
        change(recipe, parse_changes(texts), n_train=100, from_weights=True).head_images
        for texts in (["epochs=2"], ["epochs=0"], ["epochs=0", "head_images=30"])
    ]
    assert found == [20, None, 30]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["nesterov=true"], "optim: nesterov goes with optimizer=sgd and a momentum above 0"),
        (["nesterov=true", "optimizer=sgd", "momentum=0"], "nesterov goes with optimizer=sgd and a momentum above 0"),
        (["cooldown_steps=3"], "optim: cooldown_steps goes with schedule=rsqrt or wsd, found cosine"),
        (["schedule=wsd"], "schedule=wsd needs cooldown_steps above 0, the steps over which the rate decays"),
        (["schedule=constant", "final_lr=1e-5"], "not reached with schedule=constant: set final_lr=0, found 1e-05"),
        (["loss=bce", "logit_adjustment=1"], "optim: logit_adjustment goes with loss=softmax, found bce"),
        (
            ["sampler=balanced", "class_weights=balanced"],
            "one remedy for unequal classes at a time, or they are counted twice: found data.sampler=balanced and "
            "optim.class_weights=balanced",
        ),
    ],
)
def test_settings_that_contradict_each_other(settings: list[str], text: str) -> None:
    assert text in refused(*settings)


def test_settings_that_go_together() -> None:
    assert changed("nesterov=true", "optimizer=sgd").optim.nesterov
    assert changed("schedule=wsd", "cooldown_steps=3").optim.cooldown_steps == 3
    assert changed("schedule=constant").optim.schedule == "constant"
    assert changed("logit_adjustment=1").optim.logit_adjustment == 1
