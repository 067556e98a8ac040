"""Polylines in the plane: arc length, offsets, pieces and fillets. Points are (N, 2) metres."""

from __future__ import annotations

import numpy as np


def arc_length(line: np.ndarray) -> np.ndarray:
    """Return the distance (N,) along the line to each of its points."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])


def resample(line: np.ndarray, spacing: float) -> np.ndarray:
    """Return the line with points about ``spacing`` metres apart; the ends stay."""
    s = arc_length(line)
    count = max(2, int(round(s[-1] / spacing)) + 1)
    return at(line, np.linspace(0, s[-1], count), s)


def at(line: np.ndarray, distance: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return the points (..., 2) at distances (...) along the line."""
    s = arc_length(line) if lengths is None else lengths
    return np.stack([np.interp(distance, s, line[:, 0]), np.interp(distance, s, line[:, 1])], axis=-1)


def tangents(line: np.ndarray) -> np.ndarray:
    """Return the unit direction (N, 2) at each point."""
    d = np.empty_like(line)
    d[1:-1] = line[2:] - line[:-2]
    d[0], d[-1] = line[1] - line[0], line[-1] - line[-2]
    return d / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]


def offset(line: np.ndarray, left: float | np.ndarray) -> np.ndarray:
    """Return the line moved ``left`` metres to its left (negative: right)."""
    return line + _normals(line) * (left[:, None] if isinstance(left, np.ndarray) else left)


def piece(line: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return the part of the line between two distances along it."""
    s = arc_length(line)
    start, end = max(start, 0.0), min(end, float(s[-1]))
    inner = (s > start + 1e-6) & (s < end - 1e-6)
    ends = at(line, np.array([start, end]), s)
    return np.concatenate([ends[:1], line[inner], ends[1:]])


def strip(line: np.ndarray, left: float, right: float) -> np.ndarray:
    """Return the polygon between two offsets of a line."""
    normals = _normals(line)
    return np.concatenate([line + normals * left, (line + normals * right)[::-1]])


def _normals(line: np.ndarray) -> np.ndarray:
    return tangents(line)[:, ::-1] * (-1.0, 1.0)


def rectangle(centre: np.ndarray, direction: np.ndarray, half_length: float, half_width: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle that is long along ``direction`` (unit)."""
    d = np.asarray(direction)
    n = np.array([-d[1], d[0]])
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    return np.asarray(centre) + corners[:, :1] * half_length * d + corners[:, 1:] * half_width * n


def curvature(line: np.ndarray) -> np.ndarray:
    """Return the signed curvature (N-2,) in 1/m at the inner points, positive to the left."""
    d = np.diff(line, axis=0)
    step = np.hypot(d[:, 0], d[:, 1])
    heading = np.unwrap(np.arctan2(d[:, 1], d[:, 0]))
    return np.diff(heading) / np.maximum((step[1:] + step[:-1]) / 2, 1e-9)
