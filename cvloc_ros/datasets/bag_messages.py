"""From the messages of a bag to the package's types, by field names alone: no ROS installation is needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.image_decoding import RawLayout
from cvloc_ros.geometry import SE2, PinholeCamera

_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of (x, y, z, roll, pitch, yaw)
_PINHOLE_MODELS = ("", "plumb_bob", "rational_polynomial")


def stamp_of(message: Any, received: int) -> int:
    """Return the header's stamp in nanoseconds, or when the message was received if its sender set none."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec or received


def image_event(message: Any, received: int) -> ImageEvent:
    """Wrap an Image or CompressedImage without decoding it."""
    raw = RawLayout.of(message) if hasattr(message, "encoding") else None
    data = np.frombuffer(message.data, np.uint8)
    return ImageEvent(stamp_of(message, received), frame_name(message.header.frame_id), data, raw)


def fix_event(message: Any, received: int) -> FixEvent | None:
    """Read a NavSatFix; None if the receiver had no fix."""
    if message.status.status < 0 or not np.isfinite([message.latitude, message.longitude]).all():
        return None
    covariance = np.array(message.position_covariance, dtype=float).reshape(3, 3)[:2, :2]
    known = message.position_covariance_type != 0 and np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()
    return FixEvent(
        stamp_of(message, received),
        message.latitude,
        message.longitude,
        message.altitude,
        covariance if known else None,
        frame_name(message.header.frame_id),
    )


def odometry_event(message: Any, received: int) -> OdometryEvent:
    """Read an Odometry message, dropped to the ground plane."""
    return OdometryEvent(
        stamp_of(message, received),
        _pose(message.pose.pose),
        _planar_covariance(message.pose.covariance),
        _twist(message.twist.twist),
        _planar_covariance(message.twist.covariance),
    )


def truth_event(message: Any, received: int) -> TruthEvent:
    """Read an Odometry message whose pose is the truth in the map frame."""
    return TruthEvent(stamp_of(message, received), _pose(message.pose.pose), _twist(message.twist.twist))


def camera_of(message: Any, *, rectified: bool) -> PinholeCamera:
    """Read a CameraInfo: the camera of the images that it comes with, after their region of interest and binning.

    Args:
        message: a CameraInfo; a ROS 1 one has the same fields in capitals.
        rectified: the images are rectified: P without distortion instead of K with it.

    Raises:
        ValueError: the camera is not calibrated, or is no pinhole camera.

    """
    upper = hasattr(message, "K")
    K, P, d = (getattr(message, name.upper() if upper else name) for name in ("k", "p", "d"))
    matrix = np.reshape(P, (3, 4))[:, :3] if rectified else np.reshape(K, (3, 3))
    if matrix[0, 0] == 0:
        raise ValueError(
            f"expected a calibrated camera, got {'P' if rectified else 'K'} = 0: record the bag with the camera's "
            "calibration loaded"
        )
    distortion = () if rectified or not np.any(d) else tuple(float(k) for k in d)
    if distortion and message.distortion_model not in _PINHOLE_MODELS:
        raise ValueError(
            f"expected the distortion model plumb_bob or rational_polynomial, got '{message.distortion_model}': "
            "rectify the images (image_proc) and use image_rect"
        )
    camera = PinholeCamera(message.width, message.height, np.array(matrix, dtype=float), distortion)
    roi = message.roi
    if roi.width and roi.height:
        camera = camera.cropped(left=roi.x_offset, top=roi.y_offset, width=roi.width, height=roi.height)
    bins = max(message.binning_x, 1), max(message.binning_y, 1)
    return camera.resized(camera.width // bins[0], camera.height // bins[1]) if bins != (1, 1) else camera


def frame_name(frame_id: str) -> str:
    """Return a frame's name without the leading slash that old recordings carry."""
    return frame_id.lstrip("/")


class TransformTree:
    """The static transforms of a bag."""

    def __init__(self, messages: Iterable[Any]) -> None:
        """Collect the transforms of TFMessages; the last of a child frame counts."""
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        for message in messages:
            for transform in message.transforms:
                T = _matrix(transform.transform.translation, transform.transform.rotation)
                self._parents[frame_name(transform.child_frame_id)] = (frame_name(transform.header.frame_id), T)

    @property
    def frames(self) -> list[str]:
        """All frames that occur, sorted."""
        return sorted({*self._parents, *(parent for parent, _ in self._parents.values())})

    def lookup(self, target: str, source: str) -> np.ndarray | None:
        """Return ``T_target_source`` (4x4) through any chain of frames, None if they are not connected."""
        to_target, to_source = self._chain(target), self._chain(source)
        common = next((frame for frame in to_source if frame in to_target), None)
        if common is None:
            return None
        return np.linalg.inv(to_target[common]) @ to_source[common]

    def _chain(self, frame: str) -> dict[str, np.ndarray]:
        """Return T_ancestor_frame for a frame and all its ancestors, nearest first."""
        chain = {frame: np.eye(4)}
        T = np.eye(4)
        while frame in self._parents:
            frame, T_parent_child = self._parents[frame]
            if frame in chain:
                break  # a loop: whoever recorded it has bigger problems, but we must end
            T = T_parent_child @ T
            chain[frame] = T
        return chain


def _pose(pose: Any) -> SE2:
    return SE2.from_matrix(_matrix(pose.position, pose.orientation))


def _twist(twist: Any) -> np.ndarray:
    return np.array([twist.linear.x, twist.linear.y, twist.angular.z])


def _planar_covariance(covariance: np.ndarray) -> np.ndarray | None:
    """Return the (3, 3) part over x, y, yaw; None if it is unknown (zeros, or -1 by convention)."""
    planar = np.array(covariance, dtype=float).reshape(6, 6)[_PLANAR]
    return planar if np.isfinite(planar).all() and (np.diag(planar) > 0).all() else None


def _matrix(translation: Any, rotation: Any) -> np.ndarray:
    """Return the 4x4 matrix of a translation (m) and a quaternion."""
    x, y, z, w = q = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    norm = float(q @ q)
    if not norm > 1e-12:
        raise ValueError(f"expected a unit quaternion (x, y, z, w), got {q.tolist()}")
    s = 2 / norm
    T = np.eye(4)
    T[:3, :3] = [
        [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
        [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
        [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
    ]
    T[:3, 3] = translation.x, translation.y, translation.z
    return T
