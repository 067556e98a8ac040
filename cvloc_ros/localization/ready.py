"""A localizer that has run once: on the GPU if that works, else on the CPU, and why."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cvloc_ros.geometry import SE2, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import Patch, SatelliteMap
from cvloc_ros.localization.localizer import Localizer, load_localizer
from cvloc_ros.localization.types import Frame, Prior
from cvloc_ros.models.matcher import Matcher
from cvloc_ros.models.weights import DeviceError

_ON_CPU = "the network runs on the CPU: {}"
_DRIVER = Path("/proc/driver/nvidia/version")


def load_ready_localizer(
    satellite_map: SatelliteMap | None, *, device: str, report: Callable[[str], None], **options: Any
) -> Localizer:
    """Do what `load_localizer` does and let the network run once; on the CPU if the device cannot.

    The network's memory is claimed then, and its shapes stay the same: what runs once mostly goes on running. On a GPU
    a network is recorded for a camera (see `Recorder`): anew for the real one, at its second image, which takes longer.
    A GPU that fails later (a driver's fault, somebody else who took the memory) gives way to the CPU at that image.

    Args:
        satellite_map: see `load_localizer`.
        device: likewise; if it is not there or fails, the CPU takes its place.
        report: is called with one line that says so, and why.
        options: see `load_localizer`.

    Raises:
        WeightsError: an unknown method, no name of a device, or weights that do not load.
        ValueError: the weights' card has no calibration that fits.

    """
    problem, failed = (_idle_gpu() if device == "auto" else ""), False
    try:
        localizer = _load(satellite_map, device, options)
    except (DeviceError, RuntimeError) as error:  # torch's own are RuntimeErrors: out of memory, a wrong driver, ...
        if device == "cpu":
            raise
        problem = (_idle_gpu() if isinstance(error, DeviceError) else "") or str(error).partition("\n")[0]
        failed = True
    if failed:
        gc.collect()  # what the network holds of the GPU, which others may need
        if torch.cuda.is_available():
            with suppress(RuntimeError):  # after some errors nothing works on that GPU any more
                torch.cuda.empty_cache()
        localizer = _load(satellite_map, "cpu", options)
    if problem or failed:
        report(_ON_CPU.format(problem))
    elif device != "cpu" and torch.cuda.is_available():
        localizer.spare = lambda error: _spare(error, report, options)
    return localizer


def _spare(error: RuntimeError, report: Callable[[str], None], options: dict[str, Any]) -> Matcher:
    """Return the matcher on the CPU, and say why."""
    matcher = _load(None, "cpu", options).matcher
    report(_ON_CPU.format(str(error).partition("\n")[0]))
    return matcher


def _load(satellite_map: SatelliteMap | None, device: str, options: dict[str, Any]) -> Localizer:
    localizer = load_localizer(satellite_map, device=device, **options)
    camera = PinholeCamera.from_focal(640, 360, 400.0)
    frame = Frame(0, np.zeros((360, 640, 3), np.uint8), camera, camera_extrinsics(height=1.6))
    grid = localizer.matcher.patch_grid
    shape = (grid.rows, grid.cols)
    patch = Patch(np.zeros((*shape, 3), np.uint8), np.ones(shape, bool), grid, SE2())
    for sigma in (0.1, 100.0) * 2:  # the least box and the largest; the second time is what it will take
        localizer.match(frame, Prior(SE2(), sigma**2 * np.eye(3)), patch)
    return localizer


def _idle_gpu() -> str:
    """Return why a GPU whose driver is loaded cannot be used by this torch; empty if it can, or there is none."""
    if torch.cuda.is_available() or not _DRIVER.exists():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install the build for it to use the GPU"
    driver = _DRIVER.read_text().partition("\n")[0].strip()
    return f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use the GPU with its driver ({driver})"
