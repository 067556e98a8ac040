"""The match picture: one image that shows whether and why a localization is right, live in RViz and in the report.

Left, above: what the camera sees, with ground distances and the matched points. Left, below: what it would see of the
satellite image from the estimated pose; where the estimate is right, both agree. Right: the satellite patch around
the prior, vehicle forward up, with the prior, the estimate, their 2-sigma ellipses and the matches.
"""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.evaluation import drawing
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, wrap_angle
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.types import Frame, Localization

OVERLAY_GRID = GroundGrid.centred(256, 0.4)
"""A patch that suits the picture: 51 m to each side."""

_BACKGROUND = drawing.SHADE
_EMPTY = (44, 48, 56)
_QUIET = (154, 160, 166)
_PRIOR = (255, 183, 77)
_ACCEPTED = (102, 222, 140)
_REJECTED = (255, 99, 97)
_TRUTH = (255, 255, 255)

_GAP = 14
_PATCH_SIDE = 560
_VIEW = (700, 273)  # width, height of each camera view
_STRIP = 62
_WIDTH = 3 * _GAP + _VIEW[0] + _PATCH_SIDE
_HEIGHT = 2 * _GAP + _PATCH_SIDE + _STRIP

_HORIZON_AT = 0.22  # of a view's height: the sky tells nothing
_FARTHEST = 60.0  # metres of ground that are drawn
_DISTANCES = (10, 20, 30, 40)  # metres ahead that are marked
_MOST_MATCHES = 150
_PLASMA = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_PLASMA)[:, 0, ::-1]
_ARROW = np.array([[3.2, 0.0], [-2.0, 1.7], [-1.0, 0.0], [-2.0, -1.7]])  # metres: a car's length, roughly
_CROSS = np.array([[1.6, 1.6], [-1.6, -1.6], [1.6, -1.6], [-1.6, 1.6]])


def draw_overlay(frame: Frame, patch: Patch, localization: Localization, *, truth: SE2 | None = None) -> np.ndarray:
    """Draw the match picture.

    Args:
        frame: the image with its camera.
        patch: the satellite image around the prior: ``patch.T_map_patch`` is the prior's pose.
        localization: what came out.
        truth: the true ``T_map_base``, if known.

    Returns:
        RGB uint8, (650, 1302, 3).

    """
    canvas = np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND, np.uint8)
    view = _View.of(frame)
    T_patch_base = patch.T_map_patch.inverse() @ localization.T_map_base
    weights, base, matched = _strongest(localization)

    seen = view.cut(frame.image)
    _draw_distances(seen, view)
    _draw_points(seen, view, base, weights)
    drawing.caption(seen, "camera")
    expected = view.from_above(patch, T_patch_base)
    _draw_distances(expected, view)
    drawing.caption(expected, "satellite image seen from the estimate")
    low = _GAP + _PATCH_SIDE
    canvas[_GAP : _GAP + _VIEW[1], _GAP : _GAP + _VIEW[0]] = seen
    canvas[low - _VIEW[1] : low, _GAP : _GAP + _VIEW[0]] = expected

    above = _draw_patch(patch, localization, T_patch_base, base=base, matched=matched, weights=weights, truth=truth)
    canvas[_GAP:low, 2 * _GAP + _VIEW[0] : -_GAP] = above
    _draw_strip(canvas, localization, truth)
    return canvas


