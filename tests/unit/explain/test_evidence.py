"""The numbers beside a map are those of the measures, and a map that knows nothing is found out."""

import pytest
import torch
from torch import Tensor

from architectures import make
from vitrail.explain import faithfulness as measure
from vitrail.explain.attention import rollout
from vitrail.explain.cells import BASELINES
from vitrail.explain.evidence import Better, Score, evidence
from vitrail.explain.perturbation import occlusion

LABEL = 3


def maps_of(kind: str) -> tuple[dict[str, Tensor], Tensor, object]:
    model, x = make(kind)
    classes = torch.tensor([LABEL])
    return (
        {"rollout": rollout(model, x[:1], classes)[0], "occlusion": occlusion(model, x[:1], classes)[0]},
        x[:1],
        model,
    )


@pytest.mark.parametrize("kind", ["token", "gap", "rotary, registers"])
def test_each_score_is_its_measure_of_the_map_alone(kind: str) -> None:
    maps, x, model = maps_of(kind)
    control = measure.randomised(model, 3)  # type: ignore[arg-type]
    classes = torch.tensor([LABEL])
    others = {"rollout": rollout(control, x, classes)[0], "occlusion": occlusion(control, x, classes)[0]}
    heard: list[str] = []
    found = evidence(model, x, LABEL, maps, others, random=2, notify=heard.append)  # type: ignore[arg-type]
    assert len(heard) == 4
    for name, values in maps.items():
        for baseline in BASELINES:
            alone = measure.curves(model, x, classes, values[None], baseline)  # type: ignore[arg-type]
            assert found[name].scores[f"deletion_{baseline}"].value == pytest.approx(float(alone.deletion_auc))
            assert found[name].scores[f"insertion_{baseline}"].value == pytest.approx(float(alone.insertion_auc))
            assert found[name].paths[baseline].deletion == pytest.approx(alone.deletion[0].tolist())
            assert len(found[name].random_paths[baseline]) == 2
        ((groups, effects),) = measure.salience_effects(model, x, classes, values[None])  # type: ignore[arg-type]
        assert found[name].scores["saco"].value == pytest.approx(measure.saco(groups, effects))
        alike = float(measure.spearman(values.flatten()[None], others[name].flatten()[None]))
        assert found[name].scores["sanity"].value == pytest.approx(alike)
    one, other = (found[name].scores["deletion_drop"].random for name in maps)
    assert one == other  # the same random maps for all


def test_what_occlusion_finds_beats_random_maps_and_its_reverse_does_not() -> None:
    maps, x, model = maps_of("token")
    given = {"right": maps["occlusion"], "wrong": -maps["occlusion"]}
    found = evidence(model, x, LABEL, given, given, random=5)  # type: ignore[arg-type]
    assert found["right"].scores["deletion_drop"].verdict == "better"
    assert found["wrong"].scores["deletion_drop"].verdict == "worse"
    assert found["right"].scores["saco"].value > found["wrong"].scores["saco"].value
    assert found["right"].scores["sanity"].value == pytest.approx(1.0)  # the same map of random weights
    assert found["right"].scores["sanity"].verdict == "worse"


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [
        (0.1, "low", "better"), (0.3, "low", "inside"), (0.5, "low", "worse"),
        (0.1, "high", "worse"), (0.2, "high", "inside"), (0.5, "high", "better"),
        (0.4, "near zero", "inside"), (-0.9, "near zero", "inside"), (0.5, "near zero", "worse"),
    ],
)  # fmt: skip
def test_verdicts(value: float, better: Better, verdict: str) -> None:
    assert Score(value, (0.2, 0.4), better).verdict == verdict
