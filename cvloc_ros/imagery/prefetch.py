"""Bringing tiles into the cache before a drive: what an area needs, how much of it is missing, and getting it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery.layers import open_layers
from cvloc_ros.imagery.tile_layer import TileLayer
from cvloc_ros.imagery.tiles import Tile, TileError
from cvloc_ros.imagery.uri import ImageryError

_ATTEMPTS = 3  # failures of a tile; when the server asks for time, it is none
_PATIENCE = 1800.0  # seconds without a tile, after which a server that asks for more time is given up
_HOPELESS = 5  # tiles in a row that did not come, after which the server is given up

Box = tuple[float, float, float, float]
"""West, south, east and north, metres in the map."""


@dataclass(frozen=True)
class Plan:
    """What an area needs of one layer.

    Attributes:
        layer: where it comes from.
        tiles: how many in all.
        missing: those that are not on disk yet.
        megabytes: that they are going to take, estimated from tiles that are there, else from their pixels.

    """

    layer: TileLayer
    tiles: int
    missing: list[Tile]
    megabytes: float


def plan_download(imagery: str, frame: LocalFrame, boxes: Iterable[Box], *, cell: float = 0.4) -> list[Plan]:
    """Find out what boxes of the map need of the layers that are behind a network; nothing is downloaded.

    Args:
        imagery: as `SatelliteMap.open` takes it.
        frame: the map frame; its latitude decides on the zoom.
        boxes: the area.
        cell: metres a pixel of the map.

    Raises:
        ImageryError: a layer cannot be opened, all of them are on this machine, or the network may not be asked.

    """
    layers = [layer for layer in open_layers(imagery, frame, cell=cell) if isinstance(layer, TileLayer) and layer.cache]
    if not layers:
        raise ImageryError(f"nothing to download: '{imagery}' is on this machine")
    if any(layer.offline for layer in layers):
        raise ImageryError(
            "nothing can be downloaded offline: unset CVLOC_OFFLINE, and take offline=1 out of the imagery"
        )
    boxes = list(boxes)
    return [_plan_layer(layer, layer.tiles(boxes)) for layer in layers]


def _plan_layer(layer: TileLayer, tiles: list[Tile]) -> Plan:
    assert layer.cache is not None
    sizes = [layer.cache.size(tile) for tile in tiles]
    missing = [tile for tile, size in zip(tiles, sizes, strict=True) if size is None]
    known = [size for size in sizes if size]
    each = float(np.mean(known)) if known else layer.bytes_per_pixel * layer.size**2
    return Plan(layer, len(tiles), missing, len(missing) * each / 1e6)


def download(
    plan: Plan,
    *,
    workers: int = 4,
    progress: Callable[[int], None] = lambda size: None,
    waiting: Callable[[str], None] = lambda why: None,
) -> list[str]:
    """Download what is missing. Interrupted, it leaves what has come, and a new plan goes on from there.

    Args:
        plan: from `plan_download`.
        workers: tiles that are asked for at once.
        progress: is called with the bytes of every tile that came, 0 for one that the server does not have.
        waiting: is called with the reason when the server is given time, from any thread.

    Returns:
        Why single tiles did not come, one line each.

    Raises:
        ImageryError: the server gives none any more.
        OSError: the disk is full or read-only.

    """
    stop = threading.Event()
    last = time.monotonic()  # when a tile came

    def bring(tile: Tile) -> int:
        nonlocal last
        failures = 0
        while not stop.is_set():
            try:
                size = plan.layer.download(tile)
            except TileError as error:
                if error.wait:
                    if time.monotonic() + error.wait > last + _PATIENCE:
                        raise
                    waiting(str(error))
                else:
                    failures += 1
                    if failures == _ATTEMPTS:
                        raise
                stop.wait(error.wait or failures)
            else:
                last = time.monotonic()
                return size
        return 0

    failures: list[str] = []
    in_a_row = 0
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(bring, tile) for tile in plan.missing]
        try:
            for job in as_completed(jobs):
                try:
                    progress(job.result())
                    in_a_row = 0
                except TileError as error:
                    failures.append(str(error))
                    in_a_row += 1
                    if in_a_row == _HOPELESS:
                        raise ImageryError(
                            f"{plan.layer.name} gives no tiles any more ({error}); what has come is kept: run it again "
                            "to go on"
                        ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return failures


def boxes_along(points: np.ndarray, radius: float) -> Iterator[Box]:
    """Yield boxes of ``radius`` metres to each side along a track (N, 2) in the map, also where it has long legs."""
    last = None
    for point in points:
        distance = np.inf if last is None else float(np.hypot(*(point - last)))
        if distance < radius / 8:
            continue
        steps = 1 if last is None else int(np.ceil(distance / radius))
        for share in np.arange(1, steps + 1) / steps:
            east, north = point if last is None else last + share * (point - last)
            yield east - radius, north - radius, east + radius, north + radius
        last = point
