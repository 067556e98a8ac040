"""A run as a bag of standard ROS 2 messages, for RViz (ros2 bag play), Foxglove, Lichtblick or Rerun."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message, write_bag
from cvloc_ros.evaluation.records import FrameRecord, RunResult, pose_track
from cvloc_ros.geometry import SE2, LocalFrame

_MAP, _ODOM, _BASE = "map", "odom", "base_link"
_LATCHED_TOPICS = ("/datum",)
_PATH_PERIOD = 1_000_000_000  # ns between two messages that repeat the whole path
_PATH_STEP = 0.5  # metres between its poses


def write_mcap(result: RunResult, path: Path) -> None:
    """Write poses, fused odometry, path, TF, GNSS, truth and sample pictures to one MCAP file."""
    messages = sorted(_messages(result), key=lambda message: message[0])
    with tempfile.TemporaryDirectory() as scratch:
        bag = Path(scratch) / "run"
        write_bag(bag, messages, latched=_LATCHED_TOPICS)
        shutil.move(str(next(bag.glob("*.mcap"))), path)


def _messages(result: RunResult) -> Iterator[Message]:
    stamps = [stamp for stamp, _ in result.odometry] + [frame.stamp for frame in result.frames]
    if stamps:
        yield min(stamps), "/datum", _fix(min(stamps), np.zeros(2), None, result.datum, frame_id=_MAP)
    for stamp, pose in result.odometry:
        yield stamp, "/tf", build.transforms(stamp, (_ODOM, _BASE, pose.matrix()))
    for fix in result.fixes:
        yield fix.stamp, "/fix", _fix(fix.stamp, fix.position, fix.covariance, result.datum, frame_id="gnss")
    for stamp, pose in result.truth:
        yield stamp, "/ground_truth", build.odometry(stamp, pose, frame_id=_MAP)
    for sample in result.samples:
        data = np.frombuffer(sample.jpeg, np.uint8)
        yield sample.stamp, "/cvloc/debug/overlay/compressed", build.jpeg(sample.stamp, data, frame_id=_BASE)
    yield from _estimates(result)


def _estimates(result: RunResult) -> Iterator[Message]:
    track = pose_track(result.odometry, extrapolation=0.5)
    path: list[tuple[int, SE2]] = []
    next_path = 0
    for frame in result.frames:
        stamp = frame.stamp
        if frame.accepted and frame.estimate is not None and frame.covariance is not None:
            pose = build.pose_with_covariance(stamp, frame.estimate, frame.covariance, frame_id=_MAP)
            yield stamp, "/cvloc/pose", pose
        if frame.tracked and frame.fused is not None and frame.fused_covariance is not None:
            yield from _fused(frame, frame.fused, frame.fused_covariance, result.datum)
            T_odom_base = track.at(stamp)
            if T_odom_base is not None:
                T_map_odom = frame.fused @ T_odom_base.inverse()
                yield stamp, "/tf", build.transforms(stamp, (_MAP, _ODOM, T_map_odom.matrix()))
            if not path or np.hypot(frame.fused.x - path[-1][1].x, frame.fused.y - path[-1][1].y) >= _PATH_STEP:
                path.append((stamp, frame.fused))
            if stamp >= next_path:
                next_path = stamp + _PATH_PERIOD
                poses = [build.pose_stamped(t, pose, frame_id=_MAP) for t, pose in path]
                yield (
                    stamp,
                    "/cvloc/path",
                    build.make("nav_msgs/msg/Path", header=build.header(stamp, _MAP), poses=poses),
                )


def _fused(frame: FrameRecord, pose: SE2, covariance: np.ndarray, datum: LocalFrame) -> Iterator[Message]:
    odometry = build.odometry(frame.stamp, pose, frame_id=_MAP, covariance=covariance)
    yield frame.stamp, "/cvloc/odometry", odometry  # a run keeps poses, no speeds
    position = np.array([pose.x, pose.y])
    yield frame.stamp, "/cvloc/fix", _fix(frame.stamp, position, covariance[:2, :2], datum, frame_id=_BASE)


def _fix(stamp: int, position: np.ndarray, covariance: np.ndarray | None, datum: LocalFrame, *, frame_id: str) -> Any:
    latitude, longitude = datum.to_wgs84(position)
    return build.fix(
        stamp,
        latitude=latitude,
        longitude=longitude,
        altitude=datum.altitude,
        covariance=covariance,
        frame_id=frame_id,
    )
