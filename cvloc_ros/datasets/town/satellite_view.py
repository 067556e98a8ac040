"""The town from above: an orthophoto with leaning buildings, crowns, cars and cast shadows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.camera_effects import develop
from cvloc_ros.datasets.town.canvas import SHIFT, fill_convex, fixed_point
from cvloc_ros.datasets.town.scenery import BARRIER, BUILDING, Prisms, Trees
from cvloc_ros.datasets.town.shading import apply_shadow, look_up, surface_colour
from cvloc_ros.datasets.town.shadows import cast
from cvloc_ros.geometry import SE2, GroundGrid

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.town import Town

_OVERSAMPLE = 2
_CLUSTERS = 14  # of leaves in a crown
_REACH = 45.0  # metres around the patch from which shadows and leaning roofs may come


class Plane:
    """A grid's pixels at ``factor`` times its resolution: metres in the map to (column, row) and back."""

    def __init__(self, T_map_patch: SE2, grid: GroundGrid, factor: int) -> None:
        self.T_patch_map = T_map_patch.inverse()
        self.cell = grid.cell / factor
        self.shape = (grid.rows * factor, grid.cols * factor)
        self.x_max, self.y_max = grid.x_max, grid.y_max
        self.T_map_patch = T_map_patch

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 2) metres in the map to fractional (column, row)."""
        local = self.T_patch_map.apply(points)
        return np.stack([(self.y_max - local[..., 1]) / self.cell, (self.x_max - local[..., 0]) / self.cell], -1) - 0.5

    def to_map(self, pixels: np.ndarray) -> np.ndarray:
        """Map (..., 2) fractional (column, row) to metres in the map."""
        x = self.x_max - (pixels[..., 1] + 0.5) * self.cell
        y = self.y_max - (pixels[..., 0] + 0.5) * self.cell
        return self.T_map_patch.apply(np.stack([x, y], axis=-1))

    def affine_to(self, raster_to_pixels) -> np.ndarray:
        """Return the 2x3 matrix from this plane's pixels to another raster's."""
        corners = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
        o, a, b = raster_to_pixels(self.to_map(corners))
        return np.column_stack([a - o, b - o, o])

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the world x and y (H, W) float32 of every pixel."""
        o, a, b = self.to_map(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]))
        col = np.arange(self.shape[1], dtype=np.float32)
        row = np.arange(self.shape[0], dtype=np.float32)[:, None]
        x, y = (np.float32(o[k]) + col * np.float32(a[k] - o[k]) + row * np.float32(b[k] - o[k]) for k in range(2))
        return x, y


def render_satellite(town: Town, T_map_patch: SE2, grid: GroundGrid, look: Appearance, cars: Prisms) -> np.ndarray:
    """Return the picture (rows, cols, 3) uint8 of a ground grid; see `Town.render_satellite`."""
    fine, plain = Plane(T_map_patch, grid, _OVERSAMPLE), Plane(T_map_patch, grid, 1)
    size = fine.shape[::-1]
    inverse = cv2.WARP_INVERSE_MAP
    M = fine.affine_to(town.surface.material.to_pixels)
    material = cv2.warpAffine(
        town.surface.material.data, M, size, flags=cv2.INTER_NEAREST | inverse, borderValue=town.surface.beyond
    )
    channels = town.surface.paint_at(plain.cell)
    M = plain.affine_to(channels[0].to_pixels)
    paint = [cv2.warpAffine(c.data, M, plain.shape[::-1], flags=cv2.INTER_LINEAR | inverse) for c in channels]

    centre = T_map_patch.apply(np.array([grid.x_max - grid.rows * grid.cell / 2, 0.0]))
    reach = 0.5 * float(np.hypot(*plain.shape)) * grid.cell + _REACH
    prisms, trees, posts = (
        town.prisms.near(centre, reach),
        town.trees.near(centre, reach),
        town.posts.near(centre, reach),
    )
    cars = cars.near(centre, reach - _REACH + 4)

    shadow: np.ndarray = np.zeros(plain.shape, np.uint8)
    if look.shadow > 0:
        cast(shadow, look, plain.to_pixels, prisms.joined(cars), trees, posts)
    hidden = np.zeros(plain.shape, np.uint8)  # where something stands on the ground: no paint there
    _draw_cars(material, hidden, fine, plain, cars)
    _draw_prisms(material, hidden, shadow, fine, plain, prisms, look)
    _draw_crowns(material, hidden, shadow, fine, plain, trees, look)
    if look.softness > 0.3 * grid.cell:
        shadow = cv2.GaussianBlur(shadow, (0, 0), look.softness / grid.cell)

    first, second = (
        cv2.resize(look_up(t, material), plain.shape[::-1], interpolation=cv2.INTER_AREA)
        for t in (look.first, look.second)
    )
    visible = cv2.bitwise_not(hidden)
    x, y = plain.coordinates()
    rgb = surface_colour(look, first, second, [cv2.bitwise_and(p, visible) for p in paint], x, y, town.seed)
    apply_shadow(rgb, shadow, look)
    scene = np.clip(rgb, 0, 255).astype(np.uint8)
    return develop(scene, look, np.random.default_rng([look.seed, 1]))


