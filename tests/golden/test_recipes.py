"""What the recipes decide, as recorded: a change of one is seen, measured and written down.

After a change that is meant: python tests/golden/test_recipes.py
"""

import json
from pathlib import Path
from typing import Any

from vitrail.config import Preprocess
from vitrail.models.catalog import find_model
from vitrail.train.recipes import RECIPES, DataSummary

FILE = Path(__file__).parent / "fixtures" / "recipes.json"
DIGITS = DataSummary("digits", tuple("0123456789"), 1438, 8, 8)
FLOWERS = DataSummary("flowers", ("daisy", "dandelion", "rose", "sunflower", "tulip"), 3015, 240, 320)
CASES = {
    "scratch_small": {"digits": (DIGITS, None, None), "photos": (FLOWERS, None, None)},
    "finetune": {"photos from Ti/16": (FLOWERS, find_model("Ti/16"), Preprocess(crop=0.9))},
    "probe": {"photos from Ti/16": (FLOWERS, find_model("Ti/16"), Preprocess(crop=0.9))},
}


def decided() -> dict[str, dict[str, Any]]:
    return {
        name: {case: RECIPES[name](*given).model_dump(mode="json") for case, given in cases.items()}
        for name, cases in CASES.items()
    }


def test_every_recipe_decides_what_is_recorded() -> None:
    assert decided() == json.loads(FILE.read_text())


def test_every_recipe_is_recorded() -> None:
    assert CASES.keys() == RECIPES.keys() == json.loads(FILE.read_text()).keys()


if __name__ == "__main__":
    FILE.write_text(json.dumps(decided(), indent=1) + "\n")
