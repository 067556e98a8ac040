"""Coloured ground as point clouds: what the camera sees, placed at the estimate, and the satellite image."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from cvloc_ros.evaluation.ground_view import bird_view
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.types import Frame, Localization
from cvloc_ros.ros.conversions import header

_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate(("x", "y", "z", "rgb"))
]  # rgb is 0x00RRGGBB in the bits of a float: the convention of PCL that RViz and Foxglove know

_BEV_GRID = GroundGrid(rows=160, cols=160, cell=0.25, x_max=42.0)  # 2 to 42 m ahead, 20 m to each side
_NEAR_MATCH = 1.2  # metres around a match that were matched with it: half the diagonal of a cell of 1.6 m
_SATELLITE_CELLS = 320  # a side: 128 m at 0.4 m
_BEV_HEIGHT, _SATELLITE_HEIGHT = 0.02, -0.05  # metres: one above the other


def bev_cloud(frame: Frame, localization: Localization, *, frame_id: str) -> PointCloud2:
    """Return the ground that was matched, in the camera's colours, at the estimated pose in the map."""
    image, visible = bird_view(frame, _BEV_GRID)
    cells = visible & _matched(localization.matches.base)
    places = localization.T_map_base.apply(_BEV_GRID.centres()[cells])
    return point_cloud(places, image[cells], z=_BEV_HEIGHT, stamp=localization.stamp, frame_id=frame_id)


def satellite_cloud(satellite_map: SatelliteMap, x: float, y: float, *, frame_id: str) -> PointCloud2:
    """Return the satellite image around (x, y) in the map; stamp 0, as it is of no time.

    Raises:
        ImageryError: the raster could not be read.

    """
    grid = GroundGrid.centred(_SATELLITE_CELLS, satellite_map.cell)
    patch = satellite_map.patch(SE2(x, y, np.pi / 2), grid)
    places = patch.T_map_patch.apply(grid.centres()[patch.coverage])
    return point_cloud(places, patch.image[patch.coverage], z=_SATELLITE_HEIGHT, stamp=0, frame_id=frame_id)


def point_cloud(places: np.ndarray, colors: np.ndarray, *, z: float, stamp: int, frame_id: str) -> PointCloud2:
    """Return a cloud of points (N, 2) at one height with RGB uint8 colours (N, 3)."""
    points = np.zeros(len(places), _DTYPE)
    points["x"], points["y"], points["z"] = places[:, 0], places[:, 1], z
    points["rgb"] = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    cloud = PointCloud2(header=header(stamp, frame_id), height=1, width=len(points), fields=_FIELDS, is_dense=True)
    cloud.point_step, cloud.row_step = _DTYPE.itemsize, points.nbytes
    cloud.data = points.tobytes()
    return cloud


def read_cloud(cloud: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 3) and RGB uint8 colours (N, 3) of a cloud that was made here."""
    points = np.frombuffer(cloud.data, _DTYPE)
    packed = points["rgb"][:, None] >> np.array([16, 8, 0], np.uint32)
    return np.stack([points[axis] for axis in "xyz"], axis=-1), (packed & 255).astype(np.uint8)


def _matched(base: np.ndarray) -> np.ndarray:
    """Return which cells of the grid (rows, cols) lie near one of the matches (N, 2)."""
    grid = _BEV_GRID
    cells = np.round(grid.to_cells(base)).astype(int)
    inside = ((cells >= 0) & (cells < [grid.rows, grid.cols])).all(axis=-1)
    empty = np.ones((grid.rows, grid.cols), np.uint8)
    empty[tuple(cells[inside].T)] = 0
    if empty.all():  # the distance would be undefined
        return np.zeros_like(empty, dtype=bool)
    return cv2.distanceTransform(empty, cv2.DIST_L2, 5) * grid.cell <= _NEAR_MATCH
