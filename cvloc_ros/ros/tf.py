"""The one seam to TF: where sensors sit on the vehicle, and the transform that the node publishes.

Where tf2_ros is installed it is used; where it is not (the PyPI wheels lack it) the same is done here with tf2_msgs
alone. A transform that is missing is an error that names what is missing; it is never taken for the identity.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import frame_name, transform_matrix
from cvloc_ros.datasets.transform_tree import MissingTransform, TransformTree
from cvloc_ros.ros import qos


class Transforms(Protocol):
    """What the node needs of TF."""

    def lookup(self, target: str, source: str) -> np.ndarray:
        """Return the newest ``T_target_source``, 4x4; raise MissingTransform."""
        ...

    def broadcast(self, transform: TransformStamped) -> None:
        """Publish a transform on /tf."""
        ...

    def clear(self) -> None:
        """Forget what moves, after time has jumped back; static transforms stay."""
        ...


def open_transforms(node: Node) -> Transforms:
    """Listen to TF and prepare to publish it, through tf2_ros or directly."""
    return Tf2RosTransforms(node) if has_tf2_ros() else DirectTransforms(node)


def has_tf2_ros() -> bool:
    """Whether tf2_ros is installed."""
    return importlib.util.find_spec("tf2_ros") is not None


class DirectTransforms:
    """TF with nothing but its message type."""

    def __init__(self, node: Node) -> None:
        """Subscribe to /tf and /tf_static, and open /tf for publishing."""
        from tf2_msgs.msg import TFMessage

        self._message, self._log = TFMessage, node.get_logger()
        self._tree = TransformTree()
        node.create_subscription(TFMessage, "/tf_static", lambda m: self._update(m, static=True), qos.STATIC_TF)
        node.create_subscription(TFMessage, "/tf", lambda m: self._update(m, static=False), qos.MOVING_TF)
        self._publisher = node.create_publisher(TFMessage, "/tf", qos.MOVING_TF)

    def lookup(self, target: str, source: str) -> np.ndarray:
        """See `Transforms`."""
        try:
            return self._tree.lookup(target, source)
        except MissingTransform as error:
            raise MissingTransform(f"{error}. {_advice(target, source)}") from None

    def broadcast(self, transform: TransformStamped) -> None:
        """See `Transforms`."""
        self._publisher.publish(self._message(transforms=[transform]))

    def clear(self) -> None:
        """See `Transforms`."""
        self._tree.clear_moving()

    def _update(self, message: Any, *, static: bool) -> None:
        for transform in message.transforms:
            try:
                self._tree.update(transform, static=static)
            except ConversionError as error:
                edge = f"{transform.header.frame_id} -> {transform.child_frame_id}"
                self._log.warning(f"the transform {edge} is not used: {error}", throttle_duration_sec=60.0)


class Tf2RosTransforms:
    """TF through tf2_ros."""

    def __init__(self, node: Node) -> None:
        """Start a listener on the node's own executor, and a broadcaster."""
        import tf2_ros

        self._error = tf2_ros.TransformException
        # Without the node: its own handling of jumps in time is broken in some releases, and clear() is called here.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._broadcaster = tf2_ros.TransformBroadcaster(node)

    def lookup(self, target: str, source: str) -> np.ndarray:
        """See `Transforms`."""
        target, source = frame_name(target), frame_name(source)
        try:
            transform = self._buffer.lookup_transform(target, source, Time()).transform
        except self._error as error:
            raise MissingTransform(f"{str(error).strip()} {_advice(target, source)}") from None
        return transform_matrix(transform.translation, transform.rotation)

    def broadcast(self, transform: TransformStamped) -> None:
        """See `Transforms`."""
        self._broadcaster.sendTransform(transform)

    def clear(self) -> None:
        """See `Transforms`."""
        self._buffer.clear()


def _advice(target: str, source: str) -> str:
    return (
        "Publish it: `ros2 run tf2_ros static_transform_publisher --x ... "
        f"--frame-id {frame_name(target)} --child-frame-id {frame_name(source)}`, or start robot_state_publisher with "
        "the vehicle's URDF"
    )
