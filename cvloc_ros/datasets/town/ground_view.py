"""The town from a vehicle: any pinhole camera at any pose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.appearance import Appearance, Texture
from cvloc_ros.datasets.town.billboards import draw_billboards
from cvloc_ros.datasets.town.camera_effects import develop
from cvloc_ros.datasets.town.panorama import FARTHEST, GROUND, SKY, Panorama
from cvloc_ros.datasets.town.scenery import Prisms
from cvloc_ros.datasets.town.shading import apply_shadow, look_up, sample_texture, surface_colour
from cvloc_ros.datasets.town.shadows import cast
from cvloc_ros.datasets.town.solids import solid_colour
from cvloc_ros.geometry import SE2, PinholeCamera

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.town import Town

_OVERSAMPLE = 1.5
_SHADOW_REACH, _SHADOW_CELL = 64.0, 0.25  # metres ahead of the camera, and per cell, of the shadow map


def render_ground(
    town: Town, T_map_base: SE2, camera: PinholeCamera, T_base_camera: np.ndarray, look: Appearance, cars: Prisms
) -> np.ndarray:
    """Return the picture (H, W, 3) uint8; see `Town.render_ground`."""
    T_map_camera = town.terrain.attitude(T_map_base.x, T_map_base.y, T_map_base.yaw) @ T_base_camera
    view = Panorama(T_map_camera, camera, oversample=_OVERSAMPLE)
    view.march_ground(town.terrain)
    prisms = town.prisms.joined(cars)
    base = np.concatenate([town.prism_base, town.terrain(np.stack([cars.x, cars.y], axis=-1))])
    ground_depth = view.depth.copy()
    view.draw_prisms(prisms, base)
    scene = _sky(view, look)
    _shade_ground(scene, view, ground_depth, town, look, prisms)
    _shade_solids(scene, view, look, prisms, base)
    if look.haze > 0:
        _add_haze(scene, view, look)
    draw_billboards(scene, view, look, town.terrain, town.trees, town.posts)
    rng = np.random.default_rng([look.seed, 3])
    picture = view.to_image(cv2.GaussianBlur(scene, (3, 3), 0.5))
    return develop(picture, look, rng)


def _sky(view: Panorama, look: Appearance) -> np.ndarray:
    """Return a panorama (C, R, 3) uint8 of sky, clouds and a far line of trees."""
    columns, rows = view.depth.shape
    up = np.clip(view.slope * 2.2, 0, 1)[None, :, None]
    sky = look.sky[1] + (look.sky[0] - look.sky[1]) * up + np.zeros((columns, 1, 1), np.float32)
    if look.clouds > 0.05:
        lift = 1 / (np.maximum(view.slope, 0.0) + 0.12)
        texture = Texture("fbm", look.seed % 3, 0.05, 0.0, (float(look.seed % 512), 0.0))
        cloud = sample_texture(texture, view.cos[:, None] * lift, view.sin[:, None] * lift)
        sky += (np.clip(cloud, 0, 1) * np.float32(look.clouds))[..., None] * (245 - sky)
    rng = np.random.default_rng([look.seed, 4])
    line = np.full(columns, -0.004)
    for count, height in ((40, 0.025), (300, 0.012), (1500, 0.006)):
        line += np.interp(view.azimuth % (2 * np.pi), np.linspace(0, 2 * np.pi, count), rng.uniform(0, height, count))
    far = look.first[m.CROWNS[1], :3] * 0.5 + look.sky[1] * 0.5
    sky[view.slope[None] < line[:, None].astype(np.float32)] = far
    return np.clip(sky, 0, 255).astype(np.uint8)


def _shade_ground(scene, view: Panorama, depth: np.ndarray, town: Town, look: Appearance, prisms: Prisms) -> None:
    start = int(np.argmax((view.index == GROUND).any(axis=0)))  # rows above hold no ground
    shown = view.index[:, start:] == GROUND
    if not shown.any():
        return
    distance = np.minimum(depth[:, start:], np.float32(FARTHEST))
    x = view.eye[0] + distance * view.cos[:, None]
    y = view.eye[1] + distance * view.sin[:, None]
    half, cell = np.float32(town.size / 2), np.float32(1 / town.surface.material.cell)
    map_x, map_y = (x + half) * cell - np.float32(0.5), (half - y) * cell - np.float32(0.5)
    channels = town.surface.paint
    paint = [cv2.remap(c.data, map_x, map_y, cv2.INTER_LINEAR) for c in channels]
    ragged = np.random.default_rng([look.seed, 5]).random((2, *distance.shape), np.float32) - np.float32(0.5)
    map_x += ragged[0]  # edges between materials: ragged, as grass and kerbs are, rather than the raster's steps
    map_y += ragged[1]
    material = cv2.remap(town.surface.material.data, map_x, map_y, cv2.INTER_NEAREST, borderValue=town.surface.beyond)
    fade = np.clip(12 / (distance + 1), 0.1, 1)
    first, second = look_up(look.first, material), look_up(look.second, material)
    rgb = surface_colour(look, first, second, paint, x, y, town.seed, fade)
    if look.shadow > 0.02:
        apply_shadow(rgb, _shadow_at(view, x, y, town, look, prisms), look)
    if look.wet > 0.05:
        flat = np.isin(np.arange(256), (*m.ROADS, *m.PAVED))[material]
        mirror = np.clip(distance * np.float32(0.02), 0, 0.55) * np.float32(look.wet) * flat
        rgb *= (1 - np.float32(0.25 * look.wet) * flat)[..., None]
        rgb += (look.sky[1] * np.float32(0.8) - rgb) * mirror[..., None]
    part = scene[:, start:]
    np.copyto(part, np.clip(rgb, 0, 255).astype(np.uint8), where=shown[..., None])


def _shadow_at(view: Panorama, x, y, town: Town, look: Appearance, prisms: Prisms) -> np.ndarray:
    """Return the shadow mask (C, R) uint8 at ground points, from a map of what lies ahead."""
    ahead = np.array([np.cos(view.middle), np.sin(view.middle)])
    centre = view.eye[:2] + ahead * (_SHADOW_REACH - 6)
    n = int(2 * _SHADOW_REACH / _SHADOW_CELL)

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return (points - centre) / _SHADOW_CELL + n / 2 - 0.5

    reach = _SHADOW_REACH * 1.6
    mask: np.ndarray = np.zeros((n, n), np.uint8)
    cast(
        mask,
        look,
        to_pixels,
        prisms.near(centre, reach),
        town.trees.near(centre, reach),
        town.posts.near(centre, reach),
    )
    if look.softness > 0.1:
        mask = cv2.GaussianBlur(mask, (0, 0), look.softness / _SHADOW_CELL)
    scale = np.float32(1 / _SHADOW_CELL)
    map_x = (x - np.float32(centre[0])) * scale + np.float32(n / 2 - 0.5)
    map_y = (y - np.float32(centre[1])) * scale + np.float32(n / 2 - 0.5)
    return cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR)


def _shade_solids(scene, view: Panorama, look: Appearance, prisms: Prisms, base: np.ndarray) -> None:
    c, r = np.nonzero(view.index >= 0)
    if not len(c):
        return
    depth = view.depth[c, r]
    x, y = view.eye[0] + depth * view.cos[c], view.eye[1] + depth * view.sin[c]
    z = view.eye[2] + depth * view.slope[r]
    rgb = solid_colour(look, prisms, base, view.index[c, r], x, y, z, depth)
    scene[c, r] = np.clip(rgb, 0, 255)


def _add_haze(scene, view: Panorama, look: Appearance) -> None:
    clear = np.exp(-np.float32(look.haze) * np.minimum(view.depth, 400))
    clear[view.index == SKY] = 1
    blended = look.sky[1] + (scene - look.sky[1]) * clear[..., None]
    scene[:] = blended
