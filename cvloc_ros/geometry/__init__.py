"""Poses, ground grids, cameras and the local ENU frame: the only place where coordinates are converted."""

from cvloc_ros.geometry.camera import Camera, PinholeCamera, camera_extrinsics, is_rotation
from cvloc_ros.geometry.enu import LocalFrame, meters_per_pixel
from cvloc_ros.geometry.grid import GroundGrid
from cvloc_ros.geometry.se2 import SE2, wrap_angle
from cvloc_ros.geometry.views import ForwardView
from cvloc_ros.geometry.wide_cameras import EquirectangularCamera, FisheyeCamera

__all__ = [
    "SE2",
    "Camera",
    "EquirectangularCamera",
    "FisheyeCamera",
    "ForwardView",
    "GroundGrid",
    "LocalFrame",
    "PinholeCamera",
    "camera_extrinsics",
    "is_rotation",
    "meters_per_pixel",
    "wrap_angle",
]