def _draw_cars(material, hidden, fine: Plane, plain: Plane, cars: Prisms) -> None:
    corners = cars.corners()
    front, back = corners[:, :2], corners[:, [3, 2]]
    glazing = []
    for a, b in ((0.28, 0.40), (0.80, 0.90)):  # windscreen, rear window, as shares of the length
        panes = np.concatenate([front + (back - front) * a, (front + (back - front) * b)[:, ::-1]], axis=1)
        glazing.append(fixed_point(fine.to_pixels(panes)))
    bodies, masks = fixed_point(fine.to_pixels(corners)), fixed_point(plain.to_pixels(corners))
    for k, colour in enumerate(cars.material.astype(int).tolist()):
        fill_convex(material, bodies[k], colour)
        fill_convex(hidden, masks[k], 255)
        for panes in glazing:
            fill_convex(material, panes[k], m.GLASS)


def _draw_prisms(material, hidden, shadow, fine: Plane, plain: Plane, prisms: Prisms, look: Appearance) -> None:
    order = np.argsort(prisms.eave + prisms.ridge, kind="stable")
    prisms = prisms.select(order)
    corners = prisms.corners()
    roofs = corners + prisms.eave[:, None, None] * look.lean
    ends = np.stack([corners[:, :2].mean(axis=1), corners[:, 2:].mean(axis=1)], axis=1)
    ridges = ends + (prisms.eave + prisms.ridge)[:, None, None] * look.lean
    bodies = np.concatenate([corners, roofs], axis=1)
    left = np.stack([ridges[:, 0], roofs[:, 1], roofs[:, 2], ridges[:, 1]], axis=1)
    right = np.stack([ridges[:, 0], roofs[:, 0], roofs[:, 3], ridges[:, 1]], axis=1)
    plain_bodies, plain_roofs = fixed_point(plain.to_pixels(bodies)), fixed_point(plain.to_pixels(roofs))
    bodies, left, right = (fixed_point(fine.to_pixels(p)) for p in (bodies, left, right))
    roofs = fixed_point(fine.to_pixels(roofs))
    sun = np.array([np.cos(look.sun[0]), np.sin(look.sun[0])])
    left_lit = np.stack([-np.sin(prisms.yaw), np.cos(prisms.yaw)], -1) @ sun > 0
    for k in range(len(prisms)):
        kind, top = prisms.kind[k], int(prisms.material[k])
        if kind == BARRIER:
            fill_convex(material, roofs[k], top)
            fill_convex(hidden, plain_roofs[k], 255)
            continue
        if kind != BUILDING:
            continue
        fill_convex(material, cv2.convexHull(bodies[k]), top - m.ROOFS[0] + m.FACADES[0])
        body = cv2.convexHull(plain_bodies[k])
        fill_convex(hidden, body, 255)
        fill_convex(shadow, body, 60)  # the walls: in half light
        fill_convex(shadow, plain_roofs[k], 0)
        if prisms.ridge[k] < 0.3:
            fill_convex(material, roofs[k], top)
            _roof_details(material, roofs[k], top, float(prisms.phase[k]))
        else:
            shaded = top + m.ROOF_SHADE
            fill_convex(material, left[k], top if left_lit[k] else shaded)
            fill_convex(material, right[k], shaded if left_lit[k] else top)


