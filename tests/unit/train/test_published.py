"""The published recipes have the published numbers, whatever model and data they get, and say what they cannot do."""

import math
from pathlib import Path

import pytest
import torch

from vitrail.config import Preprocess, Recipe, ResNetConfig, ViTConfig
from vitrail.errors import ConfigError
from vitrail.models.catalog import MODELS
from vitrail.models.vit import ViT
from vitrail.train.optim import make_optimizer
from vitrail.train.published import LEVELS, augreg_level, finetune_paper, micro_batches, warm_up
from vitrail.train.recipes import FROM_SCRATCH, PUBLISHED, RECIPES, check_recipe, lora
from vitrail.train.settings import change, total_steps
from vitrail.train.summary import DataSummary


def data(classes: int, n_train: int, side: int = 400, name: str = "photos") -> DataSummary:
    return DataSummary(name, tuple(f"class {i}" for i in range(classes)), n_train, side, side)


IMAGENET, IMAGENET21K = data(1000, 1_281_167), data(21_843, 14_197_122)
VITS = {name: model for name, model in MODELS.items() if isinstance(model, ViTConfig)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_fits_every_model(name: str) -> None:
    """Copies of configurations are not validated; read back from JSON they are."""
    for base in VITS.values():
        for summary in (data(10, 50_000, 32), IMAGENET):
            recipe = PUBLISHED[name](summary, base, Preprocess(size=base.image_size))
            assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
            assert recipe.model.image_size == recipe.preprocess.size and recipe.name == name
            assert recipe.data.batch_size % recipe.optim.accumulate == 0
            table = change(recipe, {}, n_train=summary.n_train, from_weights=False)
            assert table == recipe  # nothing follows that was not decided


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_tells_where_it_comes_from(name: str) -> None:
    text = " ".join(str(RECIPES[name].__doc__).split()).lower()
    assert "source" in text and "expected" in text and "hardware" in text


def test_weights_or_none() -> None:
    for name in RECIPES.keys() - set(FROM_SCRATCH):
        with pytest.raises(
            ConfigError, match=f"the recipe {name} starts from trained weights: name some with --weights"
        ):
            RECIPES[name](IMAGENET, None, None)
    assert {"augreg", "deit3", "scratch_small"} <= set(FROM_SCRATCH) and "lora" not in FROM_SCRATCH


def test_a_resnet_is_refused_where_the_recipe_is_a_transformers() -> None:
    for name in (*PUBLISHED.keys() - {"finetune_paper"}, "lora"):
        with pytest.raises(ConfigError, match="found a ResNet"):
            RECIPES[name](IMAGENET, MODELS["R50x1"], Preprocess())
    recipe = finetune_paper(IMAGENET, MODELS["R50x1"], Preprocess())
    assert isinstance(recipe.model, ResNetConfig) and recipe.model.image_size == (384, 384)


@pytest.mark.parametrize(
    ("level", "layers", "magnitude", "mixup"),
    [("none", 0, 0, 0), ("light1", 2, 0, 0), ("light2", 2, 10, 0.2), ("medium1", 2, 15, 0.2), ("medium2", 2, 15, 0.5),
     ("strong1", 2, 20, 0.5), ("strong2", 2, 20, 0.8)],
)  # fmt: skip
def test_the_seven_levels(level: str, layers: int, magnitude: int, mixup: float) -> None:
    augment = RECIPES[f"augreg_{level}"](IMAGENET, None, None).augment
    assert (augment.randaugment_layers, augment.randaugment_magnitude, augment.mixup) == (layers, magnitude, mixup)
    assert augment.randaugment == "tf" and augment.mixup_major and augment.cutmix == 0 and augment.mix_probability == 1
    assert len(LEVELS) == 7


@pytest.mark.parametrize(
    ("model", "on_imagenet", "on_imagenet21k"),
    [("Ti/16", "light1", "none"), ("S/32", "medium1", "none"), ("S/16", "medium2", "light1"),
     ("B/32", "medium2", "light2"), ("B/16", "medium2", "light2"), ("L/16", "medium2", "medium2")],
)  # fmt: skip
def test_the_level_that_was_chosen(model: str, on_imagenet: str, on_imagenet21k: str) -> None:
    assert augreg_level(VITS[model], IMAGENET.n_train) == on_imagenet
    assert augreg_level(VITS[model], IMAGENET21K.n_train) == on_imagenet21k
    chosen = RECIPES["augreg"](IMAGENET, VITS[model], None)
    assert chosen.augment == RECIPES[f"augreg_{on_imagenet}"](IMAGENET, VITS[model], None).augment


@pytest.mark.parametrize(
    ("summary", "steps", "lr", "warmup", "crop"),
    [(data(10, 50_000, 32), 10_000, 0.003, 500, "simple"), (data(10, 45_000, 32), 10_000, 0.003, 500, "simple"),
     (data(100, 50_000, 32), 10_000, 0.01, 500, "simple"), (data(37, 3_312), 500, 0.003, 100, "area"),
     (data(102, 1_020), 500, 0.003, 100, "area"), (IMAGENET, 20_000, 0.03, 500, "area")],
    ids=["CIFAR-10", "CIFAR-10, less", "CIFAR-100", "Pets", "Flowers", "ImageNet"],
)  # fmt: skip
def test_the_five_presets_of_fine_tuning(summary: DataSummary, steps: int, lr: float, warmup: int, crop: str) -> None:
    """big_vision's configs/transfer.py."""
    recipe = finetune_paper(summary, VITS["B/32"], Preprocess(mean=(0.4, 0.5, 0.6)))
    optim = recipe.optim
    assert (recipe.steps, optim.lr, optim.warmup_steps, recipe.augment.crop) == (steps, lr, warmup, crop)
    assert (optim.optimizer, optim.momentum, optim.weight_decay, optim.clip) == ("sgd", 0.9, 0, 1.0)
    assert (optim.schedule, optim.final_lr, optim.loss, recipe.data.batch_size) == ("cosine", 0, "softmax", 512)
    assert recipe.epochs * summary.n_train == pytest.approx(steps * 512)
    assert recipe.model.image_size == (384, 384) and recipe.preprocess.mean == (0.4, 0.5, 0.6)
    assert math.floor(384 / recipe.preprocess.crop) == round(384 * recipe.augment.crop_enlarge) or crop == "area"
    assert math.floor(384 / recipe.preprocess.crop) == 448


@pytest.mark.parametrize(("model", "size"), [("B/14", 378), ("R50+B/16", 384), ("R+Ti/16", 384), ("Nano/4", 32)])
def test_the_size_of_fine_tuning_is_a_multiple_of_the_patch(model: str, size: int) -> None:
    assert finetune_paper(data(10, 50_000, 32), VITS[model], Preprocess()).model.image_size == (size, size)


def test_the_papers_table_3() -> None:
    large, small = RECIPES["vit_i21k"](IMAGENET21K, None, None), RECIPES["vit_i1k"](IMAGENET, None, None)
    assert (large.epochs, large.optim.lr, large.optim.weight_decay, large.optim.schedule) == (90, 1e-3, 0.03, "linear")
    assert (small.epochs, small.optim.lr, small.optim.weight_decay, small.optim.schedule) == (300, 3e-3, 0.3, "cosine")
    for recipe, bias in ((large, -10.0), (small, -6.9)):
        model = recipe.model
        assert isinstance(model, ViTConfig) and recipe.preset == "paper" and recipe.preprocess.resize == "squash"
        assert (model.dropout, model.pre_logits, model.gelu, model.head_bias) == (0.1, 768, "tanh", bias)
        assert (recipe.data.batch_size, recipe.optim.warmup_steps, recipe.optim.loss) == (4096, 10_000, "sigmoid")
        assert change(recipe, {"preset": "paper"}, n_train=1_281_167, from_weights=False).model.head_bias == bias


def test_heads_of_the_others() -> None:
    augreg, simple = RECIPES["augreg"](IMAGENET, None, None).model, RECIPES["simple_vit"](IMAGENET, None, None).model
    assert (augreg.pre_logits, augreg.head_bias, augreg.pool, augreg.class_token) == (None, -6.9, "token", True)
    assert RECIPES["augreg"](IMAGENET21K, None, None).model.head_bias == -10.0
    assert (simple.pre_logits, simple.head_bias, simple.pool, simple.class_token) == (384, 0.0, "gap", False)
    assert simple.position == "sincos2d" and simple.width == 384
    distill, deit3 = RECIPES["distill"](IMAGENET, None, None).model, RECIPES["deit3"](IMAGENET, None, None).model
    assert distill.distilled and distill.initialisation == "normal"
    assert deit3.layer_scale == 1e-4 and not deit3.position_prefix and deit3.position_rows == 0


@pytest.mark.parametrize(
    ("model", "lr", "depth"), [("S/16", 4e-3, 0.05), ("B/16", 3e-3, 0.2), ("L/16", 3e-3, 0.45), ("H/14", 3e-3, 0.6)]
)
def test_deit3_by_size(model: str, lr: float, depth: float) -> None:
    recipe = RECIPES["deit3"](IMAGENET, VITS[model], None)
    assert (recipe.optim.lr, recipe.model.stochastic_depth, recipe.optim.optimizer) == (lr, depth, "lamb")
    assert (recipe.optim.loss, recipe.optim.label_smoothing, recipe.augment.three_augment) == ("bce", 0, True)
    assert recipe.optim.warmup_steps == round(5 * 1_281_167 / 2048)


def test_warm_up_is_the_published_one_where_the_run_is_long_enough() -> None:
    assert warm_up(data(1000, int(1_281_167 * 0.99)), 300, 4096) == 10_000
    assert warm_up(data(10, 8192), 300, 4096) == math.ceil(600 / 9)
    assert total_steps(RECIPES["augreg"](data(10, 8192), None, None), 8192) == 600


def test_micro_batches_fit_into_eight_gigabytes() -> None:
    """B/16: 2 bytes * 12 blocks * 197 tokens * (10 * 768 + 3 * 3072) = 80 MB an image; 2**33 / 80 MB = 107."""
    assert micro_batches(4096, VITS["B/16"]) == 4096 // 64
    assert micro_batches(4096, VITS["S/16"]) == 4096 // 128
    assert micro_batches(16, VITS["B/16"]) == 1
    assert micro_batches(512, MODELS["R50x1"]) == 16


def test_a_batch_larger_than_the_data_is_refused() -> None:
    small = data(3, 3015, name="flowers")
    recipe = RECIPES["augreg"](small, None, None)
    with pytest.raises(ConfigError) as error:
        check_recipe(recipe, small)
    assert str(error.value) == (
        "the recipe augreg takes 4,096 images a step, but flowers has 3,015 to train on: use finetune (with --weights) "
        "or scratch_small, or set smaller data.batch_size and optim.lr"
    )
    check_recipe(change(recipe, {"data.batch_size": 256}, n_train=3015, from_weights=False), small)
    tiny = data(2, 20)
    check_recipe(RECIPES["scratch_small"](tiny, None, None), tiny)  # made for few images: a batch holds some again


def test_distillation_needs_a_teacher() -> None:
    recipe = RECIPES["distill"](IMAGENET, None, None)
    with pytest.raises(ConfigError) as error:
        check_recipe(recipe, IMAGENET)
    assert str(error.value) == (
        "the recipe distill learns from a teacher: name trained weights with the same classes by "
        "--set distill.teacher=SOURCE, as --weights takes them"
    )
    check_recipe(change(recipe, {"distill.teacher": "runs/a"}, n_train=1_281_167, from_weights=False), IMAGENET)


def test_lora_is_finetune_with_frozen_weights() -> None:
    recipe = lora(data(5, 1000), VITS["Ti/16"], Preprocess())
    assert (recipe.lora.rank, recipe.lora.targets, recipe.optim.weight_decay) == (8, "attention", 0.0)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


TOY = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=8, classes=3)


