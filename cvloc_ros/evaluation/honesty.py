"""Figures that ask whether the estimates knew how wrong they were: of a run, and of pairs with known poses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvloc_ros.evaluation.metrics import CHI2_3DOF_95, chi2_3dof_cdf
from cvloc_ros.evaluation.plots import (
    FRAME,
    FUSED,
    GNSS,
    ODOMETRY,
    dress,
    first_stamp,
    seconds_since,
    shade_outages,
)
from cvloc_ros.evaluation.records import RunResult
from cvloc_ros.evaluation.summary import (
    frame_errors,
    frame_nees,
    gnss_errors,
    odometry_errors,
    tracker_errors,
    tracker_nees,
)

_BINS = np.array([0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])  # of the quality: most frames have a high one


def run_honesty_figure(result: RunResult) -> Figure | None:
    """Draw the NEES over time and its distribution, the calibration, and how the errors are distributed.

    Returns:
        The figure; None without truth, or where no frame was accepted.

    """
    accepted = [frame for frame in result.frames if frame.accepted and frame.truth is not None]
    per_frame = frame_nees(accepted)
    if not len(per_frame):
        return None
    tracked = [frame for frame in result.frames if frame.tracked and frame.truth is not None]
    fused = tracker_nees(tracked)
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplot_mosaic([["time"] * 3, ["distribution", "histogram", "calibration"]], height_ratios=[1, 1.4])

    start = first_stamp(result)
    axes["time"].plot(seconds_since(start, accepted), per_frame, ".", color=FRAME, markersize=3, label="per frame")
    if len(fused):
        axes["time"].plot(seconds_since(start, tracked), fused, color=FUSED, linewidth=1.3, label="fused")
    for value, style, name in ((3.0, "-", "honest mean"), (CHI2_3DOF_95, "--", "95 % bound")):
        axes["time"].axhline(value, color="#222", linewidth=0.9, linestyle=style, label=name)
    axes["time"].set(yscale="log", ylabel="NEES", xlabel="seconds since the start", title="NEES over time")
    axes["time"].set_ylim(0.02, None)
    axes["time"].legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    shade_outages(axes["time"], result, label=True)

    for name, errors, color in (
        ("per frame", frame_errors(accepted).position, FRAME),
        ("fused", tracker_errors(tracked).position, FUSED),
        ("GNSS", gnss_errors(result), GNSS),
        ("odometry", odometry_errors(result), ODOMETRY),
    ):
        if len(errors):
            shares = np.linspace(0, 1, len(errors))
            axes["distribution"].plot(np.sort(errors), shares, color=color, label=name, linewidth=1.8)
    axes["distribution"].set(
        xscale="log", xlabel="position error, m", ylabel="share of poses", title="Error distribution"
    )
    axes["distribution"].set_xlim(0.02, None)
    axes["distribution"].legend(frameon=False, fontsize=8, loc="upper left")

    _histogram(axes["histogram"], per_frame)
    _calibration(axes["calibration"], {"per frame": per_frame} | ({"fused": fused} if len(fused) else {}))
    for axis in axes.values():
        dress(axis)
    return figure


def pairs_honesty_figure(
    nees: Mapping[str, np.ndarray], quality: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]
) -> Figure:
    """Draw the calibration of the covariance, the reliability of the quality, and what a stricter gate would bring.

    Args:
        nees: by set, of the accepted frames.
        quality: by set, of all frames.
        right: by set, of all frames: whether the position is within the quality's radius.

    """
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    calibration, reliability, gate = figure.subplots(1, 3)
    colors = dict(zip(quality, (FRAME, GNSS), strict=False))
    _calibration(calibration, nees, colors)
    calibration.set_title("Covariance of accepted frames")

    reliability.plot([0, 1], [0, 1], color="#222", linewidth=1.0, linestyle="--")
    for name, color in colors.items():
        claimed, observed, count = reliability_curve(quality[name], right[name]).T
        smoothed = (observed * count + 1) / (count + 2)  # a bin of three right ones is not certain
        error = np.sqrt(smoothed * (1 - smoothed) / count)
        reliability.errorbar(claimed, observed, error, fmt="o-", color=color, markersize=3.5, linewidth=1.4, label=name)
        order = np.argsort(-quality[name])
        kept = np.arange(1, len(order) + 1)
        wrong = np.cumsum(~right[name][order]) / kept
        gate.plot(100 * kept[9:] / len(order), 100 * wrong[9:], color=color, linewidth=1.6)
    reliability.set(ylim=(0, 1.03), xlabel="quality", ylabel="share within 2 m", title="Quality of all frames")
    reliability.legend(frameon=False, fontsize=8)
    gate.set(xlabel="frames kept, best quality first, %", ylabel="of them beyond 2 m, %", title="What a gate keeps out")
    for axis in (calibration, reliability, gate):
        dress(axis)
    return figure


def reliability_curve(quality: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return a row for every bin of the quality (N,) that has frames: its mean, the share that is right, the count."""
    bins = np.digitize(quality, _BINS[1:-1])
    return np.array([(quality[bins == b].mean(), right[bins == b].mean(), np.sum(bins == b)) for b in np.unique(bins)])


def _histogram(axis: Axes, values: np.ndarray) -> None:
    edges = np.linspace(0, 16, 33)
    shown = np.minimum(values, edges[-1] - 1e-9)
    axis.hist(shown, edges.tolist(), density=True, color=FRAME, alpha=0.75, label="per frame")
    fine = np.linspace(0, edges[-1], 200)
    density = np.sqrt(fine / (2 * np.pi)) * np.exp(-fine / 2)
    axis.plot(fine, density, color="#222", linewidth=1.4, label="honest (χ², 3 d.o.f.)")
    axis.set(xlabel="NEES (last bar: all above)", title=f"NEES, mean {values.mean():.1f} (honest: 3.0)")
    axis.legend(frameon=False, fontsize=8)


def _calibration(axis: Axes, sets: Mapping[str, np.ndarray], colors: Mapping[str, str] | None = None) -> None:
    """Draw the share of truths inside the k sigma ellipsoids over the share that belongs there, k along the curve."""
    colors = colors or {"per frame": FRAME, "fused": FUSED}
    axis.plot([0, 1], [0, 1], color="#222", linewidth=1.0, linestyle="--")
    for name, values in sets.items():
        claimed = np.append(np.sort(chi2_3dof_cdf(values)), 1.0)
        axis.plot(claimed, np.linspace(0, 1, len(claimed)), color=colors[name], linewidth=1.8, label=name)
    for k in (1, 2, 3):
        share = float(chi2_3dof_cdf(np.array(k**2)))
        inside = [float(np.mean(values <= k**2)) for values in sets.values() if len(values)]
        axis.plot([share] * len(inside), inside, "o", color="#222", markersize=3, zorder=3)
        axis.annotate(f"{k} σ", (share, share), xytext=(3, -10), textcoords="offset points", fontsize=7, color="#666")
    axis.set(xlabel="region's claimed probability", ylabel="share of truths inside", title="Calibration")
    axis.text(0.04, 0.9, "too cautious", fontsize=8, color="#666")
    axis.text(0.66, 0.3, "too sure", fontsize=8, color="#666")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
