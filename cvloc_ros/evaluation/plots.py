"""Figures of a run: errors over time, honesty of the covariance, error distribution. The map is in `map_plot`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvloc_ros.evaluation.metrics import chi2_3dof_cdf
from cvloc_ros.evaluation.records import FrameRecord, RunResult, pose_track
from cvloc_ros.evaluation.summary import frame_errors, frame_nees, gnss_errors, odometry_errors, tracker_errors

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
        _outages(axis, result, label=axis is axes[0])
        _dress(axis)
    axes[-1].set_xlabel("seconds since the start")
    return figure


def honesty_figure(result: RunResult) -> Figure | None:
    """Draw how the errors are distributed, and whether the covariances knew; None without truth."""
    accepted = [frame for frame in result.frames if frame.accepted]
    honesty = frame_nees(accepted)
    if not len(honesty):
        return None
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    distribution, histogram, calibration = figure.subplots(1, 3)

    for name, errors, color in (
        ("per frame", frame_errors(accepted).position, FRAME),
        ("fused", tracker_errors(result.frames).position, FUSED),
        ("GNSS", gnss_errors(result), GNSS),
        ("odometry", odometry_errors(result), ODOMETRY),
    ):
        if len(errors):
            distribution.plot(np.sort(errors), np.linspace(0, 1, len(errors)), color=color, label=name, linewidth=1.8)
    distribution.set(xscale="log", xlabel="position error, m", ylabel="share of poses", title="Error distribution")
    distribution.set_xlim(0.02, None)
    distribution.legend(frameon=False, fontsize=8, loc="upper left")

    edges = np.linspace(0, 16, 33)
    shown = np.minimum(honesty, edges[-1] - 1e-9)
    histogram.hist(shown, edges, density=True, color=FRAME, alpha=0.75, label="per frame")
    fine = np.linspace(0, edges[-1], 200)
    histogram.plot(
        fine,
        np.sqrt(fine / (2 * np.pi)) * np.exp(-fine / 2),
        color="#222",
        linewidth=1.4,
        label="honest (χ², 3 d.o.f.)",
    )
    histogram.set(xlabel="NEES (last bar: all above)", title=f"NEES, mean {honesty.mean():.1f} (honest: 3.0)")
    histogram.legend(frameon=False, fontsize=8)

    calibration.plot([0, 1], [0, 1], color="#222", linewidth=1.0, linestyle="--")
    claimed = np.sort(chi2_3dof_cdf(honesty))
    observed = (np.arange(len(claimed)) + 1) / len(claimed)
    calibration.plot(claimed, observed, color=FRAME, linewidth=1.8)
    calibration.set(xlabel="region's claimed probability", ylabel="share of truths inside", title="Calibration")
    calibration.text(0.04, 0.9, "too cautious", fontsize=8, color="#666")
    calibration.text(0.66, 0.06, "too sure", fontsize=8, color="#666")
    for axis in (distribution, histogram, calibration):
        _dress(axis)
    return figure


def _position(axis: Axes, result: RunResult) -> None:
    start, track = _start(result), pose_track(result.truth)
    fixes = [fix for fix in result.fixes if track.at(fix.stamp) is not None]
    accepted = _with(result.frames, accepted=True)
    if fixes:
        axis.plot(_seconds(fixes, start), gnss_errors(result), ".", color=GNSS, markersize=3, label="GNSS")
    odometry = odometry_errors(result)
    if len(odometry):
        stamps = [stamp for stamp, _ in result.dead_reckoning() if track.at(stamp) is not None]
        axis.plot((np.array(stamps) - start) * 1e-9, odometry, color=ODOMETRY, linewidth=1.2, label="odometry alone")
    axis.plot(
        _seconds(accepted, start), frame_errors(accepted).position, ".", color=FRAME, markersize=3, label="per frame"
    )
    tracked = _tracked(result.frames)
    axis.plot(_seconds(tracked, start), tracker_errors(tracked).position, color=FUSED, linewidth=1.6, label="fused")
    axis.set_yscale("symlog", linthresh=1.0)
    axis.set_ylim(0, None)
    axis.set_yticks([0, 0.5, 1, 2, 5, 10, 20], labels=["0", "0.5", "1", "2", "5", "10", "20"])
    axis.set_ylabel("position error, m")
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))


def _component(axis: Axes, result: RunResult, name: str) -> None:
    start, scale = _start(result), np.degrees(1.0) if name == "yaw" else 1.0
    accepted, tracked = _with(result.frames, accepted=True), _tracked(result.frames)
    axis.plot(
        _seconds(accepted, start),
        scale * getattr(frame_errors(accepted), name),
        ".",
        color=FRAME,
        markersize=2.5,
        alpha=0.7,
    )
    seconds, errors = _seconds(tracked, start), scale * getattr(tracker_errors(tracked), name)
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
    start, known = _start(result), [frame for frame in result.frames if frame.fused_covariance is not None]
    accepted = [frame for frame in result.frames if frame.accepted and frame.covariance is not None]
    for axis, name, scale in ((axes[0], "position", 1.0), (axes[1], "yaw", np.degrees(1.0))):
        per_frame = [scale * _deviation(frame.covariance, name) for frame in accepted]
        fused = [scale * _deviation(frame.fused_covariance, name) for frame in known]
        axis.plot(_seconds(accepted, start), per_frame, ".", color=FRAME, markersize=3, label="per frame")
        axis.plot(_seconds(known, start), fused, color=FUSED, linewidth=1.5, label="fused")
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


def _start(result: RunResult) -> int:
    return min([frame.stamp for frame in result.frames] + [stamp for stamp, _ in result.odometry[:1]], default=0)


def _seconds(records: Sequence, start: int) -> np.ndarray:
    return np.array([(record.stamp - start) * 1e-9 for record in records])


def _outages(axis: Axes, result: RunResult, *, label: bool) -> None:
    """Shade the times without fixes."""
    start = _start(result)
    stamps = _seconds(result.fixes, start)
    for first, last in zip(stamps[:-1], stamps[1:], strict=True):
        if last - first > _OUTAGE:
            axis.axvspan(first, last, color=GNSS, alpha=0.09, linewidth=0)
            if label:
                axis.annotate("no GNSS", (first, 1), xycoords=("data", "axes fraction"), xytext=(4, -11),
                              textcoords="offset points", fontsize=8, color=GNSS)  # fmt: skip


def _dress(axis: Axes) -> None:
    axis.grid(color="#d9dee5", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, color="#aaa")
    for text, size in ((axis.xaxis.label, 9), (axis.yaxis.label, 9), (axis.title, 10)):
        text.set_fontsize(size)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#aaa")
