"""Trees and posts in the street's view: flat figures that face the camera, drawn back to front with a depth test."""

from __future__ import annotations

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town import textures
from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.panorama import Panorama
from cvloc_ros.datasets.town.scenery import LAMP, SIGN, Posts, Trees
from cvloc_ros.datasets.town.terrain import Terrain

_NEAREST, _TREES_TO, _POSTS_TO = 2.5, 110.0, 60.0  # metres


def draw_billboards(
    scene: np.ndarray, view: Panorama, look: Appearance, terrain: Terrain, trees: Trees, posts: Posts
) -> None:
    """Draw into a panorama's colours (C, R, 3) uint8; the view's depth is brought up to date."""
    items = [(*item, "tree") for item in _in_view(view, trees, _TREES_TO, trees.radius)]
    items += [(*item, "post") for item in _in_view(view, posts, _POSTS_TO, np.full(len(posts), 0.6))]
    for distance, column, i, what in sorted(items, reverse=True):
        table = trees if what == "tree" else posts
        base = float(terrain(np.array([table.x[i], table.y[i]])))
        if what == "tree":
            _draw_tree(scene, view, look, trees, i, distance, column, base)
        else:
            _draw_post(scene, view, look, posts, i, distance, column, base)


def _in_view(view: Panorama, table: Trees | Posts, farthest: float, reach: np.ndarray) -> list[tuple]:
    dx, dy = table.x - view.eye[0], table.y - view.eye[1]
    distance = np.hypot(dx, dy)
    column = view.column_of(np.arctan2(dy, dx))
    wide = reach / np.maximum(distance, 0.1) / view.step
    chosen = (distance > _NEAREST) & (distance < farthest) & (column > -wide) & (column < len(view.azimuth) + wide)
    return [(float(distance[i]), float(column[i]), int(i)) for i in np.flatnonzero(chosen)]


def _draw_tree(scene, view: Panorama, look: Appearance, trees: Trees, i: int, distance, column, base) -> None:
    eye = float(view.eye[2])
    rows = [float(view.row_of((base + h - eye) / distance)) for h in (trees.height[i], trees.clear[i], -0.5)]
    half = float(trees.radius[i]) / distance / view.step
    trunk = max(0.02 * float(trees.height[i]), 0.09) / distance / view.step
    bark = look.first[m.POST, :3].astype(np.float32) * (0.55, 0.46, 0.38)
    _fill(scene, view, column - trunk, column + trunk, rows[1] - 0.2 * (rows[1] - rows[0]), rows[2], distance, bark)
    c0, c1 = int(np.floor(column - half)), int(np.ceil(column + half)) + 1
    r0, r1 = int(np.floor(rows[0])), int(np.ceil(rows[1])) + 1
    box = _clip(scene, c0, c1, r0, r1)
    if box is None:
        return
    ca, cb, ra, rb = box
    figure = textures.crowns()[int(trees.shape[i]) % 12]
    lit_left = np.sin(look.sun[0] - view.azimuth[min(max(int(column), 0), len(view.azimuth) - 1)]) > 0
    figure = np.ascontiguousarray((figure if lit_left else figure[:, ::-1]).transpose(1, 0, 2))
    # Only the visible part of the figure is resampled: near trees are many times larger than the picture.
    sx, sy = figure.shape[1] / (r1 - r0), figure.shape[0] / (c1 - c0)
    M = np.array([[sx, 0, (ra - r0 + 0.5) * sx - 0.5], [0, sy, (ca - c0 + 0.5) * sy - 0.5]])
    if sx > 2 or sy > 2:
        figure = cv2.resize(figure, (max(r1 - r0, 1), max(c1 - c0, 1)), interpolation=cv2.INTER_AREA)
        figure = figure[ca - c0 : cb - c0, ra - r0 : rb - r0]
    else:
        figure = cv2.warpAffine(figure, M, (rb - ra, cb - ca), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    part, depth = scene[ca:cb, ra:rb], view.depth[ca:cb, ra:rb]
    alpha = figure[..., 0] * np.float32(1 / 255) * (depth > distance)
    shade = figure[..., 1:2] * np.float32((0.85 + 0.5 * look.shadow) / 128)
    colour = look.first[m.CROWNS[3 * int(trees.hue[i]) + 1], :3].astype(np.float32) * (shade**1.3)
    _blend(part, colour, alpha, look, distance)
    np.copyto(depth, np.float32(distance), where=alpha > 0.6)


def _draw_post(scene, view: Panorama, look: Appearance, posts: Posts, i: int, distance, column, base) -> None:
    eye, height, kind = float(view.eye[2]), float(posts.height[i]), int(posts.kind[i])
    rows = [float(view.row_of((base + h - eye) / distance)) for h in (height, height - 0.7, -0.3)]
    half = float(posts.radius[i]) / distance / view.step
    metal = look.first[m.POST, :3].astype(np.float32)
    if kind == SIGN:
        wide = 0.3 / distance / view.step
        sign = np.array(((190, 40, 36), (40, 80, 170), (235, 235, 230))[i % 3], np.float32)
        _fill(scene, view, column - wide, column + wide, rows[0], rows[1], distance, sign)
    if kind == LAMP:
        arm = 0.5 / distance / view.step
        _fill(scene, view, column - arm, column + arm, rows[0], rows[0] + 0.16 / distance / view.drop, distance, metal)
    _fill(scene, view, column - half, column + half, rows[0], rows[2], distance, metal)


def _fill(scene, view: Panorama, c0: float, c1: float, r0: float, r1: float, distance: float, colour) -> None:
    """Fill a box with soft edges where nothing nearer stands."""
    box = _clip(scene, int(np.floor(c0)), int(np.ceil(c1)) + 1, int(np.floor(r0)), int(np.ceil(r1)) + 1)
    if box is None:
        return
    ca, cb, ra, rb = box
    c, r = np.arange(ca, cb, dtype=np.float32)[:, None], np.arange(ra, rb, dtype=np.float32)
    cover = np.clip(np.minimum(c + 0.5, c1) - np.maximum(c - 0.5, c0), 0, 1)
    cover = cover * np.clip(np.minimum(r + 0.5, r1) - np.maximum(r - 0.5, r0), 0, 1)
    depth = view.depth[ca:cb, ra:rb]
    alpha = cover * (depth > distance)
    part = scene[ca:cb, ra:rb]
    part[:] = part + (colour - part) * alpha[..., None]
    np.copyto(depth, np.float32(distance), where=alpha > 0.5)


def _blend(part: np.ndarray, colour: np.ndarray, alpha: np.ndarray, look: Appearance, distance: float) -> None:
    if look.haze > 0:
        clear = np.exp(-look.haze * distance)
        colour = colour * clear + look.sky[1] * (1 - clear)
    part[:] = np.clip(part + (colour - part) * alpha[..., None], 0, 255)


def _clip(scene: np.ndarray, c0: int, c1: int, r0: int, r1: int) -> tuple[int, int, int, int] | None:
    ca, cb, ra, rb = max(c0, 0), min(c1, scene.shape[0]), max(r0, 0), min(r1, scene.shape[1])
    return (ca, cb, ra, rb) if ca < cb and ra < rb else None
