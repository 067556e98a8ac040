"""A drive as a rosbag2 (MCAP) with the topics, frames and QoS of a real recording, written without ROS."""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.town.drive import CAMERA_FRAME, Drive, Progress
from cvloc_ros.geometry import SE2, PinholeCamera

TOPICS = {
    "/camera/image/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/gnss/fix": "sensor_msgs/msg/NavSatFix",
    "/odom": "nav_msgs/msg/Odometry",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/ground_truth": "nav_msgs/msg/Odometry",
    "/datum": "sensor_msgs/msg/NavSatFix",
}
_COVARIANCE_UNKNOWN, _COVARIANCE_DIAGONAL_KNOWN = 0, 2  # of sensor_msgs/NavSatFix
_LATCHED = ("/tf_static", "/datum")
_PLANAR = np.ix_([0, 1, 5], [0, 1, 5])  # x, y, yaw of (x, y, z, roll, pitch, yaw)
_STORE = get_typestore(Stores.ROS2_JAZZY)

Message = tuple[int, str, Any]  # stamp, topic, message


def write_drive_bag(path: str | Path, drive: Drive, *, workers: int = 2, progress: Progress | None = None) -> None:
    """Render a drive and write it to a new rosbag2 folder.

    The bag appears when it is complete: an interrupted run leaves nothing behind.

    Args:
        path: the bag's folder, which must not exist.
        drive: what to write.
        workers: processes that render.
        progress: told after every image.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"expected a place for a new bag, but '{path}' exists: remove it or choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The folder's name goes into the bag's metadata, so it is written under its own name in a folder beside.
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with Writer(scratch / path.name, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {
                topic: writer.add_connection(
                    topic, kind, typestore=_STORE, offered_qos_profiles=[_qos(latched=topic in _LATCHED)]
                )
                for topic, kind in TOPICS.items()
            }
            for stamp, topic, message in _all_messages(drive, workers=workers, progress=progress):
                writer.write(connections[topic], stamp, _STORE.serialize_cdr(message, TOPICS[topic]))
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _all_messages(drive: Drive, *, workers: int, progress: Progress | None) -> Iterator[Message]:
    """Yield everything in time order; what is latched comes first, and a truth before what happens at its stamp."""
    messages = _Messages(drive)
    yield from messages.latched()
    streams: list[Iterator[Message]] = [
        ((event.stamp, "/ground_truth", messages.truth(event)) for event in drive.truth()),
        (message for event in drive.odometry for message in messages.odometry(event)),
        ((event.stamp, "/gnss/fix", messages.fix(event)) for event in drive.fixes),
        (message for event in drive.images(workers=workers, progress=progress) for message in messages.image(event)),
    ]
    yield from heapq.merge(*streams, key=lambda message: message[0])


class _Messages:
    """Builds the messages of a drive."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.types = _STORE.types
        self.camera_info = _camera_info_fields(drive.camera)

    def latched(self) -> Iterator[Message]:
        start = int(self.drive.trajectory.stamps[0])
        T_base_gnss = np.eye(4)
        T_base_gnss[:3, 3] = self.drive.gnss.lever_arm
        mounts = [
            self._transform(start, "base_link", CAMERA_FRAME, self.drive.T_base_camera),
            self._transform(start, "base_link", "gnss", T_base_gnss),
        ]
        yield start, "/tf_static", self.types["tf2_msgs/msg/TFMessage"](transforms=mounts)
        datum = self.drive.datum
        yield (
            start,
            "/datum",
            self.fix(FixEvent(start, datum.latitude, datum.longitude, datum.altitude, None, "map")),
        )

    def image(self, event: ImageEvent) -> Iterator[Message]:
        header = self._header(event.stamp, event.frame_id)
        info = self.types[TOPICS["/camera/camera_info"]](header=header, **self.camera_info)
        yield event.stamp, "/camera/camera_info", info
        image = self.types[TOPICS["/camera/image/compressed"]](header=header, format="jpeg", data=event.data)
        yield event.stamp, "/camera/image/compressed", image

    def odometry(self, event: OdometryEvent) -> Iterator[Message]:
        odometry = self._odometry(
            self._header(event.stamp, "odom"),
            event.T_odom_base,
            event.twist,
            covariance=event.covariance,
            twist_covariance=event.twist_covariance,
        )
        yield event.stamp, "/odom", odometry
        transform = self._transform(event.stamp, "odom", "base_link", event.T_odom_base.matrix())
        yield event.stamp, "/tf", self.types["tf2_msgs/msg/TFMessage"](transforms=[transform])

    def truth(self, event: TruthEvent) -> Any:
        return self._odometry(self._header(event.stamp, "map"), event.T_map_base, event.twist)

    def fix(self, event: FixEvent) -> Any:
        covariance = np.zeros((3, 3))
        if event.covariance is not None:
            covariance[:2, :2] = event.covariance
            covariance[2, 2] = 4 * np.max(event.covariance)  # heights are about half as good
        return self.types["sensor_msgs/msg/NavSatFix"](
            header=self._header(event.stamp, event.frame_id),
            status=self.types["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
            latitude=event.latitude,
            longitude=event.longitude,
            altitude=event.altitude,
            position_covariance=covariance.ravel(),
            position_covariance_type=_COVARIANCE_UNKNOWN if event.covariance is None else _COVARIANCE_DIAGONAL_KNOWN,
        )

    def _odometry(
        self,
        header: Any,
        pose: SE2,
        twist: np.ndarray,
        *,
        covariance: np.ndarray | None = None,
        twist_covariance: np.ndarray | None = None,
    ) -> Any:
        vector = self.types["geometry_msgs/msg/Vector3"]
        return self.types["nav_msgs/msg/Odometry"](
            header=header,
            child_frame_id="base_link",
            pose=self.types["geometry_msgs/msg/PoseWithCovariance"](
                pose=self.types["geometry_msgs/msg/Pose"](
                    position=self.types["geometry_msgs/msg/Point"](x=pose.x, y=pose.y, z=0.0),
                    orientation=self._quaternion(pose.matrix()[:3, :3]),
                ),
                covariance=_six_by_six(covariance),
            ),
            twist=self.types["geometry_msgs/msg/TwistWithCovariance"](
                twist=self.types["geometry_msgs/msg/Twist"](
                    linear=vector(x=float(twist[0]), y=float(twist[1]), z=0.0),
                    angular=vector(x=0.0, y=0.0, z=float(twist[2])),
                ),
                covariance=_six_by_six(twist_covariance),
            ),
        )

    def _transform(self, stamp: int, parent: str, child: str, T: np.ndarray) -> Any:
        x, y, z = (float(value) for value in T[:3, 3])
        return self.types["geometry_msgs/msg/TransformStamped"](
            header=self._header(stamp, parent),
            child_frame_id=child,
            transform=self.types["geometry_msgs/msg/Transform"](
                translation=self.types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
                rotation=self._quaternion(T[:3, :3]),
            ),
        )

    def _header(self, stamp: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        time = self.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)

    def _quaternion(self, R: np.ndarray) -> Any:
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
        x, y, z, w = (float(value) for value in np.linalg.eigh(K / 3)[1][:, -1])
        sign = -1.0 if w < 0 else 1.0
        return self.types["geometry_msgs/msg/Quaternion"](x=sign * x, y=sign * y, z=sign * z, w=sign * w)


def _six_by_six(planar: np.ndarray | None) -> np.ndarray:
    """Return ROS's 36 numbers of a covariance over (x, y, yaw); zeros if it is unknown."""
    full = np.zeros((6, 6))
    if planar is not None:
        full[_PLANAR] = planar
    return full.ravel()


def _camera_info_fields(camera: PinholeCamera) -> dict[str, Any]:
    distortion = np.array(camera.distortion or (0.0,) * 5)
    return {
        "height": camera.height,
        "width": camera.width,
        "distortion_model": "plumb_bob" if len(distortion) <= 5 else "rational_polynomial",
        "d": distortion,
        "k": camera.K.ravel(),
        "r": np.eye(3).ravel(),
        "p": np.column_stack([camera.K, np.zeros(3)]).ravel(),
        "binning_x": 0,
        "binning_y": 0,
        "roi": _STORE.types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    }


def _qos(*, latched: bool) -> Qos:
    never = QosTime(9223372036, 854775807)  # what ROS records for no deadline, lifespan or lease
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=never,
        lifespan=never,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=never,
        avoid_ros_namespace_conventions=False,
    )
