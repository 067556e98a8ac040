"""The estimate itself: a filter along the odometry, and how each kind of measurement is taken into it.

Errors that stay the same from one measurement to the next (a GNSS bias, a compass's deviation, a matcher's view of one
place) must not be averaged away as if they were noise: the measurement's covariance is enlarged instead, the more the
sooner it follows another.
"""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.odometry import OdometryBuffer
from cvloc_ros.localization.pose_filter import PoseFilter, correlation_factor
from cvloc_ros.localization.tracker_config import TrackerConfig
from cvloc_ros.localization.types import Localization

_CHI2_3DOF_999 = 16.266


class Track:
    """``T_map_base`` at any stamp at which there is odometry, once it has been started."""

    def __init__(self, config: TrackerConfig, odometry: OdometryBuffer) -> None:
        """Start with nothing known."""
        self._config, self._odometry = config, odometry
        self.filter: PoseFilter | None = None
        """None until the pose is known."""
        self._fixed: int | None = None  # stamp of the last fix that was taken in
        self._turned: int | None = None  # and of the last heading
        self._localized = -np.inf  # metres travelled at the last localization that was taken in

    def start(self, stamp: int, T_map_base: SE2, covariance: np.ndarray) -> None:
        """Begin at a stamp at which there is odometry; ``covariance`` is 3x3 over (east m, north m, yaw rad)."""
        T_odom_base = self._odometry.at(stamp)
        newest = self._odometry.newest
        end = None if newest is None else self._odometry.at(newest)
        if T_odom_base is None or newest is None or end is None:
            raise ValueError(f"expected odometry at the start of a track, got none at stamp {stamp}")
        self.filter = PoseFilter(T_map_base, covariance, T_odom_base)
        self.filter.move(end, self.noise(stamp, newest))

    def move(self, before: int, stamp: int, T_odom_base: SE2) -> None:
        """Follow new odometry; ``before`` is the stamp of the message before."""
        if self.filter is not None:
            self.filter.move(T_odom_base, self.noise(before, stamp))

    def pose(self, stamp: int) -> tuple[SE2, np.ndarray] | None:
        """Return ``T_map_base`` and its 3x3 covariance at a stamp; None if unknown."""
        T_odom_base = self._odometry.at(stamp)
        if self.filter is None or T_odom_base is None:
            return None
        pose, covariance = self.filter.pose_at(T_odom_base)
        newest = self._odometry.newest
        if newest is not None and stamp > newest:
            covariance = covariance + self.noise(newest, stamp)
        return pose, covariance

    def noise(self, first: int, last: int) -> np.ndarray:
        """Return the 3x3 covariance that odometry adds between two stamps."""
        return self._config.odometry_noise(self._odometry.motion(first, last))

    def take_fix(
        self, stamp: int, T_odom_base: SE2, lever_arm: np.ndarray, position: np.ndarray, noise: np.ndarray
    ) -> tuple[float, float]:
        """Take in a fix; return how many metres off it is, and how much it contradicts (over 1: more than by chance).

        Args:
            stamp: nanoseconds.
            T_odom_base: odometry then.
            lever_arm: the antenna in base_link (2,).
            position: the antenna in the map (2,).
            noise: 2x2 covariance of the fix.

        """
        assert self.filter is not None
        residual, H = self.filter.point_innovation(T_odom_base, lever_arm, position)
        correlation_time = self._config.gnss_correlation_time
        gap, self._fixed = _seconds(self._fixed, stamp), stamp
        contradiction = self.filter.correct_weakly(residual, H, noise, gap=gap, correlation_time=correlation_time)
        return float(np.linalg.norm(residual)), contradiction

    def take_heading(self, stamp: int, T_odom_base: SE2, yaw: float, sigma: float) -> None:
        """Take in a heading in the map (rad) and its deviation (rad)."""
        assert self.filter is not None
        residual, H = self.filter.heading_innovation(T_odom_base, yaw)
        correlation_time = self._config.imu_correlation_time
        gap, self._turned = _seconds(self._turned, stamp), stamp
        noise = np.array([[sigma**2]])
        self.filter.correct_weakly(residual, H, noise, gap=gap, correlation_time=correlation_time)

    def take_localization(self, localization: Localization, T_odom_base: SE2, travelled: float) -> bool:
        """Take in an accepted localization, however late; False, and nothing is changed, if it does not fit.

        ``travelled`` is the way, in metres, at its stamp.
        """
        assert self.filter is not None
        residual, H = self.filter.pose_innovation(T_odom_base, localization.T_map_base)
        noise = localization.covariance + self.noise(localization.stamp, self._odometry.newest or localization.stamp)
        S = self.filter.innovation_covariance(H, noise)
        if residual @ np.linalg.solve(S, residual) > _CHI2_3DOF_999:
            return False
        moved, self._localized = travelled - self._localized, travelled
        self.filter.correct(
            residual, H, noise * correlation_factor(moved, self._config.localization_correlation_distance)
        )
        return True


def _seconds(first: int | None, last: int) -> float:
    return np.inf if first is None else (last - first) * 1e-9
