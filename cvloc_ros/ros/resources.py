"""What the process takes of the machine: memory of the computer and of the GPU."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2

_MEGABYTE = 1e6
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


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


def free_gpu_memory() -> None:
    """Give what no network uses any more back to the GPU; PyTorch would keep it for the next one."""
    cuda = _cuda_in_use()
    if cuda is not None:
        gc.collect()  # a network may hang in a cycle
        with suppress(RuntimeError):  # after some errors nothing works on that GPU any more
            cuda.empty_cache()


def _cuda_in_use() -> Any:
    torch = sys.modules.get("torch")  # a node that has loaded no network must not load it for this
    in_use = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda if torch is not None and in_use else None


def keep_freed_memory() -> None:
    """Let the process keep memory that it has freed, up to a limit, where the C library is glibc; else do nothing.

    Else that gives a new patch's features back to the system when they are replaced, and takes them page by page again.
    """
    with suppress(OSError, AttributeError):  # another system, or another library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)


def limit_threads(count: int) -> None:
    """Let PyTorch and OpenCV use no more than so many CPU threads for one image."""
    import torch  # as above: only a node that loads a network

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
