"""The tracker: odometry, GNSS and localizations become one pose with an honest covariance, at any recent stamp.

It estimates ``T_map_odom`` (3 degrees of freedom) with a Kalman filter. Odometry moves the vehicle within ``odom`` and
adds noise by distance, turn and time. A localization stamped t measures ``T_map_base(t) @ T_odom_base(t)^-1``, so that
late results need no rewinding. Errors that stay the same from one measurement to the next (a GNSS bias, a matcher's
view of one place) must not be averaged away as if they were noise: the measurement's covariance is enlarged instead.
"""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.odometry import OdometryBuffer
from cvloc_ros.localization.pose_filter import PoseFilter, at_least, correlation_factor
from cvloc_ros.localization.start import Fix, FixTrack, Sighting, Sightings
from cvloc_ros.localization.tracker_config import TrackerConfig, TrackerState
from cvloc_ros.localization.types import Localization, Prior

__all__ = ["Tracker", "TrackerConfig", "TrackerState"]

_CHI2_2DOF_99 = 9.210
_CHI2_3DOF_999 = 16.266
_JUMP = 1_000_000_000  # ns: a stamp this far back means that time started again
_FIX_REACH = 6.0  # fixes are kept over so many times the distance that the first heading needs
_MAX_SPEED = 150.0  # m/s: a faster step is no motion


