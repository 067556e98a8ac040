"""What a localized drive leaves behind: one record a frame, and the inputs beside it. Everything is judged from this.

`cvloc_ros.evaluation.run` fills it offline, `cvloc_ros.ros.live_run` from what the node publishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.odometry import OdometryBuffer
from cvloc_ros.localization.session import ImageResult, LocalizationSession
from cvloc_ros.localization.types import Prior

_TRUTH_SPAN = 1e9  # seconds: all of it
_TRUTH_GAP = 1.0  # seconds: nobody knows where a vehicle was in a longer gap


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One image and what became of it.

    Attributes:
        stamp: the image's, nanoseconds.
        accepted: whether its localization counts.
        reason: why not, a key of `cvloc_ros.localization.gate.REASONS`; empty if accepted.
        prior: where the search began; None if the frame was not tried.
        estimate: ``T_map_base`` of this frame alone; None if the frame was not tried.
        covariance: 3x3 of the estimate over (east m, north m, yaw rad).
        quality: probability that the estimate is within 2 m.
        fused: the tracker's ``T_map_base`` at the stamp, right after this frame; None while unknown.
        fused_covariance: 3x3.
        state: the tracker's state then.
        milliseconds: time by stage; "total" is from image to pose.
        truth: the true ``T_map_base`` at the stamp, if known.

    """

    stamp: int
    accepted: bool
    reason: str
    prior: Prior | None = None
    estimate: SE2 | None = None
    covariance: np.ndarray | None = None
    quality: float | None = None
    fused: SE2 | None = None
    fused_covariance: np.ndarray | None = None
    state: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)
    truth: SE2 | None = None

    @classmethod
    def of(
        cls, stamp: int, answer: ImageResult, session: LocalizationSession, *, decode: float, total: float
    ) -> FrameRecord:
        """Record what a session has answered to an image; ``decode`` and ``total`` in milliseconds."""
        record = cls(stamp, answer.reason == "", answer.reason, state=session.status().state.value)
        fused = session.pose(stamp)
        if fused is not None:
            record = replace(record, fused=fused[0], fused_covariance=fused[1])
        localization = answer.localization
        if localization is None:
            return record
        return replace(
            record,
            prior=localization.prior,
            estimate=localization.T_map_base,
            covariance=localization.covariance,
            quality=localization.quality,
            milliseconds={"decode": decode, **localization.milliseconds, "total": total},
        )

    @property
    def tracked(self) -> bool:
        """Whether the tracker had been confirmed by localizations, and was not lost."""
        return self.fused is not None and self.state in ("tracking", "degraded")


@dataclass(frozen=True, eq=False)
class FixRecord:
    """A GNSS fix: the antenna in the map (2,), and its covariance (2x2) if it is reported."""

    stamp: int
    position: np.ndarray
    covariance: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture of one frame's matches: RGB uint8, (H, W, 3), encoded as JPEG."""

    stamp: int
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class RunResult:
    """A drive, localized.

    Attributes:
        source: what was run, e.g. the bag's path.
        imagery: the satellite imagery's URI.
        method: name of the matcher.
        weights: name of its weights.
        device: where it ran.
        datum: of the map.
        frames: every image that was received, in time order.
        fixes: GNSS, in time order.
        odometry: (stamp, ``T_odom_base``), in time order.
        truth: (stamp, ``T_map_base``), in time order; empty if unknown.
        lever_arm: the antenna in base_link, (2,) metres.
        initial_pose: ``T_map_base`` that was given at the first odometry; None if the fixes had to say it.
        dropped: images that came while the localizer was busy.
        samples: pictures of some frames.
        settings: configuration for the report, by section.
        attribution: whom to credit for the imagery.
        notes: what a reader of the numbers should know, one sentence each.

    """

    source: str
    imagery: str
    method: str
    weights: str
    device: str
    datum: LocalFrame
    frames: list[FrameRecord]
    fixes: list[FixRecord]
    odometry: list[tuple[int, SE2]]
    truth: list[tuple[int, SE2]]
    lever_arm: np.ndarray
    initial_pose: SE2 | None = None
    dropped: int = 0
    samples: list[Sample] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    attribution: str = ""
    notes: list[str] = field(default_factory=list)

    def with_truth(self) -> RunResult:
        """Return the result with the truth at each frame's stamp, interpolated, wherever it is known."""
        track = pose_track(self.truth)
        return replace(self, frames=[replace(frame, truth=track.at(frame.stamp)) for frame in self.frames])

    def dead_reckoning(self) -> list[tuple[int, SE2]]:
        """Return where odometry alone leads, (stamp, ``T_map_base``), from the first tracked pose on."""
        first = next((frame for frame in self.frames if frame.tracked), None)
        if first is None or first.fused is None:
            return []
        # The frame can be a little newer than the newest odometry, as it was when the tracker extrapolated it.
        track = pose_track(self.odometry, extrapolation=0.5)
        T_odom_base = track.at(first.stamp)
        if T_odom_base is None:
            return []
        T_map_odom = first.fused @ T_odom_base.inverse()
        return [(stamp, T_map_odom @ pose) for stamp, pose in self.odometry if stamp >= first.stamp]


def pose_track(poses: list[tuple[int, SE2]], *, extrapolation: float = 0.0) -> OdometryBuffer:
    """Return stamped poses in a form that interpolates, but not over gaps of more than a second."""
    track = OdometryBuffer(seconds=_TRUTH_SPAN, extrapolation=extrapolation, gap=_TRUTH_GAP)
    for stamp, pose in poses:
        track.add(stamp, pose)
    return track
