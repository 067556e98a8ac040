"""The satellite image around the vehicle, kept in memory in the map frame, and the patches cut from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame
from cvloc_ros.imagery.layers import Layer, open_layers
from cvloc_ros.imagery.patch import Patch
from cvloc_ros.imagery.uri import ImageryError

_WHOLE_CELLS = 4096  # imagery up to this many cells a side is read once (64 MiB of RGBA)
_MOSAIC_CELLS = 2048  # larger one is read in squares of this side around the vehicle (0.8 km at 0.4 m)
_PREFETCH_CELLS = 320  # a patch this near to the mosaic's edge starts the reading of the next mosaic
_RETRY = (5.0, 60.0)  # seconds after which a map with a problem is read again: at first, at most


@dataclass(frozen=True, eq=False)
class _Mosaic:
    """A piece of the imagery in the map frame: RGBA, with its upper left corner in cells from the map's origin.

    Rows count south and columns east. ``reach`` (row, col, row end, col end) is where the mosaic has all there is:
    its own box, without limit where it ends with the imagery.
    """

    rgba: np.ndarray
    row0: int
    col0: int
    reach: tuple[float, ...]

    def margin(self, box: tuple[int, int, int, int]) -> float:
        """Return how far inside the reach a box (row, col, row end, col end) lies, cells; negative if it sticks out."""
        row0, col0, row1, col1 = self.reach
        return min(box[0] - row0, box[1] - col0, row1 - box[2], col1 - box[3])

    def fill(self, rgba: np.ndarray, row0: int, col0: int) -> None:
        """Fill the next mosaic's holes with what is known from this one: a server that is down takes nothing away."""
        top, left = max(row0, self.row0), max(col0, self.col0)
        bottom = min(row0 + rgba.shape[0], self.row0 + self.rgba.shape[0])
        right = min(col0 + rgba.shape[1], self.col0 + self.rgba.shape[1])
        if top < bottom and left < right:
            new = rgba[top - row0 : bottom - row0, left - col0 : right - col0]
            known = self.rgba[top - self.row0 : bottom - self.row0, left - self.col0 : right - self.col0]
            np.copyto(new, known, where=new[..., 3:] == 0)


