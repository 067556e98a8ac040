"""Where a frame's time goes: stages and variants measured in turn in one process, because machines are noisy."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import cv2
import numpy as np
import torch

from cvloc_ros.datasets.town import Town, TownPair, crop_patch, render_pair
from cvloc_ros.datasets.town.seeds import TEST_TOWNS
from cvloc_ros.evaluation.pairs import draw_prior
from cvloc_ros.geometry import GroundGrid, PinholeCamera
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.localization.types import Frame

VARIANTS = {"eager": None, "bf16": torch.bfloat16}
_SUBMODULES = {"satellite": "encode satellite", "ground": "encode ground", "bev": "project to BEV", "update": "flow"}


def bench_localizer(localizer: Localizer, *, frames: int, progress: Callable[[], None] = lambda: None) -> list[dict]:
    """Time every stage from the encoded image to the pose.

    The variants take turns frame by frame, so that a busy moment of the machine hits all of them.

    Returns:
        Rows with ``method, variant, device, precision, stage, median_ms, p95_ms, hz, peak_mb, ratio``; the ratio is
        that of the eager variant's median to this one's.

    """
    rng = np.random.default_rng(0)
    pairs = [render_pair(Town.generate(TEST_TOWNS), i) for i in range(8)]
    spent: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in VARIANTS}
    warm_up = 3
    for index in range(frames + warm_up):
        pair = pairs[index % len(pairs)]
        prior = draw_prior(rng, localizer)
        for name, dtype in VARIANTS.items():
            one = _one_frame(localizer, pair, prior, dtype)
            if index >= warm_up:
                for stage, milliseconds in one.items():
                    spent[name][stage].append(milliseconds)
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


def _one_frame(localizer: Localizer, pair: TownPair, prior, dtype: torch.dtype | None) -> dict[str, float]:
    """Localize one encoded frame and return milliseconds by stage, "total" among them."""
    encoded = cv2.imencode(".jpg", pair.ground[..., ::-1])[1]
    camera = PinholeCamera(pair.ground.shape[1], pair.ground.shape[0], pair.K)
    grid = localizer.matcher.patch_grid
    source = GroundGrid.centred(pair.satellite.shape[0], grid.cell)
    with _timed_submodules(localizer.matcher.network) as inside:  # type: ignore[attr-defined]
        began = time.perf_counter()
        image = np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])  # type: ignore[index]
        decoded = time.perf_counter()
        patch = crop_patch(pair.satellite, source, prior.T_map_base, grid)
        cut = time.perf_counter()
        with torch.autocast(torch.device(localizer.matcher.device).type, dtype=dtype, enabled=dtype is not None):  # type: ignore[attr-defined]
            answer = localizer.match(
                Frame(0, image, camera, pair.T_base_camera),
                prior,
                Patch(patch, np.ones(patch.shape[:2], bool), grid, prior.T_map_base),
            )
        finished = time.perf_counter()
    rest = answer.milliseconds["match"] - sum(inside.values())
    return {
        "decode": 1e3 * (decoded - began),
        "patch": 1e3 * (cut - decoded),
        "prepare": answer.milliseconds["prepare"],
        **inside,
        "vote and solve": rest,
        "weigh": answer.milliseconds["weigh"],
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
