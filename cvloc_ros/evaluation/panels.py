"""The panels of the match picture; `pictures` puts them together."""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.evaluation import drawing
from cvloc_ros.evaluation.ground_view import CameraView, bird_view, satellite_edges, satellite_view
from cvloc_ros.geometry import SE2, GroundGrid
from cvloc_ros.imagery import Patch
from cvloc_ros.localization.types import Frame, Localization, Posterior

_DISTANCES = (10, 20, 30)  # metres ahead that are marked
_NEAREST, _FARTHEST = 3.0, 40.0  # metres ahead of which edges are drawn in the camera's image
_SIDE = 16.0  # metres to each side, likewise
_MOST_MATCHES = 150
_ARROW = np.array([[3.2, 0.0], [-2.0, 1.7], [-1.0, 0.0], [-2.0, -1.7]])  # metres: a car's length, roughly
_CROSS = np.array([[1.6, 1.6], [-1.6, -1.6], [1.6, -1.6], [-1.6, 1.6]])


def camera_panel(frame: Frame, patch: Patch, T_patch_base: SE2, *, size: tuple[int, int]) -> np.ndarray:
    """Draw the camera's image with the satellite image's edges as they lie on the ground at ``T_patch_base``."""
    view = CameraView(frame, size)
    panel, lines = view.image, view.image.copy()
    T_base_patch = T_patch_base.inverse()
    for edge in satellite_edges(patch):
        ground = T_base_patch.apply(edge)
        near = (ground[:, 0] > _NEAREST) & (ground[:, 0] < _FARTHEST) & (np.abs(ground[:, 1]) < _SIDE)
        if near.any():
            pixels, inside = view.project(ground)
            for run in _runs(near & inside):
                drawing.polyline(lines, pixels[run], drawing.EDGE)
    cv2.addWeighted(lines, 0.75, panel, 0.25, 0, dst=panel)
    _draw_distances(panel, view)
    drawing.caption(panel, "camera, with edges of the satellite image")
    return panel


