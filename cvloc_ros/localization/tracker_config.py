"""What can be set on the tracker, from which the ROS parameters are made, and the states it can be in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from cvloc_ros.localization.odometry import Motion
from cvloc_ros.localization.pose_filter import at_least
from cvloc_ros.localization.setting import check_settings, setting


class TrackerState(Enum):
    """How far the tracker has come."""

    WAITING = "waiting"  # an input is missing: see Tracker.waiting_for
    INITIALIZING = "initializing"  # roughly known; no localizations confirm it yet
    TRACKING = "tracking"
    DEGRADED = "degraded"  # no accepted localization for a while; odometry and GNSS carry the pose
    LOST = "lost"  # too long alone, or contradicted: the pose is searched for around the last one


@dataclass(frozen=True)
class TrackerConfig:
    """Noise and limits of the tracker; see `setting` for what each field knows of itself."""

    odometry_position_noise: float = setting(
        0.1, "how far odometry strays in a metre of travel (random walk)", unit="m/sqrt(m)", limits=(0.001, 2.0)
    )
    odometry_heading_noise: float = setting(
        0.25, "how far the odometry's heading strays in a second (random walk)", unit="deg/sqrt(s)", limits=(0.0, 10.0)
    )
    odometry_turn_noise: float = setting(
        0.6, "how far the odometry's heading strays in a turn of one radian", unit="deg/sqrt(rad)", limits=(0.0, 20.0)
    )
    odometry_buffer: float = setting(10.0, "odometry kept for late results and fixes", unit="s", limits=(1.0, 120.0))
    odometry_gap: float = setting(
        1.0, "between odometry messages farther apart than this nothing is interpolated", unit="s", limits=(0.05, 10.0)
    )
    odometry_extrapolation: float = setting(
        0.3, "how far past the newest odometry a pose may be predicted", unit="s", limits=(0.0, 2.0)
    )
    gnss_default_sigma: float = setting(
        8.0, "standard deviation of a fix that reports no covariance", unit="m", limits=(0.01, 100.0)
    )
    gnss_sigma_floor: float = setting(
        2.5, "no fix is trusted more than this, whatever it reports", unit="m", limits=(0.001, 100.0)
    )
    gnss_correlation_time: float = setting(
        60.0, "for how long GNSS errors (multipath, atmosphere) stay the same", unit="s", limits=(0.0, 3600.0)
    )
    gnss_relative_sigma: float = setting(
        0.7,
        "error of the way between two fixes of the same seconds, for the first heading",
        unit="m",
        limits=(0.01, 50.0),
    )
    gnss_takeover: float = setting(
        5.0, "fixes that contradict the pose for this long replace it", unit="s", limits=(0.5, 120.0)
    )
    gnss_veto: float = setting(
        50.0,
        "fixes farther than this contradict even a confirmed pose: no bias is that large",
        unit="m",
        limits=(1.0, 1e4),
    )
    heading_distance: float = setting(
        8.0, "travel from which the first heading is taken", unit="m", limits=(1.0, 200.0)
    )
    heading_sigma: float = setting(
        6.0, "standard deviation that the first heading must reach", unit="deg", limits=(0.5, 45.0)
    )
    imu_sigma_floor: float = setting(
        3.0, "no heading of an IMU is trusted more than this, whatever it reports", unit="deg", limits=(0.1, 90.0)
    )
    imu_correlation_time: float = setting(
        60.0, "for how long the errors of an IMU's heading stay the same", unit="s", limits=(0.0, 3600.0)
    )
    localization_correlation_distance: float = setting(
        2.0, "travel over which the errors of neighbouring localizations stay the same", unit="m", limits=(0.0, 100.0)
    )
    confirmations: int = setting(
        4, "localizations that must agree on one place before the track starts there", limits=(1, 50)
    )
    confirmation_distance: float = setting(
        15.0, "travel over which they must agree: images of one place prove nothing", unit="m", limits=(0.0, 100.0)
    )
    recovery_confirmations: int = setting(
        6, "localizations that must agree on another place to overrule the track", limits=(2, 90)
    )
    recovery_distance: float = setting(
        40.0, "travel over which they must agree to overrule the track", unit="m", limits=(0.0, 200.0)
    )
    search_radius: float = setting(
        35.0, "how far around a given or a lost pose is searched at least", unit="m", limits=(0.0, 60.0)
    )
    search_heading: float = setting(
        24.0,
        "how far to each side of a given or a lost heading is searched at least",
        unit="deg",
        limits=(0.0, 180.0),
    )
    degraded_distance: float = setting(
        20.0,
        "travel without accepted localizations after which the state is DEGRADED",
        unit="m",
        limits=(1.0, 1000.0),
    )
    degraded_time: float = setting(
        3.0, "time without accepted localizations after which the state is DEGRADED", unit="s", limits=(0.2, 600.0)
    )
    lost_distance: float = setting(
        300.0, "travel as DEGRADED after which the state is LOST", unit="m", limits=(10.0, 1e5)
    )
    lost_sigma: float = setting(
        7.0, "standard deviation of the position from which the state is LOST", unit="m", limits=(1.0, 1000.0)
    )
    prior_position_floor: float = setting(
        2.0, "a search never assumes the position better than this (standard deviation)", unit="m", limits=(0.0, 20.0)
    )
    prior_heading_floor: float = setting(
        1.0, "a search never assumes the heading better than this (standard deviation)", unit="deg", limits=(0.0, 20.0)
    )

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        check_settings(self)

    def odometry_noise(self, motion: Motion) -> np.ndarray:
        """Return the 3x3 covariance over (m, m, rad) that odometry adds in a motion."""
        position = self.odometry_position_noise**2 * motion.distance
        heading = self.odometry_heading_noise**2 * motion.seconds + self.odometry_turn_noise**2 * motion.turned
        return np.diag([position, position, np.radians(1.0) ** 2 * heading])

    def fix_noise(self, reported: np.ndarray | None) -> np.ndarray:
        """Return the 2x2 covariance (m²) to expect of a fix, from the one that it reports, if it does."""
        covariance = None if reported is None else np.asarray(reported, dtype=float)
        if covariance is None or not np.isfinite(covariance).all() or np.trace(covariance) <= 0:
            covariance = np.eye(2) * self.gnss_default_sigma**2
        return at_least(covariance, np.eye(2) * self.gnss_sigma_floor**2)
