"""The one seam to TF: where sensors sit on the vehicle, and the transform that the node publishes.

Where tf2_ros is installed its buffer is used; where it is not (the PyPI wheels lack it) `TransformTree` does the same.
A transform that is missing is an error that names what is missing; it is never taken for the identity.
"""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import frame_name, transform_matrix
from cvloc_ros.datasets.transform_tree import MissingTransform, TransformTree
from cvloc_ros.ros import qos
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.health import Health

_REMEMBERED = 200  # transforms of our own: /tf brings them back
_RIVAL_FOR = 5.0  # seconds for which another publisher of our transform counts


class _Store(Protocol):
    """Keeps transforms; `TransformTree` is one."""

    def update(self, transform: TransformStamped, *, static: bool) -> None:
        """Take in a transform; raise ConversionError if it is no rigid motion."""
        ...

    def lookup(self, target: str, source: str) -> np.ndarray:
        """Return the newest ``T_target_source``, 4x4; raise MissingTransform."""
        ...

    def clear_moving(self) -> None:
        """Forget what moves."""
        ...


def has_tf2_ros() -> bool:
    """Whether tf2_ros is installed."""
    return importlib.util.find_spec("tf2_ros") is not None


class Transforms:
    """Listens to /tf and /tf_static, and publishes on /tf."""

    def __init__(self, node: Node, health: Health) -> None:
        """Subscribe, and open /tf for publishing."""
        self._health = health
        self._store: _Store = _Tf2Store() if has_tf2_ros() else TransformTree()
        self._parents: dict[str, str] = {}  # of every child on TF, our own edge left out
        self._ours: tuple[str, str] | None = None  # the edge (parent, child) that is claimed
        self._sent: deque[int] = deque(maxlen=_REMEMBERED)  # its stamps, by which we know it when it comes back
        self._rival_at = -np.inf  # when somebody else last published it
        for topic, profile, callback in (
            ("/tf_static", qos.STATIC_TF, self._static),
            ("/tf", qos.MOVING_TF, self._moving),
        ):
            qos.subscribe(node, TFMessage, topic, callback, profile, on_incompatible=self._incompatible)
        self._publisher = node.create_publisher(TFMessage, "/tf", qos.MOVING_TF)

    def lookup(self, target: str, source: str) -> np.ndarray:
        """Return the newest ``T_target_source``, 4x4.

        Raises:
            MissingTransform: they are not connected; the text says what to do.

        """
        target, source = frame_name(target), frame_name(source)
        try:
            return self._store.lookup(target, source)
        except MissingTransform as error:
            raise MissingTransform(
                f"{error}. Publish it: `ros2 run tf2_ros static_transform_publisher --x ... --frame-id {target} "
                f"--child-frame-id {source}`, or start robot_state_publisher with the vehicle's URDF"
            ) from None

    def parent(self, frame: str) -> str:
        """Return the frame that a frame hangs from by what others publish; empty if nobody says."""
        return self._parents.get(frame_name(frame), "")

    def is_below(self, frame: str, ancestor: str) -> bool:
        """Whether others' transforms lead from a frame up to another one."""
        frame, ancestor = frame_name(frame), frame_name(ancestor)
        for _ in range(len(self._parents) + 1):  # a loop of frames ends too
            if frame == ancestor:
                return True
            frame = self._parents.get(frame, "")
        return False

    @property
    def has_rival(self) -> bool:
        """Whether another node publishes the transform that is claimed."""
        return time.monotonic() - self._rival_at < _RIVAL_FOR

    def claim(self, parent: str, child: str) -> None:
        """Name the transform that this node is going to publish, so that others' are told from it."""
        edge = frame_name(parent), frame_name(child)
        if edge == self._ours:
            return
        self._ours = edge
        if self._parents.get(edge[1]) == edge[0]:  # somebody else published it so far
            del self._parents[edge[1]]
            self._rival_at = time.monotonic()

    def broadcast(self, transform: TransformStamped) -> None:
        """Publish the claimed transform."""
        self._sent.append(to_nanoseconds(transform.header.stamp))
        self._publisher.publish(TFMessage(transforms=[transform]))

    def clear(self) -> None:
        """Forget what moves, after time has jumped back; static transforms stay."""
        self._store.clear_moving()

    def _static(self, message: TFMessage) -> None:
        self._update(message, static=True)

    def _moving(self, message: TFMessage) -> None:
        self._update(message, static=False)

    def _update(self, message: TFMessage, *, static: bool) -> None:
        for transform in message.transforms:
            parent, child, stamp = _edge(transform)
            if (parent, child) != self._ours:
                self._parents[child] = parent
            elif stamp in self._sent:
                continue
            else:
                self._rival_at = time.monotonic()
            try:
                self._store.update(transform, static=static)
            except ConversionError as error:
                text = f"the transform {parent} -> {child} on TF is not used: {error}"
                self._health.report("transforms", "unusable", text)
            else:
                self._health.fine("transforms", "unusable")

    def _incompatible(self, complaint: str, lasts: Callable[[], bool]) -> None:
        self._health.report("transforms", "qos", complaint, lasts=lasts)


def _edge(transform: TransformStamped) -> tuple[str, str, int]:
    header = transform.header
    return frame_name(header.frame_id), frame_name(transform.child_frame_id), to_nanoseconds(header.stamp)


class _Tf2Store:
    """tf2's buffer."""

    def __init__(self) -> None:
        import tf2_ros

        self._error = tf2_ros.TransformException
        # Without the node: its own handling of jumps in time is broken in some releases, and it is cleared from here.
        self._buffer = tf2_ros.Buffer()

    def update(self, transform: TransformStamped, *, static: bool) -> None:
        transform_matrix(transform.transform.translation, transform.transform.rotation)  # says what is wrong with it
        set_transform: Any = self._buffer.set_transform_static if static else self._buffer.set_transform
        set_transform(transform, "cvloc")

    def lookup(self, target: str, source: str) -> np.ndarray:
        try:
            transform = self._buffer.lookup_transform(target, source, Time()).transform
        except self._error as error:
            raise MissingTransform(str(error).strip().rstrip(".")) from None
        return transform_matrix(transform.translation, transform.rotation)

    def clear_moving(self) -> None:
        self._buffer.clear()
