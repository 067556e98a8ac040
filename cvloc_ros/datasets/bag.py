"""Recorded drives: a rosbag2 (MCAP or sqlite3) as a stream of typed events, without a ROS installation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader

from cvloc_ros.datasets.bag_reading import messages, reading
from cvloc_ros.datasets.bag_topics import REQUIRED, BagError, choose_topics
from cvloc_ros.datasets.bag_writing import NOTES
from cvloc_ros.datasets.events import Event, FixEvent, ImageEvent
from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import (
    camera_of,
    fix_event,
    frame_name,
    image_event,
    odometry_event,
    truth_event,
    without_numbers,
)
from cvloc_ros.datasets.transform_tree import MissingTransform, TransformTree
from cvloc_ros.geometry import Camera, LocalFrame
from cvloc_ros.localization.types import Frame

_TF = "tf2_msgs/msg/TFMessage"
_MOVING = 2000  # messages of /tf in which a fixed joint must have shown


_EVENT_OF: dict[str, Callable[[Any, int], Event]] = {
    "image": image_event,
    "fix": fix_event,
    "odom": odometry_event,
    "ground_truth": truth_event,
}


@dataclass(frozen=True, eq=False)
class Bag:
    """A recorded drive. Iterate over it for its events in the order in which they were recorded.

    Attributes:
        source: path of the bag.
        topics: topic by role: image, camera_info, and where there are odom, fix, ground_truth, datum.
        camera: intrinsics of the images; distorted cameras keep their distortion.
        base_frame: the vehicle's frame (the odometry's child frame, without odometry the truth's).
        T_base_camera: 4x4, optical frame to base_frame.
        gnss_lever_arm: (2,) metres forward and left of base_frame at which the antenna sits.
        has_fix: whether a message of GNSS is a valid fix.
        datum: the map frame: from the datum topic, else, of the truth, as stated, else at the first fix; may be None.
        start: when the first message was recorded, nanoseconds.
        end: when the last message was recorded, nanoseconds.
        recorded_notes: what its writer says of it, one sentence each.
        assumptions: what was assumed because the bag does not say it, one sentence each.
        unusable: messages that the last iteration has left out: how many by (topic, why).

    """

    source: str
    topics: dict[str, str]
    camera: Camera
    base_frame: str
    T_base_camera: np.ndarray
    gnss_lever_arm: np.ndarray
    has_fix: bool
    datum: LocalFrame | None
    start: int
    end: int
    recorded_notes: tuple[str, ...]
    assumptions: tuple[str, ...]
    unusable: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        topics: Mapping[str, str] | None = None,
        T_base_camera: np.ndarray | None = None,
        datum: LocalFrame | None = None,
        required: Sequence[str] = REQUIRED,
    ) -> Bag:
        """Open a rosbag2 folder, or a single .mcap, .db3 or ROS 1 .bag file.

        Args:
            path: the bag.
            topics: topic by role (image, camera_info, fix, odom, ground_truth, datum) where it cannot be guessed; an
                empty name leaves a role out.
            T_base_camera: 4x4, where the camera sits, instead of what the bag's transforms say.
            datum: of the truth's map, where no topic says it.
            required: roles without which the bag is of no use; image, camera_info, and odom or ground_truth are.

        Raises:
            BagError: the bag cannot be read, or it lacks the topics or transforms that localization needs.

        """
        with reading(path) as reader:
            types = {c.topic: c.msgtype for c in reader.connections if c.msgcount}
            if not types:
                raise BagError(f"the bag '{path}' is empty: nothing was recorded")

            def first(topic: str) -> Any:
                return next(messages(reader, topic))[0]

            try:
                chosen = choose_topics(
                    types, topics or {}, frame_of=lambda t: frame_name(first(t).header.frame_id), required=required
                )
            except BagError as error:
                raise BagError(f"'{path}': {error}") from None
            rectified = "rect" in chosen["image"].removesuffix("/compressed").rsplit("/", 1)[-1]
            info, moving = first(chosen["camera_info"]), first(chosen.get("odom") or chosen["ground_truth"])
            try:
                camera = camera_of(info, rectified=rectified)
            except ValueError as error:
                raise BagError(f"'{path}', {chosen['camera_info']}: {error}") from error

            base_frame = frame_name(moving.child_frame_id) or "base_link"
            fix = _first_fix(reader, chosen["fix"]) if "fix" in chosen else None
            mounts = _Mounts(reader, types, base_frame)
            if T_base_camera is None:
                frames = [frame_name(m.header.frame_id) for m in (info, first(chosen["image"]))]
                T_base_camera = mounts.camera(frames, source=str(path))
            lever_arm = mounts.antenna(fix)
            return cls(
                source=str(path),
                topics=chosen,
                camera=camera,
                base_frame=base_frame,
                T_base_camera=T_base_camera,
                gnss_lever_arm=lever_arm,
                has_fix=fix is not None,
                datum=_datum(reader, chosen, fix, stated=datum, source=str(path)),
                start=reader.start_time,
                end=reader.end_time - 1,
                recorded_notes=_recorded_notes(reader),
                assumptions=tuple(mounts.notes),
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the bag: its writer's notes, assumptions, and what of it could not be used."""
        left_out = (f"{topic}: {n} unusable messages left out: {why}" for (topic, why), n in self.unusable.items())
        return self.recorded_notes + self.assumptions + tuple(left_out)

    def __iter__(self) -> Iterator[Event]:
        """Yield the images, fixes, odometry and truth in the order in which they were recorded.

        A message that cannot be used is left out and counted in `unusable`.

        Raises:
            BagError: the bag is damaged further on.

        """
        return (event for _, event in self.recorded(*_EVENT_OF))

    def recorded(self, *roles: str) -> Iterator[tuple[int, Event]]:
        """Yield what iterating does, of some roles only, each event with when it was recorded, nanoseconds.

        Raises:
            BagError: the bag is damaged further on.

        """
        self.unusable.clear()
        readers = {self.topics[role]: _EVENT_OF[role] for role in roles if role in self.topics}
        with reading(self.source) as reader:
            connections = [c for c in reader.connections if c.topic in readers]
            for connection, received, data in reader.messages(connections=connections):
                try:
                    message = reader.deserialize(data, connection.msgtype)
                except Exception:  # cut-off bytes trip the parser in any way
                    self.unusable[connection.topic, "it does not parse"] += 1
                    continue
                try:
                    event = readers[connection.topic](message, received)
                except ConversionError as error:
                    self.unusable[connection.topic, without_numbers(str(error))] += 1
                    continue
                yield received, event

    def frame(self, event: ImageEvent) -> Frame:
        """Decode an image and attach the camera that took it.

        Raises:
            ValueError: the image does not decode, or does not have the size that the camera info says.

        """
        return Frame(event.stamp, event.image(), self.camera, self.T_base_camera)