class Tracker:
    """Fuses odometry, GNSS and localizations; not thread-safe (see `LocalizationSession`)."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        """Start with nothing known."""
        self.config = config or TrackerConfig()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the configuration."""
        config = self.config
        self._odometry = OdometryBuffer(seconds=config.odometry_buffer, extrapolation=config.odometry_extrapolation)
        self._filter: PoseFilter | None = None
        self._given: tuple[SE2, np.ndarray] | None = None  # by set_pose before there was odometry
        self._fixes = FixTrack(_FIX_REACH * config.heading_distance)
        self._sightings = Sightings(self._noise)
        self._confirmed = False  # localizations have confirmed the pose
        self._lost = False  # they had, but too long ago
        self._from_fixes = False  # the pose comes from fixes alone, so that more of them may improve its heading
        self._last_fix: int | None = None  # that the filter has taken in
        self._contradicted_since: int | None = None  # by fixes
        self._accepted_stamp = 0
        self._accepted_travel = 0.0
        self.last_rejection = ""

    def add_odometry(self, stamp: int, T_odom_base: SE2) -> None:
        """Take in odometry, ``T_odom_base`` in time order; an older stamp is ignored (see `is_time_jump`).

        The covariance that odometry reports is not asked for: it says how far the pose has strayed since its start,
        mostly by scale and bias that localizations have long made up for, and not what the next metre adds.
        """
        newest = self._odometry.newest
        last = None if newest is None else self._odometry.at(newest)
        if newest is not None and last is not None and stamp > newest:
            step = np.hypot(T_odom_base.x - last.x, T_odom_base.y - last.y)
            if step > 1.0 + _MAX_SPEED * (stamp - newest) * 1e-9:
                self.reset()  # the odometry has started again elsewhere
        if not self._odometry.add(stamp, T_odom_base):
            return
        if self._given is not None:
            pose, self._given = self._given, None
            self.set_pose(stamp, *pose)
        elif self._filter is not None and newest is not None:
            self._filter.move(T_odom_base, self._noise(newest, stamp))
        if self._confirmed and self._too_long_alone():
            self._lose()

    def is_time_jump(self, stamp: int) -> bool:
        """Whether an odometry stamp lies so far before the newest that time has started again (a bag that loops)."""
        return self._odometry.newest is not None and stamp < self._odometry.newest - _JUMP

    def add_gnss(
        self,
        stamp: int,
        position: np.ndarray,
        covariance: np.ndarray | None = None,
        lever_arm: tuple[float, float] | np.ndarray = (0.0, 0.0),
    ) -> None:
        """Take in a fix; ignored while there is no odometry at its stamp, or if it is not finite.

        Args:
            stamp: nanoseconds.
            position: the antenna in the map, (2,) metres east and north.
            covariance: 2x2 in metres squared; None or zeros if unknown.
            lever_arm: the antenna in base_link, (2,) metres forward and left.

        """
        T_odom_base = self._odometry.at(stamp)
        position, arm = np.asarray(position, dtype=float), np.asarray(lever_arm, dtype=float)
        if T_odom_base is None or not np.isfinite(position).all():
            return
        noise = self._fix_covariance(covariance)
        self._fixes.add(Fix(stamp, T_odom_base.apply(arm), position, noise))
        if self._filter is None or self._from_fixes:
            self._start_from_fixes(stamp)
            return
        residual, H = self._filter.point_innovation(T_odom_base, arm, position)
        S = self._filter.innovation_covariance(H, noise)
        contradiction = float(residual @ np.linalg.solve(S, residual)) / _CHI2_2DOF_99
        gap = np.inf if self._last_fix is None else (stamp - self._last_fix) * 1e-9
        noise = noise * max(1.0, contradiction) * correlation_factor(gap, self.config.gnss_correlation_time)
        self._filter.correct(residual, H, noise)
        self._last_fix = stamp
        far = float(np.linalg.norm(residual)) > self.config.gnss_veto if self._confirmed else contradiction > 1
        if not far:
            self._contradicted_since = None
        elif self._contradicted_since is None:
            self._contradicted_since = stamp
        elif stamp - self._contradicted_since > self.config.gnss_takeover * 1e9:
            if self._confirmed:
                self._lose()
            self._start_from_fixes(stamp)

    def set_pose(self, stamp: int, T_map_base: SE2, covariance: np.ndarray) -> None:
        """Start again from a pose that someone knows, at a stamp (or at the newest odometry, if there is none then).

        Args:
            stamp: nanoseconds.
            T_map_base: the pose.
            covariance: 3x3 over (east m, north m, yaw rad).

        """
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None and self._odometry.newest is not None:
            stamp = self._odometry.newest
            T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None:
            self._given = T_map_base, covariance
            return
        self._sightings.clear()
        self._start(stamp, T_map_base, covariance, T_odom_base)

    def add_localization(self, localization: Localization) -> bool:
        """Take in a localization that the gate has accepted; False if it does not fit, with `last_rejection`."""
        stamp = localization.stamp
        T_odom_base = self._odometry.at(stamp)
        self.last_rejection = ""
        if T_odom_base is None or self._filter is None:
            self.last_rejection = "too_old"
            return False
        pose, noise = localization.T_map_base, np.asarray(localization.covariance, dtype=float)
        self._sightings.add(Sighting(stamp, T_odom_base, pose, noise))
        if self._confirmed:
            residual, H = self._filter.pose_innovation(T_odom_base, pose)
            noise = noise + self._noise(stamp, self._odometry.newest or stamp)
            S = self._filter.innovation_covariance(H, noise)
            if residual @ np.linalg.solve(S, residual) <= _CHI2_3DOF_999:
                moved = self._odometry.motion(self._accepted_stamp, stamp).distance
                noise = noise * correlation_factor(moved, self.config.localization_correlation_distance)
                self._filter.correct(residual, H, noise)
                self._note_accepted(stamp)
                return True
        config = self.config
        count = config.recovery_confirmations if self._confirmed else config.confirmations
        distance = config.recovery_distance if self._confirmed else config.confirmation_distance
        agreed = self._sightings.agreed(count, distance=distance)
        if agreed is None:
            self.last_rejection = "inconsistent_with_track" if self._confirmed else "unconfirmed"
            return False
        self._start(stamp, *agreed, T_odom_base)
        self._confirmed = True
        self._note_accepted(stamp)
        return True

    @property
    def T_map_odom(self) -> SE2 | None:
        """The odom frame in the map; None while the pose is unknown."""
        return None if self._filter is None else self._filter.T_map_odom

    def pose(self, stamp: int) -> tuple[SE2, np.ndarray] | None:
        """Return ``T_map_base`` and its 3x3 covariance at a stamp; None if unknown (see `missing_at`)."""
        T_odom_base = self._odometry.at(stamp)
        if self._filter is None or T_odom_base is None:
            return None
        pose, covariance = self._filter.pose_at(T_odom_base)
        newest = self._odometry.newest
        if newest is not None and stamp > newest:
            covariance = covariance + self._noise(newest, stamp)
        return pose, covariance

    def prior(self, stamp: int) -> Prior | None:
        """Return where to search at a stamp: `pose` with a floor under its covariance; None if unknown."""
        known = self.pose(stamp)
        if known is None:
            return None
        position, heading = self.config.prior_position_floor, np.radians(self.config.prior_heading_floor)
        return Prior(known[0], at_least(known[1], np.diag([position, position, heading]) ** 2))

    @property
    def state(self) -> TrackerState:
        """How far the tracker has come."""
        if self._confirmed:
            travel, seconds = self._alone()
            alone = travel > self.config.degraded_distance or seconds > self.config.degraded_time
            return TrackerState.DEGRADED if alone else TrackerState.TRACKING
        if self._lost:
            return TrackerState.LOST
        if self._filter is None and (self._odometry.newest is None or not self._fixes):
            return TrackerState.WAITING
        return TrackerState.INITIALIZING

    @property
    def waiting_for(self) -> str:
        """What would bring the tracker further, for people; empty while TRACKING."""
        missing = self.missing_at(self._odometry.newest)
        if missing or self.state is TrackerState.TRACKING:
            return missing
        if self.state is TrackerState.INITIALIZING:
            return (
                f"localizations: {self.config.confirmations} have to agree over "
                f"{self.config.confirmation_distance:g} m of travel before the track starts"
            )
        travel, seconds = self._alone()
        return f"localizations: none accepted for {travel:.0f} m and {seconds:.1f} s"

    def missing_at(self, stamp: int | None) -> str:
        """Say which input is missing for a pose at a stamp; empty if there is a pose."""
        newest = self._odometry.newest
        if newest is None or stamp is None:
            return "odometry: no message yet"
        if self._odometry.at(stamp) is None:
            gap = (stamp - newest) * 1e-9
            order = "older" if gap > 0 else "newer"
            return f"odometry at the image's stamp: the newest message is {abs(gap):.1f} s {order}"
        if self._filter is not None:
            return ""
        if not self._fixes:
            return "a position: no GNSS fix and no initial pose yet"
        needed = self.config.heading_distance
        return (
            f"motion: heading is unknown until the vehicle has moved {needed:g} m or more on GNSS "
            f"({self._fixes.extent:.0f} m so far), or until an initial pose is given"
        )

    def _start(self, stamp: int, T_map_base: SE2, covariance: np.ndarray, T_odom_base: SE2) -> None:
        """Begin a track at a stamp, and carry it to the newest odometry."""
        self._filter = PoseFilter(T_map_base, covariance, T_odom_base)
        newest = self._odometry.newest
        end = None if newest is None else self._odometry.at(newest)
        if newest is not None and end is not None:
            self._filter.move(end, self._noise(stamp, newest))
        self._confirmed = self._lost = self._from_fixes = False
        self._contradicted_since = None

    def _start_from_fixes(self, stamp: int) -> None:
        """Begin a track from the fixes alone, once the vehicle has moved enough for them to tell its heading."""
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None or self._fixes.extent < self.config.heading_distance:
            return
        pose, covariance = self._fixes.align(T_odom_base, relative_sigma=self.config.gnss_relative_sigma)
        covariance += self._noise(self._fixes.middle, stamp)
        if covariance[2, 2] > np.radians(self.config.heading_sigma) ** 2:
            return
        self._start(stamp, pose, covariance, T_odom_base)
        self._from_fixes = True
        self._last_fix = stamp

    def _lose(self) -> None:
        self._confirmed, self._lost = False, True
        self._sightings.clear()

    def _note_accepted(self, stamp: int) -> None:
        self._accepted_stamp, self._accepted_travel = stamp, self._odometry.travelled

    def _alone(self) -> tuple[float, float]:
        """Return the metres and seconds since the last accepted localization."""
        newest = self._odometry.newest or self._accepted_stamp
        return self._odometry.travelled - self._accepted_travel, (newest - self._accepted_stamp) * 1e-9

    def _too_long_alone(self) -> bool:
        known = self.pose(self._odometry.newest or 0)
        sigma = 0.0 if known is None else float(np.sqrt(np.linalg.eigvalsh(known[1][:2, :2])[-1]))
        return self._alone()[0] > self.config.lost_distance or sigma > self.config.lost_sigma

    def _noise(self, first: int, last: int) -> np.ndarray:
        """Return the 3x3 covariance that odometry adds between two stamps."""
        return self.config.odometry_noise(self._odometry.motion(first, last))

    def _fix_covariance(self, covariance: np.ndarray | None) -> np.ndarray:
        reported = None if covariance is None else np.asarray(covariance, dtype=float)
        if reported is None or not np.isfinite(reported).all() or np.trace(reported) <= 0:
            reported = np.eye(2) * self.config.gnss_default_sigma**2
        return at_least(reported, np.eye(2) * self.config.gnss_sigma_floor**2)
