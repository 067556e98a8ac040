"""One drive being localized: the tracker and the localizer together, the same online and offline.

The ROS node and `cvloc_ros.evaluation.run` both feed a `LocalizationSession`, so that they differ in nothing but where
patches are cut, which is some centimetres off where the node has looked ahead::

    session = LocalizationSession(localizer, tracker_config=TrackerConfig())
    session.on_odometry(stamp, T_odom_base)                     # from the odometry callback
    session.on_fix(stamp, position, covariance, lever_arm)      # metres east and north: LocalFrame.to_enu
    session.set_pose(stamp, T_map_base, covariance)             # initialpose
    result = session.on_image(frame)                            # from the worker thread; takes a while
    if result.localization is None:                             # nothing was tried
        log(result.reason)                                      # "waiting for motion: heading is unknown until …"
    elif result.localization.accepted:
        publish(result.localization)
    session.look_ahead()                                        # if there is time before the next image
    session.status()                                            # state, waiting_for, T_map_odom for diagnostics and TF

Every method may be called from any thread, `on_image` and `look_ahead` from one at a time. The localizer runs outside
the lock, so that odometry and fixes never wait for it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.gate import REASONS
from cvloc_ros.localization.stamp_order import Order, StampOrder
from cvloc_ros.localization.tracker import Tracker, TrackerConfig, TrackerState
from cvloc_ros.localization.types import Frame, Localization, Prior


class LocalizesFrames(Protocol):
    """What a session needs of a localizer."""

    def localize(self, frame: Frame, prior: Prior) -> Localization:
        """Find the frame on the satellite map, starting from the prior."""
        ...

    def expect(self, prior: Prior) -> object:
        """Get ready for a frame that will have about this prior."""
        ...


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What became of one image.

    Attributes:
        localization: None if it was not tried; the better one if several places were searched. Its ``accepted`` and
            ``reason`` include the tracker's verdict.
        reason: one of the gate's and tracker's reasons, or "waiting"; empty if accepted.
        message: the same for people, e.g. "waiting for odometry"; empty if accepted.

    """

    localization: Localization | None
    reason: str
    message: str


@dataclass(frozen=True)
class SessionStatus:
    """The tracker's state at one moment.

    Attributes:
        state: see `TrackerState`.
        waiting_for: what is missing and why; empty while tracking.
        T_map_odom: None until the pose is known.
        hypotheses: places under consideration; while there is a track, those that contradict it.
        gnss_complaint: why the newest fix was not believed, or fixes are lost, for people; empty if all is well.
        imu_complaint: why headings are lost, for people; empty if none are.

    """

    state: TrackerState
    waiting_for: str
    T_map_odom: SE2 | None
    hypotheses: int = 0
    gnss_complaint: str = ""
    imu_complaint: str = ""


class LocalizationSession:
    """A tracker and a localizer that share one lock; see the module's docstring for use."""

    def __init__(self, localizer: LocalizesFrames, *, tracker_config: TrackerConfig | None = None) -> None:
        """Start with nothing known."""
        self._localizer = localizer
        self._tracker = Tracker(tracker_config or TrackerConfig())
        self._order = StampOrder()  # of odometry
        self._lock = threading.Lock()
        self._epoch = 0  # counts resets: a result that was under way when one came is of the drive before
        self._images: deque[int] = deque(maxlen=9)  # stamps of the last ones

    def on_odometry(self, stamp: int, T_odom_base: SE2) -> None:
        """Take in odometry; a jump back in time (a bag that starts again: `StampOrder`) resets the session first."""
        with self._lock:
            order = self._order.take(stamp)
            if order is Order.LEFT_OUT:
                return
            if order is Order.JUMP:
                self._reset()
                self._order.take(stamp)
            self._tracker.add_odometry(stamp, T_odom_base)

    def on_fix(
        self,
        stamp: int,
        position: np.ndarray,
        covariance: np.ndarray | None = None,
        lever_arm: tuple[float, float] | np.ndarray = (0.0, 0.0),
    ) -> None:
        """Take in a GNSS fix: see `Tracker.add_gnss`."""
        with self._lock:
            self._tracker.add_gnss(stamp, position, covariance, lever_arm)

    def set_pose(self, stamp: int, T_map_base: SE2, covariance: np.ndarray) -> None:
        """Start again from a pose that a person or another system knows: see `Tracker.set_pose`."""
        with self._lock:
            self._tracker.set_pose(stamp, T_map_base, covariance)

    def on_heading(self, stamp: int, yaw: float, sigma: float) -> None:
        """Take in the absolute heading of base_link from an IMU: see `Tracker.add_heading`."""
        with self._lock:
            self._tracker.add_heading(stamp, yaw, sigma)

    def relocalize(self) -> None:
        """Search around the last pose as after a loss; odometry and fixes are kept: see `Tracker.relocalize`."""
        with self._lock:
            self._tracker.relocalize()

    def on_image(self, frame: Frame) -> ImageResult:
        """Localize one image and let the tracker take the result in. Blocks for as long as the localizer takes."""
        with self._lock:
            epoch = self._epoch
            self._images.append(frame.stamp)
            priors = self._tracker.priors(frame.stamp)
            missing = self._tracker.missing_at(frame.stamp)
        best = ImageResult(None, "waiting", f"waiting for {missing}")
        for prior in priors:
            result = self._take(self._localizer.localize(frame, prior), epoch)
            if best.localization is None or _rank(result) > _rank(best):
                best = result
            if result.reason in ("", "reset"):
                return result
        return best

    def look_ahead(self) -> None:
        """Get ready for the next image, so that it does not wait for its satellite patch.

        It is taken to come after the shortest time between two of the last images: some may have been lost. Where that
        is longer than a pose may be predicted (``odometry_extrapolation``) nothing is done.
        """
        with self._lock:
            between = [later - earlier for earlier, later in pairwise(self._images) if later > earlier]
            priors = self._tracker.priors(self._images[-1] + min(between)) if between else []
        if priors:
            self._localizer.expect(priors[0])

    def _take(self, localization: Localization, epoch: int) -> ImageResult:
        """Let the tracker take a localization in, unless there was a reset since the epoch of its prior."""
        with self._lock:
            if epoch != self._epoch:
                reason = "reset"
            else:
                reason = "" if self._tracker.add_localization(localization) else self._tracker.last_rejection
        if reason and localization.accepted:
            localization = replace(localization, accepted=False, reason=reason)
        return ImageResult(localization, reason, REASONS.get(reason, reason))

    def pose(self, stamp: int) -> tuple[SE2, np.ndarray] | None:
        """Return the fused ``T_map_base`` and its 3x3 covariance at a stamp, or None while it is unknown."""
        with self._lock:
            return self._tracker.pose(stamp)

    def status(self) -> SessionStatus:
        """Return the tracker's state."""
        with self._lock:
            tracker = self._tracker
            return SessionStatus(
                tracker.state,
                tracker.waiting_for,
                tracker.T_map_odom,
                tracker.hypotheses,
                tracker.gnss_complaint,
                tracker.imu_complaint,
            )

    def reset(self) -> None:
        """Forget everything; results under way are discarded."""
        with self._lock:
            self._reset()

    def _reset(self) -> None:
        self._epoch += 1
        self._images.clear()
        self._order = StampOrder()
        self._tracker.reset()


def _rank(result: ImageResult) -> float:
    return -1.0 if result.localization is None else result.localization.quality