def bird_panels(
    frame: Frame, patch: Patch, T_patch_base: SE2, *, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the ground ahead from above, as the camera sees it and as the satellite does from the same place."""
    grid = GroundGrid(size[1], size[0], _FARTHEST / size[1], x_max=_FARTHEST)
    seen, _ = bird_view(frame, grid)
    expected = satellite_view(patch, T_patch_base, grid)
    for panel in (seen, expected):
        for x in _DISTANCES:
            row = round(float(grid.to_cells(np.array([x, 0.0]))[0]))
            panel[row] = (0.7 * panel[row] + 0.3 * 255).astype(np.uint8)
            drawing.tag(panel, f"{x} m", x=size[0], y=row)
    drawing.caption(seen, "ground, by camera")
    drawing.caption(expected, "by satellite")
    return seen, expected


def posterior_panel(posterior: Posterior | None, *, size: tuple[int, int]) -> np.ndarray:
    """Draw how likely each place of the search box is, forward up; the brightest heading counts."""
    panel = np.full((size[1], size[0], 3), drawing.EMPTY, np.uint8)
    if posterior is not None:
        likely = posterior.probability.sum(axis=0)
        likely = np.sqrt(likely / max(float(likely.max()), 1e-12))  # weak second peaks should show
        if posterior.x[0] < posterior.x[-1]:
            likely = likely[::-1]
        if posterior.y[0] < posterior.y[-1]:
            likely = likely[:, ::-1]
        side = min(size)
        colors = drawing.heat_colors(cv2.resize(likely, (side, side), interpolation=cv2.INTER_LINEAR))
        top = size[1] - side
        panel[top:, :side] = colors
        reach = float(np.abs(posterior.x).max() + np.abs(np.diff(posterior.x[:2])).sum() / 2)
        metres = 10 if reach > 8 else 2
        prior = np.array([-posterior.T_patch_prior.y, -posterior.T_patch_prior.x]) / (2 * reach) * side
        centre = np.array([side / 2, top + side / 2]) - 0.5 + prior
        for stroke in ([[-5, 0], [5, 0]], [[0, -5], [0, 5]]):
            drawing.outlined(panel, centre + np.array(stroke), drawing.PRIOR)
        drawing.scale_bar(panel, metres=metres, pixels=metres / (2 * reach) * side)
    else:
        drawing.write(panel, "not given", x=9, y=size[1] // 2, size=0.46, color=drawing.QUIET)
    drawing.caption(panel, "search: how likely")
    return panel


def patch_panel(patch: Patch, localization: Localization, *, side: int, truth: SE2 | None) -> np.ndarray:
    """Draw the satellite patch, prior's heading up: matches, search box, prior and estimate with 2-sigma ellipses."""
    image = np.where(patch.coverage[..., None], patch.image, np.array(drawing.EMPTY, np.uint8))
    panel = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    grid, scale = patch.grid, side / patch.grid.cols  # pixels a cell

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return (grid.to_cells(points)[..., ::-1] + 0.5) * scale - 0.5

    weights, base, matched = _heaviest(localization)
    colors = drawing.weight_colors(weights)
    lines = panel.copy()
    for start, end, tint in zip(to_pixels(base), to_pixels(matched), colors, strict=True):
        drawing.polyline(lines, np.stack([start, end]), tint)
    cv2.addWeighted(lines, 0.6, panel, 0.4, 0, dst=panel)
    for end, tint, weight in zip(to_pixels(matched), colors, weights, strict=True):
        drawing.dot(panel, end, tint, radius=1.5 + 2.0 * weight)

    if truth is not None:
        cross = (patch.T_map_patch.inverse() @ truth).apply(_CROSS)
        for stroke in (cross[:2], cross[2:]):
            drawing.outlined(panel, to_pixels(stroke), drawing.TRUTH, thickness=2)
    color = drawing.ACCEPTED if localization.accepted else drawing.REJECTED
    drawing.polyline(panel, to_pixels(search_outline(localization)), drawing.PRIOR)
    R = patch.T_map_patch.rotation().T  # covariances are in the map frame
    for pose, covariance, tint in (
        (SE2(), localization.prior.covariance, drawing.PRIOR),
        (patch.T_map_patch.inverse() @ localization.T_map_base, localization.covariance, color),
    ):
        drawing.polygon(panel, to_pixels(pose.apply(_ARROW)), tint)
        drawing.outlined(panel, to_pixels(ellipse(R @ covariance[:2, :2] @ R.T) + [pose.x, pose.y]), tint)
    drawing.scale_bar(panel, metres=20, pixels=20 / grid.cell * scale)
    drawing.north_arrow(panel, up_yaw=patch.T_map_patch.yaw)
    entries = [("prior", drawing.PRIOR), ("estimate", color)]
    drawing.legend(panel, entries + ([("truth", drawing.TRUTH)] if truth is not None else []))
    return panel


def search_outline(localization: Localization) -> np.ndarray:
    """Return the outline (5, 2) of the places that were searched, metres in the prior's vehicle frame."""
    x, y, _ = localization.search_box
    return np.array([[x, y], [x, -y], [-x, -y], [-x, y], [x, y]])


def ellipse(covariance: np.ndarray) -> np.ndarray:
    """Return the outline (64, 2) of the 2-sigma ellipse of a 2x2 covariance."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 64)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return 2 * (circle * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _draw_distances(panel: np.ndarray, view: CameraView) -> None:
    """Mark the ground at round distances ahead."""
    lines, labels = panel.copy(), []
    for x in _DISTANCES:
        y = np.linspace(_SIDE, -_SIDE, 97)
        pixels, inside = view.project(np.column_stack([np.full_like(y, x), y]))
        if inside.sum() < 2:
            continue
        drawing.polyline(lines, pixels[inside], drawing.TRUTH)
        labels.append((f"{x} m", pixels[inside][-1]))
    cv2.addWeighted(lines, 0.45, panel, 0.55, 0, dst=panel)
    for text, (u, v) in labels:
        drawing.tag(panel, text, x=int(u) + 4, y=int(v))


def _heaviest(localization: Localization) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights (N,) scaled to a maximum of 1, base (N, 2) and patch (N, 2) of the heaviest matches, best last."""
    matches = localization.matches
    order = np.argsort(matches.weights)[-_MOST_MATCHES:]
    weights = matches.weights[order]
    return weights / max(float(weights.max(initial=0.0)), 1e-9), matches.base[order], matches.patch[order]


def _runs(mask: np.ndarray) -> list[slice]:
    """Return where a mask (N,) is true for two or more elements on end."""
    borders = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(a, b) for a, b in zip(borders[::2], borders[1::2], strict=True) if b - a > 1]
