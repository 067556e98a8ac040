"""Localize a recorded drive: the loop of the ROS node without ROS, message by message and causal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_topics import BagError
from cvloc_ros.datasets.events import Event, FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.evaluation.pictures import OVERLAY_GRID, draw_overlay
from cvloc_ros.evaluation.records import FixRecord, FrameRecord, RunResult, Sample, pose_track
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.imagery import SatelliteMap, raster_datum
from cvloc_ros.localization.session import LocalizationSession, LocalizesFrames
from cvloc_ros.localization.tracker import TrackerConfig
from cvloc_ros.localization.types import Frame, Localization

_SAMPLES = 120  # pictures kept at most
_SAMPLE_PERIOD = 1.0  # seconds between them at least
_JPEG_QUALITY = 85


class Recording(Protocol):
    """A drive to be replayed; `cvloc_ros.datasets.bag.Bag` is one."""

    @property
    def source(self) -> str:
        """What it is called."""
        ...

    @property
    def datum(self) -> LocalFrame | None:
        """Of the map in which its truth is stated."""
        ...

    @property
    def gnss_lever_arm(self) -> np.ndarray:
        """The antenna in base_link, (2,) metres."""
        ...

    @property
    def start(self) -> int:
        """Stamp of the first message, nanoseconds."""
        ...

    @property
    def end(self) -> int:
        """Stamp of the last message, nanoseconds."""
        ...

    def __iter__(self) -> Iterator[Event]:
        """Yield the messages in the order in which they were received."""
        ...

    def frame(self, event: ImageEvent) -> Frame:
        """Decode an image and attach the camera that took it; ValueError if it cannot be done."""
        ...


Painter = Callable[[Frame, Localization, SE2 | None], np.ndarray]
"""Draws one frame's matches, with the truth if it is known: RGB uint8, (H, W, 3)."""


def match_painter(satellite_map: SatelliteMap) -> Painter:
    """Return a painter of match pictures on imagery."""

    def paint(frame: Frame, localization: Localization, truth: SE2 | None) -> np.ndarray:
        patch = satellite_map.patch(localization.prior.T_map_base, OVERLAY_GRID)
        return draw_overlay(frame, patch, localization, truth=truth)

    return paint


