"""The node's publishers: opened and closed together; a subscriber whose QoS does not fit is reported."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_policy_name_from_kind

from cvloc_ros.ros import qos
from cvloc_ros.ros.health import Health

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks


class Publishers:
    """All topics of the configured node."""

    def __init__(self, node: Node, health: Health) -> None:
        """Begin without any."""
        self._node, self._health = node, health
        self._publishers: list[Publisher] = []

    def advertise(self, message_type: type, topic: str, profile: QoSProfile = qos.OUTPUT) -> Publisher:
        """Open a topic; a subscriber who asks for more than is offered is reported."""
        resolved = self._node.resolve_topic_name(topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._health.report(
                "outputs",
                "qos",
                f"a subscriber of {resolved} gets nothing: its QoS asks for more {policy} than is offered; relax it",
            )

        events = PublisherEventCallbacks(incompatible_qos=incompatible)
        publisher = self._node.create_publisher(message_type, topic, profile, event_callbacks=events)
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Withdraw all of them."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()


def is_wanted(publisher: Publisher) -> bool:
    """Whether anybody subscribes."""
    return publisher.get_subscription_count() > 0
