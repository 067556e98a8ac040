"""A run as a bag of standard ROS 2 messages, for RViz (ros2 bag play), Foxglove, Lichtblick or Rerun."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cvloc_ros.evaluation.records import FrameRecord, RunResult, pose_track
from cvloc_ros.geometry import SE2, LocalFrame

_TYPES = get_typestore(Stores.ROS2_JAZZY).types
_MAP, _ODOM, _BASE = "map", "odom", "base_link"
_PATH_PERIOD = 1_000_000_000  # ns between two messages that repeat the whole path
_PATH_STEP = 0.5  # metres between its poses
_UNKNOWN = 1e6  # variance of what a planar estimate does not tell (z, roll, pitch)

_Message = tuple[int, str, Any]  # stamp, topic, message


def write_mcap(result: RunResult, path: Path) -> None:
    """Write poses, fused odometry, path, TF, GNSS, truth and sample pictures to one MCAP file."""
    messages = sorted(_messages(result), key=lambda message: message[0])
    with tempfile.TemporaryDirectory() as scratch:
        bag = Path(scratch) / "run"
        store = get_typestore(Stores.ROS2_JAZZY)
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections: dict[str, Any] = {}
            for stamp, topic, message in messages:
                if topic not in connections:
                    qos = [_LATCHED] if topic in _LATCHED_TOPICS else []
                    connections[topic] = writer.add_connection(
                        topic, message.__msgtype__, typestore=store, offered_qos_profiles=qos
                    )
                writer.write(connections[topic], stamp, store.serialize_cdr(message, message.__msgtype__))
        shutil.move(str(next(bag.glob("*.mcap"))), path)


_LATCHED_TOPICS = ("/datum",)
_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)


def _messages(result: RunResult) -> Iterator[_Message]:
    stamps = [stamp for stamp, _ in result.odometry] + [frame.stamp for frame in result.frames]
    if stamps:
        yield min(stamps), "/datum", _datum(min(stamps), result.datum)
    for stamp, pose in result.odometry:
        yield stamp, "/tf", _transforms(stamp, (_ODOM, _BASE, pose))
    for fix in result.fixes:
        yield fix.stamp, "/fix", _fix(fix.stamp, fix.position, fix.covariance, result.datum, frame_id="gnss")
    for stamp, pose in result.truth:
        yield stamp, "/ground_truth", _odometry(stamp, pose, np.zeros((3, 3)))
    for sample in result.samples:
        data = np.frombuffer(sample.jpeg, np.uint8)
        picture = _make("sensor_msgs/msg/CompressedImage", _header(sample.stamp, _BASE), "jpeg", data)
        yield sample.stamp, "/cvloc/debug/overlay/compressed", picture
    yield from _estimates(result)


def _estimates(result: RunResult) -> Iterator[_Message]:
    track = pose_track(result.odometry, extrapolation=0.5)
    path: list[tuple[int, SE2]] = []
    next_path = 0
    for frame in result.frames:
        if frame.accepted and frame.estimate is not None and frame.covariance is not None:
            pose = _pose_with_covariance(frame.estimate, frame.covariance)
            message = _make("geometry_msgs/msg/PoseWithCovarianceStamped", _header(frame.stamp, _MAP), pose)
            yield frame.stamp, "/cvloc/pose", message
        if frame.tracked and frame.fused is not None and frame.fused_covariance is not None:
            yield from _fused(frame, frame.fused, frame.fused_covariance, result.datum)
            T_odom_base = track.at(frame.stamp)
            if T_odom_base is not None:
                T_map_odom = frame.fused @ T_odom_base.inverse()
                yield frame.stamp, "/tf", _transforms(frame.stamp, (_MAP, _ODOM, T_map_odom))
            if not path or np.hypot(frame.fused.x - path[-1][1].x, frame.fused.y - path[-1][1].y) >= _PATH_STEP:
                path.append((frame.stamp, frame.fused))
            if frame.stamp >= next_path:
                next_path = frame.stamp + _PATH_PERIOD
                poses = [_make("geometry_msgs/msg/PoseStamped", _header(t, _MAP), _pose(pose)) for t, pose in path]
                yield frame.stamp, "/cvloc/path", _make("nav_msgs/msg/Path", _header(frame.stamp, _MAP), poses)


def _fused(frame: FrameRecord, pose: SE2, covariance: np.ndarray, datum: LocalFrame) -> Iterator[_Message]:
    yield frame.stamp, "/cvloc/odometry", _odometry(frame.stamp, pose, covariance)
    position = np.array([pose.x, pose.y])
    yield frame.stamp, "/cvloc/fix", _fix(frame.stamp, position, covariance[:2, :2], datum, frame_id=_BASE)


def _make(name: str, *values: Any) -> Any:
    return _TYPES[name](*values)


def _header(stamp: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    return _make("std_msgs/msg/Header", _make("builtin_interfaces/msg/Time", seconds, nanoseconds), frame_id)


def _quaternion(yaw: float) -> Any:
    return _make("geometry_msgs/msg/Quaternion", 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))


def _pose(pose: SE2) -> Any:
    return _make("geometry_msgs/msg/Pose", _make("geometry_msgs/msg/Point", pose.x, pose.y, 0.0), _quaternion(pose.yaw))


def _pose_with_covariance(pose: SE2, covariance: np.ndarray) -> Any:
    full = np.diag([0.0, 0.0, _UNKNOWN, _UNKNOWN, _UNKNOWN, 0.0])
    full[np.ix_([0, 1, 5], [0, 1, 5])] = covariance
    return _make("geometry_msgs/msg/PoseWithCovariance", _pose(pose), full.ravel())


def _odometry(stamp: int, pose: SE2, covariance: np.ndarray) -> Any:
    zero = _make("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
    # A run keeps poses, no speeds: the covariance says that the twist is unknown.
    unknown = np.diag([_UNKNOWN] * 6).ravel()
    twist = _make("geometry_msgs/msg/TwistWithCovariance", _make("geometry_msgs/msg/Twist", zero, zero), unknown)
    return _make("nav_msgs/msg/Odometry", _header(stamp, _MAP), _BASE, _pose_with_covariance(pose, covariance), twist)


def _transforms(stamp: int, *transforms: tuple[str, str, SE2]) -> Any:
    messages = []
    for parent, child, pose in transforms:
        translation = _make("geometry_msgs/msg/Vector3", pose.x, pose.y, 0.0)
        transform = _make("geometry_msgs/msg/Transform", translation, _quaternion(pose.yaw))
        messages.append(_make("geometry_msgs/msg/TransformStamped", _header(stamp, parent), child, transform))
    return _make("tf2_msgs/msg/TFMessage", messages)


def _datum(stamp: int, datum: LocalFrame) -> Any:
    return _fix(stamp, np.zeros(2), None, datum, frame_id=_MAP)


def _fix(stamp: int, position: np.ndarray, covariance: np.ndarray | None, datum: LocalFrame, *, frame_id: str) -> Any:
    latitude, longitude = datum.to_wgs84(position)
    full = np.zeros((3, 3))
    if covariance is not None:
        full[:2, :2], full[2, 2] = covariance, _UNKNOWN
    return _make(
        "sensor_msgs/msg/NavSatFix",
        _header(stamp, frame_id),
        _make("sensor_msgs/msg/NavSatStatus", 0, 1),
        float(latitude),
        float(longitude),
        datum.altitude,
        full.ravel(),
        0 if covariance is None else 3,
    )
