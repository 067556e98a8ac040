"""Bags made from other bags, for tests of what is missing or wrong in one."""

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from cvloc_ros.datasets.bag_writing import NOTES

STORE = get_typestore(Stores.ROS2_JAZZY)


def rewrite(source, target, *, drop=(), rename=None, edit=None, retime=None, notes=(), storage=StoragePlugin.MCAP):
    """Copy a bag with some topics left out or renamed; ``edit`` maps a topic to a change of its messages.

    Arrays of messages are read-only: a change replaces them. ``retime`` maps a topic to when its messages, by when they
    were recorded, are recorded instead; ``notes`` are those of its writer.
    """
    rename, edit, retime = rename or {}, edit or {}, retime or {}
    with AnyReader([source]) as reader, Writer(target, version=9, storage_plugin=storage) as writer:
        connections = {
            c.topic: writer.add_connection(rename.get(c.topic, c.topic), c.msgtype, typestore=STORE)
            for c in reader.connections
            if c.topic not in drop
        }
        if notes:
            writer.set_custom_data(NOTES, "\n".join(notes))
        for connection, stamp, data in reader.messages():
            if connection.topic in edit:
                message = STORE.deserialize_cdr(data, connection.msgtype)
                edit[connection.topic](message)
                data = STORE.serialize_cdr(message, connection.msgtype)
            if connection.topic in retime:
                stamp = retime[connection.topic](stamp)
            if connection.topic in connections:
                writer.write(connections[connection.topic], stamp, data)
    return target
