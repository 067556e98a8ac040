"""Colour of what stands on the ground, seen from the street: walls, roofs, hedges and cars."""

from __future__ import annotations

import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.facades import wall_colour
from cvloc_ros.datasets.town.scenery import BARRIER, BUILDING, Prisms
from cvloc_ros.datasets.town.shading import sample_texture


def solid_colour(look: Appearance, prisms: Prisms, base, index, x, y, z, depth) -> np.ndarray:
    """Colour points on prisms.

    Args:
        look: the view's appearance.
        prisms: the table that ``index`` points into.
        base: ground height of each of its rows, metres.
        index: (N,) rows of the table.
        x: (N,) float32 where the point is in the map, metres east.
        y: likewise north.
        z: likewise up.
        depth: (N,) metres from the camera.

    Returns:
        (N, 3) float32 RGB, lit.

    """
    columns = [prisms.x, prisms.y, np.cos(prisms.yaw), np.sin(prisms.yaw), prisms.hx, prisms.hy, base, prisms.eave]
    columns += [prisms.kind, prisms.material, prisms.grammar, prisms.phase]
    table = np.stack(columns, axis=1).astype(np.float32)
    cx, cy, c, s, hx, hy, foot, eave, kind, material, grammar, phase = table[index].T
    dx, dy = x - cx, y - cy
    lx, ly = dx * c + dy * s, dy * c - dx * s
    up = z - foot
    to_end, to_side = hx - np.abs(lx), hy - np.abs(ly)
    end = to_end < to_side
    top = np.minimum(to_end, to_side) > 0.02 + 0.002 * depth
    facing_x, facing_y = np.where(end, np.sign(lx), 0), np.where(end, 0, np.sign(ly))
    facing_y = np.where(top & (kind == BUILDING), np.sign(ly) * 0.5, facing_y)
    facing_x = np.where(top, 0, facing_x)
    azimuth, elevation = look.sun
    sun = np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation)
    normal_sun = (facing_x * c - facing_y * s) * sun[0] + (facing_x * s + facing_y * c) * sun[1]
    normal_sun = np.where(top, 0.75 * np.sin(elevation) + normal_sun, normal_sun)
    light = 1 - look.shadow * np.clip(0.85 - 1.1 * np.clip(normal_sun, -0.15, 1), 0, 1)
    noise = sample_texture(look.medium, (x + y)[None], (z * 1.7 + x - y)[None])[0]
    material = material.astype(np.intp)
    rgb = np.empty((len(index), 3), np.float32)

    is_wall = (kind == BUILDING) & ~top
    if is_wall.any():
        w = is_wall
        along = np.where(end, ly * np.sign(lx) + hy, hx - lx * np.sign(ly))[w]
        width = np.where(end, 2 * hy, 2 * hx)[w]
        rgb[w] = wall_colour(
            look, material[w], grammar[w].astype(int), phase[w], along, up[w], width, eave[w], depth[w]
        )
    is_roof = (kind == BUILDING) & top
    rgb[is_roof] = look.first[material[is_roof], :3]
    courses = 1 - 0.12 * ((ly[is_roof] / 0.35) % 1 < 0.25) * np.clip(1 - depth[is_roof] / 30, 0, 1)
    rgb[is_roof] *= courses[:, None]
    share = look.second[material, 3] / np.float32(255)
    snowed = (top & (kind <= BARRIER)) & (noise * 0.5 + 0.5 < share)
    is_barrier = kind == BARRIER
    rgb[is_barrier] = look.first[material[is_barrier], :3]
    planks = (material[is_barrier] == m.FENCE) & (((lx + ly)[is_barrier] / 0.16) % 1 < 0.3)
    rgb[is_barrier] *= np.where(planks, np.float32(0.6), 1)[:, None]
    is_car = kind > BARRIER
    if is_car.any():
        v = is_car
        parts = lx[v] / hx[v], ly[v] / hy[v], up[v], up[v] / eave[v], end[v], top[v], kind[v] == 3
        rgb[v] = _car_colour(look, material[v], hx[v], *parts)
    rgb[snowed] = look.cover
    amplitude = np.where(is_barrier, look.first[material, 3] * np.float32(1.2 / 255), np.float32(0.07))
    rgb *= (light * (1 + amplitude * noise) * np.clip(0.8 + 0.25 * up, 0.8, 1))[:, None]
    return rgb


def _car_colour(look: Appearance, colour, hx, along, across, up, share, end, top, van) -> np.ndarray:
    """Colour a car's body: ``along`` -1 tail .. 1 nose, ``across`` -1 .. 1, ``share`` of its height."""
    rgb = look.first[colour, :3].astype(np.float32)
    rgb *= (0.75 + 0.35 * share)[:, None]
    glass = look.first[m.GLASS, :3] + 0.25 * look.sky[1] * share[:, None]
    cabin = np.where(van, (along > 0.35) & (along < 0.8), (along > -0.72) & (along < 0.42))
    pillar = (np.abs(along + 0.15) < 0.03) | (np.abs(along - 0.28) < 0.02)
    side_glass = ~top & ~end & cabin & (share > 0.62) & (share < 0.92) & ~pillar
    slanted = np.where(van, (along > 0.62) & (along < 0.82), np.abs(np.abs(along + 0.16) - 0.48) < 0.17)
    screen = top & slanted  # windscreen, and a car's rear window
    screen |= end & ~top & (share > 0.6) & (share < 0.92) & (np.abs(across) < 0.85)
    rgb = np.where((side_glass | screen)[:, None], glass, rgb)
    wheel = ~end & ~top & (((np.abs(along) - 0.62) * hx) ** 2 + (up - 0.3) ** 2 < 0.1)
    low = (up < 0.24) & ~top
    rgb[wheel | low] = look.first[m.TYRE, :3]
    lamp = end & ~top & (np.abs(across) > 0.62) & (share > 0.36) & (share < 0.56)
    rgb[lamp & (along < 0)] = (170, 28, 24)
    rgb[lamp & (along > 0)] = (232, 232, 224)
    plate = end & ~top & (np.abs(across) < 0.28) & (share > 0.28) & (share < 0.37)
    rgb[plate] = (224, 224, 216)
    return rgb
