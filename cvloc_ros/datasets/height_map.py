"""Terrain from an elevation raster: how high the ground is, and where a camera's rays meet it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery import ImageryError
from cvloc_ros.imagery.raster import map_crs, open_raster

_FINEST = 0.5  # metres a cell
_NEAREST, _FARTHEST, _STEPS = 1.0, 300.0, 72  # metres along the ground at which a ray is looked at, and how often
_ROW = 1024  # OpenCV looks up rows of less than 32768 points


@dataclass(frozen=True, eq=False)
class HeightMap:
    """Heights on a grid, north up in the map frame; between its cells they are interpolated.

    Attributes:
        heights: (H, W) float32, metres over whatever the raster counts from.
        west: metres, outer edge of column 0.
        north: metres, outer edge of row 0.
        cell: metres.

    """

    heights: np.ndarray
    west: float
    north: float
    cell: float

    @classmethod
    def read(cls, uri: str, datum: LocalFrame, *, west: float, north: float, east: float, south: float) -> HeightMap:
        """Read the first band of an elevation raster in a rectangle of the map; holes are filled with the mean.

        Raises:
            ImageryError: it cannot be read, or has no heights there.

        """
        cols, rows = (int(np.ceil(extent / _FINEST)) for extent in (east - west, north - south))
        try:
            with (
                open_raster(uri) as dataset,
                WarpedVRT(
                    dataset,
                    crs=map_crs(datum),
                    transform=Affine(_FINEST, 0, west, 0, -_FINEST, north),
                    width=cols,
                    height=rows,
                    resampling=Resampling.bilinear,
                    add_alpha=dataset.nodata is None,
                ) as warped,
            ):
                heights = warped.read(1).astype(np.float32)
                known = warped.dataset_mask() > 0
        except (RasterioError, OSError) as error:
            raise ImageryError(f"the terrain '{uri}' could not be read: {error}") from None
        known &= np.isfinite(heights)
        if not known.any():
            raise ImageryError(f"expected heights around the route in '{uri}', but it has none there")
        heights[~known] = heights[known].mean()
        return cls(heights, west, north, _FINEST)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the height (...) in metres at points (..., 2) of the map; beyond the edge, that of the edge."""
        points = np.asarray(points, np.float32)
        flat = points.reshape(-1, 2)
        shape = -(-len(flat) // _ROW), _ROW
        col, row = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        col.ravel()[: len(flat)] = (flat[:, 0] - np.float32(self.west)) / np.float32(self.cell) - np.float32(0.5)
        row.ravel()[: len(flat)] = (np.float32(self.north) - flat[:, 1]) / np.float32(self.cell) - np.float32(0.5)
        found = cv2.remap(self.heights, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found.ravel()[: len(flat)].reshape(points.shape[:-1])

    def distances(self, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Return how far along the ground rays first meet it, metres; 0 for those that do not within 300 m.

        Args:
            eye: (3,) where they start, over the ground.
            rays: (..., 3) in the map frame, of any length.

        """
        run = np.linalg.norm(rays[..., :2], axis=-1)
        heading = (rays[..., :2] / np.maximum(run, 1e-6)[..., None]).astype(np.float32)
        rise = (rays[..., 2] / np.maximum(run, 1e-6)).astype(np.float32)
        found = np.zeros(rise.shape, np.float32)
        open_ = np.flatnonzero(rise < 0.5)  # what looks up more steeply meets no street
        before = np.zeros(len(open_), np.float32)
        gap_before = np.full(len(open_), eye[2] - float(self(eye[:2])), np.float32)
        for distance in np.geomspace(_NEAREST, _FARTHEST, _STEPS).astype(np.float32) if len(open_) else ():
            at = np.float32(eye[:2]) + distance * heading.reshape(-1, 2)[open_]
            gap = np.float32(eye[2]) + distance * rise.ravel()[open_] - self(at)
            hit = gap <= 0
            share = gap_before[hit] / np.maximum(gap_before[hit] - gap[hit], 1e-6)
            found.ravel()[open_[hit]] = before[hit] + share * (distance - before[hit])
            open_, gap_before = open_[~hit], gap[~hit]
            before = np.full(len(open_), distance, np.float32)
            if not len(open_):
                break
        return found
