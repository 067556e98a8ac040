"""Rigid motions of the ground plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def wrap_angle(angle):
    """Wrap an angle (float or array, radians) into [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@dataclass(frozen=True)
class SE2:
    """A pose ``T_a_b``: where frame b sits in frame a. ``x``, ``y`` in metres, ``yaw`` in radians, counter-clockwise.

    Poses compose as the names read: ``T_map_base = T_map_odom @ T_odom_base``.
    """

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0

    def __matmul__(self, other: SE2) -> SE2:
        """Compose: ``T_a_b @ T_b_c`` is ``T_a_c``."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return SE2(
            float(self.x + c * other.x - s * other.y),
            float(self.y + s * other.x + c * other.y),
            float(wrap_angle(self.yaw + other.yaw)),
        )

    def inverse(self) -> SE2:
        """Return ``T_b_a``."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return SE2(float(-c * self.x - s * self.y), float(s * self.x - c * self.y), float(wrap_angle(-self.yaw)))

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) in frame b to frame a."""
        return np.asarray(points) @ self.rotation().T + np.array([self.x, self.y])

    def rotation(self) -> np.ndarray:
        """Return the 2x2 rotation of frame b seen from frame a."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s], [s, c]])

    def vector(self) -> np.ndarray:
        """Return (x, y, yaw) as an array of 3."""
        return np.array([self.x, self.y, self.yaw])

    @staticmethod
    def from_matrix(T: np.ndarray) -> SE2:
        """Drop a 4x4 rigid transform to the ground plane: its x, y and the heading of its x axis."""
        return SE2(float(T[0, 3]), float(T[1, 3]), float(np.arctan2(T[1, 0], T[0, 0])))

    def matrix(self) -> np.ndarray:
        """Return the pose as a 4x4 rigid transform with z = 0."""
        T = np.eye(4)
        T[:2, :2] = self.rotation()
        T[:2, 3] = self.x, self.y
        return T
