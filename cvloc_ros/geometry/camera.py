"""What any camera can do, pinhole cameras with lens distortion, and where cameras sit on the vehicle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np

# Optical frame (x right, y down, z forward) of a camera that looks along base_link's x axis.
_R_BASE_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_DISTORTION_SIZES = (0, 4, 5, 8, 12, 14)  # what OpenCV's pinhole model (ROS plumb_bob, rational_polynomial) takes
_UNDISTORT_STEPS = 20
_ROUNDING = 0.01  # by how much R^T R of a rotation may miss the identity
_WIDEST = 10.0  # tangent of the largest view angle that is looked at, 84 degrees


def camera_extrinsics(
    *, height: float, x: float = 0.0, y: float = 0.0, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> np.ndarray:
    """Return ``T_base_camera`` (4x4) of a camera mounted ``height`` metres above base_link's ground.

    ``x`` forward and ``y`` left in metres; ``yaw`` to the left, ``pitch`` down and ``roll`` to the right are
    positive, in radians, applied as Rz(yaw) Ry(pitch) Rx(roll) (REP-103).
    """
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    Rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    Ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    Rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    T = np.eye(4)
    T[:3, :3] = Rz @ Ry @ Rx @ _R_BASE_OPTICAL
    T[:3, 3] = x, y, height
    return T


class Camera(Protocol):
    """A lens and an image size: where points of the optical frame (x right, y down, z forward) appear."""

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def focal(self) -> float:
        """Pixels per radian in the image's middle."""
        ...

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) to pixels (..., 2) as (u, v), and a mask (...) of those that the image shows."""
        ...

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the optical-frame rays (..., 3), of any length, of pixels (..., 2)."""
        ...

    def __hash__(self) -> int: ...

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of the image resized to ``width`` x ``height`` (pixel centres at integers)."""
        ...


def is_rotation(R: np.ndarray) -> np.ndarray:
    """Whether matrices (..., 3, 3) are rotations, as far as numbers of a few digits can be: bool (...)."""
    off = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max(axis=(-2, -1))
    return (off < _ROUNDING) & (np.linalg.det(R) > 0)


def check_intrinsics(width: int, height: int, K: np.ndarray) -> np.ndarray:
    """Return the intrinsic matrix (3x3) as floats; raise ValueError if it or the size cannot belong to a camera."""
    K = np.asarray(K, dtype=float)
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise ValueError(f"expected a 3x3 intrinsic matrix with positive focal lengths, got {K.tolist()}")
    if width < 1 or height < 1:
        raise ValueError(f"expected a positive image size, got {width} x {height}")
    return K


def scale_intrinsics(K: np.ndarray, sx: float, sy: float) -> np.ndarray:
    """Return the intrinsic matrix of an image that is scaled by ``sx`` and ``sy`` (pixel centres at integers)."""
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]]) @ K


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """Intrinsics of a pinhole camera: ``K`` (3x3, pixels), image size, and OpenCV distortion coefficients.

    ``distortion`` is empty for a rectified image, else (k1 k2 p1 p2 [k3 [k4 k5 k6 …]]).
    """

    width: int
    height: int
    K: np.ndarray
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse intrinsics that cannot belong to a camera."""
        object.__setattr__(self, "K", check_intrinsics(self.width, self.height, self.K))
        if len(self.distortion) not in _DISTORTION_SIZES:
            raise ValueError(f"expected {_DISTORTION_SIZES} distortion coefficients, got {len(self.distortion)}")
        object.__setattr__(self, "distortion", tuple(float(d) for d in self.distortion))

    @classmethod
    def from_focal(
        cls, width: int, height: int, focal: float, *, cx: float | None = None, cy: float | None = None
    ) -> PinholeCamera:
        """Build a camera with square pixels; the principal point is the image's centre unless given."""
        cx = (width - 1) / 2 if cx is None else cx
        cy = (height - 1) / 2 if cy is None else cy
        return cls(width, height, np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]]))

    @property
    def focal(self) -> float:
        """Pixels per radian in the image's middle."""
        return float(self.K[0, 0])

    @property
    def is_distorted(self) -> bool:
        """Whether any distortion coefficient is not zero."""
        return any(self.distortion)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (..., 3) in the optical frame.

        Returns pixels (..., 2) as (u, v), and a mask (...) of those in front of the camera and inside the image.
        """
        points = np.asarray(points, dtype=float)
        z = points[..., 2]
        front = z > 1e-3
        normalized = points[..., :2] / np.where(front, z, 1.0)[..., None]
        if self.is_distorted:
            normalized = self._distort(normalized)
        pixels = normalized * [self.K[0, 0], self.K[1, 1]] + self.K[:2, 2]
        pixels[..., 0] += self.K[0, 1] * normalized[..., 1]
        u, v = pixels[..., 0], pixels[..., 1]
        inside = (u >= -0.5) & (u <= self.width - 0.5) & (v >= -0.5) & (v <= self.height - 0.5)
        if self.is_distorted:  # far outside the lens's field the polynomial folds back into the image
            inside &= np.linalg.norm(points[..., :2], axis=-1) < np.abs(z) * self._fold_radius
        return pixels, front & inside

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the optical-frame rays (..., 3), with z = 1, of pixels (..., 2)."""
        pixels = np.asarray(pixels, dtype=float)
        flat = np.ascontiguousarray(pixels.reshape(-1, 1, 2))
        normalized = cv2.undistortPoints(flat, self.K, np.array(self.distortion) if self.distortion else None)
        if self.is_distorted:  # OpenCV stops after five iterations, a quarter of a pixel off in a wide lens's corners
            distorted = cv2.undistortPoints(flat, self.K, None)
            for _ in range(_UNDISTORT_STEPS):
                normalized += distorted - self._distort(normalized)
        return np.concatenate([normalized.reshape(pixels.shape), np.ones((*pixels.shape[:-1], 1))], axis=-1)

    def resized(self, width: int, height: int) -> PinholeCamera:
        """Return the camera of the image resized to ``width`` x ``height`` (pixel centres at integers)."""
        K = scale_intrinsics(self.K, width / self.width, height / self.height)
        return replace(self, width=width, height=height, K=K)

    def cropped(self, *, left: int, top: int, width: int, height: int) -> PinholeCamera:
        """Return the camera of the image cropped to a box; the box may reach beyond the image."""
        K = self.K.copy()
        K[0, 2] -= left
        K[1, 2] -= top
        return replace(self, width=width, height=height, K=K)

    def _distort(self, normalized: np.ndarray) -> np.ndarray:
        rays = np.concatenate([normalized, np.ones((*normalized.shape[:-1], 1))], axis=-1).reshape(-1, 1, 3)
        zero = np.zeros(3)
        distorted, _ = cv2.projectPoints(rays, zero, zero, np.eye(3), np.array(self.distortion))
        return distorted.reshape(normalized.shape)

    @cached_property
    def _fold_radius(self) -> float:
        """Undistorted radius (tangent of the view angle) up to which a larger angle lies farther from the centre.

        A calibrated polynomial often turns back before the image's corners, which then show nothing that it explains.
        """
        radius = np.linspace(0, _WIDEST, 1001)
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        rays = radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        distorted = np.linalg.norm(self._distort(rays), axis=-1)
        folds = (np.diff(distorted, axis=0) <= 0).any(axis=1)
        return float(radius[folds.argmax()] if folds.any() else _WIDEST)
