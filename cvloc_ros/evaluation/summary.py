"""A drive in numbers: the content of summary.json."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cvloc_ros.evaluation.metrics import PoseErrors, chance, honesty, nees, statistics
from cvloc_ros.evaluation.records import FrameRecord, RunResult, pose_track
from cvloc_ros.evaluation.trajectory import trajectory_metrics
from cvloc_ros.geometry import SE2

_DIGITS = 4


def summarize(result: RunResult) -> dict[str, Any]:
    """Return the keys of summary.json.

    ``start`` says from what the run began: whether there were fixes (``gnss``), the pose that was ``given``, and how
    far that was from the truth. Errors and ``nees`` at the top are those of the accepted per-frame localizations;
    ``tracker`` has those of the fused pose at every frame from the first confirmed one on; ``trajectory`` what evo says
    of these poses; ``gnss`` has those of every fix; ``odometry`` of dead reckoning from the first confirmed pose.
    Without truth these keys are left out.
    """
    frames = result.frames
    accepted = [frame for frame in frames if frame.accepted]
    stamps = [stamp for stamp, _ in result.odometry] + [frame.stamp for frame in frames]
    duration = (max(stamps) - min(stamps)) * 1e-9 if stamps else 0.0
    total = [frame.milliseconds["total"] for frame in frames if "total" in frame.milliseconds]
    summary: dict[str, Any] = {
        "source": result.source,
        "method": result.method,
        "weights": result.weights,
        "device": result.device,
        "notes": result.notes,
        "datum": {
            "latitude": result.datum.latitude,
            "longitude": result.datum.longitude,
            "altitude": result.datum.altitude,
        },
        "start": _start(result),
        "frames": len(frames),
        "localized": len(accepted),
        "rejected": dict(Counter(frame.reason for frame in frames if not frame.accepted).most_common()),
        "dropped": result.dropped,
        "duration_s": duration,
        "distance_m": _length(result.truth or result.odometry),
    }
    summary |= frame_errors(accepted).summary()
    summary |= _section("tracker", tracker_errors(frames).summary() | _honesty(tracker_nees(frames)))
    summary |= _section("trajectory", trajectory_metrics(frames))
    summary |= _section("gnss", _position_summary(gnss_errors(result)))
    summary |= _section("odometry", _position_summary(odometry_errors(result)))
    summary |= _honesty(frame_nees(accepted))
    if total:
        summary["latency_ms"] = {"median": float(np.median(total)), "p95": float(np.percentile(total, 95))}
    summary["rate_hz"] = len(accepted) / duration if duration > 0 else 0.0
    return _rounded(summary)


def begun(summary: dict[str, Any]) -> str:
    """Return in words from what a run began, e.g. "without GNSS, from a start 12 m and 6° off"."""
    start, gnss = summary["start"], summary.get("gnss")
    words = "with GNSS" if start["gnss"] else "without GNSS"
    if gnss:
        words += f" of {gnss['position_error_m']['rmse']:.1f} m"
    if "position_error_m" in start:
        words += f", from a start {start['position_error_m']:.0f} m and {start['yaw_error_deg']:.0f}° off"
    elif given := start.get("given"):
        words += (
            f", from the start {given['east_m']:.1f} m east, {given['north_m']:.1f} m north, {given['yaw_deg']:.0f}°"
        )
    return words


def compared(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the errors in a summary by the name of what has them, chance last; empty if nothing met a truth."""
    rows = [
        ("per frame", summary if "position_error_m" in summary else {}),
        ("fused track", summary.get("tracker", {})),
        ("GNSS", summary.get("gnss", {})),
        ("odometry alone", summary.get("odometry", {})),
    ]
    known = [(name, errors) for name, errors in rows if errors]
    return [*known, ("chance (box centre)", chance())] if known else []


def frame_errors(frames: list[FrameRecord]) -> PoseErrors:
    """Return the errors of per-frame estimates, of those frames that have one and a truth."""
    pairs = [(f.estimate, f.truth) for f in frames if f.estimate is not None and f.truth is not None]
    return PoseErrors.between([estimate for estimate, _ in pairs], [truth for _, truth in pairs])


def frame_nees(frames: list[FrameRecord]) -> np.ndarray:
    """Return the NEES of per-frame estimates, of those frames that have one and a truth."""
    known = [f for f in frames if f.estimate is not None and f.covariance is not None and f.truth is not None]
    covariances = np.array([f.covariance for f in known]).reshape(-1, 3, 3)
    return nees(frame_errors(known).east_north_yaw, covariances)


def tracker_errors(frames: list[FrameRecord]) -> PoseErrors:
    """Return the errors of the fused pose, of those frames at which it was tracked and the truth is known."""
    pairs = [(f.fused, f.truth) for f in frames if f.tracked and f.fused is not None and f.truth is not None]
    return PoseErrors.between([fused for fused, _ in pairs], [truth for _, truth in pairs])


def tracker_nees(frames: list[FrameRecord]) -> np.ndarray:
    """Return the NEES of the fused pose, of those frames whose errors `tracker_errors` has."""
    known = [f for f in frames if f.tracked and f.fused_covariance is not None and f.truth is not None]
    covariances = np.array([f.fused_covariance for f in known]).reshape(-1, 3, 3)
    return nees(tracker_errors(known).east_north_yaw, covariances)


def gnss_errors(result: RunResult) -> np.ndarray:
    """Return the distance in metres of each fix from the true antenna, where the truth is known."""
    track = pose_track(result.truth)
    pairs = [(fix.position, track.at(fix.stamp)) for fix in result.fixes]
    return np.array(
        [np.linalg.norm(position - truth.apply(result.lever_arm)) for position, truth in pairs if truth is not None]
    )


def odometry_errors(result: RunResult) -> np.ndarray:
    """Return the distance in metres of dead reckoning from the truth, where that is known."""
    track = pose_track(result.truth)
    pairs = [(pose, track.at(stamp)) for stamp, pose in result.dead_reckoning()]
    return np.array([np.hypot(pose.x - truth.x, pose.y - truth.y) for pose, truth in pairs if truth is not None])


def _start(result: RunResult) -> dict[str, Any]:
    start: dict[str, Any] = {"gnss": bool(result.fixes)}
    given = result.initial_pose
    if given is None:
        return start
    start["given"] = {"east_m": given.x, "north_m": given.y, "yaw_deg": float(np.degrees(given.yaw))}
    track = pose_track(result.truth)
    # The truth may begin later than the odometry, at whose first message the pose was given.
    known = ((pose, track.at(stamp)) for stamp, pose in result.odometry)
    T_odom_base, truth = next((pair for pair in known if pair[1] is not None), (None, None))
    if T_odom_base is not None and truth is not None:
        errors = PoseErrors.between([given @ result.odometry[0][1].inverse() @ T_odom_base], [truth])
        start["position_error_m"] = float(errors.position[0])
        start["yaw_error_deg"] = float(np.degrees(abs(errors.yaw[0])))
    return start


def _position_summary(errors: np.ndarray) -> dict[str, Any]:
    return {"position_error_m": statistics(errors)} if len(errors) else {}


def _honesty(values: np.ndarray) -> dict[str, Any]:
    return {"nees": honesty(values)} if len(values) else {}


def _section(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {name: content} if content else {}


def _length(poses: list[tuple[int, SE2]]) -> float:
    points = np.array([[pose.x, pose.y] for _, pose in poses]).reshape(-1, 2)
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _rounded(value: Any) -> Any:
    """Round what was computed: more digits than these would only pretend."""
    if isinstance(value, dict):
        return {key: item if key == "datum" else _rounded(item) for key, item in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
