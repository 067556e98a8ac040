"""Where a frame's time goes: stages and variants measured in turn in one process, because machines are noisy."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch

from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town import Town, render_pair, write_orthophoto
from cvloc_ros.datasets.town.drive import Drive, simulate_drive
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.geometry import SE2
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.covariance import Calibration
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.sweep import whole_box
from cvloc_ros.localization.types import Frame, Localization, Prior
from cvloc_ros.models.dense_flow import DenseFlow
from cvloc_ros.models.dense_flow_config import FULL
from cvloc_ros.models.dense_flow_matcher import DenseFlowMatcher

_WARM_UP = 5  # frames that are not counted
_RATE = 10.0  # images a second of the drive
_DOUBT_EVERY = 4  # images: so often the tracker asks for the whole box
_SIGMA = np.array([0.5, 0.5, np.radians(1.0)])  # of the tracker's prior
_STRAY = np.array([0.05, 0.05, np.radians(0.1)])  # between images: how well odometry says where the next prior will be
_SPARED = 0.2  # milliseconds
COLUMNS = ("stage", "eager ms", "p95", "fast ms", "p95", "ratio")  # medians and 95th percentiles
_SUBMODULES = {
    "ground": "encode ground",
    "ground_trunk": "encode ground",
    "bev": "project to BEV",
    "context": "encode context",
    "update": "flow",
}
_AT = ("", "encoders.vote.", "encoders.")  # where methods have these parts


def bench_localizers(
    localizers: dict[str, Localizer],
    *,
    frames: int,
    publish: Callable[[Localization], object] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Time every stage from the encoded image to the pose, or to its message.

    The frames are those of a drive's camera, one after the other, with priors as a tracker gives them: most search a
    few metres, every fourth the whole box. The patches are cut from an orthophoto. As in the node where no image is
    lost and there is time between them, a frame's patch is made ready before its image comes: the stage "ahead" is no
    part of its latency, which is "total", but of how many are through in a second. The variants take turns frame by
    frame, so that a busy moment of the machine hits all of them. A stage that a frame is spared counts as no time.

    Args:
        localizers: variants by name, "eager" among them; their matchers and calibrations are used, on a map made for
            the purpose.
        frames: to time.
        publish: builds the messages of a frame, and is timed as the stage "publish"; there is no such stage if None.
        progress: called after each.

    Returns:
        Rows with ``method, variant, device, precision, stage, median_ms, p95_ms, hz, peak_mb, ratio``; ``hz`` is how
        often a second the stage is through with one frame after the other, for "total" with what is done ahead,
        ``peak_mb`` MiB of the GPU while the variant runs, the networks of both in it, or of the whole process so far;
        the ratio is that of the eager variant's median to this one's, None for a stage that is mostly spared.

    """
    rng = np.random.default_rng(0)
    town = Town.generate(TEST_TOWNS)
    with TemporaryDirectory() as folder:
        satellite_map = SatelliteMap.open(write_orthophoto(town, Path(folder) / "map.tif"), town.datum)
        localizers = {
            name: Localizer(each.matcher, each.calibration, satellite_map, keep_patch=each.keep_patch)
            for name, each in localizers.items()
        }
        duration = (_WARM_UP + frames) / _RATE
        drive = simulate_drive(town, TEST_TOWNS, duration=duration, image_rate=_RATE)
        spent: dict[str, list[dict[str, float]]] = {name: [] for name in localizers}
        peaks = dict.fromkeys(localizers, 0.0)
        for index, event in enumerate(islice(drive.images(workers=1), _WARM_UP + frames)):
            T_map_base = drive.trajectory.at(event.stamp).T_map_base @ SE2(*_SIGMA * rng.normal(size=3))
            prior = Prior(T_map_base, np.diag(_SIGMA**2))
            if index % _DOUBT_EVERY == 0:
                prior = whole_box(T_map_base, index // _DOUBT_EVERY)
            expected = replace(prior, T_map_base=prior.T_map_base @ SE2(*_STRAY * rng.normal(size=3)))
            for name, localizer in localizers.items():
                gpu = localizer.matcher.device.type == "cuda"  # type: ignore[attr-defined]
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                ahead = _look_ahead(localizer, expected)
                stages = {"ahead": ahead, **_one_frame(localizer, drive, event, prior, publish)}
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() / 2**20 if gpu else _peak_memory())
                if index >= _WARM_UP:
                    spent[name].append(stages)
            if index >= _WARM_UP:
                progress()
    return [row for name, localizer in localizers.items() for row in _rows(name, localizer, spent, peaks[name])]


