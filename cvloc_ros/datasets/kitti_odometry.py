"""A sequence of KITTI odometry: one rectified camera with its calibration, and its true poses.

::

    SEQUENCE/calib.txt                     a line "P0: 12 numbers" for each camera; the first line is image_0's
    SEQUENCE/image_0/000000.png            the left grey camera; in image_2, if it is there, the left colour one
    SEQUENCE/poses.txt                     a line for each frame: the camera in the first frame's camera, 3x4

The published archive has the poses as ``poses/06.txt``: copy that file to ``sequences/06/poses.txt``.

Conventions:

- The map is level with the vehicle at the first frame, whose heading is east; where on Earth that is nobody says.
- base_link is the ground under the camera: 1.65 m below it, its x axis the way that the vehicle moves.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.files import DatasetError, numbered, numbers, read_rgb, require
from cvloc_ros.datasets.kitti import CAMERA_HEIGHT
from cvloc_ros.geometry import SE2, PinholeCamera, camera_extrinsics
from cvloc_ros.localization.types import Frame

SOURCE = "https://www.cvlibs.net/datasets/kitti/eval_odometry.php (grey or colour images, calibration, poses)"
_CAMERAS = {"image_2": 2, "image_0": 0}  # folder -> its line in calib.txt; colour first


class KittiOdometry:
    """The frames of one sequence."""

    def __init__(self, path: str | Path) -> None:
        """Read calibration and poses, and look which frames are there.

        Raises:
            DatasetError: a file is missing or wrong.

        """
        self.path = Path(path)
        folder = next((name for name in _CAMERAS if (self.path / name).is_dir()), "image_0")
        self.images = numbered(self.path / folder, ".png")
        if not self.images:
            raise DatasetError(f"expected images at {self.path / folder}/000000.png and on: get them from {SOURCE}")
        P = _rows(self.path / "calib.txt", "the calibration", at_least=_CAMERAS[folder] + 1)[_CAMERAS[folder]]
        poses = _rows(self.path / "poses.txt", "the true poses", at_least=int(self.images[-1].stem) + 1)
        self._T_first_camera = np.tile(np.eye(4), (len(self.images), 1, 1))
        self._T_first_camera[:, :3] = poses[[int(path.stem) for path in self.images]]
        height, width = self.image(0).shape[:2]
        try:
            self.camera = PinholeCamera(width, height, P[:, :3])
        except ValueError as error:
            raise DatasetError(
                f"{self.path / 'calib.txt'} describes no camera: {error}; get it from {SOURCE}"
            ) from error

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.images)

    def image(self, k: int) -> np.ndarray:
        """Read the image of a frame: RGB uint8 (H, W, 3); three times the same where the camera is grey."""
        return read_rgb(self.images[k], "a frame", SOURCE)

    def frame(self, k: int) -> Frame:
        """Read a frame as the localizer takes it: the mount is that of the whole drive, not of the moment."""
        return Frame(k, self.image(k), self.camera, self.T_base_camera)

    @cached_property
    def T_base_camera(self) -> np.ndarray:
        """4x4; the vehicle mostly moves along its own x axis, which says how the camera sits on it."""
        steps = np.linalg.inv(self._T_first_camera[:-1]) @ self._T_first_camera[1:]
        x, y, z = steps[:, :3, 3].T
        yaw, pitch = np.median([np.arctan2(x, z), np.arctan2(-y, z)], axis=1)
        return camera_extrinsics(height=CAMERA_HEIGHT, yaw=float(yaw), pitch=float(pitch))

    @cached_property
    def T_map_base(self) -> np.ndarray:
        """The true poses of the ground under the camera, (N, 4, 4): hills and the body's pitch and roll are in them."""
        M = self.T_base_camera
        return M @ self._T_first_camera @ np.linalg.inv(M)

    def pose(self, k: int) -> SE2:
        """Return the true pose of a frame on the map."""
        return SE2.from_matrix(self.T_map_base[k])


def _rows(path: Path, what: str, *, at_least: int) -> np.ndarray:
    """Read lines of 12 numbers, with or without a name before them: (N, 3, 4)."""
    lines = require(path, what, SOURCE).read_text(errors="replace").splitlines()
    rows = [line.rpartition(":")[2].split() for line in lines if line.strip()]
    if len(rows) < at_least or any(len(row) != 12 for row in rows[:at_least]):
        raise DatasetError(
            f"expected {what} in {path}: {at_least} lines of 12 numbers or more, got {len(rows)} lines: get it from "
            f"{SOURCE}"
        )
    return np.array([numbers(row, path) for row in rows[:at_least]]).reshape(-1, 3, 4)
