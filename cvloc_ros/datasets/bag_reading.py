"""Bag files opened for reading: rosbag2 (MCAP or sqlite3) and ROS 1, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from cvloc_ros.datasets.bag_topics import BagError


@contextmanager
def reading(path: str | Path) -> Iterator[AnyReader]:
    """Open a bag for reading; whatever the reader trips over becomes a `BagError`."""
    path = Path(path)
    if not path.exists():
        raise BagError(f"expected a bag, but there is no '{path}'")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise BagError(
            f"expected a rosbag2, but the folder '{path}' has no metadata.yaml: name the bag's own folder, or restore "
            "it with `ros2 bag reindex`"
        )
    with saying_damaged(path), AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        yield reader


@contextmanager
def saying_damaged(path: str | Path) -> Iterator[None]:
    """Make a `BagError` of whatever the reader of a bag trips over."""
    try:
        yield
    except BagError:
        raise
    except Exception as error:  # damaged bytes trip a parser in any way
        raise BagError(
            f"'{path}' is damaged or no bag ({error or type(error).__name__}): if the recording was cut off, repair it "
            "with `mcap recover` or `ros2 bag reindex`"
        ) from error


def messages(reader: AnyReader, topic: str) -> Iterator[tuple[Any, int]]:
    """Yield a topic's messages, each with when it was recorded, nanoseconds."""
    connections: list[Connection] = [c for c in reader.connections if c.topic == topic]
    for connection, received, data in reader.messages(connections=connections):
        yield reader.deserialize(data, connection.msgtype), received
