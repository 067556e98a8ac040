"""What the ground is, on a grid: classes, paint, crowns, the same for both views. Training teaches them on the side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.canvas import SHIFT, fill_convex, fixed_point
from cvloc_ros.datasets.town.satellite_view import Plane
from cvloc_ros.datasets.town.scenery import BARRIER, BUILDING
from cvloc_ros.geometry import SE2, GroundGrid

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.town import Town

NATURAL, ROAD, PAVED, WALLED = 0, 1, 2, 3
CLASSES = 4
_TABLE = np.full(256, NATURAL, np.uint8)
_TABLE[list(m.ROADS)] = ROAD
_TABLE[[*m.PAVED, m.GRAVEL]] = PAVED


def ground_classes(town: Town, T_map_patch: SE2, grid: GroundGrid) -> np.ndarray:
    """Return the class of every cell, how much of it is painted, and whether a tree is over it: (rows, cols, 3) uint8.

    The classes are NATURAL, ROAD, PAVED and WALLED (buildings, walls and hedges, by their outline on the ground);
    paint is 0 .. 255, and so is a crown: 0 or 255.
    """
    plane = Plane(T_map_patch, grid, 1)
    size, inverse = plane.shape[::-1], cv2.WARP_INVERSE_MAP
    surface = town.surface
    M = plane.affine_to(surface.material.to_pixels)
    material = cv2.warpAffine(
        surface.material.data, M, size, flags=cv2.INTER_NEAREST | inverse, borderValue=surface.beyond
    )
    classes = _TABLE[material]
    centre = T_map_patch.apply(np.array([grid.x_max - grid.rows * grid.cell / 2, 0.0]))
    prisms = town.prisms.near(centre, float(np.hypot(*plane.shape)) * grid.cell / 2 + 40.0)
    prisms = prisms.select((prisms.kind == BUILDING) | (prisms.kind == BARRIER))
    for corners in fixed_point(plane.to_pixels(prisms.corners())):
        fill_convex(classes, corners, WALLED)
    channels = surface.paint_at(grid.cell)
    M = plane.affine_to(channels[0].to_pixels)
    edge, middle = (cv2.warpAffine(c.data, M, size, flags=cv2.INTER_LINEAR | inverse) for c in channels)
    crowns = np.zeros(plane.shape, np.uint8)
    trees = town.trees.near(centre, float(np.hypot(*plane.shape)) * grid.cell / 2 + 10.0)
    middles = fixed_point(plane.to_pixels(np.stack([trees.x, trees.y], axis=-1)))
    radii = fixed_point(trees.radius / plane.cell)
    for (u, v), radius in zip(middles.tolist(), radii.tolist(), strict=True):
        cv2.circle(crowns, (u, v), radius, 255, cv2.FILLED, shift=SHIFT)
    return np.stack([classes, cv2.max(edge, middle), crowns], axis=-1)
