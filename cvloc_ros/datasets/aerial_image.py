"""A satellite picture as data sets have them: an image file without a coordinate system, and how it lies on the map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from pyproj import Transformer

from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, meters_per_pixel
from cvloc_ros.geometry.enu import EQUATOR_METERS_PER_PIXEL
from cvloc_ros.imagery import Patch


@dataclass(frozen=True, eq=False)
class AerialImage:
    """A picture and its place.

    Attributes:
        rgb: uint8 (H, W, 3).
        pixel_from_map: (2, 3), takes (east, north, 1) in metres to (column, row); pixel (0, 0) is the centre of the
            upper left one.
        covered: bool (H, W), where it shows something; None for everywhere.

    """

    rgb: np.ndarray
    pixel_from_map: np.ndarray
    covered: np.ndarray | None = None

    @classmethod
    def north_up(cls, rgb: np.ndarray, meters_per_pixel: float, *, covered: np.ndarray | None = None) -> AerialImage:
        """Place a picture with north up and its centre in the map's origin."""
        height, width = rgb.shape[:2]
        s = 1 / meters_per_pixel
        return cls(rgb, np.array([[s, 0, (width - 1) / 2], [0, -s, (height - 1) / 2]]), covered)

    @classmethod
    def web_mercator(cls, rgb: np.ndarray, centre: LocalFrame, *, zoom: int, scale: int = 1) -> AerialImage:
        """Place a static map (Google's and others'), cut out of the Web Mercator pyramid around a place.

        The Mercator of such maps is spherical, the Earth is not: at 49 degrees a pixel is 0.3 % longer from west to
        east than from south to north, and the usual formula for its size (`meters_per_pixel`) lies between.

        Args:
            rgb: the picture.
            centre: its middle, and the map's origin.
            zoom: of the pyramid whose tiles have 256 pixels.
            scale: pixels per pixel of the pyramid ("@2x").

        """
        height, width = rgb.shape[:2]
        step = EQUATOR_METERS_PER_PIXEL / 2**zoom / scale  # metres of the projection
        reach = meters_per_pixel(centre.latitude, zoom, scale) * max(height, width) / 2
        square = reach * np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]])
        latitude, longitude = centre.to_wgs84(square).T
        x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(longitude, latitude)
        columns, rows = (x - x[0]) / step + (width - 1) / 2, (y[0] - y) / step + (height - 1) / 2
        return cls(rgb, fit_affine(square, np.stack([columns, rows], axis=-1)))

    def to_map(self, pixel: np.ndarray) -> np.ndarray:
        """Return metres east and north (..., 2) of (column, row) (..., 2)."""
        M = self.pixel_from_map
        return (np.asarray(pixel, dtype=float) - M[:, 2]) @ np.linalg.inv(M[:, :2]).T

    def patch(self, T_map_patch: SE2, grid: GroundGrid) -> Patch:
        """Cut the patch that a vehicle at ``T_map_patch`` has around it, forward up.

        A grid much coarser than the picture is given averages. Where there is no picture the patch is black and not
        covered.
        """
        # (column, row) of the grid -> metres in the vehicle's frame -> metres in the map -> (column, row) here
        corner = grid.to_metres(np.array([[0, 0], [0, 1], [1, 0]]))
        map_corner = np.column_stack([T_map_patch.apply(corner), np.ones(3)]) @ self.pixel_from_map.T
        M = np.column_stack([map_corner[1] - map_corner[0], map_corner[2] - map_corner[0], map_corner[0]])
        size = grid.cols, grid.rows

        outline = np.array([[0, 0], [grid.cols, 0], [0, grid.rows], [grid.cols, grid.rows]]) @ M[:, :2].T + M[:, 2]
        factor = max(1, int(np.sqrt(abs(np.linalg.det(M[:, :2])))))  # pixels of the picture in a cell, per side
        height, width = self.rgb.shape[:2]
        low = np.clip(np.floor(outline.min(axis=0)).astype(int) - 2 * factor, 0, [width, height])
        high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 2 * factor + 1, 0, [width, height])
        if (high - low < factor).any():
            shape = (grid.rows, grid.cols)
            return Patch(np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool), grid, T_map_patch)
        high = low + (high - low) // factor * factor
        part = np.ascontiguousarray(self.rgb[low[1] : high[1], low[0] : high[0]])
        if factor > 1:
            shrunk = (high - low) // factor
            part = cv2.resize(part, (int(shrunk[0]), int(shrunk[1])), interpolation=cv2.INTER_AREA)
        M[:, 2] -= low + (factor - 1) / 2
        M /= factor
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(part, M, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        columns, rows = np.meshgrid(np.arange(grid.cols), np.arange(grid.rows))
        where = np.stack([columns, rows], axis=-1) @ M[:, :2].T + M[:, 2]
        coverage = ((where >= -0.5) & (where <= np.array(part.shape[1::-1]) - 0.5)).all(axis=-1)
        if self.covered is not None:
            shown = self.covered[low[1] : high[1], low[0] : high[0]].astype(np.float32)
            shown = np.asarray(cv2.resize(shown, part.shape[1::-1], interpolation=cv2.INTER_AREA), np.float32)
            coverage &= cv2.warpAffine(shown, M, size, flags=flags) > 0.5
        image[~coverage] = 0
        return Patch(image, coverage, grid, T_map_patch)


def fit_affine(points: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the affine map (2, 3) that takes points (N, 2) to their images (N, 2) with the least squares."""
    middle = points.mean(axis=0)  # keeps large coordinates, as UTM's are, from costing digits
    A, _, _, _ = np.linalg.lstsq(np.column_stack([points - middle, np.ones(len(points))]), images, rcond=None)
    return np.column_stack([A[:2].T, A[2] - middle @ A[:2]])
