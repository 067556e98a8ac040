"""New rosbag2 folders (MCAP), written without ROS: whole, or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from cvloc_ros.datasets import message_building as build

Message = tuple[int, str, Any]
"""Stamp in nanoseconds, topic, and a message of `message_building`'s store."""
NOTES = "notes"
"""Key of the bag's custom data (`ros2 bag record --custom-data` has the like) with what a user must know of it."""


def write_bag(
    path: str | Path,
    messages: Iterable[Message],
    *,
    latched: Collection[str] = (),
    notes: Collection[str] = (),
    progress: Callable[[int], None] = lambda stamp: None,
) -> Counter[str]:
    """Write messages to a new rosbag2 folder.

    The bag appears when it is complete: an interrupted or failed run leaves nothing behind.

    Args:
        path: the bag's folder, which must not exist.
        messages: in the order in which they are to be replayed.
        latched: topics whose last message is kept for those who subscribe late.
        notes: what a user must know of the bag, a line each; they are looked up when all messages are written. They go
            into its metadata, and `Bag.notes` has them.
        progress: told the stamp of every message that is written.

    Returns:
        How many messages each topic has.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    counts: Counter[str] = Counter()
    with new_bag(path) as writer:
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
        if notes:
            writer.set_custom_data(NOTES, "\n".join(notes))
    return counts


@contextmanager
def new_bag(path: str | Path) -> Iterator[Writer]:
    """Give a writer of a new rosbag2 folder, which appears when the context is left without an error.

    What a killed run has left beside it is removed. While it is open, SIGTERM interrupts as Ctrl-C does, unless the
    program has a handler of its own.

    Args:
        path: the bag's folder, which must not exist.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"expected a place for a new bag, but '{path}' exists: remove it or choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_what_is_left(path)
    with _terminated_as_interrupted():
        # The folder's name goes into the bag's metadata, so it is written under its own name in a folder beside.
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        lock = os.open(scratch, os.O_RDONLY)  # the system releases it when this process ends, however it does
        try:
            with suppress(OSError):  # not on every network file system; then what is left stays
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with Writer(
                scratch / path.name, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP
            ) as writer:
                yield writer
            os.replace(scratch / path.name, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(lock)


def _remove_what_is_left(path: Path) -> None:
    """Remove folders beside a bag's place that `new_bag` has made for it, and in which nobody works any more."""
    pattern = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}")  # as mkdtemp names them
    for folder in path.parent.iterdir():
        if not pattern.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        if {child.name for child in folder.iterdir()} - {path.name}:
            continue  # somebody else's
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its writer is alive
            continue
        finally:
            os.close(lock)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
