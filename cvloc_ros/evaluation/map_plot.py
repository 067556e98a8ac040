"""The map of a run: imagery with the truth, GNSS, odometry and the estimate on it."""

from __future__ import annotations

from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvloc_ros.evaluation.plots import FRAME, FUSED, GNSS, ODOMETRY, REJECTED
from cvloc_ros.evaluation.records import RunResult
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import ImageryError, SatelliteMap

_INCHES = 9.5  # of the picture's longer side
_MARGIN = 25.0  # metres around what is shown
_PIXELS = 1600  # of the background's longer side
_NARROWEST = 0.7  # of the picture's shape: shorter over longer side
_FINEST = 0.2  # metres a pixel
_HALO = [effects.Stroke(linewidth=3.4, foreground="white", alpha=0.9), effects.Normal()]


def map_figure(result: RunResult) -> Figure:
    """Draw the drive north up, in metres from the datum; white where its imagery cannot be read any more."""
    tracks = _tracks(result)
    west, south, east, north = _bounds(tracks, _imagery_bounds(result))
    width, height = east - west, north - south
    scale = _INCHES / max(width, height)
    figure = Figure(figsize=(scale * width + 0.8, scale * height + 0.9), layout="constrained")
    axes = figure.subplots()
    image = _background(result, west, south, east, north)
    if image is not None:
        axes.imshow(image, extent=(west, east, south, north), interpolation="bilinear", zorder=0)
    for name, points, style in tracks:
        if len(points):
            axes.plot(points[:, 0], points[:, 1], label=name, **style)
    _start_mark(axes, result)
    axes.set(xlim=(west, east), ylim=(south, north), aspect="equal")
    axes.set_xlabel("metres east of the datum", fontsize=9)
    axes.set_ylabel("metres north", fontsize=9)
    axes.tick_params(labelsize=8, color="#aaa")
    for spine in axes.spines.values():
        spine.set_color("#aaa")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, fontsize=9, markerscale=1.6,
                    handlelength=1.6, facecolor="#eef1f5", edgecolor="none", columnspacing=1.4)  # fmt: skip
    if result.attribution:
        axes.text(0.995, 0.005, result.attribution, transform=axes.transAxes, ha="right", va="bottom", fontsize=7,
                  color="white", path_effects=[effects.withStroke(linewidth=2, foreground="#0008")])  # fmt: skip
    return figure


def _tracks(result: RunResult) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    estimates = [f for f in result.frames if f.estimate is not None]
    line = {"solid_capstyle": "round"}
    outline = [effects.Stroke(linewidth=6.0, foreground="#3b4450"), effects.Normal()]
    return [
        ("GNSS", _points([fix.position for fix in result.fixes]),
         {"ls": "", "marker": ".", "ms": 5, "color": GNSS, "mec": "white", "mew": 0.3}),
        ("odometry alone", _poses([pose for _, pose in result.dead_reckoning()]),
         {"lw": 1.8, "ls": (0, (4, 2)), "color": ODOMETRY, "path_effects": _HALO}),
        ("truth", _poses([pose for _, pose in result.truth]),
         {"lw": 4.4, "color": "white", "path_effects": outline, **line}),
        ("per frame", _poses([f.estimate for f in estimates if f.accepted]),
         {"ls": "", "marker": ".", "ms": 3.2, "color": FRAME}),
        ("fused", _poses([f.fused for f in result.frames if f.tracked]), {"lw": 1.6, "color": FUSED, **line}),
        ("rejected", _poses([f.estimate for f in estimates if not f.accepted]),
         {"ls": "", "marker": "x", "ms": 4, "mew": 1.0, "color": REJECTED}),
    ]  # fmt: skip


def _poses(poses: list[SE2 | None]) -> np.ndarray:
    return _points([np.array([pose.x, pose.y]) for pose in poses if pose is not None])


def _points(points: list[np.ndarray]) -> np.ndarray:
    return np.array(points, dtype=float).reshape(-1, 2)


def _bounds(
    tracks: list[tuple[str, np.ndarray, dict[str, Any]]], imagery: tuple[float, ...] | None
) -> tuple[float, float, float, float]:
    """Return west, south, east, north of what must be seen, rather on the imagery (likewise) than beside it.

    Rejected estimates may fall outside.
    """
    shown = [points for name, points, _ in tracks if name != "rejected" and len(points)]
    if not shown:
        return -_MARGIN, -_MARGIN, _MARGIN, _MARGIN
    points = np.concatenate(shown)
    low, high = points.min(axis=0) - _MARGIN, points.max(axis=0) + _MARGIN
    side = (high - low).max() / 2  # a straight street still gets some surroundings
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, _NARROWEST * side)
    if imagery is not None:  # what is not needed may lie on either side of the drive
        centre += np.clip(
            np.clip(centre, np.array(imagery[:2]) + half, np.array(imagery[2:]) - half) - centre,
            high - (centre + half),
            low - (centre - half),
        )
    return (*(centre - half), *(centre + half))


def _imagery_bounds(result: RunResult) -> tuple[float, float, float, float] | None:
    try:
        return SatelliteMap.open(result.imagery, result.datum).bounds
    except ImageryError:
        return None


def _background(result: RunResult, west: float, south: float, east: float, north: float) -> np.ndarray | None:
    """Cut the background, a little paler than it is, so that lines stand out."""
    cell = max(_FINEST, max(east - west, north - south) / _PIXELS)
    rows, cols = int(np.ceil((north - south) / cell)), int(np.ceil((east - west) / cell))
    grid = GroundGrid(rows, cols, cell, x_max=rows * cell / 2)
    try:
        imagery = SatelliteMap.open(result.imagery, result.datum, cell=cell)
        patch = imagery.patch(SE2((west + east) / 2, (south + north) / 2, np.pi / 2), grid)
    except ImageryError:
        return None
    image = 255 - 0.72 * (255 - patch.image.astype(np.float32))
    image[~patch.coverage] = 255
    return image.astype(np.uint8)


def _start_mark(axes: Axes, result: RunResult) -> None:
    poses = [pose for _, pose in result.truth[:1]] or [f.fused for f in result.frames if f.fused is not None][:1]
    for pose in poses:
        axes.plot(pose.x, pose.y, "o", ms=9, color="white", mec="#222", mew=1.6, zorder=5)
        axes.annotate("start", (pose.x, pose.y), xytext=(8, 6), textcoords="offset points", fontsize=9, zorder=5,
                      path_effects=[effects.withStroke(linewidth=3, foreground="white")])  # fmt: skip