def _roof_details(material: np.ndarray, roof: np.ndarray, top: int, phase: float) -> None:
    """Draw the parapet and some boxes of a flat roof."""
    cv2.polylines(material, [roof], True, top + m.ROOF_SHADE, 1, cv2.LINE_8, SHIFT)
    a, b = roof[1] - roof[0], roof[3] - roof[0]
    for k in range(int(phase * 5)):
        u, v = (phase * 7.3 + 0.37 * k) % 0.8 + 0.07, (phase * 3.1 + 0.53 * k) % 0.75 + 0.07
        corner = roof[0] + u * a + v * b
        box = np.stack([corner, corner + 0.06 * a, corner + 0.06 * a + 0.12 * b, corner + 0.12 * b])
        fill_convex(material, box.astype(np.int32), m.ROOFS[(top + k) % 48] if k % 2 else top + m.ROOF_SHADE)


def _draw_crowns(material, hidden, shadow, fine: Plane, plain: Plane, trees: Trees, look: Appearance) -> None:
    """Draw each crown as a dark outline filled with clusters of leaves, lighter towards the sun."""
    trees = trees.select(np.argsort(trees.height, kind="stable"))
    n = len(trees)
    rng = np.random.default_rng([look.seed, 2])
    sun = np.array([np.cos(look.sun[0]), np.sin(look.sun[0])])
    middle = np.stack([trees.x, trees.y], -1) + (0.5 * (trees.height + trees.clear))[:, None] * look.lean
    angles = np.linspace(0, 2 * np.pi, 13, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)], -1) * rng.uniform(0.78, 1.1, (n, 13, 1))
    rim = middle[:, None] + rim * trees.radius[:, None, None]
    shape, outline = fixed_point(fine.to_pixels(rim)), fixed_point(plain.to_pixels(rim))

    turn, out = rng.uniform(0, 2 * np.pi, (2, n, _CLUSTERS))
    out = np.sqrt(out / (2 * np.pi)) * 0.82
    place = np.stack([np.cos(turn), np.sin(turn)], -1) * out[..., None]
    bright = place @ sun * (1.3 if look.shadow > 0.15 else 0.5) + rng.normal(size=(n, _CLUSTERS)) * 0.45
    order = np.argsort(bright, axis=1)
    shades = np.clip(np.rint(np.take_along_axis(bright, order, 1) + 1), 0, 2).astype(int)
    shades += np.array(m.CROWNS)[3 * trees.hue.astype(int)][:, None]
    place = np.take_along_axis(place, order[..., None], 1) * trees.radius[:, None, None]
    sizes = rng.uniform(0.16, 0.34, (n, _CLUSTERS)) * trees.radius[:, None] / fine.cell
    centres = fixed_point(fine.to_pixels(middle[:, None] + place)).tolist()
    sizes, shades = np.maximum(fixed_point(sizes), 1).tolist(), shades.tolist()
    for k, dark in enumerate(np.array(m.CROWNS)[3 * trees.hue.astype(int)].tolist()):
        fill_convex(material, shape[k], dark)
        fill_convex(hidden, outline[k], 255)
        fill_convex(shadow, outline[k], 0)
        for centre, size, shade in zip(centres[k], sizes[k], shades[k], strict=True):
            cv2.circle(material, centre, size, shade, -1, cv2.LINE_8, SHIFT)
