"""Cameras that see more than a plane can hold: fisheye lenses and panoramas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cvloc_ros.geometry.camera import check_intrinsics, scale_intrinsics

_NEWTON_STEPS = 12
_NEAREST = 1e-6  # metres: a point in the camera's own place has no direction


@dataclass(frozen=True, eq=False)
class FisheyeCamera:
    """A fisheye lens after Kannala and Brandt (2006), as OpenCV's fisheye module and ROS's "equidistant" have it.

    A ray at the angle a from the optical axis lands at the distance a (1 + k1 a^2 + k2 a^4 + k3 a^6 + k4 a^8) from the
    principal point, in units of the focal length. It may come from beside or behind the camera.

    Attributes:
        width: pixels.
        height: pixels.
        K: 3x3 intrinsics, pixels.
        distortion: (k1, k2, k3, k4); all zero is the equidistant lens.

    """

    width: int
    height: int
    K: np.ndarray
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse intrinsics that cannot belong to a camera."""
        object.__setattr__(self, "K", check_intrinsics(self.width, self.height, self.K))
        if len(self.distortion) != 4:
            raise ValueError(f"expected the 4 coefficients k1 to k4 of a fisheye lens, got {len(self.distortion)}")
        object.__setattr__(self, "distortion", tuple(float(k) for k in self.distortion))

    @property
    def focal(self) -> float:
        """Pixels per radian in the image's middle."""
        return float(self.K[0, 0])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) in the optical frame.

        Returns pixels (..., 2) as (u, v), and a mask (...) of those inside the image and the lens's field.
        """
        points = np.asarray(points, dtype=float)
        aside = np.linalg.norm(points[..., :2], axis=-1)
        angle = np.arctan2(aside, points[..., 2])
        direction = points[..., :2] / np.maximum(aside, _NEAREST)[..., None]
        plane = direction * self._radius(np.minimum(angle, self._widest))[..., None]
        pixels = plane @ self.K[:2, :2].T + self.K[:2, 2]
        u, v = pixels[..., 0], pixels[..., 1]
        inside = (u >= -0.5) & (u <= self.width - 0.5) & (v >= -0.5) & (v <= self.height - 0.5)
        somewhere = np.linalg.norm(points, axis=-1) > _NEAREST
        return pixels, inside & (angle < self._widest) & somewhere

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the unit rays (..., 3) of pixels (..., 2); outside the lens's field, the nearest that it has."""
        pixels = np.asarray(pixels, dtype=float)
        plane = (pixels - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T
        radius = np.linalg.norm(plane, axis=-1)
        angle = np.minimum(radius, self._widest)
        for _ in range(_NEWTON_STEPS):
            step = (self._radius(angle) - radius) / np.maximum(self._slope(angle), 1e-3)
            angle = np.clip(angle - step, 0, self._widest)
        direction = plane / np.maximum(radius, 1e-12)[..., None]
        return np.concatenate([direction * np.sin(angle)[..., None], np.cos(angle)[..., None]], axis=-1)

    def resized(self, width: int, height: int) -> FisheyeCamera:
        """Return the camera of the image resized to ``width`` x ``height`` (pixel centres at integers)."""
        K = scale_intrinsics(self.K, width / self.width, height / self.height)
        return replace(self, width=width, height=height, K=K)

    def cropped(self, *, left: int, top: int, width: int, height: int) -> FisheyeCamera:
        """Return the camera of the image cropped to a box; the box may reach beyond the image."""
        K = self.K.copy()
        K[0, 2] -= left
        K[1, 2] -= top
        return replace(self, width=width, height=height, K=K)

    def _radius(self, angle: np.ndarray) -> np.ndarray:
        k1, k2, k3, k4 = self.distortion
        square = angle**2
        return angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))

    def _slope(self, angle: np.ndarray) -> np.ndarray:
        k1, k2, k3, k4 = self.distortion
        square = angle**2
        return 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))

    @cached_property
    def _widest(self) -> float:
        """Angle up to which the polynomial grows; beyond it the image shows nothing that it explains."""
        angle = np.linspace(0, np.pi, 2001)
        falling = self._slope(angle) <= 0
        return float(angle[falling.argmax()] if falling.any() else np.pi)


@dataclass(frozen=True)
class EquirectangularCamera:
    """A full panorama: columns are azimuths, rows elevations, and its middle looks along the optical axis (z).

    The width spans 360 degrees, from behind over the left, the front and the right; the height spans 180 degrees.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse what is no full panorama."""
        if self.width < 2 or self.width != 2 * self.height:
            raise ValueError(
                f"expected an equirectangular panorama twice as wide as high, got {self.width} x {self.height}: pad "
                "it with black rows to 180 degrees"
            )

    @property
    def focal(self) -> float:
        """Pixels per radian in the image's middle."""
        return self.width / (2 * np.pi)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) in the optical frame.

        Returns pixels (..., 2) as (u, v), and a mask (...) of those that have a direction: it sees all round.
        """
        x, y, z = np.moveaxis(np.asarray(points, dtype=float), -1, 0)
        level = np.hypot(x, z)
        u = self.width / 2 + self.focal * np.arctan2(x, z) - 0.5
        v = self.height / 2 + self.focal * np.arctan2(y, level) - 0.5
        return np.stack([u, v], axis=-1), np.hypot(level, y) > _NEAREST

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the unit rays (..., 3) of pixels (..., 2)."""
        pixels = np.asarray(pixels, dtype=float)
        azimuth = (pixels[..., 0] + 0.5 - self.width / 2) / self.focal
        down = (pixels[..., 1] + 0.5 - self.height / 2) / self.focal
        return np.stack([np.cos(down) * np.sin(azimuth), np.sin(down), np.cos(down) * np.cos(azimuth)], axis=-1)

    def resized(self, width: int, height: int) -> EquirectangularCamera:
        """Return the camera of the image resized to ``width`` x ``height``."""
        return EquirectangularCamera(width, height)
