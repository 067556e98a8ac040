"""Untextured markers: matches, prior and estimate with their ellipses, the GNSS track, the state in words.

All lie in the map frame and keep their ids, so that a new one replaces the last; what is of one image vanishes by
itself when no more images come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from cvloc_ros.evaluation import drawing
from cvloc_ros.evaluation.panels import ellipse, search_outline
from cvloc_ros.localization.types import Localization
from cvloc_ros.ros.conversions import header, to_pose

_MOST_MATCHES = 250
_STALE = Duration(sec=3)
_LINE = 0.25  # metres wide
_THIN_LINE, _DOT = 0.12, 0.5  # metres
_GNSS_DOT = 0.9  # metres
_TEXT_HEIGHT = 2.2  # metres
_ABOVE = {"prior": 0.05, "lines": 0.08, "found": 0.1, "estimate": 0.15, "gnss": 0.04, "state": 2.0}  # metres
_ARROW = np.array([[2.8, 0.0], [-1.8, 1.5], [-0.9, 0.0], [-1.8, -1.5]])  # metres
_ARROW_TRIANGLES = (0, 1, 2, 0, 2, 3)  # of its corners, counter-clockwise seen from above
_GNSS: drawing.Color = (190, 120, 255)
_STATE_COLORS = {"tracking": drawing.ACCEPTED, "degraded": drawing.PRIOR, "lost": drawing.REJECTED}


def match_markers(localization: Localization, *, frame_id: str) -> list[Marker]:
    """Return lines from where the prior puts each ground point to where it was found, bright where it weighs much."""
    matches = localization.matches
    order = np.argsort(matches.weights)[-_MOST_MATCHES:]  # heaviest last, on top
    weights = matches.weights[order] / max(float(matches.weights.max(initial=0.0)), 1e-9)
    T_map_patch = localization.prior.T_map_base
    colors = [to_color(color, alpha=0.9) for color in drawing.weight_colors(weights)]
    starts = _points(T_map_patch.apply(matches.base[order]), _ABOVE["lines"])
    ends = _points(T_map_patch.apply(matches.patch[order]), _ABOVE["found"])
    lines = _marker("lines", Marker.LINE_LIST, stamp=localization.stamp, frame_id=frame_id)
    lines.scale.x = _THIN_LINE
    lines.points = [point for pair in zip(starts, ends, strict=True) for point in pair]
    lines.colors = [color for color in colors for _ in range(2)]
    found = _marker("found", Marker.POINTS, stamp=localization.stamp, frame_id=frame_id)
    found.scale.x = found.scale.y = _DOT
    found.points, found.colors = ends, colors
    return [lines, found]


def pose_markers(localization: Localization, *, frame_id: str) -> list[Marker]:
    """Return prior and estimate (green if accepted, else red) with their 2-sigma ellipses, and the search's outline."""
    prior = localization.prior
    color = drawing.ACCEPTED if localization.accepted else drawing.REJECTED
    markers = []
    for name, pose, covariance, tint in (
        ("prior", prior.T_map_base, prior.covariance, drawing.PRIOR),
        ("estimate", localization.T_map_base, localization.covariance, color),
    ):
        arrow = _marker(name, Marker.TRIANGLE_LIST, stamp=localization.stamp, frame_id=frame_id)
        arrow.pose = to_pose(pose)
        arrow.scale.x = arrow.scale.y = arrow.scale.z = 1.0
        arrow.color = to_color(tint, alpha=0.6)  # the ellipse may be smaller
        arrow.points = _points(_ARROW[list(_ARROW_TRIANGLES)], _ABOVE[name])
        arrow.colors = [arrow.color] * len(arrow.points)  # colours of its own are not dimmed by RViz's light
        outline = _marker(name, Marker.LINE_STRIP, stamp=localization.stamp, frame_id=frame_id, marker_id=1)
        outline.scale.x = _LINE
        outline.color = to_color(tint)
        outline.points = _points(ellipse(covariance[:2, :2]) + [pose.x, pose.y], _ABOVE[name])
        markers += [arrow, outline]
    searched = _marker("prior", Marker.LINE_STRIP, stamp=localization.stamp, frame_id=frame_id, marker_id=2)
    searched.scale.x = _THIN_LINE
    searched.color = to_color(drawing.PRIOR)
    searched.points = _points(prior.T_map_base.apply(search_outline(localization)), _ABOVE["prior"])
    return [*markers, searched]


def gnss_marker(fixes: Sequence[Point], *, frame_id: str) -> Marker:
    """Return the track of GNSS fixes as dots."""
    track = _marker("gnss", Marker.POINTS, stamp=0, frame_id=frame_id, lifetime=Duration())
    track.scale.x = track.scale.y = _GNSS_DOT
    track.color = to_color(_GNSS)
    track.points = list(fixes)
    return track


def gnss_point(x: float, y: float) -> Point:
    """Return a fix in the map as a point of its track."""
    return Point(x=x, y=y, z=_ABOVE["gnss"])


def state_marker(state: str, x: float, y: float, *, covariance: np.ndarray | None, frame_id: str) -> Marker:
    """Return the tracker's state and how sure it is (2 sigma), if it is, written beside the vehicle at (x, y)."""
    text = _marker("state", Marker.TEXT_VIEW_FACING, stamp=0, frame_id=frame_id)
    text.text = state
    if covariance is not None:
        text.text += f", within {2 * np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1]):.1f} m"
    text.pose.position.x, text.pose.position.y, text.pose.position.z = x, y - 3 * _TEXT_HEIGHT, _ABOVE["state"]
    text.scale.z = _TEXT_HEIGHT
    text.color = to_color(_STATE_COLORS.get(state, drawing.TEXT))
    return text


def to_color(rgb: Sequence[int] | np.ndarray, *, alpha: float = 1.0) -> ColorRGBA:
    """Return a colour of three numbers in [0, 255]."""
    r, g, b = (float(value) / 255 for value in rgb)
    return ColorRGBA(r=r, g=g, b=b, a=alpha)


def _points(places: np.ndarray, z: float) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y in places.tolist()]


def _marker(
    namespace: str, kind: int, *, stamp: int, frame_id: str, marker_id: int = 0, lifetime: Duration = _STALE
) -> Marker:
    marker = Marker(ns=namespace, id=marker_id, type=kind, header=header(stamp, frame_id), lifetime=lifetime)
    marker.pose.orientation.w = 1.0
    return marker
