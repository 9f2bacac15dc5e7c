from pathlib import Path

import pytest

from pictures import class_folders
from vitrail.config import Preprocess
from vitrail.data.sources import open_dataset
from vitrail.errors import ConfigError, DataError
from vitrail.models.catalog import MODELS
from vitrail.train.recipes import RECIPES, finetune, scratch_small
from vitrail.train.settings import total_steps
from vitrail.train.summary import DataSummary, mirrors_safely, summarise


def summary(side: int = 8, n_train: int = 1000, classes: tuple[str, ...] = ("cat", "dog")) -> DataSummary:
    return DataSummary("pets", classes, n_train, side, side)


@pytest.mark.parametrize(
    ("classes", "safe"),
    [
        (tuple("0123456789"), False),
        (("a", "b", "c"), False),
        (("cat", "dog"), True),
        (("a", "b", "space"), True),
        (("turn_left", "turn_right"), False),
        (("Left hand", "Right hand"), False),
        (("leftwards-arrow", "other"), False),
        (("bright", "cleft"), True),
    ],
)
def test_what_may_be_mirrored(classes: tuple[str, ...], safe: bool) -> None:
    assert mirrors_safely(classes) is safe
    assert (scratch_small(summary(classes=classes)).augment.flip > 0) is safe
    recipe = finetune(summary(classes=classes), MODELS["Ti/16"], Preprocess())
    assert (recipe.augment.flip > 0) is safe


@pytest.mark.parametrize(
    ("side", "image", "patch", "width"),
    [
        (8, 8, 2, 64),
        (12, 8, 2, 64),
        (13, 32, 4, 192),
        (32, 32, 4, 192),
        (48, 32, 4, 192),
        (49, 64, 8, 192),
        (500, 64, 8, 192),
    ],
)
def test_the_model_fits_the_images(side: int, image: int, patch: int, width: int) -> None:
    recipe = scratch_small(summary(side))
    assert (recipe.model.image_size, recipe.model.patch_size) == ((image, image), (patch, patch))
    assert recipe.model.width == width and recipe.preprocess.size == (image, image) and recipe.model.classes == 2


def test_a_named_model_overrides_the_choice() -> None:
    recipe = scratch_small(summary(8), MODELS["Ti/16"])
    assert recipe.model.image_size == recipe.preprocess.size == (224, 224) and recipe.model.width == 192


def test_tiny_images_lose_nothing_and_are_not_recoloured() -> None:
    augment = scratch_small(summary(8)).augment
    assert augment.randaugment_layers == 0 and augment.mixup == augment.cutmix == 0 and augment.rotate > 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("n_train", [10, 1000, 50_000])
def test_every_recipe_is_sound_for_any_amount_of_data(name: str, n_train: int) -> None:
    recipe = RECIPES[name](summary(64, n_train), MODELS["Ti/16"], Preprocess())
    assert recipe.name == name and recipe.model.classes == 2
    if recipe.epochs:
        assert 0 < recipe.optim.warmup_steps <= 0.2 * total_steps(recipe, n_train) + 1
    else:
        assert total_steps(recipe, n_train) == 0 and recipe.head_solver != "none"
    assert (RECIPES[name].__doc__ and "Expected" in RECIPES[name].__doc__) or "expected" in RECIPES[name].__doc__


def test_finetune_keeps_the_colours_of_the_weights_and_shows_whole_images() -> None:
    preprocess = Preprocess(crop=0.875, mean=(0.4, 0.4, 0.4))
    recipe = finetune(summary(500), MODELS["Ti/16"].model_copy(update={"dropout": 0.0}), preprocess)
    assert recipe.preprocess == preprocess.model_copy(update={"resize": "squash", "crop": 1.0})
    assert recipe.optim.layer_decay < 1


def test_finetune_without_weights_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="the recipe finetune starts from trained weights: name some with --weights"):
        finetune(summary())


def test_summary_of_real_files(tmp_path: Path) -> None:
    dataset = open_dataset(class_folders(tmp_path / "pets", {"cat": 12, "dog": 12}, size=9))
    found = summarise(dataset)
    assert found == DataSummary("pets", ("cat", "dog"), len(dataset.split("train")), 9, 9)


def test_unreadable_files_do_not_hide_the_size(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "pets", {"cat": 12, "dog": 12}, size=9)
    for path in sorted((folder / "cat").iterdir()):
        path.write_bytes(b"no image " + path.name.encode())
    assert summarise(open_dataset(folder)).rows == 9
    for path in sorted((folder / "dog").iterdir()):
        path.write_bytes(b"no image " + path.name.encode())
    with pytest.raises(DataError, match=r"none of .* sampled training images of pets is readable"):
        summarise(open_dataset(folder))
