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
        self._suspects: dict[str, Publisher] = {}  # by topic: a subscriber was incompatible, and may still be

    def advertise(self, message_type: type, topic: str, profile: QoSProfile = qos.OUTPUT) -> Publisher:
        """Open a topic; a subscriber who asks for more than is offered is reported."""
        resolved = self._node.resolve_topic_name(topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._suspects[resolved] = publisher
            self._health.report(
                "outputs",
                "qos",
                f"a subscriber of {resolved} gets nothing: its QoS asks for more {policy} than is offered; relax it",
                lasts=self._is_one_deaf,
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
        self._suspects.clear()

    def _is_one_deaf(self) -> bool:
        return any(
            not qos.fit(publisher.qos_profile, info.qos_profile)
            for topic, publisher in self._suspects.items()
            for info in self._node.get_subscriptions_info_by_topic(topic)
        )


def is_wanted(publisher: Publisher) -> bool:
    """Whether anybody subscribes."""
    return publisher.get_subscription_count() > 0
