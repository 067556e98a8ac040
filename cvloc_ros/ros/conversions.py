"""From the package's own types to ROS messages; `cvloc_ros.datasets.message_reading` goes the other way."""

from __future__ import annotations

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
    TwistWithCovariance,
)
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image, NavSatFix, NavSatStatus
from std_msgs.msg import Header

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.geometry import SE2, LocalFrame

_SECOND = 1_000_000_000
_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of ROS's (x, y, z, roll, pitch, yaw)


_ROUNDING = 1e-9  # share of a covariance by which it may miss to be positive


def _least_variance(covariance: np.ndarray) -> float:
    return float(np.linalg.eigvalsh((covariance + covariance.T) / 2)[0])


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


def to_pose(T: SE2) -> Pose:
    """Return a planar pose as a message; z, roll and pitch are 0."""
    pose = Pose(orientation=_quaternion(T.yaw))
    pose.position.x, pose.position.y = float(T.x), float(T.y)  # an integer would be serialized as garbage
    return pose


def to_covariance(covariance: np.ndarray) -> list[float]:
    """Return ROS's 36 numbers of a 3x3 covariance over (x, y, yaw); z, roll and pitch stay 0 (2-D for RViz).

    Raises:
        ConversionError: it is not finite, or no covariance: an EKF would take the NaN in and never lose it.

    """
    if not np.isfinite(covariance).all() or _least_variance(covariance) < -_ROUNDING * abs(np.trace(covariance)):
        raise ConversionError(
            f"expected a finite covariance with variances >= 0 in all directions, got {covariance.tolist()}"
        )
    full = np.zeros((6, 6))
    full[_PLANAR] = covariance
    return full.ravel().tolist()


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


def twist_of_base(twist: TwistWithCovariance, T_base_child: np.ndarray) -> TwistWithCovariance:
    """Return a twist of a frame that is fixed to the vehicle as the twist of base_link, in base_link's axes.

    Args:
        twist: velocity of the child frame's origin, m/s and rad/s in the child's axes, with its 6x6 covariance.
        T_base_child: 4x4.

    """
    R, x = T_base_child[:3, :3], T_base_child[:3, 3]
    adjoint = np.zeros((6, 6))  # v_base = R v + x x (R w), w_base = R w
    adjoint[:3, :3] = adjoint[3:, 3:] = R
    adjoint[:3, 3:] = np.array([[0, -x[2], x[1]], [x[2], 0, -x[0]], [-x[1], x[0], 0]]) @ R
    linear, angular = twist.twist.linear, twist.twist.angular
    moved = adjoint @ [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
    result = TwistWithCovariance()
    for vector, values in ((result.twist.linear, moved[:3]), (result.twist.angular, moved[3:])):
        vector.x, vector.y, vector.z = (float(value) for value in values)
    covariance = np.reshape(twist.covariance, (6, 6))
    if np.isfinite(covariance).all() and covariance[0, 0] >= 0:  # -1 is a sender's word for "not known"
        result.covariance = (adjoint @ covariance @ adjoint.T).ravel().tolist()
    return result


def _quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))


# GNSS


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


# Images


def to_image(image: np.ndarray, *, stamp: int, frame_id: str) -> Image:
    """Return an RGB uint8 image (H, W, 3) as a message."""
    height, width, _ = image.shape
    message = Image(header=header(stamp, frame_id), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = image.tobytes()  # bytes go in as they are; an array would be checked element by element
    return message
