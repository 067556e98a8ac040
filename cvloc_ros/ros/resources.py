"""What the process takes of the machine: memory of the computer and of the GPU."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2

from cvloc_ros.models.memory import keep_freed_memory

_MEGABYTE = 1e6
_KEPT = 128  # MB of free memory that a thread may keep; a new patch takes 20


def resident_memory() -> float | None:
    """Return the process's resident memory in MB; None where the system does not say (it is not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


def gpu_memory() -> float | None:
    """Return the memory in MB that PyTorch holds on the GPU; None without one."""
    cuda = _cuda_in_use()
    return None if cuda is None else cuda.memory_reserved() / _MEGABYTE


def free_memory() -> None:
    """Let go of networks that nothing uses any more, and of what PyTorch keeps of their memory on the GPU."""
    gc.collect()  # they hang in cycles
    cuda = _cuda_in_use()
    if cuda is not None:
        with suppress(RuntimeError):  # after some errors nothing works on that GPU any more
            cuda.empty_cache()


def _cuda_in_use() -> Any:
    torch = sys.modules.get("torch")  # a node that has loaded no network must not load it for this
    in_use = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda if torch is not None and in_use else None


def set_up_process(threads: int) -> None:
    """Let PyTorch and OpenCV use no more than so many CPU threads for one image, and keep the memory that it frees."""
    import torch  # as above: only a node that loads a network

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    keep_freed_memory(_KEPT)
