"""A ROS 1 bag as ROS 2 messages: the same topics, times and numbers under today's definitions of the types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rosbags.convert.converter import STATIC_MSGTYPE_RENAMES, migrate_message
from rosbags.highlevel import AnyReader

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_reading import reading
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.message_reading import frame_name

_LATCHED_NAMES = ("tf_static", "datum")  # in ROS 1 a latched topic may have been recorded as any other


class Ros1Bag:
    """A ROS 1 bag.

    Frames lose the leading slash that tf2 refuses, and what transforms state on ``tf_static`` is latched. Messages of
    types that ROS 2 Jazzy does not have are left out, and so are those that do not parse: `notes` say so.
    """

    kind = "ROS 1 bag"

    def __init__(self, path: str | Path) -> None:
        """Open the bag.

        Raises:
            BagError: it cannot be read, or nothing in it can be converted.

        """
        self.path = Path(path)
        self.notes: list[str] = []
        with reading(self.path) as reader:
            self.start, self.end = reader.start_time, reader.end_time - 1
            self.latched = frozenset(
                c.topic for c in reader.connections if _is_latched(c) or c.topic.endswith(_LATCHED_NAMES)
            )
            unknown = {c.topic: c.msgtype for c in reader.connections if _todays_type(c.msgtype) is None}
        self.notes += [f"{topic} is left out: ROS 2 has no {kind}" for topic, kind in sorted(unknown.items())]

    def messages(self) -> Iterator[Message]:
        """Yield all messages in the order in which they were recorded.

        Raises:
            BagError: the bag is damaged further on.

        """
        unusable: Counter[str] = Counter()
        with reading(self.path) as reader:
            connections = [c for c in reader.connections if _todays_type(c.msgtype)]
            cache: dict[str, object] = {}
            for connection, stamp, data in reader.messages(connections=connections):
                try:
                    yield stamp, connection.topic, _migrated(reader, data, connection.msgtype, cache)
                except (ValueError, IndexError, AssertionError):  # cut-off bytes trip the parser in these ways
                    unusable[connection.topic] += 1
        self.notes += [f"{topic}: {n} messages do not parse and are left out" for topic, n in unusable.items()]


def _migrated(reader: AnyReader, data: Any, kind: str, cache: dict[str, object]) -> Any:
    target = _todays_type(kind)
    assert target is not None
    source = reader.deserialize(data, kind)
    message: Any = migrate_message(reader.typestore, build.STORE, kind, target, cache, source)
    for stamped in (message, *getattr(message, "transforms", ())):
        if hasattr(stamped, "header"):
            stamped.header.frame_id = frame_name(stamped.header.frame_id)
        if hasattr(stamped, "child_frame_id"):
            stamped.child_frame_id = frame_name(stamped.child_frame_id)
    return message


def _todays_type(kind: str) -> str | None:
    renamed = STATIC_MSGTYPE_RENAMES.get(kind, kind)
    return renamed if renamed in build.STORE.fielddefs else None


def _is_latched(connection: Any) -> bool:
    return bool(getattr(connection.ext, "latching", None))
