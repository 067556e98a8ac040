"""The tracker: odometry, GNSS and localizations become one pose with an honest covariance, at any recent stamp.

It estimates ``T_map_odom`` (3 degrees of freedom) with a Kalman filter. Odometry moves the vehicle within ``odom`` and
adds noise by distance, turn and time. A localization stamped t measures ``T_map_base(t) @ T_odom_base(t)^-1``, so that
late results need no rewinding.

Until localizations have confirmed a pose, and when they have long contradicted it, a `Search` looks for it in several
boxes an image. While there is a track, some images are matched in the largest box, to see whether they would rather be
elsewhere: `Confidence` keeps what they say.
"""

from __future__ import annotations

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.confidence import Confidence
from cvloc_ros.localization.early import Early
from cvloc_ros.localization.first_pose import FirstPose
from cvloc_ros.localization.gnss import Fix
from cvloc_ros.localization.odometry import OdometryBuffer
from cvloc_ros.localization.pose_filter import at_least
from cvloc_ros.localization.search import Search
from cvloc_ros.localization.sweep import whole_box
from cvloc_ros.localization.track import Track
from cvloc_ros.localization.tracker_config import TrackerConfig, TrackerState
from cvloc_ros.localization.types import Localization, Prior

__all__ = ["Tracker", "TrackerConfig", "TrackerState"]

_MAX_SPEED = 150.0  # m/s: a faster step is no motion
_DOUBT_EVERY = 4  # images: after so many it is asked whether the track would rather be elsewhere


