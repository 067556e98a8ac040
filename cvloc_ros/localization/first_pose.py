"""The pose that fixes give together with odometry or an IMU, while no localization has confirmed a better one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.gnss import Fix, FixTrack, FixWatch
from cvloc_ros.localization.tracker_config import TrackerConfig

_FIX_REACH = 6.0  # fixes are kept over so many times the distance that the first heading needs
_FRESH = 1_000_000_000  # ns for which an IMU's heading may be used with a fix


class FirstPose:
    """Collects fixes and an IMU's heading."""

    def __init__(self, config: TrackerConfig, noise: Callable[[int, int], np.ndarray]) -> None:
        """``noise(first, last)`` is odometry's 3x3 error between two stamps."""
        self._config, self._noise = config, noise
        self._fixes = FixTrack(_FIX_REACH * config.heading_distance)
        self._watch = FixWatch()
        self._newest: Fix | None = None
        self._imu: tuple[int, float, float] | None = None  # stamp, heading of odom in the map, its deviation
        self._contradicted_since: int | None = None
        self.complaint = ""
        """Why the newest fix was not believed, for people."""

    @property
    def has_fix(self) -> bool:
        """Whether there is a fix that was believed."""
        return self._newest is not None

    def add_fix(self, fix: Fix) -> bool:
        """Take in a fix; False if it is not to be believed, with a `complaint`."""
        self.complaint = self._watch.complaint(fix)
        if self.complaint:
            return False
        self._fixes.add(fix)
        self._newest = fix
        return True

    def add_heading(self, stamp: int, turn: float, sigma: float) -> None:
        """Take in what an IMU says: by how much (rad) the odom frame is turned in the map."""
        self._imu = stamp, turn, sigma

    def contradicts(self, stamp: int, far: bool) -> bool:
        """Whether the fixes have said for long that the vehicle is elsewhere; ``far`` is what the newest says."""
        if not far:
            self._contradicted_since = None
        elif self._contradicted_since is None:
            self._contradicted_since = stamp
        since = self._contradicted_since
        if since is None or stamp - since <= self._config.gnss_takeover * 1e9:
            return False
        self._contradicted_since = None
        return True

    def pose(self, stamp: int, T_odom_base: SE2) -> tuple[SE2, np.ndarray] | None:
        """Return ``T_map_base`` and its 3x3 covariance; None while the heading is unknown.

        Motion between the fixes is asked before the IMU, which may be biased or of another convention.
        """
        if self._fixes.extent >= self._config.heading_distance:
            pose, covariance = self._fixes.align(T_odom_base, relative_sigma=self._config.gnss_relative_sigma)
            covariance += self._noise(self._fixes.middle, stamp)
            if covariance[2, 2] <= np.radians(self._config.heading_sigma) ** 2:
                return pose, covariance
        if self._imu is None or self._newest is None or abs(stamp - self._imu[0]) > _FRESH:
            return None
        return self._turned(*self._imu[1:], T_odom_base)

    def place(self, T_odom_base: SE2) -> tuple[SE2, np.ndarray]:
        """Return a pose of any heading at the newest fix, and its 3x3 covariance."""
        return self._turned(0.0, np.pi, T_odom_base)

    def missing(self, complaint: str) -> str:
        """Say what would make the pose known, for people; ``complaint`` says why fixes are not used, if so."""
        if self._newest is None:
            return f"a position: {complaint or 'no GNSS fix and no initial pose yet'}"
        return (
            f"motion: heading is unknown until the vehicle has moved {self._config.heading_distance:g} m or more on "
            f"GNSS ({self._fixes.extent:.0f} m so far), or until an initial pose or an IMU's heading is given"
        )

    def _turned(self, turn: float, sigma: float, T_odom_base: SE2) -> tuple[SE2, np.ndarray]:
        if self._newest is None:
            raise ValueError("expected a fix before a pose is asked for, got none")
        covariance = np.zeros((3, 3))
        covariance[:2, :2], covariance[2, 2] = self._newest.covariance, sigma**2
        return self._newest.placed(turn) @ T_odom_base, covariance
