"""The transform that the node publishes, and when it must not: by REP-105 an edge has one owner, a frame one parent.

`tf.publish` says which: map_odom, where somebody publishes odom -> base_link; map_base, where nobody does; or none,
where an EKF owns map -> odom. What does not fit is withheld, and the edge is named.
"""

from __future__ import annotations

from rclpy.node import Node

from cvloc_ros.datasets.message_reading import frame_name
from cvloc_ros.geometry import SE2
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.conversions import to_transform
from cvloc_ros.ros.health import Health
from cvloc_ros.ros.tf import Transforms

_SECOND = 1_000_000_000


class TfOutput:
    """Publishes map -> odom or map -> base_link."""

    def __init__(self, node: Node, config: NodeConfig, *, transforms: Transforms, health: Health) -> None:
        """Publish as configured."""
        self._node, self._frames, self._publish = node, config.frames, config.tf.publish
        self._transforms, self._health = transforms, health
        self._edge = ""
        health.provide("tf", lambda: {"edge": self._edge})

    def publish(self, T_map_base: SE2, T_map_odom: SE2, *, stamp: int, odom_frame: str) -> None:
        """Publish the pose at a stamp, unless another one owns the edge.

        Args:
            T_map_base: the vehicle in the map.
            T_map_odom: the odometry's frame in the map.
            stamp: of the odometry message, nanoseconds.
            odom_frame: its frame.

        """
        if self._publish == "none":
            return
        map_frame, base = self._frames.map, frame_name(self._frames.base)
        odom = frame_name(self._frames.odom or odom_frame)
        T, child = (T_map_odom, odom) if self._publish == "map_odom" else (T_map_base, base)
        self._transforms.claim(map_frame, child)
        condition, text = self._obstacle(map_frame, odom=odom, base=base, child=child)
        self._edge = "" if condition else f"{map_frame} -> {child}"
        self._health.only("tf", condition, text)
        if not condition:
            ahead = round(self._node.get_parameter("tf.tolerance").value * _SECOND)
            self._transforms.broadcast(to_transform(T, stamp=stamp + ahead, parent=map_frame, child=child))

    def _obstacle(self, map_frame: str, *, odom: str, base: str, child: str) -> tuple[str, str]:
        """Return the condition that keeps the transform from being published, and its text; empty if there is none."""
        withheld = f"{map_frame} -> {child} is not published:"
        if self._publish == "map_odom":
            if odom in ("", map_frame):
                return "no_odom", f"{withheld} the odometry names its frame '{odom}'; set the parameter frames.odom"
            if not self._transforms.is_below(base, odom):
                return "no_odom", (
                    f"{withheld} nobody publishes {odom} -> {base} on TF, so that it would place nothing; let the "
                    "odometry's source publish it, or set tf.publish to map_base"
                )
        parent = self._transforms.parent(child)
        if parent:
            return "other_parent", (
                f"{withheld} {child} hangs from {parent} already, and a frame has one parent; set tf.publish to "
                + ("none" if self._publish == "map_odom" else "map_odom")
            )
        if self._transforms.has_rival:
            return "other_publisher", (
                f"{withheld} another node publishes it too (an EKF with world_frame: {map_frame}?); set tf.publish to "
                "none, or keep that node from it"
            )
        return "", ""