class Tracker:
    """Fuses odometry, GNSS and localizations; not thread-safe (see `LocalizationSession`)."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        """Start with nothing known."""
        self.config = config or TrackerConfig()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the configuration."""
        config = self.config
        self._odometry = OdometryBuffer(
            seconds=config.odometry_buffer, extrapolation=config.odometry_extrapolation, gap=config.odometry_gap
        )
        self._early = Early(self._odometry)
        self._track = Track(config, self._odometry)
        self._given: tuple[SE2, np.ndarray] | None = None  # by set_pose before there was odometry
        self._first_pose = FirstPose(config, self._track.noise)
        self._search = Search(config, self._track.noise)
        self._confidence = Confidence(config)
        self._images = 0
        self._from_fixes = False  # the pose is the first one, so that more fixes may improve its heading
        self.last_rejection = ""

    def add_odometry(self, stamp: int, T_odom_base: SE2) -> None:
        """Take in odometry, ``T_odom_base`` in time order; an older stamp is ignored (see `StampOrder`).

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
        elif newest is not None:
            self._track.move(newest, stamp, T_odom_base)
        self._early.release()
        known = self.pose(stamp) if self._confidence.confirmed else None
        if known is not None and self._confidence.too_long_alone(self._odometry.travelled, known[1]):
            self._lose()

    def add_gnss(
        self,
        stamp: int,
        position: np.ndarray,
        covariance: np.ndarray | None = None,
        lever_arm: tuple[float, float] | np.ndarray = (0.0, 0.0),
    ) -> None:
        """Take in a fix, once there is odometry at its stamp; ignored if it is not finite.

        Args:
            stamp: nanoseconds.
            position: the antenna in the map, (2,) metres east and north.
            covariance: 2x2 in metres squared; None or zeros if unknown.
            lever_arm: the antenna in base_link, (2,) metres forward and left.

        """
        position, arm = np.asarray(position, dtype=float), np.asarray(lever_arm, dtype=float)
        if not np.isfinite(position).all():
            return
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None:
            self._early.put("fixes", stamp, lambda: self.add_gnss(stamp, position, covariance, arm))
            return
        fix = Fix(stamp, T_odom_base.apply(arm), position, self.config.fix_noise(covariance))
        if not self._first_pose.add_fix(fix):
            return
        if (self._track.filter is None or self._from_fixes) and self._start_from_fixes(stamp):
            return
        if self._track.filter is None:
            return
        metres, contradiction = self._track.take_fix(stamp, T_odom_base, arm, position, fix.covariance)
        # Images that fit are worth more than fixes, but for absurd distances; without them fixes are.
        seen = self._confidence.confirmed and self._confidence.supported(stamp, self._odometry.travelled_at(stamp))
        far = metres > self.config.gnss_veto if seen else contradiction > 1
        if self._first_pose.contradicts(stamp, far):
            if self._confidence.confirmed:
                self._lose()
            self._start_from_fixes(stamp)

    def add_heading(self, stamp: int, yaw: float, sigma: float) -> None:
        """Take in the absolute heading of an IMU: it may start a track next to a fix, and afterwards weighs little.

        As with fixes, odometry at its stamp is waited for.

        Args:
            stamp: nanoseconds.
            yaw: of base_link, radians counter-clockwise from east.
            sigma: its standard deviation, radians; never taken for less than ``imu_sigma_floor``.

        """
        if not np.isfinite([yaw, sigma]).all():
            return
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None:
            self._early.put("headings", stamp, lambda: self.add_heading(stamp, yaw, sigma))
            return
        sigma = max(float(sigma), np.radians(self.config.imu_sigma_floor))
        self._first_pose.add_heading(stamp, float(wrap_angle(yaw - T_odom_base.yaw)), sigma)
        if self._track.filter is None:
            self._start_from_fixes(stamp)
        else:
            self._track.take_heading(stamp, T_odom_base, yaw, sigma)

    def set_pose(self, stamp: int, T_map_base: SE2, covariance: np.ndarray) -> None:
        """Start again from a pose that someone knows, at a stamp (or at the newest odometry, if there is none then).

        Args:
            stamp: nanoseconds.
            T_map_base: the pose.
            covariance: 3x3 over (east m, north m, yaw rad).

        """
        if self._odometry.at(stamp) is None:
            stamp = self._odometry.newest or 0
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None:
            self._given = T_map_base, covariance
            return
        self._search.hypotheses.clear()
        self._start(stamp, T_map_base, covariance)
        self._search.around(T_map_base, covariance, T_odom_base, wide=True)

    def relocalize(self) -> None:
        """Doubt the pose: search around it as after a loss, but keep odometry, fixes and the pose until then."""
        self._search.hypotheses.clear()
        if self._track.filter is not None:
            self._lose()

    def add_localization(self, localization: Localization) -> bool:
        """Take in what came of one of `priors`, accepted or not; False, with `last_rejection`, if it is not used."""
        stamp = localization.stamp
        T_odom_base = self._odometry.at(stamp)
        self.last_rejection = localization.reason
        if T_odom_base is None:
            self.last_rejection = "too_old"
            return False
        self._images += 1
        travelled = self._odometry.travelled_at(stamp)
        sure = self._confidence.confirmed
        self._search.add(localization, T_odom_base, travelled, lost=not sure)
        if sure and self._follow(localization, T_odom_base, travelled):
            return True
        found = self._search.overruling(self._confidence.log_odds) if sure else self._search.found()
        if found is not None:
            if sure and self._track.filter is not None:
                odds = self._confidence.log_odds
                self._search.hypotheses.keep(self._track.filter, stamp, log_odds=odds, travelled=travelled)
            self._start(stamp, *found.filter.pose_at(T_odom_base))
            self._confidence.confirm(stamp, travelled)
            if localization.accepted and found.fits(localization, T_odom_base):
                return True
        elif self._confidence.refuted:
            self._lose()
        elif not sure and self._search.round_done:
            self._search.again(*self._about(T_odom_base), T_odom_base)
        if localization.accepted:
            self.last_rejection = "inconsistent_with_track" if sure else "unconfirmed"
        return False

    def _follow(self, localization: Localization, T_odom_base: SE2, travelled: float) -> bool:
        """Weigh the confirmed track by a localization, and take it in if it was accepted and fits."""
        known = self._track.pose(localization.stamp)
        assert known is not None
        self._confidence.weigh(localization, *known, travelled)
        self._search.hypotheses.keep_rivals(known[0], T_odom_base)
        fits = localization.accepted and self._track.take_localization(localization, T_odom_base, travelled)
        self._confidence.note(fits, localization.stamp, travelled)
        if fits:
            self.last_rejection = ""
        return fits

    @property
    def hypotheses(self) -> int:
        """How many places are under consideration; while there is a track, those that contradict it."""
        return len(self._search.hypotheses)

    @property
    def T_map_odom(self) -> SE2 | None:
        """The odom frame in the map; None while the pose is unknown."""
        return None if self._track.filter is None else self._track.filter.T_map_odom

    def pose(self, stamp: int) -> tuple[SE2, np.ndarray] | None:
        """Return ``T_map_base`` and its 3x3 covariance at a stamp; None if unknown (see `missing_at`)."""
        return self._track.pose(stamp)

    def priors(self, stamp: int) -> list[Prior]:
        """Return the boxes in which to search the image of a stamp: none, one, or two while a pose is sought."""
        T_odom_base = self._odometry.at(stamp)
        if T_odom_base is None:
            return []
        known = self.pose(stamp) if self._confidence.confirmed else None
        if known is None:
            return self._search.priors(T_odom_base, self._odometry.travelled_at(stamp))
        every = _DOUBT_EVERY if self.hypotheses == 0 else _DOUBT_EVERY // 2
        if self._images % every == 0:
            return [whole_box(known[0], self._images // every)]
        position, heading = self.config.prior_position_floor, np.radians(self.config.prior_heading_floor)
        return [Prior(known[0], at_least(known[1], np.diag([position, position, heading]) ** 2))]

    @property
    def state(self) -> TrackerState:
        """How far the tracker has come."""
        newest = self._odometry.newest
        state = self._confidence.state(newest or 0, self._odometry.travelled)
        if state is not None:
            return state
        if self._track.filter is None and (newest is None or not self._first_pose.has_fix):
            return TrackerState.WAITING
        return TrackerState.INITIALIZING

    @property
    def waiting_for(self) -> str:
        """What would bring the tracker further, for people; empty while TRACKING."""
        newest = self._odometry.newest
        missing = self.missing_at(newest)
        if missing:
            return missing
        if self._confidence.confirmed:
            return self._confidence.doubt(newest or 0, self._odometry.travelled)
        return (
            f"localizations: {self.config.confirmations} have to agree on one of {self.hypotheses} places over "
            f"{self.config.confirmation_distance:g} m of travel before the track starts"
        )

    @property
    def gnss_complaint(self) -> str:
        """Why the newest fix was not believed, or fixes are lost, for people; empty if all is well."""
        return self._first_pose.complaint or self._early.complaint("fixes")

    @property
    def imu_complaint(self) -> str:
        """Why headings are lost, for people; empty if none are."""
        return self._early.complaint("headings")

    def missing_at(self, stamp: int | None) -> str:
        """Say which input is missing for a pose at a stamp; empty if there is a pose."""
        missing = self._odometry.missing_at(stamp)
        if missing:
            return missing
        return "" if self._track.filter is not None else self._first_pose.missing(self.gnss_complaint)

    def _start(self, stamp: int, T_map_base: SE2, covariance: np.ndarray) -> None:
        """Begin a track at a stamp; nothing has confirmed it yet."""
        self._track.start(stamp, T_map_base, covariance)
        self._confidence.restart()
        self._from_fixes = False

    def _start_from_fixes(self, stamp: int) -> bool:
        """Begin a track from fixes if the heading is known, too; until then images are asked, in all headings."""
        T_odom_base, first = self._odometry.at(stamp), not self._from_fixes
        if T_odom_base is None or not self._first_pose.has_fix:
            return False
        known = self._first_pose.pose(stamp, T_odom_base)
        if known is not None:
            self._start(stamp, *known)
            self._from_fixes = True
        if not self._search.begun or (first and known is not None):
            self._search.around(*self._about(T_odom_base), T_odom_base, wide=False)
        return known is not None

    def _about(self, T_odom_base: SE2) -> tuple[SE2, np.ndarray]:
        """Return the pose around which to search, and its 3x3 covariance: as good as it is known."""
        track = self._track.filter
        return self._first_pose.place(T_odom_base) if track is None else track.pose_at(T_odom_base)

    def _lose(self) -> None:
        self._confidence.lose()
        T_odom_base = self._odometry.at(self._odometry.newest or 0)
        assert T_odom_base is not None
        self._search.around(*self._about(T_odom_base), T_odom_base, wide=True)
