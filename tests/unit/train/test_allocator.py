"""What is freed stays with the process: a second request of the same size costs no new pages."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from vitrail.train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def once(): return sum(torch.zeros(48, 2**18).sum().item() for _ in range(4))  # 48 MiB
once()
before = faults()
once()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-P", "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < 10_000 < faults("leave")
