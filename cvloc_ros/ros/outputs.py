"""What the node publishes. Everything carries the stamp of the image or odometry that it comes from, never "now".

Work that only a viewer needs is done only while somebody subscribes.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from sensor_msgs.msg import Image, NavSatFix

from cvloc_ros.evaluation.pictures import OVERLAY_GRID, draw_overlay
from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.types import Frame, Localization
from cvloc_ros.ros import conversions, frame_status, qos
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.health import WARN, Health
from cvloc_ros.ros.tf import Transforms

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

_PATH_STEP = 0.5  # metres between the poses of ~/path
_PATH_LENGTH = 20_000  # poses: 10 km
_PATH_PERIOD = 0.5  # seconds between messages of ~/path, which carry all of it
_SECOND = 1_000_000_000


class Outputs:
    """All publishers of the configured node."""

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        *,
        datum: LocalFrame,
        session: LocalizationSession,
        satellite_map: SatelliteMap,
        transforms: Transforms,
        health: Health,
    ) -> None:
        """Advertise everything and publish the datum."""
        self._node, self._config, self._datum = node, config, datum
        self._session, self._map, self._transforms, self._health = session, satellite_map, transforms, health
        self._publishers: list[Publisher] = []
        self._pose = self._advertise(PoseWithCovarianceStamped, "~/pose")
        self._prior = self._advertise(PoseWithCovarianceStamped, "~/prior")
        self._odometry = self._advertise(Odometry, "~/odometry")
        self._path = self._advertise(Path, "~/path")
        self._fix = self._advertise(NavSatFix, "~/fix")
        self._frame_status = self._advertise(DiagnosticArray, "~/frame_status")
        self._overlay = self._advertise(Image, "~/debug/overlay")
        self._travelled: deque[PoseStamped] = deque(maxlen=_PATH_LENGTH)
        self._path_published = self._painted = 0.0
        origin = conversions.to_fix(SE2(), np.zeros((2, 2)), datum=datum, stamp=0, frame_id=config.frames.map)
        self._advertise(NavSatFix, "~/datum", qos.LATCHED).publish(origin)

    def close(self) -> None:
        """Withdraw all publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def reset(self) -> None:
        """Begin a new path."""
        self._travelled.clear()

    def localization(self, localization: Localization) -> None:
        """Publish the pose, if it was accepted, and where the search began."""
        stamp, frame_id = localization.stamp, self._config.frames.map
        if localization.accepted:
            self._pose.publish(
                conversions.to_pose_with_covariance(
                    localization.T_map_base, localization.covariance, stamp=stamp, frame_id=frame_id
                )
            )
        if _wanted(self._prior):
            prior = localization.prior
            self._prior.publish(
                conversions.to_pose_with_covariance(prior.T_map_base, prior.covariance, stamp=stamp, frame_id=frame_id)
            )

    def frame_status(self, record: FrameRecord) -> None:
        """Publish everything about one image, also if it was not tried."""
        if _wanted(self._frame_status):
            self._frame_status.publish(frame_status.encode(record, frame_id=self._config.frames.map))

    def picture(self, frame: Frame, localization: Localization) -> None:
        """Publish the match picture, if anybody looks."""
        now = time.monotonic()
        due = now - self._painted >= self._node.get_parameter("overlay_period").value
        if due and _wanted(self._overlay):
            self._painted = now
            patch = self._map.patch(localization.prior.T_map_base, OVERLAY_GRID)
            picture = conversions.to_image(
                draw_overlay(frame, patch, localization), stamp=localization.stamp, frame_id=self._config.frames.map
            )
            self._overlay.publish(picture)

    def odometry(self, message: Odometry, stamp: int) -> None:
        """Publish the fused estimate at an odometry message's stamp: TF, odometry, fix, path."""
        known, status = self._session.pose(stamp), self._session.status()
        if known is None or status.T_map_odom is None:
            return
        pose, covariance = known
        frames = self._config.frames
        self._broadcast(pose, status.T_map_odom, stamp, message.header.frame_id)
        if _wanted(self._odometry):
            self._odometry.publish(
                conversions.to_odometry(
                    pose,
                    covariance,
                    stamp=stamp,
                    frame_id=frames.map,
                    child_frame_id=frames.base,
                    twist=message.twist,
                )
            )
        if _wanted(self._fix):
            self._fix.publish(
                conversions.to_fix(pose, covariance, datum=self._datum, stamp=stamp, frame_id=frames.base)
            )
        self._extend_path(pose, stamp)

    def _broadcast(self, T_map_base: SE2, T_map_odom: SE2, stamp: int, odom_frame: str) -> None:
        publish, frames = self._config.tf.publish, self._config.frames
        if publish == "none":
            return
        T, child = (T_map_odom, frames.odom or odom_frame) if publish == "map_odom" else (T_map_base, frames.base)
        ahead = round(self._node.get_parameter("tf.tolerance").value * _SECOND)
        self._transforms.broadcast(conversions.to_transform(T, stamp=stamp + ahead, parent=frames.map, child=child))

    def _extend_path(self, pose: SE2, stamp: int) -> None:
        last = self._travelled[-1].pose.position if self._travelled else None
        if last is None or np.hypot(pose.x - last.x, pose.y - last.y) >= _PATH_STEP:
            frame_id = self._config.frames.map
            self._travelled.append(conversions.to_pose_stamped(pose, stamp=stamp, frame_id=frame_id))
        now = time.monotonic()
        if now - self._path_published >= _PATH_PERIOD and _wanted(self._path):
            self._path_published = now
            header = conversions.header(stamp, self._config.frames.map)
            self._path.publish(Path(header=header, poses=list(self._travelled)))

    def _advertise(self, message_type: type, topic: str, profile: QoSProfile = qos.OUTPUT) -> Publisher:
        resolved = self._node.resolve_topic_name(topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._health.problem(
                "outputs",
                f"a subscriber of {resolved} gets nothing: its QoS asks for more {policy} than is offered; relax it",
                level=WARN,
            )

        events = PublisherEventCallbacks(incompatible_qos=incompatible)
        publisher = self._node.create_publisher(message_type, topic, profile, event_callbacks=events)
        self._publishers.append(publisher)
        return publisher


def _wanted(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
