"""The command line answers at once: nothing heavy is imported before a verb runs."""

import resource
import subprocess
import sys

import pytest

VERBS = ["demo", "train", "evaluate", "predict", "convert", "inspect", "models"]
HEAVY = ("torch", "numpy", "PIL", "torchvision", "matplotlib", "huggingface_hub", "jinja2")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb: str) -> None:
    program = (
        "import sys; from vitrail.cli import main; code = main(sys.argv[1:]);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = run("-c", program, *verb.split(), "--help")
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith(f"Usage: vitrail {verb}")


def test_help_takes_under_half_a_second() -> None:
    """Processor time above that of a bare interpreter, in pairs, so that a busy machine changes little. 0.2 s was
    measured where 0.5 s is promised; importing torch would cost several times that."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = [seconds("-c", "pass") for _ in range(5)]
    pairs = [seconds("-m", "vitrail", "train", "--help") - least for least in bare]
    assert min(pairs) < 0.5, pairs
    assert seconds("-c", "import torch") - min(bare) > 0.5  # what the promise is about is not lost in the noise


def test_a_mistake_is_told_at_once_too() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vitrail", "trian"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert not [line for line in done.stderr.splitlines() if line.endswith("| torch")]
