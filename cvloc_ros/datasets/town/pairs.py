"""Pairs of views: what a vehicle's camera sees, and the aerial picture around its true pose; patches cut from that."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np

from cvloc_ros.datasets.town import cars, polyline
from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.classes import ground_classes
from cvloc_ros.datasets.town.scenery import Prisms
from cvloc_ros.datasets.town.town import Town
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import Patch

WIDTH, HEIGHT = 416, 128  # pixels of the ground picture
GRID = GroundGrid.centred(400, 0.4)
CLASS_GRID = GroundGrid.centred(200, 0.8)
_MARGIN = 85.0  # metres: poses keep so far from the town's edge, so that the patch is nearly all town


@dataclass(frozen=True, eq=False)
class TownPair:
    """A ground picture and the aerial picture around it.

    Attributes:
        ground: RGB uint8 (128, 416, 3).
        K: 3x3 intrinsics of ``ground``, pixels.
        T_base_camera: 4x4, optical frame to base_link, as calibrated: the vehicle also pitches and rolls a little.
        tilt: (2,) what that makes of the ground: its slope in base_link, forward and left.
        satellite: RGB uint8 (400, 400, 3) on `GRID`, the true pose in its middle, vehicle forward up.
        T_map_base: the true pose in the town's frame.
        classes: (200, 200, 3) uint8 on `CLASS_GRID`, the same extent: see `classes.ground_classes`.

    """

    ground: np.ndarray
    K: np.ndarray
    T_base_camera: np.ndarray
    tilt: np.ndarray
    satellite: np.ndarray
    T_map_base: SE2
    classes: np.ndarray

    def patch(self, T_vehicle_patch: SE2, grid: GroundGrid) -> Patch:
        """Cut a patch in the true vehicle's frame; there is no imagery beyond the satellite image."""
        image = crop_patch(self.satellite, GRID, T_vehicle_patch, grid)
        everywhere = np.ones(self.satellite.shape[:2], np.uint8)
        coverage = crop_patch(everywhere, GRID, T_vehicle_patch, grid, interpolation=cv2.INTER_NEAREST)
        return Patch(image, coverage.astype(bool), grid, T_vehicle_patch)


def render_pair(town: Town, seed: int, *, scatter: float = 0.0) -> TownPair:
    """Render a pair at a pose on the town's roads; the same town and seed give the same bytes.

    Args:
        town: where.
        seed: decides the pose, the camera, the cars and both looks.
        scatter: share of unnatural colours, for training: see `Appearance.draw`.

    """
    rng = np.random.default_rng([town.seed, seed, 21])
    T_map_base = draw_pose(town, rng)
    camera, T_base_camera = draw_camera(rng)
    shake = np.radians(rng.normal(size=2) * 0.25).clip(-0.007, 0.007)  # pitch and roll that nobody reports
    T_shaken = camera_extrinsics(height=0.0, pitch=shake[0], roll=shake[1]) @ np.linalg.inv(
        camera_extrinsics(height=0.0)
    )
    ground_look = Appearance.draw(rng, style=town.style, view="ground", scatter=scatter)
    satellite_look = Appearance.draw(rng, style=town.style, view="satellite", scatter=scatter)
    traffic = _out_of_the_way(town.cars(2 * seed), T_map_base)
    if rng.random() < 0.18:
        traffic = traffic.joined(cars.ahead_of(T_map_base, rng))
    ground = town.render_ground(T_map_base, camera, T_shaken @ T_base_camera, appearance=ground_look, cars=traffic)
    satellite = town.render_satellite(T_map_base, GRID, appearance=satellite_look, cars=2 * seed + 1)
    classes = ground_classes(town, T_map_base, CLASS_GRID)
    tilt = np.tan([shake[0], -shake[1]])
    return TownPair(ground, camera.K, T_base_camera, tilt, satellite, T_map_base, classes)


