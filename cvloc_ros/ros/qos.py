"""Named quality-of-service profiles: what is subscribed and published how, and why (REP-2003)."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Best effort connects to reliable and best-effort publishers alike. Of images only the newest is of interest.
SENSOR = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)
IMAGE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)

OUTPUT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)

# For what is said once and must reach those who come later.
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
)

# As tf2_ros has them.
MOVING_TF = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)
STATIC_TF = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
)

CLOCK = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST)


def subscribe(
    node: Node,
    message_type: type,
    topic: str,
    callback: Callable[[Any], None],
    profile: QoSProfile,
    *,
    on_incompatible: Callable[[str, Callable[[], bool]], None],
) -> Subscription:
    """Subscribe with a profile that parameters may change (`qos_overrides./topic.subscription.reliability`).

    Args:
        node: that subscribes.
        message_type: of the topic.
        topic: relative to the node.
        callback: takes the messages.
        profile: unless the parameters say otherwise.
        on_incompatible: takes a complaint about a publisher whose profile offers less, and a function that says
            whether there still is one.

    """
    resolved = node.resolve_topic_name(topic)
    profile = copy(profile)  # rclpy writes what the parameters say into it

    def lasts() -> bool:
        return any(not fit(info.qos_profile, profile) for info in node.get_publishers_info_by_topic(resolved))

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        on_incompatible(
            f"a publisher of {resolved} is not heard: it offers less {policy} than is asked for; change its QoS, or "
            f"this side's by the parameters qos_overrides.{resolved}.subscription",
            lasts,
        )

    return node.create_subscription(
        message_type,
        topic,
        callback,
        profile,
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


def fit(offered: QoSProfile, asked: QoSProfile) -> bool:
    """Whether a publisher's profile serves a subscription's, as far as they tell."""
    return qos_check_compatible(offered, asked)[0] != QoSCompatibility.ERROR
