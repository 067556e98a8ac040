"""Recent odometry: where the vehicle was in the ``odom`` frame at any stamp, and how far it travelled."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle

_BASELINE = 20_000_000  # ns over which a velocity is taken: of two messages in a burst, their step tells nothing


class Motion(NamedTuple):
    """How much a vehicle moved between two stamps; all parts are at least 0."""

    distance: float  # metres along the path
    turned: float  # radians, every turn counted as positive
    seconds: float


class OdometryBuffer:
    """``T_odom_base`` of the last seconds, interpolated between messages and extrapolated a little past the newest."""

    def __init__(self, *, seconds: float, extrapolation: float, gap: float) -> None:
        """Keep ``seconds`` of it, extrapolate by ``extrapolation`` and interpolate over ``gap`` seconds at most."""
        self._gap = round(gap * 1e9)
        self._span = round(seconds * 1e9)
        self._reach = round(extrapolation * 1e9)
        self._stamps: list[int] = []
        self._poses: list[SE2] = []
        self._distance: list[float] = []  # metres since the first message
        self._turned: list[float] = []  # radians since the first message

    def add(self, stamp: int, T_odom_base: SE2) -> bool:
        """Append a message; return False, and leave it out, if it is not newer than the newest."""
        if self._stamps and stamp <= self._stamps[-1]:
            return False
        distance = turned = 0.0
        if self._poses:
            last = self._poses[-1]
            distance = self._distance[-1] + float(np.hypot(T_odom_base.x - last.x, T_odom_base.y - last.y))
            turned = self._turned[-1] + abs(float(wrap_angle(T_odom_base.yaw - last.yaw)))
        self._stamps.append(stamp)
        self._poses.append(T_odom_base)
        self._distance.append(distance)
        self._turned.append(turned)
        if self._stamps[0] < stamp - 2 * self._span:  # prune half at a time, so that adding stays cheap
            old = bisect_right(self._stamps, stamp - self._span)
            for column in (self._stamps, self._poses, self._distance, self._turned):
                del column[:old]
        return True

    @property
    def newest(self) -> int | None:
        """Stamp of the newest message, nanoseconds."""
        return self._stamps[-1] if self._stamps else None

    @property
    def oldest(self) -> int | None:
        """Stamp of the oldest message that is kept, nanoseconds."""
        return self._stamps[0] if self._stamps else None

    @property
    def travelled(self) -> float:
        """Metres travelled since the first message."""
        return self._distance[-1] if self._distance else 0.0

    def travelled_at(self, stamp: int) -> float:
        """Metres travelled from the first message to a stamp; stamps beyond what is kept count as its ends."""
        return self._along(self._distance, stamp)

    def at(self, stamp: int) -> SE2 | None:
        """Return ``T_odom_base`` at a stamp; None in a gap, and outside of what is kept and may be extrapolated."""
        place = self._place(stamp)
        if place is None:
            return None
        first, second, part = place
        if 0 < part < 1 and self._stamps[second] - self._stamps[first] > self._gap:
            return None
        # Moving along the step in its own frame keeps an extrapolation pointing where the vehicle was heading.
        step = self._poses[first].inverse() @ self._poses[second]
        if part <= 1:
            return self._poses[first] @ SE2(part * step.x, part * step.y, part * step.yaw)
        return self._poses[second] @ SE2((part - 1) * step.x, (part - 1) * step.y, (part - 1) * step.yaw)

    def missing_at(self, stamp: int | None) -> str:
        """Say, for people, why there is no pose at a stamp; empty if there is one."""
        if not self._stamps or stamp is None:
            return "odometry: no message yet"
        if self.at(stamp) is not None:
            return ""
        gap = (stamp - self._stamps[-1]) * 1e-9
        if gap > 0:
            return f"odometry at the image's stamp: the newest message is {gap:.1f} s older"
        return f"odometry at the image's stamp, {-gap:.1f} s before the newest message: none is kept from then"

    def motion(self, first: int, last: int) -> Motion:
        """Return the motion between two stamps, in either order; stamps beyond the buffer count as its ends."""
        low, high = min(first, last), max(first, last)
        distance, turned = (self._along(column, high) - self._along(column, low) for column in self._columns)
        return Motion(distance, turned, (high - low) * 1e-9)

    @property
    def _columns(self) -> tuple[list[float], list[float]]:
        return self._distance, self._turned

    def _along(self, column: list[float], stamp: int) -> float:
        if len(column) < 2:
            return 0.0
        low, high = self._stamps[0], self._stamps[-1] + self._reach
        place = self._place(min(max(stamp, low), high))
        assert place is not None
        first, second, part = place
        return column[first] + part * (column[second] - column[first])

    def _place(self, stamp: int) -> tuple[int, int, float] | None:
        """Return (first, second, part): the stamp lies ``part`` of the way from one message to another.

        Beyond the newest one (part > 1) that is the way since a message at least `_BASELINE` before it; without one,
        no velocity is known, and the vehicle stays.
        """
        stamps = self._stamps
        if not stamps or stamp < stamps[0] or stamp > stamps[-1] + self._reach:
            return None
        last = len(stamps) - 1
        if stamp < stamps[last]:
            first = bisect_right(stamps, stamp) - 1
            second = first + 1
        else:
            first, second = bisect_right(stamps, stamps[last] - _BASELINE) - 1, last
            if first < 0:
                return last, last, 0.0
        return first, second, (stamp - stamps[first]) / (stamps[second] - stamps[first])
