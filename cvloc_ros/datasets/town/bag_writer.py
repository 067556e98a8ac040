"""A drive as a rosbag2 (MCAP) with the topics, frames and QoS of a real recording, written without ROS."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import new_bag
from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.town.drive import CAMERA_FRAME, Drive, Progress
from cvloc_ros.datasets.town.sensors import GNSS_FRAME

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
LATCHED_TOPICS = ("/tf_static", "/datum")

Message = tuple[int, str, Any]  # stamp, topic, message


def write_drive_bag(
    path: str | Path,
    drive: Drive,
    *,
    images: Iterable[ImageEvent] | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> None:
    """Render a drive and write it to a new rosbag2 folder.

    The bag appears when it is complete: an interrupted run leaves nothing behind.

    Args:
        path: the bag's folder, which must not exist.
        drive: what to write.
        images: of the drive, in order, if they are rendered already.
        workers: processes that render.
        progress: told after every image.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    with new_bag(path) as writer:
        connections = {
            topic: writer.add_connection(
                topic,
                kind,
                typestore=build.STORE,
                offered_qos_profiles=[build.qos(latched=topic in LATCHED_TOPICS)],
            )
            for topic, kind in TOPICS.items()
        }
        rendered = drive.images(workers=workers, progress=progress) if images is None else images
        for stamp, topic, message in _messages(drive, rendered):
            writer.write(connections[topic], stamp, build.STORE.serialize_cdr(message, TOPICS[topic]))


def _messages(drive: Drive, images: Iterable[ImageEvent]) -> Iterator[Message]:
    """Yield everything in time order: what is latched first, and at one stamp the truth first and the image last."""
    yield from _latched(drive)
    streams: list[Iterator[Message]] = [
        (_truth(event) for event in drive.truth()),
        (message for event in drive.odometry for message in _odometry(event)),
        ((event.stamp, "/gnss/fix", build.fix(**asdict(event))) for event in drive.fixes),
        (message for event in images for message in _image(event, drive)),
    ]
    yield from heapq.merge(*streams, key=lambda message: message[0])


def _latched(drive: Drive) -> Iterator[Message]:
    start = int(drive.trajectory.stamps[0])
    T_base_gnss = np.eye(4)
    T_base_gnss[:3, 3] = drive.gnss.lever_arm
    mounts = ("base_link", CAMERA_FRAME, drive.T_base_camera), ("base_link", GNSS_FRAME, T_base_gnss)
    yield start, "/tf_static", build.transforms(start, *mounts)
    place = drive.datum
    datum = FixEvent(start, place.latitude, place.longitude, place.altitude, None, "map")
    yield start, "/datum", build.fix(**asdict(datum))


def _truth(event: TruthEvent) -> Message:
    return (
        event.stamp,
        "/ground_truth",
        build.odometry(event.stamp, event.T_map_base, frame_id="map", twist=event.twist),
    )


def _odometry(event: OdometryEvent) -> Iterator[Message]:
    odometry = build.odometry(
        event.stamp,
        event.T_odom_base,
        frame_id="odom",
        covariance=event.covariance,
        twist=event.twist,
        twist_covariance=event.twist_covariance,
    )
    yield event.stamp, "/odom", odometry
    yield event.stamp, "/tf", build.transforms(event.stamp, ("odom", "base_link", event.T_odom_base.matrix()))


def _image(event: ImageEvent, drive: Drive) -> Iterator[Message]:
    info = build.camera_info(event.stamp, drive.camera, frame_id=event.frame_id)
    yield event.stamp, "/camera/camera_info", info
    yield event.stamp, "/camera/image/compressed", build.jpeg(event.stamp, event.data, frame_id=event.frame_id)
