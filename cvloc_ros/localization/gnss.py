"""GNSS fixes next to odometry: the first heading from motion, and whether the receiver moves as the vehicle does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.pose_filter import transport

_FIX_AGE = 60_000_000_000  # ns for which fixes are kept
_WATCHED = 10_000_000_000  # ns over which the ways of fixes and odometry are compared
_WATCH_SIGMAS, _WATCH_SHARE = 3.0, 0.1  # by how many of a fix's sigmas, and by which share of the way, they may differ


@dataclass(frozen=True, eq=False)
class Fix:
    """A GNSS fix next to odometry: the antenna in the odom frame (2,), in the map (2,), and its covariance 2x2."""

    stamp: int
    odom: np.ndarray
    map: np.ndarray
    covariance: np.ndarray

    def placed(self, turn: float) -> SE2:
        """Return the ``T_map_odom`` of the fix if the odom frame is turned by ``turn`` (rad) in the map."""
        shift = self.map - SE2(0.0, 0.0, turn).apply(self.odom)
        return SE2(float(shift[0]), float(shift[1]), turn)


class FixTrack:
    """The last fixes, from which a first pose is taken once the vehicle has moved."""

    def __init__(self, reach: float) -> None:
        """Keep fixes within ``reach`` metres of the newest: on a longer way, odometry's own drift would turn them."""
        self._reach = reach
        self._fixes: deque[Fix] = deque()

    def __len__(self) -> int:
        return len(self._fixes)

    def add(self, fix: Fix) -> None:
        """Append a fix and drop those that are too old or too far."""
        self._fixes.append(fix)
        while self._fixes[0].stamp < fix.stamp - _FIX_AGE or self._gap(self._fixes[0]) > self._reach:
            self._fixes.popleft()

    @property
    def middle(self) -> int:
        """The stamp half-way through the fixes, nanoseconds."""
        return (self._fixes[0].stamp + self._fixes[-1].stamp) // 2

    @property
    def extent(self) -> float:
        """The largest distance, in metres of odometry, between the newest fix and another one; 0 without fixes."""
        return max((self._gap(fix) for fix in self._fixes), default=0.0)

    def align(self, T_odom_base: SE2, *, relative_sigma: float) -> tuple[SE2, np.ndarray]:
        """Lay the odometry's track onto the track of the fixes.

        Returns ``T_map_base`` at ``T_odom_base`` and its 3x3 covariance. A bias that all fixes share moves the track
        but does not turn it: the position keeps the full covariance of a fix, and the heading's comes from
        ``relative_sigma`` (or the fit's residual, if larger) over the track's extent.
        """
        fixes = list(self._fixes)
        odom = np.stack([fix.odom for fix in fixes])
        position = np.stack([fix.map for fix in fixes])
        odom_centre, map_centre = odom.mean(axis=0), position.mean(axis=0)
        a, b = odom - odom_centre, position - map_centre
        yaw = float(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))
        rotation = SE2(0.0, 0.0, yaw).rotation()
        residual = float(np.sqrt(((b - a @ rotation.T) ** 2).sum(axis=1).mean() / 2))
        # Fixes of one second share much of their error, so they do not average it out: count one a second.
        seconds = 1 + (fixes[-1].stamp - fixes[0].stamp) * 1e-9
        leverage = float((a**2).sum()) * min(1.0, seconds / len(fixes))
        covariance = np.zeros((3, 3))
        covariance[:2, :2] = np.mean([fix.covariance for fix in fixes], axis=0)
        covariance[2, 2] = max(relative_sigma, residual) ** 2 / max(leverage, 1e-9)
        origin = map_centre - rotation @ odom_centre
        T_map_base = SE2(float(origin[0]), float(origin[1]), yaw) @ T_odom_base
        A = transport(np.array([T_map_base.x, T_map_base.y]) - map_centre)
        return T_map_base, A @ covariance @ A.T

    def _gap(self, fix: Fix) -> float:
        return float(np.linalg.norm(fix.odom - self._fixes[-1].odom))


class FixWatch:
    """Notices fixes that do not move as odometry does: a receiver can jump, or repeat its last position for ever.

    Only lengths of ways are compared, so that no heading is needed. A bias that stays, or wanders slowly, is no motion.
    """

    def __init__(self) -> None:
        """Start without fixes."""
        self._recent: deque[Fix] = deque()

    def complaint(self, fix: Fix) -> str:
        """Return what is wrong with the newest fixes, for people; empty if nothing is."""
        while self._recent and self._recent[0].stamp < fix.stamp - _WATCHED:
            self._recent.popleft()
        self._recent.append(fix)
        odom = np.linalg.norm(np.stack([other.odom for other in self._recent]) - fix.odom, axis=1)
        seen = np.linalg.norm(np.stack([other.map for other in self._recent]) - fix.map, axis=1)
        allowed = _WATCH_SIGMAS * np.sqrt(np.trace(fix.covariance) / 2) + _WATCH_SHARE * odom
        worst = int(np.argmax(np.abs(seen - odom) - allowed))
        if abs(seen[worst] - odom[worst]) <= allowed[worst]:
            return ""
        seconds = (fix.stamp - self._recent[worst].stamp) * 1e-9
        return f"moved {seen[worst]:.0f} m in {seconds:.1f} s, in which odometry moved {odom[worst]:.0f} m"
