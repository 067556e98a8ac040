"""From ROS messages to the package's types, by field names alone: a message of a bag is read like one of rclpy.

No ROS installation is needed. What cannot be used raises `ConversionError`, whose text says what came, what was
expected and what to do.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.image_decoding import ConversionError, RawLayout
from cvloc_ros.geometry import SE2, Camera, EquirectangularCamera, FisheyeCamera, PinholeCamera

_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of (x, y, z, roll, pitch, yaw)
_NO_FIX = -1  # sensor_msgs/NavSatStatus
_NOT_UNIT = 0.01  # by how much the square of a quaternion's length may miss 1, as tf2 has it
_NUMBERS = re.compile(r"\[[^\]]*\]|(?<![\w.])-?(\d+(\.\d*)?(e[-+]?\d+)?|nan|inf)(?![\w])")
_PINHOLE_MODELS = ("", "plumb_bob", "rational_polynomial")
_FISHEYE_MODEL, _PANORAMA_MODEL = "equidistant", "equirectangular"  # the latter is not one of ROS's own


def stamp_of(message: Any, received: int) -> int:
    """Return the header's stamp in nanoseconds, or when the message was received if its sender set none."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec or received


def image_event(message: Any, received: int) -> ImageEvent:
    """Wrap an Image or CompressedImage without decoding it."""
    raw = RawLayout.of(message) if hasattr(message, "encoding") else None
    data = np.frombuffer(message.data, np.uint8)
    return ImageEvent(stamp_of(message, received), frame_name(message.header.frame_id), data, raw)


def fix_event(message: Any, received: int = 0) -> FixEvent:
    """Read a NavSatFix.

    Since Jazzy a status that nobody has set reads "unknown" (-2). Such a fix is taken where something else vouches for
    it: a covariance beside the position.

    Raises:
        ConversionError: the receiver had no fix, or the position is none.

    """
    status, latitude, longitude = message.status.status, message.latitude, message.longitude
    if status == _NO_FIX:
        raise ConversionError("the receiver says that it has no fix (status.status -1)")
    if not np.isfinite([latitude, longitude]).all():
        raise ConversionError(f"expected finite coordinates, got {latitude}, {longitude}")
    if abs(latitude) > 90 or abs(longitude) > 180 or latitude == longitude == 0:
        raise ConversionError(f"expected a place in degrees, got latitude {latitude}, longitude {longitude}")
    covariance = np.array(message.position_covariance, dtype=float).reshape(3, 3)[:2, :2]
    known = message.position_covariance_type != 0 and _is_covariance(covariance)
    if status < _NO_FIX and not known:
        raise ConversionError(
            f"whether there is a fix is unknown (status.status {status}), and no covariance vouches for the position: "
            "let the receiver's driver set the status, or a covariance with its type"
        )
    return FixEvent(
        stamp_of(message, received),
        latitude,
        longitude,
        message.altitude if np.isfinite(message.altitude) else 0.0,  # NaN is a receiver's word for "not known"
        covariance if known else None,
        frame_name(message.header.frame_id),
    )


def odometry_event(message: Any, received: int) -> OdometryEvent:
    """Read an Odometry message, dropped to the ground plane."""
    return OdometryEvent(
        stamp_of(message, received),
        SE2.from_matrix(pose_matrix(message.pose.pose)),
        planar_covariance(message.pose.covariance),
        _twist(message.twist.twist),
        planar_covariance(message.twist.covariance),
    )


def odometry_twist(message: Any) -> np.ndarray:
    """Return an Odometry message's (3,) forward and leftward m/s and yaw rate rad/s, finite or not."""
    return _twist(message.twist.twist)


def imu_orientation(message: Any) -> tuple[np.ndarray, float | None]:
    """Read the absolute orientation of an Imu message (REP-145).

    Returns:
        The rotation (3x3) from the IMU's frame into the map's axes (east, north, up), and the standard deviation of
        its yaw in radians, None if it is not stated.

    Raises:
        ConversionError: it has no orientation.

    """
    if message.orientation_covariance[0] == -1:
        raise ConversionError("the IMU says that it has no orientation (orientation_covariance[0] is -1)")
    variance = float(message.orientation_covariance[8])
    sigma = variance**0.5 if 0 < variance < np.inf else None
    return rotation_matrix(message.orientation), sigma


def truth_event(message: Any, received: int) -> TruthEvent:
    """Read an Odometry message whose pose is the truth in the map frame."""
    return TruthEvent(
        stamp_of(message, received), SE2.from_matrix(pose_matrix(message.pose.pose)), _twist(message.twist.twist)
    )


