"""A run's errors over time; the map is in `map_plot`, the honesty of the covariances in `honesty`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvloc_ros.evaluation.records import FrameRecord, RunResult, pose_track
from cvloc_ros.evaluation.summary import frame_errors, gnss_errors, odometry_errors, tracker_errors

FUSED, FRAME, GNSS, ODOMETRY, REJECTED = "#0a6ebd", "#27a583", "#e07b00", "#9b4dca", "#c8324b"
_OUTAGE = 2.0  # seconds without a fix that are shown as an outage


def errors_figure(result: RunResult) -> Figure:
    """Draw errors over time: position, lateral, longitudinal and heading, with the fused pose's 3 sigma.

    Without truth, what the estimates say of themselves is drawn instead.
    """
    has_truth = any(frame.truth is not None for frame in result.frames)
    figure = Figure(figsize=(11, 9 if has_truth else 5), layout="constrained")
    if has_truth:
        axes = figure.subplots(4, 1, sharex=True, height_ratios=[1.5, 1, 1, 1])
        _position(axes[0], result)
        for axis, name in zip(axes[1:], ("lateral", "longitudinal", "yaw"), strict=True):
            _component(axis, result, name)
    else:
        axes = figure.subplots(2, 1, sharex=True)
        _sigmas(axes, result)
    for axis in axes:
        shade_outages(axis, result, label=axis is axes[0])
        dress(axis)
    axes[-1].set_xlabel("seconds since the start")
    return figure


def _position(axis: Axes, result: RunResult) -> None:
    start, track = first_stamp(result), pose_track(result.truth)
    fixes = [fix for fix in result.fixes if track.at(fix.stamp) is not None]
    accepted = _with(result.frames, accepted=True)
    if fixes:
        axis.plot(seconds_since(start, fixes), gnss_errors(result), ".", color=GNSS, markersize=3, label="GNSS")
    odometry = odometry_errors(result)
    if len(odometry):
        stamps = [stamp for stamp, _ in result.dead_reckoning() if track.at(stamp) is not None]
        axis.plot((np.array(stamps) - start) * 1e-9, odometry, color=ODOMETRY, linewidth=1.2, label="odometry alone")
    seconds, errors = seconds_since(start, accepted), frame_errors(accepted).position
    axis.plot(seconds, errors, ".", color=FRAME, markersize=3, label="per frame")
    tracked = _tracked(result.frames)
    seconds, errors = seconds_since(start, tracked), tracker_errors(tracked).position
    axis.plot(seconds, errors, color=FUSED, linewidth=1.6, label="fused")
    axis.set_yscale("symlog", linthresh=1.0)
    axis.set_ylim(0, None)
    axis.set_yticks([0, 0.5, 1, 2, 5, 10, 20], labels=["0", "0.5", "1", "2", "5", "10", "20"])
    axis.set_ylabel("position error, m")
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))


def _component(axis: Axes, result: RunResult, name: str) -> None:
    start, scale = first_stamp(result), np.degrees(1.0) if name == "yaw" else 1.0
    accepted, tracked = _with(result.frames, accepted=True), _tracked(result.frames)
    axis.plot(
        seconds_since(start, accepted),
        scale * getattr(frame_errors(accepted), name),
        ".",
        color=FRAME,
        markersize=2.5,
        alpha=0.7,
    )
    seconds, errors = seconds_since(start, tracked), scale * getattr(tracker_errors(tracked), name)
    sigma = 3 * scale * np.array([_sigma(frame, name) for frame in tracked])
    if len(seconds):
        axis.fill_between(seconds, -sigma, sigma, color=FUSED, alpha=0.13, linewidth=0, label="±3 σ of the fused pose")
        axis.plot(seconds, errors, color=FUSED, linewidth=1.4)
        limit = 1.3 * max(float(np.percentile(sigma, 99)), float(np.abs(errors).max()))
        axis.set_ylim(-limit, limit)
    axis.axhline(0, color="#888", linewidth=0.7)
    labels = {"lateral": "lateral, m\n(left +)", "longitudinal": "longitudinal, m\n(ahead +)", "yaw": "heading, °"}
    axis.set_ylabel(labels[name])


def _sigmas(axes: Sequence[Axes], result: RunResult) -> None:
    start, known = first_stamp(result), [frame for frame in result.frames if frame.fused_covariance is not None]
    accepted = [frame for frame in result.frames if frame.accepted and frame.covariance is not None]
    for axis, name, scale in ((axes[0], "position", 1.0), (axes[1], "yaw", np.degrees(1.0))):
        per_frame = [scale * _deviation(frame.covariance, name) for frame in accepted]
        fused = [scale * _deviation(frame.fused_covariance, name) for frame in known]
        axis.plot(seconds_since(start, accepted), per_frame, ".", color=FRAME, markersize=3, label="per frame")
        axis.plot(seconds_since(start, known), fused, color=FUSED, linewidth=1.5, label="fused")
        axis.set_xlim(0, None)
        axis.set_ylim(0, None)
    axes[0].set_ylabel("position σ, m")
    axes[1].set_ylabel("heading σ, °")
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _deviation(covariance: np.ndarray | None, name: str) -> float:
    assert covariance is not None
    part = covariance[2:, 2:] if name == "yaw" else covariance[:2, :2]
    return float(np.sqrt(np.linalg.eigvalsh(part)[-1]))


def _sigma(frame: FrameRecord, name: str) -> float:
    """Return the fused pose's standard deviation along the true heading, across it, or of the heading."""
    assert frame.fused_covariance is not None and frame.truth is not None
    c, s = np.cos(frame.truth.yaw), np.sin(frame.truth.yaw)
    direction = {"longitudinal": [c, s, 0.0], "lateral": [-s, c, 0.0], "yaw": [0.0, 0.0, 1.0]}[name]
    return float(np.sqrt(direction @ frame.fused_covariance @ np.array(direction)))


def _with(frames: Sequence[FrameRecord], *, accepted: bool) -> list[FrameRecord]:
    return [f for f in frames if f.accepted == accepted and f.estimate is not None and f.truth is not None]


def _tracked(frames: Sequence[FrameRecord]) -> list[FrameRecord]:
    return [f for f in frames if f.tracked and f.truth is not None and f.fused_covariance is not None]


def first_stamp(result: RunResult) -> int:
    """Return when the drive began, nanoseconds."""
    return min([frame.stamp for frame in result.frames] + [stamp for stamp, _ in result.odometry[:1]], default=0)


def seconds_since(start: int, records: Sequence) -> np.ndarray:
    """Return the stamps of records in seconds since a stamp."""
    return np.array([(record.stamp - start) * 1e-9 for record in records])


def shade_outages(axis: Axes, result: RunResult, *, label: bool) -> None:
    """Shade the times without fixes."""
    start = first_stamp(result)
    stamps = seconds_since(start, result.fixes)
    for first, last in zip(stamps[:-1], stamps[1:], strict=True):
        if last - first > _OUTAGE:
            axis.axvspan(first, last, color=GNSS, alpha=0.09, linewidth=0)
            if label:
                axis.annotate("no GNSS", (first, 1), xycoords=("data", "axes fraction"), xytext=(4, -11),
                              textcoords="offset points", fontsize=8, color=GNSS)  # fmt: skip


def dress(axis: Axes) -> None:
    """Give axes the look that all figures share."""
    axis.grid(color="#d9dee5", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, color="#aaa")
    for text, size in ((axis.xaxis.label, 9), (axis.yaxis.label, 9), (axis.title, 10)):
        text.set_fontsize(size)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#aaa")