def town_pairs(first_town: int, count: int, *, style: str, per_town: int = 4) -> Iterator[TownPair]:
    """Render ``count`` pairs, ``per_town`` from each of the towns that start at seed ``first_town``, on all cores."""
    towns = [(first_town + i, style, min(per_town, count - i * per_town)) for i in range(math.ceil(count / per_town))]
    workers = os.cpu_count() or 1
    if len(towns) <= 2 * workers:  # not worth starting processes for
        for town in towns:
            yield from _town_pairs(town)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # a few towns ahead, no more: pairs are large
        under_way = deque(pool.submit(_town_pairs, town) for town in towns[: 2 * workers])
        waiting = deque(towns[2 * workers :])
        while under_way:
            yield from under_way.popleft().result()
            if waiting:
                under_way.append(pool.submit(_town_pairs, waiting.popleft()))


def crop_patch(
    satellite: np.ndarray,
    source: GroundGrid,
    T_source_patch: SE2,
    grid: GroundGrid,
    *,
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """Cut a patch from an image on ``source`` whose frame is placed by ``T_source_patch``, by one warp."""
    cell = grid.to_metres(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    where = source.to_cells(T_source_patch.apply(cell))[:, ::-1]  # (col, row) of three cells fix the affine map
    affine = np.stack([where[1] - where[0], where[2] - where[0], where[0]], axis=1)
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(satellite, affine, (grid.cols, grid.rows), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def draw_pose(town: Town, rng: np.random.Generator) -> SE2:
    """Draw a vehicle's pose: mostly in its lane, heading along it, sometimes not."""
    edges = town.roads.edges
    weights = np.array([edge.length for edge in edges])
    for _ in range(1000):
        edge = edges[rng.choice(len(edges), p=weights / weights.sum())]
        line = edge.lane_line(edge.one_way or rng.random() < 0.5, int(rng.integers(edge.lanes)))
        s = rng.uniform(1.0, edge.length - 1.0)
        before, p, after = polyline.at(line, np.array([s - 1, s, s + 1]))
        if np.abs(p).max() > town.size / 2 - _MARGIN:
            continue
        yaw = np.arctan2(*(after - before)[::-1]) + np.radians(rng.normal() * rng.choice([4.0, 15.0], p=[0.85, 0.15]))
        if rng.random() < 0.03:
            yaw += rng.uniform(-np.pi, np.pi)
        return SE2(float(p[0]), float(p[1]), float(yaw)) @ SE2(0.0, float(rng.uniform(-1.5, 1.5)), 0.0)
    raise ValueError(
        f"expected roads more than {_MARGIN:.0f} m inside the town, found none in {town.size:.0f} m: use a larger town"
    )


def draw_camera(rng: np.random.Generator) -> tuple[PinholeCamera, np.ndarray]:
    """Draw intrinsics and mounting (4x4 ``T_base_camera``) of a forward-looking camera."""
    focal = WIDTH / 2 / np.tan(np.radians(rng.uniform(65, 95)) / 2)
    centre = (WIDTH - 1) / 2 + rng.normal() * 6, (HEIGHT - 1) / 2 + rng.normal() * 6
    camera = PinholeCamera.from_focal(WIDTH, HEIGHT, float(focal), cx=float(centre[0]), cy=float(centre[1]))
    T_base_camera = camera_extrinsics(
        height=float(rng.uniform(1.2, 2.2)),
        x=float(rng.uniform(0, 2)),
        y=float(rng.uniform(-0.3, 0.3)),
        pitch=float(np.radians(rng.uniform(-2, 2))),
    )
    return camera, T_base_camera


def _town_pairs(job: tuple[int, str, int]) -> list[TownPair]:
    cv2.setNumThreads(1)
    seed, style, count = job
    town = Town.generate(seed, style=style)
    return [render_pair(town, i) for i in range(count)]


def _out_of_the_way(traffic: Prisms, T_map_base: SE2) -> Prisms:
    """Leave out the cars that the vehicle would stand in."""
    local = T_map_base.inverse().apply(np.stack([traffic.x, traffic.y], axis=-1))
    return traffic.select((np.abs(local[:, 0] - 1.5) > 6.0) | (np.abs(local[:, 1]) > 2.3))