class SatelliteMap:
    """Imagery in the map frame: north up, ``cell`` metres a pixel, and patches cut from it at any pose.

    Patches may be asked for from any thread. They should not be coarser than ``cell``: cutting does not average.
    """

    def __init__(self, layers: Sequence[Layer], *, cell: float) -> None:
        """Put open layers on top of one another, the first uppermost; use `open`."""
        self.cell = cell
        edges = np.array([layer.bounds for layer in layers])
        (west, south), (east, north) = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
        self.bounds = (float(west), float(south), float(east), float(north))
        """West, south, east and north edge of the imagery in the map, metres."""
        self.attribution = "; ".join(dict.fromkeys(layer.attribution for layer in layers if layer.attribution))
        """Whom to credit for the imagery; may be empty."""
        self.problem = ""
        """Why the map as last read lacks something that it should have, or is not kept; one line, or empty."""
        self.problems: list[str] = []
        """What ``problem`` has been, one line for each kind."""
        self._extent = (
            int(np.floor(-north / cell)),
            int(np.floor(west / cell)),
            int(np.ceil(-south / cell)),
            int(np.ceil(east / cell)),
        )
        self._layers = layers
        self._mosaic: _Mosaic | None = None
        self._mosaic_lock = threading.Lock()
        self._read_lock = threading.Lock()  # a rasterio dataset serves one thread at a time
        self._prefetcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imagery")
        self._prefetch: Future[None] | None = None
        self._retry_at, self._retry_after = np.inf, _RETRY[0]

    @classmethod
    def open(cls, uri: str | Path, frame: LocalFrame, *, cell: float = 0.4) -> SatelliteMap:
        """Open imagery of any kind, in any coordinate system.

        Args:
            uri: one layer or several, as `cvloc_ros.imagery.uri` says: rasters (one band serves as grey; alpha,
                nodata and masks become coverage; more than 8 bits are scaled to 8; palettes are expanded), folders of
                tiles, tile servers.
            frame: the map frame.
            cell: metres a pixel of the mosaic in memory; the finest patch that makes sense.

        Raises:
            ImageryError: a layer cannot be opened, has no coordinate system, or lies nowhere near the datum. A tile
                server is only asked when a patch needs it.

        """
        return cls(open_layers(str(uri), frame, cell=cell), cell=cell)

    def patch(self, T_map_patch: SE2, grid: GroundGrid) -> Patch:
        """Cut the patch that a vehicle at ``T_map_patch`` has around it, forward up.

        Where there is no imagery the patch is black and not covered; nothing is raised.

        Raises:
            ImageryError: no layer could be read there. A server that fails is no error: see ``problem``.

        """
        # (col, row) of a grid cell -> metres in the patch's frame -> metres in the map -> (col, row) of the mosaic
        c, s = np.cos(T_map_patch.yaw), np.sin(T_map_patch.yaw)
        x0, y0 = grid.to_metres(np.zeros(2))
        east0 = T_map_patch.x + c * x0 - s * y0
        north0 = T_map_patch.y + s * x0 + c * y0
        step = grid.cell / self.cell
        # One column to the right is -y of the vehicle, one row down is -x; mosaic rows run south.
        A = step * np.array([[s, -c], [c, s]])
        origin = np.array([east0, -north0]) / self.cell - 0.5

        corners = origin + np.array([[0, 0], [grid.cols, 0], [0, grid.rows], [grid.cols, grid.rows]]) @ A.T
        low, high = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 2
        mosaic = self._mosaic_around((low[1], low[0], high[1], high[0]))
        if mosaic is None:
            empty = np.zeros((grid.rows, grid.cols, 3), np.uint8)
            return Patch(empty, np.zeros((grid.rows, grid.cols), bool), grid, T_map_patch)
        M = np.column_stack([A, origin - [mosaic.col0, mosaic.row0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        rgba = cv2.warpAffine(mosaic.rgba, M, (grid.cols, grid.rows), flags=flags, borderMode=cv2.BORDER_CONSTANT)
        coverage = rgba[..., 3] >= 128
        if not coverage.all():
            rgba[~coverage] = 0
        return Patch(np.ascontiguousarray(rgba[..., :3]), coverage, grid, T_map_patch)

    def _mosaic_around(self, box: tuple[int, int, int, int]) -> _Mosaic | None:
        """Return a mosaic that holds all there is in a box (row, col, row end, col end), None if there is nothing."""
        row0, col0, row1, col1 = self._extent
        box = (max(box[0], row0), max(box[1], col0), min(box[2], row1), min(box[3], col1))
        if box[0] >= box[2] or box[1] >= box[3]:
            return None
        mosaic = self._mosaic
        if mosaic is None or mosaic.margin(box) < 0:
            with self._mosaic_lock:  # threads that wait here find the mosaic that the first one has read
                mosaic = self._mosaic
                if mosaic is None or mosaic.margin(box) < 0:
                    mosaic = self._mosaic = self._read(box)
        elif mosaic.margin(box) < _PREFETCH_CELLS or time.monotonic() > self._retry_at:
            self._start_prefetch(box)
        return mosaic

    def _start_prefetch(self, box: tuple[int, int, int, int]) -> None:
        """Read the mosaic around a box in the background; a failure shows when the mosaic is needed."""
        with self._mosaic_lock:
            if self._prefetch is None or self._prefetch.done():
                self._prefetch = self._prefetcher.submit(self._replace_mosaic, box)

    def _replace_mosaic(self, box: tuple[int, int, int, int]) -> None:
        self._mosaic = self._read(box)

    def _read(self, box: tuple[int, int, int, int]) -> _Mosaic:
        """Read the whole imagery if it is small, else a square around a box.

        Raises:
            ImageryError: no layer could be read.

        """
        window = self._window(box)
        row0, col0, row1, col1 = window
        with self._read_lock:
            rgba = self._read_layers(row0, col0, rows=row1 - row0, cols=col1 - col0)
        if self._mosaic is not None:
            self._mosaic.fill(rgba, row0, col0)
        edges = zip(window, self._extent, (-np.inf, -np.inf, np.inf, np.inf), strict=True)
        reach = tuple(unlimited if edge == last else edge for edge, last, unlimited in edges)
        return _Mosaic(rgba, row0, col0, reach)

    def _read_layers(self, row0: int, col0: int, *, rows: int, cols: int) -> np.ndarray:
        """Read the layers from the uppermost down, until nothing is left to fill."""
        west, north = col0 * self.cell, -row0 * self.cell
        rgba = np.zeros((rows, cols, 4), np.uint8)
        problems: list[str] = []
        unkept: list[str] = []
        failures: list[ImageryError] = []
        asked = 0
        for layer in self._layers:
            left, bottom, right, top = layer.bounds
            if right < west or left > west + cols * self.cell or top < north - rows * self.cell or bottom > north:
                continue
            asked += 1
            try:
                piece = layer.read(west=west, north=north, rows=rows, cols=cols, cell=self.cell)
            except ImageryError as error:
                failures.append(error)
                continue
            problems += [layer.problem] if layer.problem else []
            unkept += [layer.unkept] if layer.unkept else []
            holes = rgba[..., 3] == 0
            rgba = piece if holes.all() else np.where(holes[..., None], piece, rgba)
            if rgba[..., 3].all():
                break
        self._note([*map(str, failures), *problems], unkept)
        if asked and len(failures) == asked:
            raise failures[0]
        return rgba

    def _note(self, missing: list[str], unkept: list[str]) -> None:
        """Remember what is wrong, and when to try for what is missing: ever later while it lasts.

        What is there but could not be kept is no reason to ask for it again.
        """
        self.problem = "; ".join([*missing, *unkept])
        kind = self.problem.partition(":")[0]
        if self.problem and not any(known.startswith(kind) for known in self.problems):
            self.problems.append(self.problem)
        self._retry_at = time.monotonic() + self._retry_after if missing else np.inf
        self._retry_after = min(2 * self._retry_after, _RETRY[1]) if missing else _RETRY[0]

    def _window(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return what to read for a box: row, col, row end, col end; more ahead of the vehicle than behind it."""
        row0, col0, row1, col1 = self._extent
        if max(row1 - row0, col1 - col0) <= _WHOLE_CELLS:
            return self._extent
        size = max(box[2] - box[0], box[3] - box[1])
        side = max(_MOSAIC_CELLS, 2 * size)
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        if self._mosaic is not None:  # the vehicle has come from its middle, and goes on in that direction
            height, width = self._mosaic.rgba.shape[:2]
            travelled = middle - [self._mosaic.row0 + height / 2, self._mosaic.col0 + width / 2]
            most = max(0.0, (side - size) / 2 - 1.25 * _PREFETCH_CELLS)  # or the next reading would be due at once
            middle = middle + np.clip(travelled, -most, most)
        row, col = (middle - side / 2).astype(int)
        return max(row, row0), max(col, col0), min(row + side, row1), min(col + side, col1)
