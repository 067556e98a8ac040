"""How a track begins: the heading from motion between fixes, and localizations that confirm one another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.pose_filter import transport

_CHI2_3DOF_99 = 11.345
_SIGHTINGS = 120  # localizations that are kept
_SPACING = 0.25  # metres between them: at walking pace they still reach far enough back
_MAJORITY = 2 / 3


_FIX_AGE = 60_000_000_000  # ns for which fixes are kept


@dataclass(frozen=True, eq=False)
class Fix:
    """A GNSS fix next to odometry: the antenna in the odom frame (2,), in the map (2,), and its covariance 2x2."""

    stamp: int
    odom: np.ndarray
    map: np.ndarray
    covariance: np.ndarray


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


@dataclass(frozen=True, eq=False)
class Sighting:
    """A localization next to odometry.

    Attributes:
        stamp: the image's, nanoseconds.
        T_odom_base: odometry at the stamp.
        T_map_base: the localization.
        covariance: its 3x3 covariance.

    """

    stamp: int
    T_odom_base: SE2
    T_map_base: SE2
    covariance: np.ndarray


class Sightings:
    """The last localizations, and which of them agree with the newest under odometry."""

    def __init__(self, noise: Callable[[int, int], np.ndarray]) -> None:
        """``noise(first, last)`` is odometry's 3x3 error between two stamps."""
        self._kept: deque[Sighting] = deque(maxlen=_SIGHTINGS)
        self._noise = noise

    def add(self, sighting: Sighting) -> None:
        """Remember one more; of one place, only the first and the newest."""
        if len(self._kept) > 1:
            step = self._kept[-2].T_odom_base.inverse() @ self._kept[-1].T_odom_base
            if np.hypot(step.x, step.y) < _SPACING:
                self._kept.pop()
        self._kept.append(sighting)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def agreed(self, count: int, *, distance: float) -> tuple[SE2, np.ndarray] | None:
        """Return the pose on which the last localizations agree, carried to the newest; None if they do not.

        At least ``count``, and two thirds, of those over the last ``distance`` metres must agree with the newest:
        images of one place prove nothing, and neither does a short run of frames with one and the same error. The
        covariance is not divided by their number, because neighbouring frames share their errors.
        """
        newest = self._kept[-1]
        residuals, covariances, seen, apart = [], [], 0, 0.0
        for sighting in reversed(self._kept):
            step = sighting.T_odom_base.inverse() @ newest.T_odom_base
            carried = sighting.T_map_base @ step
            A = transport(np.array([carried.x - sighting.T_map_base.x, carried.y - sighting.T_map_base.y]))
            covariance = A @ sighting.covariance @ A.T + self._noise(sighting.stamp, newest.stamp)
            residual = carried.vector() - newest.T_map_base.vector()
            residual[2] = wrap_angle(residual[2])
            seen += 1
            if residual @ np.linalg.solve(covariance + newest.covariance, residual) < _CHI2_3DOF_99:
                residuals.append(residual)
                covariances.append(covariance)
                apart = max(apart, float(np.hypot(step.x, step.y)))
            if apart >= distance and seen >= count:
                break
        if apart < distance or len(residuals) < max(count, _MAJORITY * seen):
            return None
        weights = [np.linalg.inv(covariance) for covariance in covariances]
        mean = np.linalg.solve(sum(weights), sum(W @ r for W, r in zip(weights, residuals, strict=True)))
        base = newest.T_map_base
        fused = SE2(float(base.x + mean[0]), float(base.y + mean[1]), float(wrap_angle(base.yaw + mean[2])))
        return fused, len(weights) * np.linalg.inv(sum(weights))
