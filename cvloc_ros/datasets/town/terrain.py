"""The town's ground: a smooth, gently undulating surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_SLOPE = 0.015


@dataclass(frozen=True, eq=False)
class Terrain:
    """Height as a sum of long plane waves: wave vectors (N, 2) rad/m, amplitudes (N,) m, phases (N,) rad."""

    waves: np.ndarray
    amplitudes: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int = 4) -> Terrain:
        """Draw a terrain whose slope stays under `MAX_SLOPE`."""
        wavelength = rng.uniform(140, 420, count)
        heading = rng.uniform(0, 2 * np.pi, count)
        waves = 2 * np.pi / wavelength[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        amplitudes = rng.uniform(0.1, 0.35, count)
        steepest = float((amplitudes * 2 * np.pi / wavelength).sum())
        steepness = rng.uniform(0.2, 1.0)
        return cls(waves, amplitudes * steepness * min(1.0, MAX_SLOPE / steepest), rng.uniform(0, 2 * np.pi, count))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the height (...) in metres at points (..., 2)."""
        points = np.asarray(points)
        height = np.zeros(points.shape[:-1], points.dtype)
        for (kx, ky), amplitude, phase in zip(self.waves, self.amplitudes, self.phases, strict=True):
            height += points.dtype.type(amplitude) * np.sin(
                points[..., 0] * points.dtype.type(kx)
                + points[..., 1] * points.dtype.type(ky)
                + points.dtype.type(phase)
            )
        return height

    def attitude(self, x: float, y: float, yaw: float) -> np.ndarray:
        """Return the pose (4x4) of a vehicle on it: see `attitude_on`."""
        return attitude_on(self, x, y, yaw)


def attitude_on(height: Callable[[np.ndarray], np.ndarray], x: float, y: float, yaw: float) -> np.ndarray:
    """Return the pose (4x4) of a vehicle that stands at (x, y) and heads along ``yaw``: it pitches and rolls.

    Args:
        height: of the ground (...) in metres at points (..., 2).
        x: metres.
        y: metres.
        yaw: radians.

    """
    c, s = np.cos(yaw), np.sin(yaw)
    forward, left = np.array([c, s]), np.array([-s, c])
    here = np.array([x, y], dtype=float)
    rise = [float(height(here + d * a) - height(here - d * a)) / (2 * a) for d, a in ((forward, 1.4), (left, 0.8))]
    ex = np.array([*forward, rise[0]])
    ey = np.array([*left, rise[1]])
    ex /= np.linalg.norm(ex)
    ez = np.cross(ex, ey)
    ez /= np.linalg.norm(ez)
    T = np.eye(4)
    T[:3, :3] = np.stack([ex, np.cross(ez, ex), ez], axis=1)
    T[:3, 3] = x, y, float(height(here))
    return T
