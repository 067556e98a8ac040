"""Memory between training steps: what is freed is not asked for again."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from cvloc_ros.training.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)


def step():
    return [torch.ones(40 * 2**20, dtype=torch.uint8) for _ in range(3)] and None


for _ in range(8):  # until the heap is as large as steps need it
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_step_finds_the_memory_of_the_last():
    """Two steps of 120 MB: 20 to 61 thousand pages fault, or (nearly) none."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("given back", "kept")
    }
    assert faults["kept"] < 0.1 * faults["given back"], faults