def _recorded_notes(reader: AnyReader) -> tuple[str, ...]:
    storage = getattr(reader.readers[0], "storage", None)  # ROS 1 bags have none
    custom = storage.metadata.custom if storage else None
    lines = str(custom.get(NOTES, "")).splitlines() if isinstance(custom, dict) else []
    return tuple(line for line in lines if line)


def _first_fix(reader: AnyReader, topic: str) -> FixEvent | None:
    """Return the first valid fix of a topic, None if there is none."""
    for message, received in messages(reader, topic):
        with suppress(ConversionError):
            return fix_event(message, received)
    return None


class _Mounts:
    """Where a bag's transforms say that sensors sit on the vehicle, and what had to be assumed for that."""

    def __init__(self, reader: AnyReader, types: Mapping[str, str], base_frame: str) -> None:
        self._reader, self._base_frame = reader, base_frame
        self._moving_topics = [t for t, kind in types.items() if kind == _TF and not t.endswith("tf_static")]
        static_topics = [t for t, kind in types.items() if kind == _TF and t.endswith("tf_static")]
        self._tree = TransformTree()
        self.notes: list[str] = []
        for topic in static_topics:
            for message, _ in messages(reader, topic):
                for transform in message.transforms:
                    with suppress(ConversionError):  # then its frame is missing, and that is said
                        self._tree.update(transform, static=True)

    def camera(self, frames: list[str], *, source: str) -> np.ndarray:
        """Return ``T_base_camera`` (4x4) of the first of some frames that is connected with the vehicle."""
        T_base_camera = self._lookup(frames)
        if T_base_camera is None:
            raise BagError(
                f"'{source}': expected a transform from {self._base_frame} to '{frames[0]}', which says where the "
                f"camera sits; the bag's transforms are of {', '.join(self._tree.frames) or 'nothing'}. Record "
                "/tf_static with static_transform_publisher or robot_state_publisher running, or state the camera's "
                "place (cvloc run --mount x,y,z,roll,pitch,yaw)"
            )
        return T_base_camera

    def antenna(self, fix: FixEvent | None) -> np.ndarray:
        """Return the antenna's place (2,); without a transform it is taken to be at the vehicle's origin."""
        if fix is None:
            return np.zeros(2)
        T_base_gnss = self._lookup([fix.frame_id])
        if T_base_gnss is None:
            self.notes.append(f"no transform {self._base_frame} -> '{fix.frame_id}': the antenna is taken to be there")
            return np.zeros(2)
        return T_base_gnss[:2, 3].copy()

    def _lookup(self, frames: list[str]) -> np.ndarray | None:
        """Return ``T_base_frame`` of the first frame that static transforms connect, else moving ones."""
        found = self._connected(frames)
        if found is None and self._moving_topics:
            found = self._first_on_tf(frames)
            if found is not None:
                self.notes.append(
                    f"/tf_static does not connect {self._base_frame} with '{frames[0]}': its first transform on "
                    f"{' and '.join(self._moving_topics)} is taken for the whole drive"
                )
        return found

    def _first_on_tf(self, frames: list[str]) -> np.ndarray | None:
        """Add first transforms of frames without a parent until one of the frames is connected.

        What moves the vehicle itself is left out: nothing that hangs above it says where a sensor sits on it.
        """
        for topic in self._moving_topics:
            for message, _ in islice(messages(self._reader, topic), _MOVING):
                for transform in message.transforms:
                    child = frame_name(transform.child_frame_id)
                    if child != self._base_frame and child not in self._tree:
                        with suppress(ConversionError):
                            self._tree.update(transform, static=False)
                found = self._connected(frames)
                if found is not None:
                    return found
        return None

    def _connected(self, frames: list[str]) -> np.ndarray | None:
        for frame in frames:
            with suppress(MissingTransform):
                return self._tree.lookup(self._base_frame, frame)
        return None


def _datum(
    reader: AnyReader,
    topics: Mapping[str, str],
    fix: FixEvent | None,
    *,
    stated: LocalFrame | None,
    source: str,
) -> LocalFrame | None:
    """Return the map frame; the truth is in the map of a stated datum and means nothing in another."""
    origin = _first_fix(reader, topics["datum"]) if "datum" in topics else None
    if origin is None and "ground_truth" in topics:
        if stated is None:
            raise BagError(
                f"'{source}' has the truth on {topics['ground_truth']}, but no datum that says where its map is: "
                "record a NavSatFix on 'datum', state it (--datum), or leave the truth out (ground_truth:='')"
            )
        return stated
    origin = origin or fix
    return None if origin is None else LocalFrame(origin.latitude, origin.longitude, origin.altitude)
