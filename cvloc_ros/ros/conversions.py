"""Between ROS messages and the package's own types. Nothing else reads or writes message fields of poses and sensors.

The readers go by field names, so they take a message from rclpy or from a bag alike. Everything that cannot be used
raises `ConversionError`, whose text says what came, what was expected and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Pose,
    PoseStamped,
    PoseWithCovariance,
    PoseWithCovarianceStamped,
    Quaternion,
    TransformStamped,
)
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image, NavSatFix, NavSatStatus
from std_msgs.msg import Header

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera

_SECOND = 1_000_000_000
_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of ROS's (x, y, z, roll, pitch, yaw)


@dataclass(frozen=True, eq=False)
class Fix:
    """A GNSS fix: WGS84 degrees, metres, and the 2x2 covariance over (east, north) or None if it is unknown."""

    stamp: int
    latitude: float
    longitude: float
    altitude: float
    covariance: np.ndarray | None
    frame_id: str


# Time


def to_nanoseconds(stamp: Any) -> int:
    """Return a message's stamp as integer nanoseconds."""
    return stamp.sec * _SECOND + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    """Return integer nanoseconds as a message's stamp."""
    return Time(sec=nanoseconds // _SECOND, nanosec=nanoseconds % _SECOND)


def header(stamp: int, frame_id: str) -> Header:
    """Return a header."""
    return Header(stamp=to_stamp(stamp), frame_id=frame_id)


# Poses


def matrix(translation: Any, rotation: Any) -> np.ndarray:
    """Return the 4x4 matrix of a message's translation (or position) and quaternion."""
    q = np.array([rotation.w, rotation.x, rotation.y, rotation.z])
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-6:
        raise ConversionError(f"expected a unit quaternion (x, y, z, w), got {q[[1, 2, 3, 0]].tolist()}")
    w, x, y, z = q / norm
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = translation.x, translation.y, translation.z
    if not np.isfinite(T).all():
        raise ConversionError(f"expected a finite position, got {T[:3, 3].tolist()}")
    return T


def pose_matrix(pose: Any) -> np.ndarray:
    """Return the 4x4 matrix of a geometry_msgs/Pose."""
    return matrix(pose.position, pose.orientation)


def to_pose(T: SE2) -> Pose:
    """Return a planar pose as a message; z, roll and pitch are 0."""
    pose = Pose(orientation=_quaternion(T.yaw))
    pose.position.x, pose.position.y = float(T.x), float(T.y)  # an integer would be serialized as garbage
    return pose


def to_covariance(covariance: np.ndarray) -> list[float]:
    """Return ROS's 36 numbers of a 3x3 covariance over (x, y, yaw); z, roll and pitch stay 0 (2-D for RViz).

    Raises:
        ConversionError: it is not finite, or a variance is negative: an EKF would take the NaN in and never lose it.

    """
    if not np.isfinite(covariance).all() or (np.diag(covariance) < 0).any():
        raise ConversionError(f"expected a finite covariance with variances >= 0, got {covariance.tolist()}")
    full = np.zeros((6, 6))
    full[_PLANAR] = covariance
    return full.ravel().tolist()


def planar_covariance(covariance: Any) -> np.ndarray | None:
    """Return the 3x3 covariance over (x, y, yaw) of ROS's 36 numbers, or None where it is unknown (zeros, or -1)."""
    full = np.asarray(covariance, dtype=float).reshape(6, 6)
    planar = full[_PLANAR]
    known = np.isfinite(planar).all() and (np.diag(planar) > 0).all()
    return planar if known else None


def to_pose_with_covariance(T: SE2, covariance: np.ndarray, *, stamp: int, frame_id: str) -> PoseWithCovarianceStamped:
    """Return a planar pose with its 3x3 covariance."""
    pose = PoseWithCovariance(pose=to_pose(T), covariance=to_covariance(covariance))
    return PoseWithCovarianceStamped(header=header(stamp, frame_id), pose=pose)


def to_pose_stamped(T: SE2, *, stamp: int, frame_id: str) -> PoseStamped:
    """Return a planar pose."""
    return PoseStamped(header=header(stamp, frame_id), pose=to_pose(T))


def to_transform(T: SE2, *, stamp: int, parent: str, child: str) -> TransformStamped:
    """Return a planar transform that maps the child's coordinates into the parent's."""
    message = TransformStamped(header=header(stamp, parent), child_frame_id=child)
    message.transform.translation.x, message.transform.translation.y = float(T.x), float(T.y)
    message.transform.rotation = _quaternion(T.yaw)
    return message


def to_odometry(
    T: SE2, covariance: np.ndarray, *, stamp: int, frame_id: str, child_frame_id: str, twist: Any
) -> Odometry:
    """Return a planar pose as odometry; ``twist`` (TwistWithCovariance) is passed on."""
    message = Odometry(header=header(stamp, frame_id), child_frame_id=child_frame_id, twist=twist)
    message.pose = PoseWithCovariance(pose=to_pose(T), covariance=to_covariance(covariance))
    return message


def _quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))


