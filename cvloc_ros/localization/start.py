"""How a track begins: the heading from motion between fixes, and localizations that confirm one another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.pose_filter import transport

_CHI2_3DOF_99 = 11.345


@dataclass(frozen=True, eq=False)
class Fix:
    """A GNSS fix next to odometry: the antenna in the odom frame (2,), in the map (2,), and its covariance 2x2."""

    stamp: int
    odom: np.ndarray
    map: np.ndarray
    covariance: np.ndarray


def spread(fixes: Sequence[Fix]) -> float:
    """Return the largest distance, in metres of odometry, between the newest fix and another one."""
    return max((float(np.linalg.norm(fix.odom - fixes[-1].odom)) for fix in fixes), default=0.0)


def align(fixes: Sequence[Fix], *, relative_sigma: float) -> tuple[SE2, np.ndarray, np.ndarray]:
    """Lay the odometry's track onto the track of the fixes.

    Returns ``T_map_odom``, the fixes' centre in the odom frame (2,), and the 3x3 covariance of (east, north, yaw)
    there. A bias that all fixes share moves the track but does not turn it: the position keeps the full covariance
    of a fix, and the heading's comes from ``relative_sigma`` (or the fit's residual, if larger) over the extent.
    """
    odom = np.stack([fix.odom for fix in fixes])
    position = np.stack([fix.map for fix in fixes])
    odom_centre, map_centre = odom.mean(axis=0), position.mean(axis=0)
    a, b = odom - odom_centre, position - map_centre
    yaw = float(np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))
    rotation = SE2(0.0, 0.0, yaw).rotation()
    residual = float(np.sqrt(((b - a @ rotation.T) ** 2).sum(axis=1).mean() / 2))
    sigma = max(relative_sigma, residual)
    # Fixes of one second share much of their error, so they do not average it out: count one a second.
    seconds = 1 + (fixes[-1].stamp - fixes[0].stamp) * 1e-9
    independent = min(1.0, seconds / len(fixes))
    yaw_variance = sigma**2 / max(float((a**2).sum()) * independent, 1e-9)
    origin = map_centre - rotation @ odom_centre
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = np.mean([fix.covariance for fix in fixes], axis=0)
    covariance[2, 2] = yaw_variance
    return SE2(float(origin[0]), float(origin[1]), yaw), odom_centre, covariance


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

    def __init__(self, keep: int, noise: Callable[[int, int], np.ndarray]) -> None:
        """Remember the last ``keep``; ``noise(first, last)`` is odometry's 3x3 error between two stamps."""
        self._kept: deque[Sighting] = deque(maxlen=keep)
        self._noise = noise

    def add(self, sighting: Sighting) -> None:
        """Remember one more."""
        self._kept.append(sighting)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def agreed(self, count: int, *, distance: float) -> tuple[SE2, np.ndarray] | None:
        """Return the pose on which ``count`` of the last localizations agree, carried to the newest.

        They have to lie ``distance`` metres apart in all: images of one place prove nothing. The covariance is not
        divided by their number, because neighbouring frames share their errors. None if too few agree.
        """
        newest = self._kept[-1]
        window = list(self._kept)[-(count + count // 2) :]
        residuals, covariances, apart = [], [], 0.0
        for sighting in window:
            step = sighting.T_odom_base.inverse() @ newest.T_odom_base
            carried = sighting.T_map_base @ step
            A = transport(np.array([carried.x - sighting.T_map_base.x, carried.y - sighting.T_map_base.y]))
            covariance = A @ sighting.covariance @ A.T + self._noise(sighting.stamp, newest.stamp)
            residual = carried.vector() - newest.T_map_base.vector()
            residual[2] = wrap_angle(residual[2])
            if residual @ np.linalg.solve(covariance + newest.covariance, residual) < _CHI2_3DOF_99:
                residuals.append(residual)
                covariances.append(covariance)
                apart = max(apart, float(np.hypot(step.x, step.y)))
        if len(residuals) < count or apart < distance:
            return None
        weights = [np.linalg.inv(covariance) for covariance in covariances]
        mean = np.linalg.solve(sum(weights), sum(W @ r for W, r in zip(weights, residuals, strict=True)))
        base = newest.T_map_base
        fused = SE2(float(base.x + mean[0]), float(base.y + mean[1]), float(wrap_angle(base.yaw + mean[2])))
        return fused, len(weights) * np.linalg.inv(sum(weights))
