"""Walls of buildings seen from the street: windows, doors, bands and cladding by a facade grammar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.appearance import Appearance


@dataclass(frozen=True)
class Grammar:
    """Measures of a facade, metres.

    Attributes:
        storey: height of a storey; bay: distance between windows.
        window: (width, height); sill: of the window over the floor.
        frame: width of the light frame around a window.
        courses: spacing of horizontal lines (bricks, boards), 0 for none; ``relief`` their contrast.
        ribs: spacing of vertical lines, 0 for none.
        shop: whether the ground floor is mostly glass.
        plinth: height of the darker base.

    """

    name: str
    storey: float
    bay: float
    window: tuple[float, float]
    sill: float
    frame: float
    courses: float
    relief: float
    ribs: float
    shop: bool
    plinth: float


GRAMMARS = (
    Grammar("plaster", 2.8, 2.7, (1.15, 1.35), 0.9, 0.08, 0.0, 0.0, 0.0, False, 0.5),
    Grammar("brick", 2.9, 3.2, (1.0, 1.6), 0.8, 0.06, 0.24, 0.10, 0.0, False, 0.4),
    Grammar("shopfront", 3.4, 2.4, (1.4, 1.5), 1.0, 0.05, 0.0, 0.0, 0.0, True, 0.3),
    Grammar("panel", 2.9, 3.0, (2.0, 1.5), 0.85, 0.05, 2.9, 0.16, 3.0, False, 0.6),
    Grammar("curtain", 3.4, 1.5, (1.38, 2.7), 0.35, 0.0, 0.0, 0.0, 0.0, False, 0.2),
    Grammar("ribbed", 6.0, 6.5, (3.8, 1.0), 3.6, 0.0, 0.0, 0.10, 0.55, False, 0.5),
    # held out: timber
    Grammar("clapboard", 2.6, 2.1, (0.95, 1.15), 0.95, 0.17, 0.21, 0.24, 0.0, False, 0.75),
    Grammar("batten", 2.5, 3.7, (0.8, 0.95), 1.05, 0.20, 2.5, 0.30, 0.30, False, 1.05),
)
_FIELDS = ("storey", "bay", "sill", "frame", "courses", "relief", "ribs", "shop", "plinth")
_TABLE = np.array([[float(getattr(g, f)) for f in _FIELDS] + list(g.window) for g in GRAMMARS], dtype=np.float32)


def wall_colour(look: Appearance, material, grammar, phase, u, v, width, eave, depth) -> np.ndarray:
    """Colour points on walls.

    Args:
        look: the view's appearance.
        material: (N,) of the building's roof; the wall's goes with it.
        grammar: (N,) index into `GRAMMARS`.
        phase: (N,) in [0, 1), of the building.
        u: (N,) metres along the wall from its corner.
        v: (N,) metres up from its foot.
        width: (N,) metres, of the wall.
        eave: (N,) metres, its height.
        depth: (N,) metres from the camera: fine lines fade.

    Returns:
        (N, 3) float32 RGB before light.

    """
    storey, bay, sill, frame, courses, relief, ribs, shop, plinth, wide, high = _TABLE[grammar].T
    wall = material - m.ROOFS[0] + m.FACADES[0]
    rgb = look.first[wall, :3].astype(np.float32)
    near = np.clip(1.2 - depth / 45, 0, 1).astype(np.float32)
    lines = np.ones_like(u)
    for spacing, place in ((courses, v), (ribs, u)):
        share = (place / np.maximum(spacing, 0.05)) % 1
        lines -= np.where(
            (spacing > 0) & (share < np.maximum(0.12, 0.03 / np.maximum(spacing, 0.05))), relief * near, 0
        )
    lines *= np.where(v < plinth, np.float32(0.72), 1)
    lines *= 0.94 + 0.12 * ((phase * 7 + np.floor(v / storey) * 0.31) % 1) * (relief > 0.12)

    count = np.maximum(np.floor((width - 0.8) / bay), 1)
    pitch = width / count  # bays fill the wall evenly
    bay_at, across = np.divmod(u, pitch)
    across = across - pitch / 2
    floor_at, up = np.divmod(v - 0.3, storey)
    ground = floor_at <= 0
    shopping = ground & (shop > 0)
    half = np.where(shopping, 0.44 * pitch, np.minimum(wide / 2, 0.47 * pitch))
    low, high = np.where(shopping, 0.3, sill), np.where(shopping, storey - 1.0, high)
    fits = (floor_at >= 0) & ((floor_at + 1) * storey < eave + 0.9) & (np.abs(u - width / 2) < width / 2 - 0.25)
    draw = np.sin(bay_at * 12.9898 + floor_at * 78.233 + phase * 39.42) * 43758.547
    draw -= np.floor(draw)
    fits &= draw > 0.06
    door = ground & ~shopping & (bay_at == np.floor(phase * count)) & (eave > 2.4)
    low = np.where(door, 0.0, low)
    high = np.where(door, 2.15, high)
    half = np.where(door, 0.5, half)
    inside = fits & (np.abs(across) < half) & (up > low) & (up < low + high)
    rim = fits & ~inside & (np.abs(across) < half + frame) & (up > low - frame) & (up < low + high + frame)
    rgb *= lines[:, None]
    rgb[rim] = (222, 220, 214)
    glass = look.first[m.GLASS, :3] * (0.55 + 0.6 * draw[inside, None]) + 0.22 * look.sky[1] * draw[inside, None] ** 2
    lit = (draw[inside] > 0.8) & (look.gain < 0.8) & (look.sun[1] < 0.3)
    glass[lit] = (250, 205, 130)
    rgb[inside] = glass
    rgb[inside & door] = rgb[inside & door] * 0.5 + np.array([70, 45, 35], np.float32)
    rgb[v > eave - 0.12] *= 0.75
    return rgb