# GNSS


def from_fix(message: Any) -> Fix:
    """Read a sensor_msgs/NavSatFix.

    Raises:
        ConversionError: the receiver has no fix, or the position is not finite.

    """
    if message.status.status <= NavSatStatus.STATUS_NO_FIX:
        raise ConversionError("the receiver says that it has no fix (status.status < 0)")
    if not np.isfinite([message.latitude, message.longitude]).all():
        raise ConversionError(f"expected finite coordinates, got {message.latitude}, {message.longitude}")
    covariance = None
    if message.position_covariance_type != NavSatFix.COVARIANCE_TYPE_UNKNOWN:
        covariance = np.asarray(message.position_covariance, dtype=float).reshape(3, 3)[:2, :2]
    return Fix(
        stamp=to_nanoseconds(message.header.stamp),
        latitude=message.latitude,
        longitude=message.longitude,
        altitude=message.altitude,
        covariance=covariance,
        frame_id=message.header.frame_id,
    )


def to_fix(T: SE2, covariance: np.ndarray, *, datum: LocalFrame, stamp: int, frame_id: str) -> NavSatFix:
    """Return a pose in the map of ``datum`` as latitude and longitude; the altitude is the datum's."""
    latitude, longitude = datum.to_wgs84(np.array([T.x, T.y]))
    message = NavSatFix(header=header(stamp, frame_id), altitude=float(datum.altitude))
    message.latitude, message.longitude = float(latitude), float(longitude)
    message.status.status = NavSatStatus.STATUS_FIX
    message.status.service = NavSatStatus.SERVICE_GPS
    full = np.zeros((3, 3))
    full[:2, :2] = covariance[:2, :2]
    message.position_covariance = full.ravel().tolist()
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_KNOWN
    return message


# Cameras


def from_camera_info(message: Any, *, rectified: bool = False) -> PinholeCamera:
    """Read a sensor_msgs/CameraInfo: the camera of the images that come with it, after their ROI and binning.

    ``rectified`` is for rectified images (image_rect): P without distortion instead of K with it.

    Raises:
        ConversionError: the camera is not calibrated, or is no pinhole camera.

    """
    P, K = np.asarray(message.p, dtype=float).reshape(3, 4), np.asarray(message.k, dtype=float).reshape(3, 3)
    name, K = ("P", P[:, :3]) if rectified else ("K", K)
    if K[0, 0] == 0:
        raise ConversionError(
            f"expected a calibrated camera, got {name} = 0: calibrate it, or give its driver the calibration file"
        )
    models = ("", "plumb_bob", "rational_polynomial")
    if not rectified and message.distortion_model not in models and any(message.d):
        raise ConversionError(
            f"expected distortion model plumb_bob or rational_polynomial, got '{message.distortion_model}': rectify "
            "the images (image_proc), use image_rect and set camera.rectified"
        )
    distortion = () if rectified or not any(message.d) else tuple(message.d)
    try:
        camera = PinholeCamera(width=message.width, height=message.height, K=K, distortion=distortion)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    roi = message.roi
    if roi.width and roi.height:
        camera = camera.cropped(left=roi.x_offset, top=roi.y_offset, width=roi.width, height=roi.height)
    binning = max(message.binning_x, 1), max(message.binning_y, 1)
    if binning != (1, 1):
        camera = camera.resized(camera.width // binning[0], camera.height // binning[1])
    return camera


def to_image(image: np.ndarray, *, stamp: int, frame_id: str) -> Image:
    """Return an RGB uint8 image (H, W, 3) as a message."""
    height, width, _ = image.shape
    message = Image(header=header(stamp, frame_id), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = image.tobytes()  # bytes go in as they are; an array would be checked element by element
    return message
