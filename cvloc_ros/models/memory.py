"""Memory that networks free stays with the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
_LARGEST = 32  # MB: the largest _MMAP_THRESHOLD that every glibc takes


def keep_freed_memory(megabytes: int | None = None) -> None:
    """Let glibc keep what is freed instead of giving it back to the kernel, to ask for it again page by page.

    A training step frees all its activations at its end: on a CPU, half a million page faults a step took a quarter of
    the time of vote_flow's training. Kept, they make the process a seventh larger. In driving a new patch's features
    take the place of the last one's: up to 5000 page faults, a seventh of such a frame's time. Where the C library is
    another nothing happens.

    Args:
        megabytes: how much of what is free at the end of a heap (threads have heaps of their own) may be kept, of
            blocks of up to 32 MB; everything if None.

    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    if megabytes is None:
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_MMAP_MAX, 0)  # large blocks lie in the heap too
    elif mallopt(_MMAP_THRESHOLD, _LARGEST << 20):
        mallopt(_TRIM_THRESHOLD, megabytes << 20)
