"""Where the sensors sit on the vehicle: looked up in TF for every message, and what is missing is named, once."""

from __future__ import annotations

import numpy as np

from cvloc_ros.datasets.transform_tree import MissingTransform
from cvloc_ros.ros.config import FrameNames
from cvloc_ros.ros.health import Health
from cvloc_ros.ros.tf import Transforms


class Mounts:
    """Transforms from the vehicle to its sensors; an unknown one is a problem of the status `transforms`."""

    def __init__(self, frames: FrameNames, transforms: Transforms, health: Health) -> None:
        """Use the configured frames' names."""
        self._frames, self._transforms, self._health = frames, transforms, health

    def place(self, sensor: str, frame_id: str) -> np.ndarray | None:
        """Return ``T_base_sensor`` (4x4), or None, with the problem reported, if it is unknown.

        Args:
            sensor: camera, odometry, gnss or imu.
            frame_id: of its message; the configured name, where there is one, takes its place.

        """
        base, frame_id = self._frames.base, getattr(self._frames, sensor, "") or frame_id
        try:
            if not frame_id:
                raise MissingTransform(f"its messages carry no frame_id; set the parameter frames.{sensor}")
            T = self._transforms.lookup(base, frame_id)
            if sensor == "camera" and T[2, 3] <= 0:
                raise MissingTransform(
                    f"expected it above the ground, got z = {T[2, 3]:.2f} m from '{base}' to '{frame_id}'; "
                    f"'{base}' must lie on the ground, and the camera's height over it must be published"
                )
        except MissingTransform as error:
            self._health.report("transforms", sensor, f"the {sensor}'s place on the vehicle is unknown: {error}")
            return None
        self._health.fine("transforms", sensor)
        return T