def camera_of(message: Any, *, rectified: bool = False) -> Camera:
    """Read a CameraInfo: the camera of the images that it comes with, after their region of interest and binning.

    Args:
        message: a CameraInfo; a ROS 1 one has the same fields in capitals.
        rectified: the images are rectified: P without distortion instead of K with it. Panoramas stay panoramas.

    Raises:
        ConversionError: the camera is not calibrated, or its model of distortion is another one.

    """
    if message.distortion_model == _PANORAMA_MODEL:  # K, P and D mean nothing
        return _panorama_of(message)
    upper = hasattr(message, "K")
    K, P, d = (getattr(message, name.upper() if upper else name) for name in ("k", "p", "d"))
    matrix = np.reshape(P, (3, 4))[:, :3] if rectified else np.reshape(K, (3, 3))
    if matrix[0, 0] == 0:
        raise ConversionError(
            f"expected a calibrated camera, got {'P' if rectified else 'K'} = 0: calibrate it, or give its driver the "
            "calibration file"
        )
    distortion = () if rectified or not np.any(d) else tuple(float(k) for k in d)
    fisheye = not rectified and message.distortion_model == _FISHEYE_MODEL
    # without coefficients too: another model's images are not a pinhole's
    if not rectified and not fisheye and message.distortion_model not in _PINHOLE_MODELS:
        raise ConversionError(
            f"expected the distortion model plumb_bob, rational_polynomial, equidistant or equirectangular, got "
            f"'{message.distortion_model}': rectify the images (image_proc) and use image_rect (for the node, set "
            "camera.rectified)"
        )
    size, matrix = (message.width, message.height), np.array(matrix, dtype=float)
    camera: PinholeCamera | FisheyeCamera
    try:
        camera = (
            FisheyeCamera(*size, matrix, distortion or (0.0,) * 4)
            if fisheye
            else PinholeCamera(*size, matrix, distortion)
        )
    except ValueError as error:
        raise ConversionError(str(error)) from error
    roi = message.roi
    if roi.width and roi.height:
        camera = camera.cropped(left=roi.x_offset, top=roi.y_offset, width=roi.width, height=roi.height)
    return _binned(camera, message)


def _panorama_of(message: Any) -> Camera:
    width, height, roi = message.width, message.height, message.roi
    if roi.width and roi.height and (roi.width, roi.height) != (width, height):
        raise ConversionError(
            f"expected a whole panorama of {width} x {height} pixels, got a region of interest of {roi.width} x "
            f"{roi.height}: publish all of it"
        )
    try:
        return _binned(EquirectangularCamera(width, height), message)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _binned(camera: Camera, message: Any) -> Camera:
    bins = max(message.binning_x, 1), max(message.binning_y, 1)
    return camera.resized(camera.width // bins[0], camera.height // bins[1]) if bins != (1, 1) else camera


def frame_name(frame_id: str) -> str:
    """Return a frame's name without the leading slash that old recordings carry."""
    return frame_id.lstrip("/")


def without_numbers(text: str) -> str:
    """Return a complaint without the numbers of this very message, so that complaints of one kind are equal."""
    return _NUMBERS.sub("…", text)


def pose_matrix(pose: Any) -> np.ndarray:
    """Return the 4x4 matrix of a geometry_msgs/Pose; raises ConversionError if it is no rigid motion."""
    return transform_matrix(pose.position, pose.orientation)


def transform_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """Return the 4x4 matrix of a message's translation (or position), metres, and quaternion.

    Raises:
        ConversionError: the quaternion is not of length 1, or a number is not finite.

    """
    T = np.eye(4)
    T[:3, :3] = rotation_matrix(rotation)
    T[:3, 3] = translation.x, translation.y, translation.z
    if not np.isfinite(T).all():
        raise ConversionError(f"expected a finite position, got {T[:3, 3].tolist()}")
    return T


def rotation_matrix(quaternion: Any) -> np.ndarray:
    """Return the 3x3 matrix of a message's quaternion; raises ConversionError if it is not of length 1."""
    x, y, z, w = q = np.array([quaternion.x, quaternion.y, quaternion.z, quaternion.w])
    square = float(q @ q)
    if not abs(square - 1) < _NOT_UNIT:
        raise ConversionError(f"expected a unit quaternion (x, y, z, w), got {q.tolist()} of length {square**0.5:.3g}")
    s = 2 / square
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
            [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
            [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
        ]
    )


def planar_covariance(covariance: Any) -> np.ndarray | None:
    """Return the (3, 3) part over (x, y, yaw) of ROS's 36 numbers; None if it is unknown (zeros, or -1) or none."""
    planar = np.asarray(covariance, dtype=float).reshape(6, 6)[_PLANAR]
    return (planar + planar.T) / 2 if _is_covariance(planar) else None


def _is_covariance(matrix: np.ndarray) -> bool:
    return bool(np.isfinite(matrix).all() and (np.linalg.eigvalsh((matrix + matrix.T) / 2) > 0).all())


def _twist(twist: Any) -> np.ndarray:
    return np.array([twist.linear.x, twist.linear.y, twist.angular.z])
