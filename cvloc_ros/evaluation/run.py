"""Localize a recorded drive: the loop of the ROS node without ROS, message by message and causal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Protocol

import cv2
import numpy as np

from cvloc_ros.datasets.events import Event, FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.evaluation.records import FixRecord, FrameRecord, RunResult, Sample
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.session import LocalizationSession, LocalizesFrames
from cvloc_ros.localization.tracker import TrackerConfig
from cvloc_ros.localization.types import Frame, Localization

_SAMPLES = 120  # pictures kept at most
_SAMPLE_PERIOD = 1.0  # seconds between them at least
_JPEG_QUALITY = 85


class Recording(Protocol):
    """A drive to be replayed; `cvloc_ros.datasets.bag.Bag` is one."""

    source: str
    datum: LocalFrame | None
    gnss_lever_arm: np.ndarray
    start: int
    end: int

    def __iter__(self) -> Iterator[Event]:
        """Yield the messages in the order in which they were received."""
        ...

    def frame(self, event: ImageEvent) -> Frame:
        """Decode an image and attach the camera that took it; ValueError if it cannot be done."""
        ...


Painter = Callable[[Frame, Localization], np.ndarray]
"""Draws one frame's matches: RGB uint8, (H, W, 3)."""


def run_bag(
    bag: Recording,
    localizer: LocalizesFrames,
    *,
    datum: LocalFrame,
    tracker_config: TrackerConfig | None = None,
    painter: Painter | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> RunResult:
    """Localize a drive from its first message to its last.

    Args:
        bag: the drive.
        localizer: finds frames on a satellite map whose map frame is that of ``datum``.
        datum: of the map; the bag's own truth is brought into it where the two differ.
        tracker_config: see `TrackerConfig`.
        painter: draws the sample pictures, about one a second.
        progress: is called with the share that is done, 0 to 1.

    Returns:
        All records with the truth attached. What describes the run (imagery, method, weights, device) is left for
        the caller to fill in with `dataclasses.replace`.

    """
    config = tracker_config or TrackerConfig()
    session = LocalizationSession(localizer, tracker_config=config)
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
        settings={"tracker": asdict(config)},
    )
    to_map = _datum_change(bag.datum, datum)
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
            result.truth.append((event.stamp, to_map(event.T_map_base)))
        else:
            record, sample = _localize(session, bag, event, painter if event.stamp >= next_sample else None)
            result.frames.append(record)
            if sample is not None:
                result.samples.append(sample)
                next_sample = event.stamp + round(period * 1e9)
            progress(min(1.0, (event.stamp - bag.start) / max(1, bag.end - bag.start)))
    progress(1.0)
    return result.with_truth()


def _localize(
    session: LocalizationSession, bag: Recording, event: ImageEvent, painter: Painter | None
) -> tuple[FrameRecord, Sample | None]:
    started = time.perf_counter()
    try:
        frame = bag.frame(event)
    except ValueError:
        return FrameRecord(event.stamp, False, "bad_image"), None
    decoded = time.perf_counter()
    answer = session.on_image(frame)
    finished = time.perf_counter()
    state = session.status().state.value
    fused, fused_covariance = session.pose(event.stamp) or (None, None)
    localization = answer.localization
    if localization is None:
        return FrameRecord(
            event.stamp, False, answer.reason, fused=fused, fused_covariance=fused_covariance, state=state
        ), None
    record = FrameRecord(
        event.stamp,
        localization.accepted,
        localization.reason,
        prior=localization.prior,
        estimate=localization.T_map_base,
        covariance=localization.covariance,
        quality=localization.quality,
        fused=fused,
        fused_covariance=fused_covariance,
        state=state,
        milliseconds={
            "decode": 1e3 * (decoded - started),
            **localization.milliseconds,
            "total": 1e3 * (finished - started),
        },
    )
    return record, None if painter is None else Sample(event.stamp, encode_jpeg(painter(frame, localization)))


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an RGB image."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()


def _datum_change(source: LocalFrame | None, target: LocalFrame) -> Callable[[SE2], SE2]:
    """Return how poses in the map frame of one datum become poses in that of another."""
    if source is None or source == target:
        return lambda pose: pose

    def change(pose: SE2) -> SE2:
        ahead = pose.apply(np.array([[0.0, 0.0], [1.0, 0.0]]))  # north differs between the two: carry the heading too
        degrees = source.to_wgs84(ahead)
        (x, y), tip = target.to_enu(degrees[:, 0], degrees[:, 1])
        return SE2(float(x), float(y), float(np.arctan2(tip[1] - y, tip[0] - x)))

    return change
