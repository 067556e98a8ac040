"""Cast shadows on the ground: every prism and crown swept along the sun's direction."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.canvas import SHIFT, fill_convex, fixed_point
from cvloc_ros.datasets.town.scenery import Posts, Prisms, Trees

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 10, endpoint=False)) for f in (np.cos, np.sin)], axis=-1)
_LONGEST = 45.0  # metres


def sweep(look: Appearance) -> np.ndarray:
    """Return where the shadow of a point 1 m above the ground falls: (2,) metres east and north of it."""
    azimuth, elevation = look.sun
    return -np.array([np.cos(azimuth), np.sin(azimuth)]) / np.tan(max(elevation, 0.08))


def cast(
    mask: np.ndarray,
    look: Appearance,
    to_pixels: Callable[[np.ndarray], np.ndarray],
    prisms: Prisms,
    trees: Trees,
    posts: Posts,
) -> None:
    """Draw shadows as 255 into a uint8 mask whose pixels (column, row) ``to_pixels`` gives for metres."""
    per_metre = sweep(look)
    longest = float(np.hypot(*per_metre))
    corners = prisms.corners()
    top = np.minimum(prisms.eave + 0.5 * prisms.ridge, _LONGEST / longest)
    moved = corners + top[:, None, None] * per_metre
    for outline in fixed_point(to_pixels(np.concatenate([corners, moved], axis=1))):
        fill_convex(mask, cv2.convexHull(outline), 255)
    middle = np.minimum(0.5 * (trees.height + trees.clear), _LONGEST / longest)
    stretch = np.minimum(0.5 * (trees.height - trees.clear) * longest, 15.0)
    u = per_metre / longest
    shape = _CIRCLE @ np.array([u, [-u[1], u[0]]])  # along the sun, across it
    along = (shape @ u)[None, :, None] * u
    across = shape[None] - along
    centre = np.stack([trees.x, trees.y], -1) + middle[:, None] * per_metre
    rim = centre[:, None] + trees.radius[:, None, None] * across
    rim = rim + np.hypot(trees.radius, stretch)[:, None, None] * along
    for outline in fixed_point(to_pixels(rim)):
        fill_convex(mask, outline, 235)
    feet = np.concatenate([np.stack([trees.x, trees.y], -1), np.stack([posts.x, posts.y], -1)])
    reach = np.concatenate([middle, np.minimum(posts.height, _LONGEST / longest)])[:, None] * per_metre
    for a, b in fixed_point(to_pixels(np.stack([feet, feet + reach], axis=1))).tolist():
        cv2.line(mask, a, b, 200, 1, cv2.LINE_8, SHIFT)
