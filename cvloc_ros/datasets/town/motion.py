"""Where a vehicle truly is along a drive: it follows a route at the speed that the turns allow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.events import TruthEvent
from cvloc_ros.geometry import SE2, wrap_angle

SECOND = 1_000_000_000  # nanoseconds
EPOCH = 1_750_000_000 * SECOND  # June 2025: a stamp that every tool takes for real

_RATE = 100.0  # poses a second, interpolated between
_SPACING = 0.25  # metres between the points at which the speed is planned
_SIDE_ACCELERATION = 2.0  # m/s² in turns
_ACCELERATION, _BRAKING = 1.2, 1.8  # m/s²
_MIN_SPEED = 1.5  # m/s
_PATH_SMOOTHING = 1.5  # metres: no vehicle turns on a point


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The true motion, to be asked at any stamp within it.

    Attributes:
        stamps: (N,) int64 nanoseconds, rising.
        poses: (N, 3) x m, y m and yaw rad in the map; yaw does not wrap.
        twists: (N, 3) forward and leftward m/s and yaw rate rad/s.

    """

    stamps: np.ndarray
    poses: np.ndarray
    twists: np.ndarray

    @property
    def distance(self) -> float:
        """Metres driven."""
        return float(np.hypot(*np.diff(self.poses[:, :2], axis=0).T).sum())

    def every(self, seconds: float) -> np.ndarray:
        """Return the stamps (M,) of something that happens every so many seconds from the start."""
        period = round(seconds * SECOND)
        return np.arange(self.stamps[0], self.stamps[-1] + 1, period, dtype=np.int64)

    def poses_at(self, stamps: np.ndarray) -> np.ndarray:
        """Return the poses (M, 3) at stamps (M,); yaw does not wrap."""
        return self._interpolated(stamps, self.poses)

    def at(self, stamp: int) -> TruthEvent:
        """Return the true pose and twist at a stamp."""
        stamps = np.array([stamp])
        x, y, yaw = self.poses_at(stamps)[0]
        pose = SE2(float(x), float(y), float(wrap_angle(yaw)))
        return TruthEvent(int(stamp), pose, self._interpolated(stamps, self.twists)[0])

    def _interpolated(self, stamps: np.ndarray, values: np.ndarray) -> np.ndarray:
        since, known = stamps - self.stamps[0], self.stamps - self.stamps[0]  # small enough to be exact as floats
        return np.stack([np.interp(since, known, column) for column in values.T], axis=-1)


def follow(route: np.ndarray, *, duration: float | None, cruise: float) -> Trajectory:
    """Return the motion of a vehicle along a route (N, 2) that slows down for turns, from `EPOCH` on.

    Without a duration (seconds) it drives the whole route.

    Raises:
        ValueError: the route ends before the duration.

    """
    path = _smoothed(_resampled(route, _SPACING), _PATH_SMOOTHING / _SPACING)
    heading = np.unwrap(np.arctan2(*np.gradient(path, axis=0).T[::-1]))
    step = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(step)])
    bend = np.abs(np.gradient(heading, along))

    speed = np.clip(np.sqrt(_SIDE_ACCELERATION / np.maximum(bend, 1e-6)), _MIN_SPEED, cruise)
    for i in range(1, len(speed)):
        speed[i] = min(speed[i], np.sqrt(speed[i - 1] ** 2 + 2 * _ACCELERATION * step[i - 1]))
    for i in range(len(speed) - 2, -1, -1):
        speed[i] = min(speed[i], np.sqrt(speed[i + 1] ** 2 + 2 * _BRAKING * step[i]))
    passed = np.concatenate([[0.0], np.cumsum(2 * step / (speed[1:] + speed[:-1]))])
    if duration is None:
        duration = float(passed[-1])
    elif passed[-1] < duration:
        raise ValueError(
            f"expected a route for {duration:.0f} s of driving, got {along[-1]:.0f} m that are driven in "
            f"{passed[-1]:.0f} s: give a longer route or a shorter duration"
        )
    seconds = np.arange(0, duration + 1e-9, 1 / _RATE)
    stamps = EPOCH + np.round(seconds * SECOND).astype(np.int64)
    poses = np.stack([np.interp(seconds, passed, column) for column in (*path.T, heading)], axis=-1)
    yaw_rate = np.gradient(poses[:, 2], 1 / _RATE)
    twists = np.stack([np.interp(seconds, passed, speed), np.zeros_like(yaw_rate), yaw_rate], axis=-1)
    return Trajectory(stamps, poses, twists)


def _resampled(route: np.ndarray, spacing: float) -> np.ndarray:
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(route, axis=0).T))])
    along = np.arange(0, length[-1], spacing)
    return np.stack([np.interp(along, length, column) for column in route.T], axis=-1)


def _smoothed(path: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian along a path (N, 2); beyond its ends it goes straight on, so that they stay where they are."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(path, ((radius, radius), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=-1)