@pytest.mark.parametrize("multiplier", [1.0, 0.25, 1e-3])
def test_adamw_decays_as_big_vision_does_where_the_rate_is_augregs(multiplier: float) -> None:
    """Three steps at a point of the schedule: ours with lr 1e-3 and decay 0.1, theirs, weight - schedule * (lr * Adam +
    wd * weight) with wd = 1e-4 on kernels (big_vision/optax.py), written out in float64."""
    optim = RECIPES["augreg"](IMAGENET, None, None).optim
    assert (optim.lr, optim.weight_decay) == (1e-3, 0.1)
    assert_decay(optim.lr, optim.weight_decay, 1e-4, multiplier, equal=True)


def test_at_another_rate_the_decay_must_be_divided_alike() -> None:
    """big_vision's decay does not follow the peak rate, AdamW's does: at 3e-3, 1e-4 a step is a decay of 1 / 30."""
    assert_decay(3e-3, 0.1, 1e-4, 1.0, equal=False)
    assert_decay(3e-3, 1e-4 / 3e-3, 1e-4, 1.0, equal=True)


def assert_decay(lr: float, decay: float, wd: float, multiplier: float, equal: bool) -> None:
    model = ViT(TOY).double()
    model.reset(torch.Generator().manual_seed(0))
    config = RECIPES["augreg"](IMAGENET, None, None).optim.model_copy(update={"lr": lr, "weight_decay": decay})
    optimizer = make_optimizer(model, TOY, config)
    for group in optimizer.param_groups:
        group["lr"] = lr * multiplier * group["lr_scale"]
    names = {"blocks.0.mlp.fc1.weight": wd, "blocks.0.mlp.fc1.bias": 0.0, "position_embedding": 0.0}
    ours = {name: dict(model.named_parameters())[name] for name in names}
    theirs = {name: value.detach().clone() for name, value in ours.items()}
    first = {name: torch.zeros_like(value) for name, value in theirs.items()}
    second = {name: torch.zeros_like(value) for name, value in theirs.items()}
    draw = torch.Generator().manual_seed(1)
    for step in range(1, 4):
        for name, value in model.named_parameters():
            value.grad = torch.randn(value.shape, dtype=torch.float64, generator=draw)
            if name in names:
                first[name] = 0.9 * first[name] + 0.1 * value.grad
                second[name] = 0.999 * second[name] + 0.001 * value.grad**2
                adam = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
                theirs[name] = theirs[name] - multiplier * (lr * adam + names[name] * theirs[name])
        optimizer.step()
    apart = {name: (ours[name] - theirs[name]).abs().max().item() for name in names}
    assert apart["blocks.0.mlp.fc1.bias"] < 1e-12 and apart["position_embedding"] < 1e-12
    assert (apart["blocks.0.mlp.fc1.weight"] < 1e-12) is equal


def test_the_page_lists_every_recipe_as_it_is() -> None:
    """docs/recipes.md: a row a recipe, with its batch, its length and whether it takes weights."""
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("`") for row in rows) == sorted(RECIPES)
    for quoted, weights, batch, length, *_ in rows:
        name = quoted.strip("`")
        recipe = RECIPES[name](IMAGENET, VITS["B/16"], Preprocess())
        assert (weights == "no") is (name in FROM_SCRATCH)
        assert batch == (f"{recipe.data.batch_size:,}" if recipe.epochs else "none"), name
        if name in PUBLISHED and recipe.steps is None:
            assert length == f"{recipe.epochs:g} epochs", name
