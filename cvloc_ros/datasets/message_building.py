"""ROS 2 messages for bags, built from the package's types without ROS: the counterpart of `message_reading`."""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_typestore

from cvloc_ros.geometry import SE2, FisheyeCamera, PinholeCamera

STORE = get_typestore(Stores.ROS2_JAZZY)
_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of (x, y, z, roll, pitch, yaw)
_UNKNOWN, _APPROXIMATED = 0, 1  # position_covariance_type of sensor_msgs/NavSatFix
_NOT_MEASURED = np.array([-1.0, *[0.0] * 8])  # a covariance of sensor_msgs/Imu
_FOREVER = QosTime(9223372036, 854775807)  # what ROS records for no deadline, lifespan or lease


def qos(*, latched: bool) -> Qos:
    """Return the QoS of a reliable topic; a latched one keeps its last message for those who come late."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def make(kind: str, **values: Any) -> Any:
    """Return a message of a type such as "std_msgs/msg/Header"; every field must be given."""
    return STORE.types[kind](**values)


def header(stamp: int, frame_id: str) -> Any:
    """Return a header; the stamp in nanoseconds."""
    seconds, nanoseconds = divmod(int(stamp), 1_000_000_000)
    time = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def odometry(
    stamp: int,
    pose: SE2,
    *,
    frame_id: str,
    covariance: np.ndarray | None = None,
    twist: np.ndarray | None = None,
    twist_covariance: np.ndarray | None = None,
) -> Any:
    """Return a nav_msgs/Odometry of base_link in a frame.

    Args:
        stamp: nanoseconds.
        pose: of base_link in ``frame_id``.
        frame_id: "odom" or "map".
        covariance: (3, 3) over (x m, y m, yaw rad); None (unknown) becomes zeros.
        twist: (3,) forward and leftward m/s and yaw rate rad/s.
        twist_covariance: (3, 3).

    """
    vx, vy, yaw_rate = (0.0, 0.0, 0.0) if twist is None else (float(value) for value in twist)
    speeds = make("geometry_msgs/msg/Twist", linear=_vector(vx, vy, 0.0), angular=_vector(0.0, 0.0, yaw_rate))
    return make(
        "nav_msgs/msg/Odometry",
        header=header(stamp, frame_id),
        child_frame_id="base_link",
        pose=make("geometry_msgs/msg/PoseWithCovariance", pose=_pose(pose), covariance=_six_by_six(covariance)),
        twist=make("geometry_msgs/msg/TwistWithCovariance", twist=speeds, covariance=_six_by_six(twist_covariance)),
    )


def pose_stamped(stamp: int, pose: SE2, *, frame_id: str) -> Any:
    """Return a geometry_msgs/PoseStamped."""
    return make("geometry_msgs/msg/PoseStamped", header=header(stamp, frame_id), pose=_pose(pose))


def pose_with_covariance(stamp: int, pose: SE2, covariance: np.ndarray, *, frame_id: str) -> Any:
    """Return a geometry_msgs/PoseWithCovarianceStamped; ``covariance`` (3, 3) is over (x m, y m, yaw rad)."""
    value = make("geometry_msgs/msg/PoseWithCovariance", pose=_pose(pose), covariance=_six_by_six(covariance))
    return make("geometry_msgs/msg/PoseWithCovarianceStamped", header=header(stamp, frame_id), pose=value)


def transforms(stamp: int, *edges: tuple[str, str, np.ndarray]) -> Any:
    """Return a tf2_msgs/TFMessage of 4x4 transforms, each as (parent, child, T_parent_child)."""
    return make(
        "tf2_msgs/msg/TFMessage",
        transforms=[transform(stamp, T, parent=parent, child=child) for parent, child, T in edges],
    )


def transform(stamp: int, T_parent_child: np.ndarray, *, parent: str, child: str) -> Any:
    """Return a geometry_msgs/TransformStamped of a 4x4 transform."""
    return make(
        "geometry_msgs/msg/TransformStamped",
        header=header(stamp, parent),
        child_frame_id=child,
        transform=make(
            "geometry_msgs/msg/Transform",
            translation=_vector(*(float(value) for value in T_parent_child[:3, 3])),
            rotation=_quaternion(T_parent_child[:3, :3]),
        ),
    )


def fix(
    stamp: int, *, latitude: float, longitude: float, altitude: float, covariance: np.ndarray | None, frame_id: str
) -> Any:
    """Return a sensor_msgs/NavSatFix; degrees, metres, covariance (2, 2) east-north m² or None if it is unknown."""
    full = np.zeros((3, 3))
    if covariance is not None:
        full[:2, :2] = covariance
        full[2, 2] = 4 * np.max(covariance)  # heights are about half as good
    return make(
        "sensor_msgs/msg/NavSatFix",
        header=header(stamp, frame_id),
        status=make("sensor_msgs/msg/NavSatStatus", status=0, service=1),
        latitude=float(latitude),
        longitude=float(longitude),
        altitude=float(altitude),
        position_covariance=full.ravel(),
        position_covariance_type=_UNKNOWN if covariance is None else _APPROXIMATED,
    )


def jpeg(stamp: int, data: np.ndarray, *, frame_id: str) -> Any:
    """Return a sensor_msgs/CompressedImage of a JPEG file (uint8 bytes)."""
    return compressed_image(stamp, data, kind="jpeg", frame_id=frame_id)


def compressed_image(stamp: int, data: np.ndarray, *, kind: str, frame_id: str) -> Any:
    """Return a sensor_msgs/CompressedImage of a file (uint8 bytes) of a kind: "jpeg" or "png"."""
    return make("sensor_msgs/msg/CompressedImage", header=header(stamp, frame_id), format=kind, data=data)


def imu(
    stamp: int,
    *,
    frame_id: str,
    rates: np.ndarray | None = None,
    accelerations: np.ndarray | None = None,
    orientation: np.ndarray | None = None,
    sigma: float = 0.0,
) -> Any:
    """Return a sensor_msgs/Imu; what is None is marked as not measured (REP-145).

    Args:
        stamp: nanoseconds.
        frame_id: of the sensor, x forward, y left, z up.
        rates: (3,) rad/s about its axes.
        accelerations: (3,) m/s² along its axes, gravity included.
        orientation: (3, 3) rotation from the sensor's frame to east, north, up.
        sigma: standard deviation of the orientation about each axis, radians.

    """
    return make(
        "sensor_msgs/msg/Imu",
        header=header(stamp, frame_id),
        orientation=_quaternion(np.eye(3) if orientation is None else orientation),
        orientation_covariance=_NOT_MEASURED if orientation is None else sigma**2 * np.eye(3).ravel(),
        angular_velocity=_vector(*(float(v) for v in (np.zeros(3) if rates is None else rates))),
        angular_velocity_covariance=_NOT_MEASURED if rates is None else np.zeros(9),
        linear_acceleration=_vector(*(float(v) for v in (np.zeros(3) if accelerations is None else accelerations))),
        linear_acceleration_covariance=_NOT_MEASURED if accelerations is None else np.zeros(9),
    )


def camera_info(stamp: int, camera: PinholeCamera | FisheyeCamera, *, frame_id: str) -> Any:
    """Return a sensor_msgs/CameraInfo; P repeats K, as if the images were not to be rectified."""
    distortion = np.array(camera.distortion or (0.0,) * 5)
    pinhole_model = "plumb_bob" if len(distortion) <= 5 else "rational_polynomial"
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="equidistant" if isinstance(camera, FisheyeCamera) else pinhole_model,
        d=distortion,
        k=camera.K.ravel(),
        r=np.eye(3).ravel(),
        p=np.column_stack([camera.K, np.zeros(3)]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def _pose(pose: SE2) -> Any:
    return make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", x=float(pose.x), y=float(pose.y), z=0.0),
        orientation=_quaternion(pose.matrix()[:3, :3]),
    )


def _vector(x: float, y: float, z: float) -> Any:
    return make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def _quaternion(R: np.ndarray) -> Any:
    """Return a rotation as a quaternion: the eigenvector of the largest eigenvalue (Bar-Itzhack, 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = R
    K = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    q = np.linalg.eigh(K)[1][:, -1]
    x, y, z, w = (float(value) for value in (q if q[3] >= 0 else -q))
    return make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _six_by_six(planar: np.ndarray | None) -> np.ndarray:
    """Return ROS's 36 numbers of a covariance over (x, y, yaw); zeros if it is unknown."""
    full = np.zeros((6, 6))
    if planar is not None:
        full[_PLANAR] = planar
    return full.ravel()
