"""Where a frame's time goes: stages and variants measured in turn in one process, because machines are noisy."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town import Town, render_pair, write_orthophoto
from cvloc_ros.datasets.town.drive import Drive, simulate_drive
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.pairs import draw_prior
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Frame, Prior

_WARM_UP = 3  # frames that are not counted
VARIANTS = {"eager": None, "bf16": torch.bfloat16}
_SUBMODULES = {"satellite": "encode satellite", "ground": "encode ground", "bev": "project to BEV", "update": "flow"}


def bench_localizer(localizer: Localizer, *, frames: int, progress: Callable[[], None] = lambda: None) -> list[dict]:
    """Time every stage from the encoded image to the pose.

    The frames are those of a drive's camera, the patches are cut from an orthophoto. The variants take turns frame by
    frame, so that a busy moment of the machine hits all of them.

    Args:
        localizer: its matcher and calibration are used, on a map made for the purpose.
        frames: to time.
        progress: called after each.

    Returns:
        Rows with ``method, variant, device, precision, stage, median_ms, p95_ms, hz, peak_mb, ratio``; the ratio is
        that of the eager variant's median to this one's.

    """
    rng = np.random.default_rng(0)
    town = Town.generate(TEST_TOWNS)
    with TemporaryDirectory() as folder:
        imagery = write_orthophoto(town, Path(folder) / "map.tif")
        localizer = Localizer(localizer.matcher, localizer.calibration, SatelliteMap.open(imagery, town.datum))
        drive = simulate_drive(town, TEST_TOWNS, duration=8.0, image_rate=1.0)
        images = list(drive.images(workers=1))
        spent: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in VARIANTS}
        for index in range(-_WARM_UP, frames):
            event = images[index % len(images)]
            drawn = draw_prior(rng, localizer)
            prior = Prior(drive.trajectory.at(event.stamp).T_map_base @ drawn.T_map_base, drawn.covariance)
            for name, dtype in VARIANTS.items():
                for stage, milliseconds in _one_frame(localizer, drive, event, prior, dtype).items():
                    if index >= 0:
                        spent[name][stage].append(milliseconds)
            if index >= 0:
                progress()
    device = localizer.matcher.device.type  # type: ignore[attr-defined]
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak_memory()
    rows = []
    for name, stages in spent.items():
        for stage, times in stages.items():
            median = float(np.median(times))
            rows.append(
                {
                    "method": localizer.matcher.name,
                    "variant": name,
                    "device": device,
                    "precision": "fp32" if VARIANTS[name] is None else name,
                    "stage": stage,
                    "median_ms": round(median, 3),
                    "p95_ms": round(float(np.percentile(times, 95)), 3),
                    "hz": round(1e3 / median, 1),
                    "peak_mb": round(peak),
                    "ratio": round(float(np.median(spent["eager"][stage])) / median, 2),
                }
            )
    return rows


def bench_rendering(*, pairs: int, workers: int = 2) -> dict:
    """Time the rendering of training pairs in worker processes, the towns' making included; one row as above."""
    towns = max(workers, pairs // 48)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_render_town, [(TEST_TOWNS, 2)] * workers))  # start the processes
        began = time.perf_counter()
        made = sum(pool.map(_render_town, [(TEST_TOWNS + i, pairs // towns) for i in range(towns)]))
        each = 1e3 * (time.perf_counter() - began) / made
    return {
        "method": "town",
        "variant": f"{workers} workers",
        "device": "cpu",
        "precision": "uint8",
        "stage": "render a training pair",
        "median_ms": round(each, 2),
        "p95_ms": round(each, 2),
        "hz": round(1e3 / each, 1),
        "peak_mb": round(_peak_memory()),
        "ratio": 1.0,
    }


def _render_town(job: tuple[int, int]) -> int:
    cv2.setNumThreads(1)
    seed, count = job
    town = Town.generate(seed)
    for i in range(count):
        render_pair(town, i)
    return count


def _one_frame(
    localizer: Localizer, drive: Drive, event: ImageEvent, prior: Prior, dtype: torch.dtype | None
) -> dict[str, float]:
    """Localize one encoded frame and return milliseconds by stage, "total" among them."""
    device = localizer.matcher.device.type  # type: ignore[attr-defined]
    with _timed_submodules(localizer.matcher.network) as inside:  # type: ignore[attr-defined]
        began = time.perf_counter()
        frame = Frame(event.stamp, event.image(), drive.camera, drive.T_base_camera)
        decoded = time.perf_counter()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            stages = localizer.localize(frame, prior).milliseconds
        finished = time.perf_counter()
    return {
        "decode": 1e3 * (decoded - began),
        "patch": stages["patch"],
        "prepare": stages["prepare"],
        **inside,
        "vote and solve": stages["match"] - sum(inside.values()),
        "weigh": stages["weigh"],
        "total": 1e3 * (finished - began),
    }


@contextmanager
def _timed_submodules(network: torch.nn.Module) -> Iterator[dict[str, float]]:
    """Add up the milliseconds that the network's parts take while the context is open."""
    spent: dict[str, float] = defaultdict(float)
    began: dict[str, float] = {}
    handles = []

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    for attribute, stage in _SUBMODULES.items():
        module = getattr(network, attribute)
        handles.append(module.register_forward_pre_hook(lambda *_, stage=stage: began.__setitem__(stage, now())))
        handles.append(
            module.register_forward_hook(
                lambda *_, stage=stage: spent.__setitem__(stage, spent[stage] + 1e3 * (now() - began[stage]))
            )
        )
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _peak_memory() -> float:
    """Return the process's largest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
