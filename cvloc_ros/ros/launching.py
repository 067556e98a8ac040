"""What the launch files find out before they start anything: parameter file, topics, and what is installed.

Needs neither launch nor rclpy, so that it can be tried without them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cvloc_ros.datasets.bag_topics import ROLES, BagError, choose_topics

INPUTS = ("image", "camera_info", "odom", "fix", "imu", "initialpose")
"""The localizer's inputs, by the names that are remapped."""

_GUESSED = ("image", "camera_info", "odom", "fix")
_TOPICS_SECTION = "/**/topics"


class LaunchError(ValueError):
    """An argument of a launch file that cannot be used; the message says what to give instead."""


def parameter_file(name: str, folder: Path) -> Path:
    """Return the file of a path, or of the name of a parameter file that comes with the package (`kitti`).

    Args:
        name: a path, or the name of a file in ``folder``, with or without .yaml.
        folder: the package's config folder.

    Raises:
        LaunchError: there is no such file.

    """
    for path in (Path(name).expanduser(), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    shipped = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise LaunchError(f"params_file: expected a file, or one of {shipped}; there is no '{name}'")


def topics_of_file(path: Path) -> dict[str, str]:
    """Return the topic of each input from a parameter file's section `/**/topics`; most files have none.

    Raises:
        LaunchError: the file is no parameter file, or names an input that does not exist.

    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
        section = content.get(_TOPICS_SECTION, {}).get("ros__parameters", {})
    except (yaml.YAMLError, AttributeError) as error:
        raise LaunchError(f"params_file: expected ROS 2 parameters in '{path}': {error}") from None
    return _known(section, place=f"{path}, {_TOPICS_SECTION}")


def topics_of_text(text: str) -> dict[str, str]:
    """Return the topic of each input from "image=/front/image_raw odom=/odometry"; commas and := will do as well.

    Raises:
        LaunchError: it is something else.

    """
    topics = {}
    for pair in re.split(r"[\s,]+", text.strip()):
        name, separator, topic = pair.replace(":=", "=").partition("=")
        if pair and not (separator and topic):
            raise LaunchError(f"topics: expected name=topic pairs such as 'image=/front/image_raw', got '{pair}'")
        if pair:
            topics[name] = topic
    return _known(topics, place="topics")


def complete_from_bag(bag: str, given: Mapping[str, str]) -> dict[str, str]:
    """Add the topics of a bag's images, camera info, odometry and fixes where they were not given and only one fits.

    Args:
        bag: a rosbag2.
        given: topic by input; it need not be in the bag.

    Raises:
        LaunchError: the bag cannot be read; several topics fit, or none does.

    """
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    named = {name: topic for name, topic in given.items() if name in _GUESSED}
    if named.keys() >= set(_GUESSED):
        return dict(given)
    try:
        with AnyReader([Path(bag)], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:

            def frame_of(topic: str) -> str:
                connections = [each for each in reader.connections if each.topic == topic]
                connection, _, data = next(reader.messages(connections=connections))
                message: Any = reader.deserialize(data, connection.msgtype)
                return message.header.frame_id

            types = {each.topic: each.msgtype for each in reader.connections if each.msgcount}
            from_elsewhere = {topic: ROLES[name][0] for name, topic in named.items() if topic not in types}
            found = choose_topics({**types, **from_elsewhere}, named, frame_of=frame_of)
    except BagError as error:
        raise LaunchError(f"bag '{bag}': {error}") from None
    except Exception as error:  # damaged bytes trip a parser in any way
        raise LaunchError(_no_bag(bag, error)) from None
    return {**{name: found[name] for name in _GUESSED if name in found}, **given}


def split_transport(topic: str) -> tuple[str, str]:
    """Return an image topic as it is remapped, without /compressed, and the transport that it tells ("": nothing)."""
    base = topic.removesuffix("/compressed")
    return base, "compressed" if base != topic else ""


def player_options(bag: str, topics: Mapping[str, str], *, namespace: str, transport: str) -> list[str]:
    """Return the options with which `cvloc play` begins when the localizer listens, and leaves out what it publishes.

    A bag that was recorded while the localizer ran has its topics, which would mix with those of today's run.

    Args:
        bag: a rosbag2.
        topics: topic by input.
        namespace: of the localizer, "" or "/car".
        transport: of the images, "raw" or "compressed"; "" leaves it to the parameter file.

    """
    from rosbags.rosbag2 import Reader, ReaderError

    try:
        with Reader(bag) as reader:
            played = {each.topic for each in reader.connections if each.msgcount}
    except (ReaderError, OSError) as error:
        raise LaunchError(_no_bag(bag, error)) from None
    image = topics.get("image", "image")
    images = {"raw": [image], "compressed": [f"{image}/compressed"]}.get(transport, [image, f"{image}/compressed"])
    names = [topics.get("odom", "odom"), *images]
    heard = [name if name.startswith("/") else f"{namespace}/{name}" for name in names]
    options = [part for topic in heard if topic in played for part in ("--wait-for", topic)][:2]
    return options + [part for t in sorted(played) if t.startswith(f"{namespace}/cvloc/") for part in ("--exclude", t)]


def datum(text: str) -> list[float]:
    """Return the numbers of "latitude, longitude" or "latitude, longitude, altitude".

    Raises:
        LaunchError: it is something else.

    """
    try:
        numbers = [float(number) for number in text.strip("[] ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3):
        raise LaunchError(f"datum: expected 'latitude, longitude' in degrees, e.g. '49.0125, 8.4269', got '{text}'")
    return numbers


def missing(package: str, *, argument: str) -> str:
    """Return a line that says that a package is not installed and how to install it; nothing if it is there.

    Args:
        package: e.g. "robot_localization".
        argument: the launch argument that asked for it, e.g. "ekf:=true".

    """
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix(package)
    except (PackageNotFoundError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        name = f"ros-{os.environ.get('ROS_DISTRO', '<distro>')}-{package.replace('_', '-')}"
        return f"{argument} needs {package}, which is not installed: sudo apt install {name}. All else is started."
    return ""


def viewer_remaps(rviz_config: Path, namespace: str) -> list[tuple[str, str]]:
    """Return the remaps with which an RViz config, which names /cvloc/... and /initialpose, serves a namespace."""
    if not namespace.strip("/"):
        return []
    topics = sorted(set(re.findall(r"(?<![\w/])/(?:cvloc/[\w/]+|initialpose)", rviz_config.read_text())))
    return [(topic, f"/{namespace.strip('/')}{topic}") for topic in topics]


def _no_bag(bag: str, error: Exception) -> str:
    return f"bag: expected a rosbag2 (its folder, .mcap or .db3) at '{bag}': {error}"


def _known(topics: Any, *, place: str) -> dict[str, str]:
    if not isinstance(topics, dict) or not all(isinstance(topic, str) for topic in topics.values()):
        raise LaunchError(f"{place}: expected a topic for each input, got {topics!r}")
    unknown = sorted(topics.keys() - set(INPUTS))
    if unknown:
        raise LaunchError(f"{place}: the localizer's inputs are {', '.join(INPUTS)}; there is no {', '.join(unknown)}")
    return dict(topics)
