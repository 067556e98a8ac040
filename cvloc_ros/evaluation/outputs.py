"""What a run leaves on disk: summary.json, trajectory.tum, truth.tum, frames.csv, run.mcap, report.html, pictures/."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from cvloc_ros.evaluation.mcap_output import write_mcap
from cvloc_ros.evaluation.metrics import PoseErrors
from cvloc_ros.evaluation.records import FrameRecord, RunResult
from cvloc_ros.evaluation.report import write_report
from cvloc_ros.evaluation.summary import summarize
from cvloc_ros.geometry import SE2


def write_outputs(result: RunResult, folder: str | Path) -> dict[str, Any]:
    """Write all files of a run into a folder, which is made if it is not there.

    Args:
        result: the run.
        folder: where to; files of an earlier run are replaced.

    Returns:
        The content of summary.json.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(result)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    write_trajectory(result, folder)
    write_frames(result, folder / "frames.csv")
    write_mcap(result, folder / "run.mcap")
    write_report(result, summary, folder)
    return summary


def write_trajectory(result: RunResult, folder: Path) -> None:
    """Write the fused pose at every tracked frame to trajectory.tum, and the truth at every frame to truth.tum.

    A line is ``stamp x y z qx qy qz qw`` (seconds, metres, map frame). Without truth there is no truth.tum.
    """
    fused = [(frame.stamp, frame.fused) for frame in result.frames if frame.tracked and frame.fused is not None]
    (folder / "trajectory.tum").write_text("".join(_tum_line(*stamped) for stamped in fused))
    truth = [(frame.stamp, frame.truth) for frame in result.frames if frame.truth is not None]
    (folder / "truth.tum").unlink(missing_ok=True)  # of an earlier run
    if truth:
        (folder / "truth.tum").write_text("".join(_tum_line(*stamped) for stamped in truth))


def _tum_line(stamp: int, pose: SE2) -> str:
    qz, qw = np.sin(pose.yaw / 2), np.cos(pose.yaw / 2)
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)  # a float would lose them
    return f"{seconds}.{nanoseconds:09d} {pose.x:.4f} {pose.y:.4f} 0.0000 0.00000000 0.00000000 {qz:.8f} {qw:.8f}\n"


def write_frames(result: RunResult, path: Path) -> None:
    """Write one row a frame; what is unknown stays empty."""
    rows = [_row(frame) for frame in result.frames]
    stages = sorted({key for frame in result.frames for key in frame.milliseconds} - {"total"})
    columns = [*_COLUMNS, *(f"{stage}_ms" for stage in stages), "total_ms"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


_POSE = ("x", "y", "yaw_deg")
_COVARIANCE = ("var_x", "cov_xy", "cov_x_yaw", "var_y", "cov_y_yaw", "var_yaw")  # m, m, rad; upper triangle
_ERRORS = ("position_error_m", "lateral_error_m", "longitudinal_error_m", "yaw_error_deg")
_COLUMNS = [
    "stamp_ns",
    "accepted",
    "reason",
    "state",
    "quality",
    *(f"prior_{name}" for name in _POSE),
    *(f"prior_{name}" for name in _COVARIANCE),
    *_POSE,
    *_COVARIANCE,
    *(f"fused_{name}" for name in _POSE),
    *(f"fused_{name}" for name in _COVARIANCE),
    *(f"truth_{name}" for name in _POSE),
    *_ERRORS,
    *(f"fused_{name}" for name in _ERRORS),
]


def _row(frame: FrameRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "stamp_ns": frame.stamp,
        "accepted": int(frame.accepted),
        "reason": frame.reason,
        "state": frame.state,
    }
    if frame.quality is not None:
        row["quality"] = f"{frame.quality:.4f}"
    if frame.prior is not None:
        row |= _pose("prior_", frame.prior.T_map_base) | _covariance("prior_", frame.prior.covariance)
    row |= _pose("", frame.estimate) | _covariance("", frame.covariance)
    row |= _pose("fused_", frame.fused) | _covariance("fused_", frame.fused_covariance)
    row |= _pose("truth_", frame.truth)
    row |= _errors("", frame.estimate, frame.truth) | _errors("fused_", frame.fused, frame.truth)
    return row | {f"{stage}_ms": f"{value:.2f}" for stage, value in frame.milliseconds.items()}


def _pose(prefix: str, pose: SE2 | None) -> dict[str, str]:
    if pose is None:
        return {}
    values = (f"{pose.x:.4f}", f"{pose.y:.4f}", f"{np.degrees(pose.yaw):.4f}")
    return {prefix + name: value for name, value in zip(_POSE, values, strict=True)}


def _covariance(prefix: str, covariance: np.ndarray | None) -> dict[str, str]:
    if covariance is None:
        return {}
    upper = covariance[np.triu_indices(3)]
    return {prefix + name: f"{value:.6g}" for name, value in zip(_COVARIANCE, upper, strict=True)}


def _errors(prefix: str, estimate: SE2 | None, truth: SE2 | None) -> dict[str, str]:
    if estimate is None or truth is None:
        return {}
    errors = PoseErrors.between([estimate], [truth])
    values = (errors.position[0], errors.lateral[0], errors.longitudinal[0], np.degrees(errors.yaw[0]))
    return {prefix + name: f"{value:.4f}" for name, value in zip(_ERRORS, values, strict=True)}
