"""Memory between training steps, and between frames: what is freed is not asked for again."""

import platform
import subprocess
import sys

import pytest

from cvloc_ros.models.weights import WeightsError
from cvloc_ros.training import train as training
from cvloc_ros.training.config import TrainConfig
from cvloc_ros.training.methods import complete

STEPS = """
import resource, sys
from threading import Thread
import numpy as np
from cvloc_ros.models.memory import keep_freed_memory

how, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) << 20
if how != "given back":
    keep_freed_memory(None if how == "kept" else int(how))


def step():
    return [np.ones(size, np.uint8) for _ in range(count)] and None


def steps():
    for _ in range(8):  # until the heap is as large as steps need it
        step()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    step()
    step()
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)


if sys.argv[4] == "beside":
    steps, thread = None, Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


def page_faults(how: str, *, count: int, size: int, where: str) -> int:
    """Return how many pages two steps ask for that allocate and free so many blocks of so many MB."""
    arguments = [sys.executable, "-c", STEPS, how, str(count), str(size), where]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


@needs_glibc
def test_a_step_finds_the_memory_of_the_last():
    """Two steps of 120 MB: thousands of page faults, or none."""
    faults = {how: page_faults(how, count=3, size=40, where="here") for how in ("given back", "kept")}
    assert faults["kept"] < 0.1 * faults["given back"], faults


@needs_glibc
@pytest.mark.parametrize("where", ["here", "beside"])
def test_a_patch_finds_the_memory_of_the_last(where):
    """In the main thread and in others, whose memory glibc keeps elsewhere."""
    faults = {how: page_faults(how, count=6, size=5, where=where) for how in ("given back", "128")}
    assert faults["128"] < 0.1 * faults["given back"], faults


def test_training_keeps_it_before_it_makes_anything_large(monkeypatch, tmp_path):
    keep, asked = training.keep_freed_memory, []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: asked.append(keep()))
    with pytest.raises(WeightsError):
        training.train(
            complete(TrainConfig(start_from=str(tmp_path / "none.safetensors")), {}, {}),
            tmp_path / "run",
            resume=False,
            report=lambda *_: None,
        )
    assert asked == [None]