def run_bag(
    bag: Recording,
    localizer: LocalizesFrames,
    *,
    datum: LocalFrame,
    tracker_config: TrackerConfig | None = None,
    initial_pose: tuple[SE2, np.ndarray] | None = None,
    painter: Painter | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> RunResult:
    """Localize a drive from its first message to its last.

    Args:
        bag: the drive.
        localizer: finds frames on a satellite map whose map frame is that of ``datum``.
        datum: of the map; the bag's own truth is brought into it where the two differ.
        tracker_config: see `TrackerConfig`.
        initial_pose: ``T_map_base`` at the start and its 3x3 covariance, as ``initialpose`` gives it to the node.
        painter: draws the sample pictures, about one a second.
        progress: is called with the share that is done, 0 to 1.

    Returns:
        All records with the truth attached. What describes the run (imagery, method, weights, device) is left for
        the caller to fill in with `dataclasses.replace`.

    """
    config = tracker_config or TrackerConfig()
    session = LocalizationSession(localizer, tracker_config=config)
    if initial_pose is not None:
        session.set_pose(bag.start, *initial_pose)
    result = RunResult(
        source=bag.source,
        imagery="",
        method="",
        weights="",
        device="",
        datum=datum,
        frames=[],
        fixes=[],
        odometry=[],
        truth=[],
        lever_arm=np.asarray(bag.gnss_lever_arm, dtype=float),
        initial_pose=None if initial_pose is None else initial_pose[0],
        settings={"tracker": asdict(config)},
    )
    bag_datum = bag.datum or datum
    truth = pose_track([], extrapolation=0.1)  # for the pictures: a truth may be recorded a little after its image
    next_sample, period = 0, max(_SAMPLE_PERIOD, (bag.end - bag.start) * 1e-9 / _SAMPLES)
    for event in bag:
        if isinstance(event, OdometryEvent):
            session.on_odometry(event.stamp, event.T_odom_base)
            result.odometry.append((event.stamp, event.T_odom_base))
        elif isinstance(event, FixEvent):
            position = datum.to_enu(event.latitude, event.longitude)
            session.on_fix(event.stamp, position, event.covariance, result.lever_arm)
            result.fixes.append(FixRecord(event.stamp, position, event.covariance))
        elif isinstance(event, TruthEvent):
            result.truth.append((event.stamp, bag_datum.pose_in(datum, event.T_map_base)))
            truth.add(*result.truth[-1])
        else:
            record, frame, localization = _localize(session, bag, event)
            result.frames.append(record)
            if painter and frame and localization and event.stamp >= next_sample:
                picture = painter(frame, localization, truth.at(event.stamp))
                result.samples.append(Sample(event.stamp, encode_jpeg(picture)))
                next_sample = event.stamp + round(period * 1e9)
            progress(min(1.0, (event.stamp - bag.start) / max(1, bag.end - bag.start)))
    progress(1.0)
    if not any(frame.tracked for frame in result.frames):
        result.notes.append(f"no track was started: {session.status().waiting_for or 'the drive has no images'}")
    return result.with_truth()


def localize_bag(
    source: str | Path,
    imagery: str,
    *,
    datum: LocalFrame | None = None,
    topics: Mapping[str, str] | None = None,
    method: str = "vote_flow",
    weights: str | None = None,
    device: str = "auto",
    T_base_camera: np.ndarray | None = None,
    initial_pose: tuple[SE2, np.ndarray] | None = None,
    tracker_config: TrackerConfig | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> RunResult:
    """Localize a recorded drive on imagery: everything that `cvloc run` does before it writes.

    Args:
        source: a rosbag2 folder or a single bag file.
        imagery: a raster, tiles or a server; several layers with | between; see doc/imagery.md.
        datum: of the map; None for the bag's own (its datum topic, else its first fix), else the imagery's centre. It
            is taken for that of the truth, too, where no topic says it.
        topics: topic by role where it cannot be guessed; see `Bag.open`.
        method: name of the matcher.
        weights: a .safetensors file; None for those that are shipped.
        device: "auto", "cpu" or "cuda[:i]".
        T_base_camera: 4x4, where the camera sits, instead of what the bag's transforms say.
        initial_pose: ``T_map_base`` at the start and its 3x3 covariance; a bag without fixes needs it.
        tracker_config: see `TrackerConfig`.
        progress: is called with the share that is done, 0 to 1.

    Raises:
        BagError: the bag cannot be read or lacks what localization needs, or nothing says where it begins.
        ImageryError: the imagery cannot be read or is elsewhere.
        WeightsError: the method, weights or device are not to be had.

    """
    bag = Bag.open(source, topics=topics, T_base_camera=T_base_camera, datum=datum)
    if initial_pose is None and not bag.has_fix:
        why = f"no message on {bag.topics['fix']} is a fix" if "fix" in bag.topics else "there is no topic of GNSS"
        raise BagError(
            f"'{source}': expected GNSS, or a pose from which to start, got neither ({why}): state where the drive "
            "begins (cvloc run --start EAST,NORTH,YAW), or name the topic of its NavSatFix (--topics fix=/its/topic)"
        )
    frame = datum or bag.datum or raster_datum(imagery)
    satellite_map = SatelliteMap.open(imagery, frame)

    from cvloc_ros.localization.localizer import load_localizer  # brings torch: what can be wrong is checked before
    from cvloc_ros.models.weights import choose_device

    device = choose_device(device)
    localizer = load_localizer(satellite_map, method=method, weights=weights, device=device)
    painter = match_painter(satellite_map)
    result = run_bag(
        bag,
        localizer,
        datum=frame,
        tracker_config=tracker_config,
        initial_pose=initial_pose,
        painter=painter,
        progress=progress,
    )
    return replace(
        result,
        imagery=str(imagery),
        method=method,
        weights=weights or f"{method}.safetensors",
        device=device,
        attribution=satellite_map.attribution,
        notes=[*bag.notes, *result.notes, *satellite_map.problems],
        settings={"topics": bag.topics, "gate": asdict(localizer.gate.config), **result.settings},
    )


def _localize(
    session: LocalizationSession, bag: Recording, event: ImageEvent
) -> tuple[FrameRecord, Frame | None, Localization | None]:
    started = time.perf_counter()
    try:
        frame = bag.frame(event)
    except ValueError:
        return FrameRecord(event.stamp, False, "bad_image"), None, None
    decoded = time.perf_counter()
    answer = session.on_image(frame)
    finished = time.perf_counter()
    spent = {"decode": 1e3 * (decoded - started), "total": 1e3 * (finished - started)}
    return FrameRecord.of(event.stamp, answer, session, **spent), frame, answer.localization


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an RGB image."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()
