"""The images of a drive, rendered in worker processes and handed over in order as JPEG."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Protocol

import cv2
import numpy as np

from cvloc_ros.geometry import SE2

_JPEG_QUALITY = 92
_AHEAD = 4  # images a worker may be ahead of the one that is asked for


class DriveRenderer(Protocol):
    """What a drive looks like to its camera; it travels to worker processes, so it must be picklable."""

    def render(self, T_map_base: SE2, seconds: float) -> np.ndarray:
        """Return the RGB image (H, W, 3) taken at a pose, so many seconds after the start."""
        ...


def render_jpegs(
    renderer: DriveRenderer, poses: Sequence[SE2], seconds: Sequence[float], *, workers: int
) -> Iterator[np.ndarray]:
    """Yield one JPEG file (uint8 bytes) per pose, in order; with one worker everything runs in this process."""
    jobs = zip(poses, seconds, strict=True)
    if workers == 1:
        for pose, time in jobs:
            yield _render_jpeg(renderer, pose, time)
        return
    # Spawned, not forked: a forked child of a process that talks DDS hangs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(renderer,))
    pending: deque[Future[np.ndarray]] = deque()
    try:
        for pose, time in jobs:
            pending.append(pool.submit(_render_in_worker, pose, time))
            if len(pending) > workers * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_renderer: DriveRenderer  # of a worker process


def _start_worker(renderer: DriveRenderer) -> None:
    global _renderer
    _renderer = renderer
    cv2.setNumThreads(1)  # the workers share the cores already


def _render_in_worker(T_map_base: SE2, seconds: float) -> np.ndarray:
    return _render_jpeg(_renderer, T_map_base, seconds)


def _render_jpeg(renderer: DriveRenderer, T_map_base: SE2, seconds: float) -> np.ndarray:
    image = cv2.cvtColor(renderer.render(T_map_base, seconds), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].ravel()
