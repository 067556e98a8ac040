"""A bag player over DDS: every recorded message goes out as the bytes that were recorded, at its time, with /clock.

Nothing is decoded, so a drive with camera images plays on a small machine. Topics that were latched when they were
recorded (/tf_static, maps) are latched again, and go out first wherever playing starts. /clock follows at 100 Hz.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2 import Reader, ReaderError
from rosgraph_msgs.msg import Clock

from cvloc_ros.ros import qos
from cvloc_ros.ros.conversions import to_stamp

_CLOCK_PERIOD = 0.01  # seconds of real time
_SECOND = 1_000_000_000
_DISCOVERY = 0.3  # seconds after which a subscriber that we know knows us
_NEVER_PLAYED = ("/clock", "/rosout", "/parameter_events")  # of the recording's own machinery
_DEPTH = 100  # messages that a publisher keeps for slow reliable subscribers
_MOST_LATCHED = 1000
_SHORTEST_PASS = _SECOND  # of the bag's time, when it is played in a loop
_NEVER = 1 << 62  # nanoseconds

Progress = Callable[[float, float], None]
"""Takes the seconds of the bag that are played, and how many there are."""


class PlayerError(RuntimeError):
    """A bag that cannot be played, or nobody who listens."""


@dataclass(frozen=True)
class Played:
    """What was done: passes through the bag, messages, seconds of real time, and the worst lateness in seconds."""

    passes: int
    messages: int
    seconds: float
    latest: float


@contextmanager
def open_player(path: str | Path, *, exclude: Sequence[str] = ()) -> Iterator[BagPlayer]:
    """Start ROS with one node that plays a bag; see `BagPlayer`."""
    rclpy.init()
    node = Node("bag_player")
    try:
        player = BagPlayer(node, path, exclude=exclude)
        try:
            yield player
        finally:
            player.close()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class BagPlayer:
    """Plays one rosbag2 (MCAP or sqlite3) through a node's publishers."""

    def __init__(self, node: Node, path: str | Path, *, exclude: Sequence[str] = ()) -> None:
        """Open a bag and advertise its topics.

        Raises:
            PlayerError: there is no bag, or nothing in it can be published.

        """
        self._node = node
        if not Path(path).exists():
            raise PlayerError(f"expected a rosbag2 folder, .mcap or .db3 file, but there is no '{path}'")
        try:
            self._reader = Reader(path)
            self._reader.open()
        except (ReaderError, OSError) as error:
            raise PlayerError(f"expected a rosbag2 (MCAP or sqlite3) at '{path}': {error}") from error
        self._clock = node.create_publisher(Clock, "/clock", qos.CLOCK)
        self._publishers: dict[str, Publisher] = {}
        self._latched: list[Connection] = []
        self._moving: list[Connection] = []
        self.skipped: dict[str, str] = {}
        """Topics that are not played, and why."""
        for connection in self._reader.connections:
            self._advertise(connection, exclude)
        if not self._publishers:
            raise PlayerError(f"nothing in '{path}' can be played: {self.skipped}")

    @property
    def duration(self) -> float:
        """Length of the bag, seconds."""
        return self._reader.duration / _SECOND

    @property
    def topics(self) -> list[str]:
        """What is published, sorted."""
        return sorted(self._publishers)

    def wait_for_subscribers(self, topics: Sequence[str], *, timeout: float) -> None:
        """Block until somebody subscribes to each of the topics.

        Raises:
            PlayerError: a topic is not played, or nobody came in time.

        """
        unknown = [topic for topic in topics if topic not in self._publishers]
        if unknown:
            raise PlayerError(f"nothing is played on {', '.join(unknown)}; the bag has {', '.join(self.topics)}")
        deadline = time.monotonic() + timeout
        while missing := [topic for topic in topics if not self._publishers[topic].get_subscription_count()]:
            if time.monotonic() > deadline or not self._node.context.ok():
                raise PlayerError(f"nobody subscribed to {', '.join(missing)} within {timeout:g} s")
            time.sleep(0.02)
        if topics:
            time.sleep(_DISCOVERY)

    def play(
        self, *, rate: float = 1.0, loop: bool = False, start: float = 0.0, progress: Progress | None = None
    ) -> Played:
        """Play the bag, until its end or, looping, until ROS is shut down.

        Args:
            rate: seconds of the bag in a second of real time.
            loop: begin again at the end; /clock jumps back. A bag of nothing but latched messages is published once
                and kept there.
            start: seconds of the bag to leave out; its latched messages are published nevertheless.
            progress: is called now and then.

        Raises:
            PlayerError: there is nothing after ``start``.

        """
        if not 0 <= start < self.duration:
            raise PlayerError(f"expected a start within the bag's {self.duration:.1f} s, got {start:g} s")
        began = time.monotonic()
        passes = messages = 0
        latest = 0.0
        while self._node.context.ok() and (loop or passes == 0):
            self._publish_latched()
            timeline = _Timeline(self._reader.start_time + round(start * _SECOND), rate, self._tick)
            # With no connections given, the reader would yield all of them.
            moving = self._reader.messages(self._moving, start=timeline.begin) if self._moving else ()
            for connection, stamp, data in moving:
                late = timeline.wait(stamp, self._node.context.ok)
                if late is None:
                    break
                self._publishers[connection.topic].publish(data)
                latest = max(latest, late)
                messages += 1
                if progress is not None:
                    progress((stamp - self._reader.start_time) / _SECOND, self.duration)
            passes += 1
            if loop:
                self._rest(timeline)
        if self._node.context.ok():
            for publisher in self._publishers.values():  # the last messages are still under way
                publisher.wait_for_all_acked(Duration(seconds=1))
        return Played(passes, messages, time.monotonic() - began, latest)

    def _rest(self, timeline: _Timeline) -> None:
        """Let a pass take its time before the next one begins: for ever, if there is nothing but latched messages."""
        end = max(self._reader.end_time, timeline.begin + _SHORTEST_PASS) if self._moving else _NEVER
        timeline.wait(end, self._node.context.ok)

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()

    def _publish_latched(self) -> None:
        if self._latched:
            for connection, _, data in self._reader.messages(self._latched):
                self._publishers[connection.topic].publish(data)

    def _tick(self, bag_time: int) -> None:
        self._clock.publish(Clock(clock=to_stamp(bag_time)))

    def _advertise(self, connection: Connection, exclude: Sequence[str]) -> None:
        topic = connection.topic
        if topic in _NEVER_PLAYED or topic in exclude:
            self.skipped[topic] = "excluded"
            return
        try:
            message_type = _message_type(connection.msgtype)
        except (ImportError, AttributeError, ValueError):
            self.skipped[topic] = f"{connection.msgtype} is not installed"
            return
        latched = _is_latched(connection)
        (self._latched if latched else self._moving).append(connection)
        if topic in self._publishers:  # several recorded publishers of one topic
            return
        # One publisher stands for all that were recorded, each with its own latched message.
        depth = min(max(connection.msgcount, 1), _MOST_LATCHED) if latched else _DEPTH
        profile = QoSProfile(
            depth=depth,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._publishers[topic] = self._node.create_publisher(message_type, topic, profile)


class _Timeline:
    """When a stamp of the bag is due, in real time; keeps /clock going while waiting."""

    def __init__(self, begin: int, rate: float, tick: Callable[[int], None]) -> None:
        self.begin = begin
        self._rate, self._tick = rate, tick
        self._started = self._next_tick = time.monotonic()

    def wait(self, stamp: int, ok: Callable[[], bool]) -> float | None:
        """Wait until a stamp is due; return by how many seconds it is late, None if ROS was shut down."""
        due = self._started + (stamp - self.begin) / (self._rate * _SECOND)
        while ok():
            now = time.monotonic()
            if now >= self._next_tick:
                self._tick(self.begin + round((now - self._started) * self._rate * _SECOND))
                self._next_tick = max(self._next_tick + _CLOCK_PERIOD, now)
            if now >= due:
                return now - due
            time.sleep(max(min(due, self._next_tick) - now, 0.0))
        return None


def _message_type(name: str) -> Any:
    package, kind, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), message)


def _is_latched(connection: Connection) -> bool:
    extension = connection.ext
    if not isinstance(extension, ConnectionExtRosbag2):
        return False
    profiles = extension.offered_qos_profiles
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles) or connection.topic == "/tf_static"