def untrained_localizer(device: str, *, fast: bool) -> Localizer:
    """Return dense_flow in the paper's size with random weights: its time does not depend on them."""
    torch.manual_seed(0)
    matcher = DenseFlowMatcher(DenseFlow(FULL).requires_grad_(False), device=device, fast=fast)
    return Localizer(matcher, Calibration.constant((1.0, 1.0, 0.02), 0.5), None, keep_patch=fast)


def _rows(variant: str, localizer: Localizer, spent: dict[str, list[dict[str, float]]], peak: float) -> list[dict]:
    """Return the rows of one variant from the milliseconds by stage of every frame of every variant."""
    rows = []
    for stage in spent[variant][0]:
        times = [frame[stage] for frame in spent[variant]]
        done = [frame["ahead"] + frame["total"] for frame in spent[variant]] if stage == "total" else times
        median, p95 = np.percentile(times, [50, 95])
        eager = float(np.median([frame[stage] for frame in spent["eager"]]))
        rows.append(
            {
                "method": localizer.matcher.name,
                "variant": variant,
                "device": localizer.matcher.device.type,  # type: ignore[attr-defined]
                "precision": getattr(localizer.matcher, "precision", "float32"),
                "stage": stage,
                "median_ms": round(float(median), 3),
                "p95_ms": round(float(p95), 3),
                "hz": round(1e3 / float(np.mean(done)), 1) if median > _SPARED else None,
                "peak_mb": round(peak),
                "ratio": round(eager / float(median), 2) if min(median, eager) > _SPARED else None,
            }
        )
    return rows


def table_rows(rows: list[dict]) -> list[tuple[str, ...]]:
    """Return what `bench_localizers` found as a table, by `COLUMNS`: a row a stage, the variants side by side."""
    found = {(row["variant"], row["stage"]): row for row in rows}
    table = []
    for stage in [row["stage"] for row in rows if row["variant"] == "eager"]:
        pair = [found[variant, stage] for variant in ("eager", "fast")]
        times = [f"{row[name]:.1f}" for row in pair for name in ("median_ms", "p95_ms")]
        table.append((stage, *times, "" if pair[1]["ratio"] is None else f"{pair[1]['ratio']:.2f}"))
    return table


def rendering_time(*, pairs: int, workers: int) -> float:
    """Return how long worker processes take for a training pair, its share of a town's making included: ms."""
    towns = max(workers, pairs // 48)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_render_town, [(TEST_TOWNS, 2)] * workers))  # start the processes
        began = time.perf_counter()
        made = sum(pool.map(_render_town, [(TEST_TOWNS + i, pairs // towns) for i in range(towns)]))
        return 1e3 * (time.perf_counter() - began) / made


def _render_town(job: tuple[int, int]) -> int:
    cv2.setNumThreads(1)
    seed, count = job
    town = Town.generate(seed)
    for i in range(count):
        render_pair(town, i)
    return count


def _look_ahead(localizer: Localizer, prior: Prior) -> float:
    """Get ready for the next frame, to the end; return milliseconds."""
    began = time.perf_counter()
    if ready := localizer.expect(prior):
        ready.result()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def _one_frame(
    localizer: Localizer,
    drive: Drive,
    event: ImageEvent,
    prior: Prior,
    publish: Callable[[Localization], object] | None,
) -> dict[str, float]:
    """Localize one encoded frame and return milliseconds by stage, "total" among them."""
    matcher: Any = localizer.matcher
    with _timed_submodules(matcher.network, replayed=matcher.locate.record) as inside:
        began = time.perf_counter()
        frame = Frame(event.stamp, event.image(), drive.camera, drive.T_base_camera)
        decoded = time.perf_counter()
        localization = localizer.localize(frame, prior)
        found = time.perf_counter()
        if publish:
            publish(localization)
        finished = time.perf_counter()
    spent = localization.milliseconds
    return {
        "decode": 1e3 * (decoded - began),
        "patch": spent["patch"],
        "prepare": spent["prepare"],
        "encode satellite": spent["encode"],
        **inside,
        "vote and solve": spent["match"] - sum(inside.values()),
        "weigh": spent["weigh"],
        **({"publish": 1e3 * (finished - found)} if publish else {}),
        "total": 1e3 * (finished - began),
    }


@contextmanager
def _timed_submodules(network: torch.nn.Module, *, replayed: bool) -> Iterator[dict[str, float]]:
    """Add up the milliseconds that the network's parts take while the context is open; nothing of what is replayed."""
    modules = dict(network.named_modules())
    submodules = [
        (modules[at + name], stage) for name, stage in _SUBMODULES.items() for at in _AT if at + name in modules
    ]
    spent = dict.fromkeys([stage for _, stage in submodules], 0.0)
    began: dict[str, float] = {}
    handles = []

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    for module, stage in [] if replayed else submodules:
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
