"""What the recipes decide, as recorded: a change of one is seen, measured and written down.

After a change that is meant: python tests/golden/test_recipes.py
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.config import Preprocess, Recipe, ViTConfig
from vitrail.models.catalog import find_model
from vitrail.train.published import LEVELS
from vitrail.train.recipes import RECIPES
from vitrail.train.summary import DataSummary

FILE = Path(__file__).parent / "fixtures" / "recipes.json"
DIGITS = DataSummary("digits", tuple("0123456789"), 1438, 8, 8)
FLOWERS = DataSummary("flowers", ("daisy", "dandelion", "rose", "sunflower", "tulip"), 3015, 240, 320)
OXFORD = DataSummary("flowers102", tuple(f"class {i}" for i in range(102)), 1020, 500, 667)
CIFAR = DataSummary("cifar10", tuple(f"class {i}" for i in range(10)), 50_000, 32, 32)
IMAGENET = DataSummary("imagenet", tuple(f"class {i}" for i in range(1000)), 1_281_167, 375, 500)
IMAGENET21K = DataSummary("imagenet21k", tuple(f"class {i}" for i in range(21_843)), 14_197_122, 375, 500)
OF_WEIGHTS = find_model("B/32"), Preprocess()
CASES = {
    "scratch_small": {"digits": (DIGITS, None, None), "photos": (FLOWERS, None, None)},
    "finetune": {"photos from Ti/16": (FLOWERS, find_model("Ti/16"), Preprocess(crop=0.9))},
    "probe": {"photos from Ti/16": (FLOWERS, find_model("Ti/16"), Preprocess(crop=0.9))},
    "lora": {"photos from Ti/16": (FLOWERS, find_model("Ti/16"), Preprocess(crop=0.9))},
    "vit_i21k": {"imagenet21k": (IMAGENET21K, None, None)},
    "finetune_paper": {data.name: (data, *OF_WEIGHTS) for data in (OXFORD, CIFAR, IMAGENET)},
    "augreg": {"imagenet": (IMAGENET, None, None), "imagenet21k": (IMAGENET21K, find_model("S/32"), None)},
    **{f"augreg_{level}": {"imagenet": (IMAGENET, None, None)} for level in LEVELS},
    **{name: {"imagenet": (IMAGENET, None, None)} for name in ("vit_i1k", "simple_vit", "deit", "distill", "deit3")},
}


def decided() -> dict[str, dict[str, Any]]:
    """What each recipe sets, and once, under `defaults`, what holds where it sets nothing."""
    recorded = {
        name: {case: dump(RECIPES[name](*given), exclude_defaults=True) for case, given in cases.items()}
        for name, cases in CASES.items()
    }
    return {"defaults": dump(Recipe(name="", model=ViTConfig(), preprocess=Preprocess())), **recorded}


def dump(recipe: Recipe, exclude_defaults: bool = False) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_defaults=exclude_defaults)


def test_every_recipe_decides_what_is_recorded() -> None:
    assert decided() == json.loads(FILE.read_text())


def test_every_recipe_is_recorded() -> None:
    assert {"defaults", *CASES} == {"defaults", *RECIPES} == json.loads(FILE.read_text()).keys()


def test_a_changed_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = RECIPES["deit"](*CASES["deit"]["imagenet"])
    changed = changed.model_copy(update={"optim": changed.optim.model_copy(update={"warmup_steps": 1})})
    monkeypatch.setitem(RECIPES, "deit", lambda *given: changed)
    assert decided() != json.loads(FILE.read_text())


if __name__ == "__main__":
    FILE.write_text(json.dumps(decided(), indent=1) + "\n")
