"""Rasters of the town: metres to pixels, and polygons drawn with sub-pixel edges.

A canvas covers the square town, north up: row 0 is the northern edge, column 0 the western one, and a value sits at
its cell's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHIFT = 4  # OpenCV's fixed-point polygon coordinates: 1/16 pixel


@dataclass(frozen=True, eq=False)
class Canvas:
    """One raster, (n, n), over a town of ``size`` metres."""

    data: np.ndarray
    size: float

    @classmethod
    def blank(cls, size: float, cell: float, fill: int = 0) -> Canvas:
        """Return a uint8 canvas with cells of ``cell`` metres."""
        n = int(round(size / cell))
        return cls(np.full((n, n), fill, np.uint8) if fill else np.zeros((n, n), np.uint8), size)

    @property
    def cell(self) -> float:
        """Metres per cell."""
        return self.size / self.data.shape[0]

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 2) metres to fractional (column, row)."""
        points = np.asarray(points, dtype=float)
        half, cell = self.size / 2, self.cell
        return np.stack([(points[..., 0] + half) / cell - 0.5, (half - points[..., 1]) / cell - 0.5], axis=-1)

    def fill(self, polygon: np.ndarray, value: int, *, smooth: bool = False) -> None:
        """Fill a polygon (N, 2) in metres; ``smooth`` blends its edge by coverage."""
        fill_polygon(self.data, self.to_pixels(polygon), value, smooth=smooth)

    def sample(self, points: np.ndarray) -> np.ndarray:
        """Return the values (...) of the cells that hold the points (..., 2); the edge's beyond the edge."""
        n = self.data.shape[0]
        px = np.clip(np.rint(self.to_pixels(points)).astype(int), 0, n - 1)
        return self.data[px[..., 1], px[..., 0]]


def fill_polygon(image: np.ndarray, pixels: np.ndarray, value, *, smooth: bool = False) -> None:
    """Fill a polygon given as fractional (column, row) of an image."""
    cv2.fillPoly(image, [fixed_point(pixels)], value, cv2.LINE_AA if smooth else cv2.LINE_8, SHIFT)


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Turn fractional (column, row) into OpenCV's fixed-point coordinates, int32; do many polygons at once."""
    return np.rint(pixels * (1 << SHIFT)).astype(np.int32)


def fill_convex(image: np.ndarray, fixed: np.ndarray, value: int) -> None:
    """Fill one convex polygon (N, 2), given in `fixed_point` coordinates."""
    cv2.fillConvexPoly(image, fixed, value, cv2.LINE_8, SHIFT)
