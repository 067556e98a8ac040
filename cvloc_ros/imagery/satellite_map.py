"""The satellite image around the vehicle, kept in memory in the map frame, and the patches cut from it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame
from cvloc_ros.imagery.patch import Patch
from cvloc_ros.imagery.raster import ImageryError, RasterReader, attribution, open_raster, outline

_WHOLE_CELLS = 4096  # rasters up to this many cells a side are read once (64 MiB of RGBA)
_MOSAIC_CELLS = 2048  # larger ones are read in squares of this side around the vehicle (0.8 km at 0.4 m)
_PREFETCH_CELLS = 256  # a patch this near to the mosaic's edge starts the reading of the next mosaic
_MAX_DISTANCE = 50e3  # metres from datum to imagery: beyond it the flat map is off by more than half a metre


@dataclass(frozen=True, eq=False)
class _Mosaic:
    """A piece of the raster in the map frame: RGBA, with its upper left corner in cells from the map's origin.

    Rows count south and columns east. ``reach`` (row, col, row end, col end) is where the mosaic has all there is:
    its own box, without limit where it ends with the raster.
    """

    rgba: np.ndarray
    row0: int
    col0: int
    reach: tuple[float, ...]

    def margin(self, box: tuple[int, int, int, int]) -> float:
        """Return how far inside the reach a box (row, col, row end, col end) lies, cells; negative if it sticks out."""
        row0, col0, row1, col1 = self.reach
        return min(box[0] - row0, box[1] - col0, row1 - box[2], col1 - box[3])


class SatelliteMap:
    """Imagery in the map frame: north up, ``cell`` metres a pixel, and patches cut from it at any pose.

    Patches may be asked for from any thread. They should not be coarser than ``cell``: cutting does not average.
    """

    def __init__(self, reader: RasterReader, *, bounds: tuple[float, float, float, float], cell: float) -> None:
        """Wrap an open raster; use `open`."""
        self.cell = cell
        self.bounds = bounds
        """West, south, east and north edge of the imagery in the map, metres."""
        self.attribution: str = attribution(reader.dataset)
        """Whom to credit for the imagery, as its own tags say; may be empty."""
        west, south, east, north = bounds
        self._extent = (
            int(np.floor(-north / cell)),
            int(np.floor(west / cell)),
            int(np.ceil(-south / cell)),
            int(np.ceil(east / cell)),
        )
        self._reader = reader
        self._mosaic: _Mosaic | None = None
        self._mosaic_lock = threading.Lock()
        self._read_lock = threading.Lock()  # a rasterio dataset serves one thread at a time
        self._prefetcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imagery")
        self._prefetch: Future[None] | None = None

    @classmethod
    def open(cls, uri: str | Path, frame: LocalFrame, *, cell: float = 0.4) -> SatelliteMap:
        """Open a raster of any kind that rasterio reads, in any coordinate system.

        Args:
            uri: a path, a URL or a GDAL description. One band serves as grey; alpha, nodata and masks become
                coverage; more than 8 bits are scaled to 8; palettes are expanded.
            frame: the map frame.
            cell: metres a pixel of the mosaic in memory; the finest patch that makes sense.

        Raises:
            ImageryError: the raster cannot be opened, has no coordinate system, or lies nowhere near the datum.

        """
        dataset = open_raster(str(uri))
        border = outline(dataset, frame)
        west, south = border.min(axis=0)
        east, north = border.max(axis=0)
        distance = float(np.hypot(max(west, -east, 0.0), max(south, -north, 0.0)))
        if not distance < _MAX_DISTANCE:
            place = frame.to_wgs84(border.mean(axis=0)) if np.isfinite(border).all() else "an unknown place"
            raise ImageryError(
                f"expected imagery within {_MAX_DISTANCE / 1e3:.0f} km of the datum (latitude {frame.latitude:.6f}, "
                f"longitude {frame.longitude:.6f}), but '{uri}' lies around {place}, {distance / 1e3:.0f} km away: "
                "check the datum and the imagery"
            )
        bounds = (float(west), float(south), float(east), float(north))
        return cls(RasterReader.of(dataset, frame), bounds=bounds, cell=cell)

    def patch(self, T_map_patch: SE2, grid: GroundGrid) -> Patch:
        """Cut the patch that a vehicle at ``T_map_patch`` has around it, forward up.

        Where there is no imagery the patch is black and not covered; nothing is raised.

        Raises:
            ImageryError: the raster could not be read.

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
        elif mosaic.margin(box) < _PREFETCH_CELLS:
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
        """Read the whole raster if it is small, else a square around a box."""
        window = self._window(box)
        row0, col0, row1, col1 = window
        with self._read_lock:
            rgba = self._reader.read(
                west=col0 * self.cell,
                north=-row0 * self.cell,
                rows=row1 - row0,
                cols=col1 - col0,
                cell=self.cell,
            )
        edges = zip(window, self._extent, (-np.inf, -np.inf, np.inf, np.inf), strict=True)
        reach = tuple(unlimited if edge == last else edge for edge, last, unlimited in edges)
        return _Mosaic(rgba, row0, col0, reach)

    def _window(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return what to read for a box: row, col, row end, col end."""
        row0, col0, row1, col1 = self._extent
        if max(row1 - row0, col1 - col0) <= _WHOLE_CELLS:
            return self._extent
        side = max(_MOSAIC_CELLS, 2 * max(box[2] - box[0], box[3] - box[1]))
        row, col = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
        return max(row, row0), max(col, col0), min(row + side, row1), min(col + side, col1)
