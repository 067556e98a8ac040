"""Poses, ground grids, cameras and the local ENU frame: the only place where coordinates are converted."""

from cvloc_ros.geometry.camera import PinholeCamera, camera_extrinsics
from cvloc_ros.geometry.enu import LocalFrame, meters_per_pixel
from cvloc_ros.geometry.grid import GroundGrid
from cvloc_ros.geometry.se2 import SE2, wrap_angle

__all__ = ["SE2", "GroundGrid", "LocalFrame", "PinholeCamera", "camera_extrinsics", "meters_per_pixel", "wrap_angle"]
