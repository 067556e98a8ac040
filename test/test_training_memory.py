"""Memory between training steps: what is freed is not asked for again."""

import platform
import subprocess
import sys

import pytest

from cvloc_ros.models.weights import WeightsError
from cvloc_ros.training import train as training
from cvloc_ros.training.config import TrainConfig

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
    """Two steps of 120 MB: 61 thousand page faults, or none."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("given back", "kept")
    }
    assert faults["kept"] < 0.1 * faults["given back"], faults


def test_training_keeps_it_before_it_makes_anything_large(monkeypatch, tmp_path):
    keep, asked = training.keep_freed_memory, []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: asked.append(keep()))
    with pytest.raises(WeightsError):
        training.train(
            TrainConfig(start_from=str(tmp_path / "none.safetensors")),
            tmp_path / "run",
            resume=False,
            report=lambda *_: None,
        )
    assert asked == [None]
