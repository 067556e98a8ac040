"""What the process takes of the machine: memory of the computer and of the GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2

_MEGABYTE = 1e6


def resident_memory() -> float | None:
    """Return the process's resident memory in MB; None where the system does not say (it is not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


def gpu_memory() -> float | None:
    """Return the memory in MB that PyTorch holds on the GPU; None without one."""
    torch = sys.modules.get("torch")  # a node that has loaded no network must not load it for this
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.memory_reserved() / _MEGABYTE


def limit_threads(count: int) -> None:
    """Let PyTorch and OpenCV use no more than so many CPU threads for one image."""
    import torch  # as above: only a node that loads a network

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