class _View:
    """The part of the camera's image that shows the ground, scaled to a panel."""

    def __init__(self, camera: PinholeCamera, T_base_camera: np.ndarray, *, top: int, height: int) -> None:
        self.camera = camera.cropped(left=0, top=top, width=camera.width, height=height).resized(*_VIEW)
        self.T_base_camera = T_base_camera
        self._rows = slice(top, top + height)

    @classmethod
    def of(cls, frame: Frame) -> _View:
        """Choose rows of the panel's aspect, with the horizon near their top."""
        camera = frame.camera
        height = min(round(camera.width * _VIEW[1] / _VIEW[0]), camera.height)
        ahead = np.linalg.inv(frame.T_base_camera)[:3, :3] @ [1.0, 0.0, 0.0]
        horizon = camera.K[1, 2] + camera.K[1, 1] * ahead[1] / max(ahead[2], 0.1)
        top = int(np.clip(horizon - _HORIZON_AT * height, 0, camera.height - height))
        return cls(camera, frame.T_base_camera, top=top, height=height)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the panel of the camera's image."""
        rows = image[self._rows]
        shrinks = rows.shape[1] > _VIEW[0]
        return cv2.resize(rows, _VIEW, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

    def from_above(self, patch: Patch, T_patch_base: SE2) -> np.ndarray:
        """Return the panel that a camera at ``T_patch_base`` would see of the patch."""
        columns, rows = np.meshgrid(np.arange(_VIEW[0]), np.arange(_VIEW[1]))
        rays = self.camera.rays(np.stack([columns, rows], axis=-1)) @ self.T_base_camera[:3, :3].T
        origin = self.T_base_camera[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = origin[:2] + rays[..., :2] * (-origin[2] / rays[..., 2:])
        visible = (rays[..., 2] < -1e-3) & (np.hypot(ground[..., 0], ground[..., 1]) < _FARTHEST)
        cells = patch.grid.to_cells(T_patch_base.apply(np.where(visible[..., None], ground, 1e6))).astype(np.float32)
        image = np.where(patch.coverage[..., None], patch.image, np.array(_EMPTY, np.uint8))
        return cv2.remap(
            image, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=_EMPTY
        )

    def project(self, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project ground points (N, 2) of the vehicle's frame; returns pixels (N, 2) and which are in view."""
        points = np.column_stack([ground, np.zeros(len(ground)), np.ones(len(ground))])
        return self.camera.project((points @ np.linalg.inv(self.T_base_camera).T)[:, :3])


def _draw_distances(panel: np.ndarray, view: _View) -> None:
    """Mark the ground at round distances ahead."""
    lines = panel.copy()
    labels = []
    for x in _DISTANCES:
        y = np.linspace(12, -12, 97)
        pixels, inside = view.project(np.column_stack([np.full_like(y, x), y]))
        if inside.sum() < 2:
            continue
        drawing.polyline(lines, pixels[inside], _TRUTH, thickness=1)
        labels.append((f"{x} m", pixels[inside][-1]))
    cv2.addWeighted(lines, 0.55, panel, 0.45, 0, dst=panel)
    for text, (u, v) in labels:
        drawing.tag(panel, text, x=int(u) + 4, y=int(v))


def _draw_points(panel: np.ndarray, view: _View, base: np.ndarray, weights: np.ndarray) -> None:
    pixels, inside = view.project(base)
    for pixel, color, weight in zip(pixels[inside], _colors(weights)[inside], weights[inside], strict=True):
        drawing.dot(panel, pixel, color, radius=2.0 + 2.5 * weight)


def _draw_patch(
    patch: Patch,
    localization: Localization,
    T_patch_base: SE2,
    *,
    base: np.ndarray,
    matched: np.ndarray,
    weights: np.ndarray,
    truth: SE2 | None,
) -> np.ndarray:
    image = np.where(patch.coverage[..., None], patch.image, np.array(_EMPTY, np.uint8))
    panel = cv2.resize(image, (_PATCH_SIDE, _PATCH_SIDE), interpolation=cv2.INTER_CUBIC)
    grid = patch.grid
    scale = _PATCH_SIDE / grid.cols  # pixels a cell

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return (grid.to_cells(points)[..., ::-1] + 0.5) * scale - 0.5

    color = _ACCEPTED if localization.accepted else _REJECTED
    lines = panel.copy()
    for start, end, tint in zip(to_pixels(base), to_pixels(matched), _colors(weights), strict=True):
        drawing.polyline(lines, np.stack([start, end]), tint, thickness=1)
    cv2.addWeighted(lines, 0.6, panel, 0.4, 0, dst=panel)
    for end, tint, weight in zip(to_pixels(matched), _colors(weights), weights, strict=True):
        drawing.dot(panel, end, tint, radius=1.5 + 2.0 * weight)

    if truth is not None:
        cross = (patch.T_map_patch.inverse() @ truth).apply(_CROSS)
        for stroke in (cross[:2], cross[2:]):
            drawing.outlined(panel, to_pixels(stroke), _TRUTH, thickness=2)
    R = patch.T_map_patch.rotation().T  # covariances are in the map frame
    prior = SE2()
    for pose, covariance, tint in (
        (prior, localization.prior.covariance, _PRIOR),
        (T_patch_base, localization.covariance, color),
    ):
        ellipse = _ellipse(R @ covariance[:2, :2] @ R.T) + [pose.x, pose.y]
        drawing.polygon(panel, to_pixels(pose.apply(_ARROW)), tint)
        drawing.outlined(panel, to_pixels(ellipse), tint)
    drawing.scale_bar(panel, metres=20, pixels=20 / grid.cell * scale)
    drawing.north_arrow(panel, up_yaw=patch.T_map_patch.yaw)
    entries = [("prior", _PRIOR), ("estimate", color)] + ([("truth", _TRUTH)] if truth is not None else [])
    drawing.legend(panel, entries)
    return panel


def _draw_strip(canvas: np.ndarray, localization: Localization, truth: SE2 | None) -> None:
    """Write the result in words."""
    y = _GAP + _PATCH_SIDE + 36
    verdict = "accepted" if localization.accepted else f"rejected: {localization.reason.replace('_', ' ')}"
    color = _ACCEPTED if localization.accepted else _REJECTED
    width = drawing.text_width(verdict, 0.62)
    drawing.box(canvas, x=_GAP, y=y - 24, width=width + 24, height=36, color=color)
    drawing.write(canvas, verdict, x=_GAP + 12, y=y, size=0.62, color=_BACKGROUND)

    R = localization.T_map_base.rotation().T
    sigma = np.sqrt(np.diag(R @ localization.covariance[:2, :2] @ R.T))
    facts = [
        ("sigma", f"{sigma[0]:.2f} m along, {sigma[1]:.2f} m across, {_degrees(localization.covariance):.1f} deg"),
        ("quality", f"{localization.quality:.2f}"),
        ("time", f"{_total(localization.milliseconds):.0f} ms"),
    ]
    if truth is not None:
        error = truth.inverse() @ localization.T_map_base
        turn = abs(np.degrees(float(wrap_angle(error.yaw))))
        facts.insert(0, ("error", f"{np.hypot(error.x, error.y):.2f} m, {turn:.1f} deg"))
    x = _GAP + width + 24 + 28
    for name, value in facts:
        x = drawing.write(canvas, name, x=x, y=y, size=0.52, color=_QUIET) + 8
        x = drawing.write(canvas, value, x=x, y=y, size=0.52) + 26


def _total(milliseconds: dict[str, float]) -> float:
    return milliseconds.get("total", sum(milliseconds.values()))


def _degrees(covariance: np.ndarray) -> float:
    return float(np.degrees(np.sqrt(covariance[2, 2])))


def _strongest(localization: Localization) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (N,) scaled to a maximum of 1, base (N, 2) and patch (N, 2) of the heaviest matches, best last."""
    matches = localization.matches
    order = np.argsort(matches.weights)[-_MOST_MATCHES:]
    weights = matches.weights[order]
    return weights / max(float(weights.max(initial=0.0)), 1e-9), matches.base[order], matches.patch[order]


def _colors(weights: np.ndarray) -> np.ndarray:
    """Return RGB colours (N, 3) of weights (N,) in [0, 1]: dark blue for little, yellow for much."""
    values = np.round(60 + 195 * np.clip(weights, 0, 1)).astype(np.uint8)
    return _PLASMA[values]


def _ellipse(covariance: np.ndarray) -> np.ndarray:
    """Return the outline (64, 2) of the 2-sigma ellipse of a 2x2 covariance."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 64)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return 2 * (circle * np.sqrt(np.maximum(values, 0))) @ vectors.T
