"""The committed loss curves come out bit for bit: a change that is meant to leave the arithmetic alone does."""

import re
from pathlib import Path

import pytest

from golden import loss_curves
from golden.loss_curves import FILES, RUNS, SETTINGS, calculate_apart, can_run, difference

if reason := can_run():
    pytest.skip(reason, allow_module_level=True)

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def committed(name: str) -> str:
    return (FILES / f"{name}.txt").read_text()


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return calculate_apart(list(RUNS))


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_is_the_committed_one(name: str, found: dict[str, str]) -> None:
    then, now = (text.splitlines()[0] for text in (committed(name), found[name]))
    if then != now:  # the version that CI installs is compared, see below
        pytest.skip(f"recorded with {then}, this is {now}")
    assert difference(name, committed(name), found[name]) is None


def test_every_run_has_its_file() -> None:
    assert sorted(path.stem for path in FILES.iterdir()) == sorted(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_the_curve_is_of_the_torch_that_ci_installs(name: str) -> None:
    pinned = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert pinned and committed(name).splitlines()[0] == f"torch {pinned[1]}", "record the curves anew"


def test_every_step_of_a_curve_tells_its_loss() -> None:
    for name in RUNS:
        steps = re.findall(r"^step +(\d+)  loss \d\.\d+ ", committed(name), re.MULTILINE)
        assert [int(step) for step in steps] == list(range(1, len(steps) + 1)) and len(steps) >= 12
        assert re.search(r"\nweights [0-9a-f]{64}\n$", committed(name))


def test_a_difference_is_told_with_its_step_and_the_way_to_record_anew() -> None:
    text = committed("scratch")
    step = next(line for line in text.splitlines() if line.startswith("step   7  loss"))
    changed = text.replace(step, step.replace("loss 1.", "loss 2."))
    message = difference("scratch", text, changed)
    assert message and step in message and step.replace("loss 1.", "loss 2.") in message
    assert "step   6" not in message and "loss_curves.py --record" in message
    assert "found      (the end)" in str(difference("scratch", text, text[: text.index("weights")]))
    assert difference("scratch", text, text) is None


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["SSE4_2", "AVX512"])
def test_the_instructions_that_products_use_do_not_matter(instructions: str, found: dict[str, str]) -> None:
    """MKL takes the setting as an upper bound, so on a smaller processor the last is the same as without it."""
    assert calculate_apart(list(RUNS), {**SETTINGS, "MKL_ENABLE_INSTRUCTIONS": instructions}) == found


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"ATEN_CPU_CAPABILITY": "avx2"}, {"MKL_CBWR": "AUTO"}, {"OMP_NUM_THREADS": "2"}])
def test_the_settings_matter(more: dict[str, str], found: dict[str, str]) -> None:
    """Controls: each of these changes bits, which shows that a bit that differs is seen."""
    import torch

    if more.get("ATEN_CPU_CAPABILITY") and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    if more.get("OMP_NUM_THREADS"):
        more = {**more, "MKL_NUM_THREADS": more["OMP_NUM_THREADS"]}
    other = calculate_apart(["scratch"], {**SETTINGS, **more})
    assert difference("scratch", found["scratch"], other["scratch"]) is not None


def test_the_child_imports_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that imported another copy would pass every mutant."""
    monkeypatch.setattr(
        loss_curves.subprocess, "run", lambda command, **options: pytest.fail(options["env"]["PYTHONPATH"])
    )
    import vitrail

    with pytest.raises(pytest.fail.Exception, match=re.escape(str(Path(vitrail.__file__).parents[1]))):
        calculate_apart(["scratch"])
