"""New rosbag2 folders (MCAP), written without ROS: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from cvloc_ros.datasets import message_building as build

Message = tuple[int, str, Any]
"""Stamp in nanoseconds, topic, and a message of `message_building`'s store."""


def write_bag(
    path: str | Path,
    messages: Iterable[Message],
    *,
    latched: Collection[str] = (),
    progress: Callable[[int], None] = lambda stamp: None,
) -> Counter[str]:
    """Write messages to a new rosbag2 folder.

    The bag appears when it is complete: an interrupted or failed run leaves nothing behind.

    Args:
        path: the bag's folder, which must not exist.
        messages: in the order in which they are to be replayed.
        latched: topics whose last message is kept for those who subscribe late.
        progress: told the stamp of every message that is written.

    Returns:
        How many messages each topic has.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"expected a place for a new bag, but '{path}' exists: remove it or choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    # The folder's name goes into the bag's metadata, so it is written under its own name in a folder beside.
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with Writer(scratch / path.name, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
            connections: dict[str, Connection] = {}
            for stamp, topic, message in messages:
                if topic not in connections:
                    connections[topic] = writer.add_connection(
                        topic,
                        message.__msgtype__,
                        typestore=build.STORE,
                        offered_qos_profiles=[build.qos(latched=topic in latched)],
                    )
                writer.write(connections[topic], stamp, build.STORE.serialize_cdr(message, message.__msgtype__))
                counts[topic] += 1
                progress(stamp)
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts
