"""Which topic of a bag is which: guessed by type and name where only one fits, else the choices are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ODOMETRY, FIX = "nav_msgs/msg/Odometry", "sensor_msgs/msg/NavSatFix"
ROLES: dict[str, tuple[str, ...]] = {
    "image": IMAGE_TYPES,
    "camera_info": ("sensor_msgs/msg/CameraInfo",),
    "fix": (FIX,),
    "odom": (ODOMETRY,),
    "ground_truth": (ODOMETRY,),
    "datum": (FIX,),
}
REQUIRED = ("image", "camera_info", "odom")


class BagError(RuntimeError):
    """A bag cannot be used; the message says what was expected, what came and what to do."""


def choose_topics(
    types: Mapping[str, str],
    requested: Mapping[str, str],
    *,
    frame_of: Callable[[str], str],
    required: Sequence[str] = REQUIRED,
) -> dict[str, str]:
    """Return the topic of every role that the bag has.

    Args:
        types: message type of every topic that has messages.
        requested: topic by role where the user names it; an empty name leaves the role out.
        frame_of: frame of a topic's first message.
        required: roles that the bag must have.

    Raises:
        BagError: a required topic is missing, a requested one is not there, or several fit.

    """
    unknown = sorted(set(requested) - set(ROLES))
    if unknown:
        raise BagError(f"expected topics for {', '.join(ROLES)}, got one for {', '.join(unknown)}")
    chosen: dict[str, str] = {}
    for role, role_types in ROLES.items():
        if role in requested:
            if requested[role]:
                chosen[role] = _checked(role, requested[role], types)
            continue
        fitting = [topic for topic, kind in types.items() if kind in role_types and topic not in requested.values()]
        topics = _narrowed(role, sorted(fitting), chosen, frame_of)
        if len(topics) > 1:
            raise BagError(
                f"expected one {role} topic, got {len(topics)}: {', '.join(topics)}. Choose one: {role}:={topics[0]}"
            )
        if topics:
            chosen[role] = topics[0]
    missing = [role for role in required if role not in chosen]
    if missing:
        needs = "; ".join(f"no {role} topic ({' or '.join(ROLES[role])})" for role in missing)
        raise BagError(
            f"the bag has {needs}. If one of these is it, name it ({missing[0]}:=/its/topic):\n{_listing(types)}"
        )
    return chosen


def _narrowed(role: str, topics: list[str], chosen: Mapping[str, str], frame_of: Callable[[str], str]) -> list[str]:
    """Return those of a type's topics that can have a role."""
    if role == "image":
        topics = [topic for topic in topics if not topic.endswith("/compressedDepth")]
        # Raw and compressed are one stream.
        return [topic for topic in topics if topic.removesuffix("/compressed") not in topics or _is_raw(topic)]
    if role == "camera_info" and "image" in chosen:
        sibling = _parent(chosen["image"].removesuffix("/compressed")) + "/camera_info"
        return [sibling] if sibling in topics else topics
    if role == "ground_truth":
        return [topic for topic in topics if _last(topic) == "ground_truth"]
    if role == "odom":
        # What is stated in the map is a truth or another localizer, however it is called.
        return [topic for topic in topics if _last(topic) != "ground_truth" and frame_of(topic) != "map"]
    if role in ("fix", "datum"):
        return [topic for topic in topics if (_last(topic) == "datum") == (role == "datum")]
    return topics


def _is_raw(topic: str) -> bool:
    return not topic.endswith("/compressed")


def _checked(role: str, topic: str, types: Mapping[str, str]) -> str:
    if topic not in types:
        raise BagError(
            f"expected the {role} topic '{topic}', but the bag has no such messages. It has:\n{_listing(types)}"
        )
    if types[topic] not in ROLES[role]:
        raise BagError(f"expected {' or '.join(ROLES[role])} on the {role} topic '{topic}', got {types[topic]}")
    return topic


def _listing(types: Mapping[str, str]) -> str:
    return "\n".join(f"  {topic}  {kind}" for topic, kind in sorted(types.items())) or "  no messages at all"


def _last(topic: str) -> str:
    return topic.rsplit("/", 1)[-1]


def _parent(topic: str) -> str:
    return topic.rsplit("/", 1)[0]
