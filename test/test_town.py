"""The synthetic town: what is rendered lies where the geometry says, and the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import rasterio
from rasterio import warp

from cvloc_ros.datasets.town import (
    Appearance,
    Town,
    facades,
    palettes,
    polyline,
    render_pair,
    textures,
    write_orthophoto,
)
from cvloc_ros.datasets.town import materials as m
from cvloc_ros.datasets.town.canvas import Canvas
from cvloc_ros.datasets.town.network import MIN_RADIUS
from cvloc_ros.datasets.town.orthophoto import map_to_utm
from cvloc_ros.datasets.town.pairs import draw_camera, draw_pose
from cvloc_ros.datasets.town.scenery import Prisms
from cvloc_ros.datasets.town.styles import STYLES
from cvloc_ros.datasets.town.surface import Surface
from cvloc_ros.datasets.town.terrain import MAX_SLOPE
from cvloc_ros.geometry import SE2, GroundGrid, camera_extrinsics

NO_CARS = Prisms(*np.zeros((11, 0)))


@pytest.fixture(scope="module")
def town() -> Town:
    return Town.generate(11)


@pytest.fixture(scope="module")
def flat_paint(town: Town) -> Town:
    """The town's ground without what stands on it, its paint fresh."""
    return cleared(town, tuple(np.where(c.data > 40, 255, 0).astype(np.uint8) for c in town.surface.paint))


def cleared(town: Town, paint: tuple[np.ndarray, np.ndarray], prisms: Prisms = NO_CARS) -> Town:
    """The town with other paint and other buildings, without trees and posts."""
    surface = Surface(town.surface.material, tuple(Canvas(p, town.size) for p in paint), m.FIELD)
    nothing = {name: getattr(town, name).select(slice(0)) for name in ("trees", "posts")}
    return replace(town, surface=surface, prisms=prisms, **nothing)


def chart(view: str) -> Appearance:
    """Paint is white and all else is black: pictures are masks of the paint."""
    look = Appearance.draw(np.random.default_rng(0), style="train", view=view)
    black = np.zeros((256, 4), np.uint8)
    return replace(
        look, first=black, second=black, paint=np.full((2, 3), 255.0), paint_wear=0.0, stain=0.0, shadow=0.0, wet=0.0,
        haze=0.0, sky=np.zeros((2, 3), np.float32), clouds=0.0, colour=np.eye(3, dtype=np.float32), gain=1.0, gamma=1.0,
        lift=0.0, vignette=0.0, blur=0.0, noise=0.0, jpeg=100, dirt=0, wiper=False, lean=np.zeros(2),
    )  # fmt: skip


def painted_points(town: Town, near: SE2, reach: float) -> np.ndarray:
    """Points (N, 2) in the town's frame, 2.5 cm apart, that are painted."""
    paint = np.maximum(town.surface.paint[0].data, town.surface.paint[1].data)
    row, col = np.nonzero(paint > 127)
    cell, half = town.surface.paint[0].cell, town.size / 2
    points = np.stack([(col + 0.5) * cell - half, half - (row + 0.5) * cell], axis=-1)
    points = points[np.hypot(*(points - [near.x, near.y]).T) < reach]
    within = (np.arange(4) - 1.5) / 4 * cell
    grid = np.stack(np.meshgrid(within, within), axis=-1).reshape(-1, 2)
    return (points[:, None] + grid).reshape(-1, 2)


def splat(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    image = np.zeros(shape, np.float32)
    c, r = np.rint(pixels).astype(int).T
    inside = (c >= 0) & (c < shape[1]) & (r >= 0) & (r < shape[0])
    image[r[inside], c[inside]] = 255
    return image


def best_shift(shown: np.ndarray, expected: np.ndarray, reach: int = 6) -> tuple[float, np.ndarray]:
    """Return the correlation of two masks at their best shift, and that shift in pixels (columns, rows)."""
    a, b = (cv2.GaussianBlur(k.astype(np.float32), (0, 0), 1.2) for k in (shown, expected))
    score = cv2.matchTemplate(a, b[reach:-reach, reach:-reach], cv2.TM_CCOEFF_NORMED)
    _, top, _, where = cv2.minMaxLoc(score)
    return top, np.array(where) - reach


@pytest.mark.parametrize("seed", [0, 1, 2, 6])
@pytest.mark.parametrize("mounting", ["ahead", "aside"])
def test_ground_picture_shows_paint_where_the_camera_projects_it(flat_paint: Town, seed: int, mounting: str) -> None:
    town, rng = flat_paint, np.random.default_rng(seed)
    T_map_base = draw_pose(town, rng)
    camera, T_base_camera = draw_camera(rng)
    if mounting == "aside":
        camera = replace(camera, distortion=(-0.12, 0.02, 0.001, -0.001))
        T_base_camera = camera_extrinsics(height=1.6, x=0.5, y=0.4, yaw=0.5, pitch=0.15, roll=0.08)
    picture = town.render_ground(T_map_base, camera, T_base_camera, appearance=chart("ground"), cars=NO_CARS)

    points = painted_points(town, T_map_base, 25)
    T_map_camera = town.terrain.attitude(T_map_base.x, T_map_base.y, T_map_base.yaw) @ T_base_camera
    world = np.column_stack([points, town.terrain(points), np.ones(len(points))])
    optical = (world @ np.linalg.inv(T_map_camera).T)[:, :3]
    pixels, inside = camera.project(optical)
    ahead = pixels[inside & (optical[:, 2] < 15)]
    expected = splat(ahead, picture.shape[:2])
    first = int(np.floor(ahead[:, 1].min())) if mounting == "ahead" else 0
    shown, expected = picture[first:, :, 0], expected[first:]
    assert expected.mean() > 1, "too little paint in view: choose another seed"
    score, shift = best_shift(shown, expected)
    assert score > 0.75
    assert np.abs(shift).max() <= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_satellite_picture_shows_paint_where_the_grid_says(flat_paint: Town, seed: int) -> None:
    T_map_patch = draw_pose(flat_paint, np.random.default_rng(seed))
    grid = GroundGrid(rows=300, cols=240, cell=0.2, x_max=40.0)
    picture = flat_paint.render_satellite(T_map_patch, grid, appearance=chart("satellite"), cars=NO_CARS)
    cells = grid.to_cells(T_map_patch.inverse().apply(painted_points(flat_paint, T_map_patch, 60)))
    score, shift = best_shift(picture[..., 0], splat(cells[:, ::-1], picture.shape[:2]))
    assert score > 0.9
    assert np.abs(shift).max() == 0  # of 0.2 m


def test_walls_stand_where_their_footprints_are(town: Town) -> None:
    """A box 12 m ahead hides what it should: its corners' columns and its top's row are the camera's projections."""
    T_map_base = draw_pose(town, np.random.default_rng(4))
    camera, T_base_camera = draw_camera(np.random.default_rng(1))
    centre = T_map_base.apply(np.array([13.0, 1.0]))
    box = Prisms.from_rows([(*centre, T_map_base.yaw, 1.0, 1.5, 2.0, 0.0, 1, m.WALL, 0, 0.0)])
    look = chart("ground")
    look.first[m.WALL, :3] = 255
    blank = np.zeros_like(town.surface.paint[0].data)
    lone = cleared(town, (blank, blank), box)
    shown = lone.render_ground(T_map_base, camera, T_base_camera, appearance=look, cars=NO_CARS)[..., 0] > 60

    corners = box.corners()[0]
    T_map_camera = town.terrain.attitude(T_map_base.x, T_map_base.y, T_map_base.yaw) @ T_base_camera
    foot = float(town.terrain(centre))
    front = T_map_base.apply(np.array([[12.0, 2.5], [12.0, -0.5]]))
    world = np.column_stack([front, [foot + 2.0] * 2, [1, 1]])
    pixels, inside = camera.project((world @ np.linalg.inv(T_map_camera).T)[:, :3])
    assert inside.all() and np.abs(corners - centre).max() < 2
    columns, rows = np.flatnonzero(shown.any(axis=0)), np.flatnonzero(shown.any(axis=1))
    assert columns[[0, -1]] == pytest.approx(pixels[:, 0], abs=1.5)
    assert rows[0] == pytest.approx(pixels[:, 1].min(), abs=1.5)


def digest(style: str, seed: int) -> str:
    pair = render_pair(Town.generate(seed, style=style, size=260.0), 3)
    return hashlib.sha256(pair.ground.tobytes() + pair.satellite.tobytes() + pair.K.tobytes()).hexdigest()


def test_same_seed_same_bytes_in_another_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_town; print(test_town.digest('train', 5))"
    here = str(__file__).rsplit("/", 1)[0]
    other = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest("train", 5)
    assert digest("train", 6) != digest("train", 5)


def test_pair_has_the_shapes_that_training_expects() -> None:
    pair = render_pair(Town.generate(7, style="heldout", size=260.0), 0)
    assert pair.ground.shape == (128, 416, 3) and pair.satellite.shape == (400, 400, 3)
    assert pair.ground.dtype == pair.satellite.dtype == np.uint8
    assert 1.2 <= pair.T_base_camera[2, 3] <= 2.2
    assert 15 < pair.ground.mean() < 240 and pair.ground.std() > 8


def test_views_and_moments_differ_but_residents_stay(town: Town) -> None:
    first, second = town.cars(1), town.cars(2)
    places = [{(round(x, 2), round(y, 2)) for x, y in zip(c.x, c.y, strict=True)} for c in (first, second)]
    assert 0 < len(places[0] & places[1]) < 0.8 * min(map(len, places))
    pair = render_pair(Town.generate(5, size=260.0), 3)
    assert np.abs(pair.satellite.reshape(-1, 3).mean(0) - pair.ground.reshape(-1, 3).mean(0)).max() > 1


def test_heldout_style_shares_nothing_with_training() -> None:
    train, heldout = STYLES["train"], STYLES["heldout"]
    for field in ("grammars", "seasons", "textures"):
        assert not set(getattr(train, field)) & set(getattr(heldout, field)), field
    assert set(train.grammars) | set(heldout.grammars) == set(range(len(facades.GRAMMARS)))
    assert set(train.textures) | set(heldout.textures) == set(textures.KINDS)
    assert set(train.seasons) | set(heldout.seasons) == set(palettes.SEASONS)
    rng = np.random.default_rng(0)
    looks = {s: [Appearance.draw(rng, style=s, view="satellite") for _ in range(40)] for s in STYLES}
    asphalt = {s: np.concatenate([a.first[list(m.ASPHALT), :3] for a in looks[s]]).astype(float) for s in STYLES}
    gap = np.linalg.norm(asphalt["train"][:, None] - asphalt["heldout"][None], axis=-1).min(axis=0)
    assert np.median(gap) > 8  # most held-out roads have a colour that no training road has
    for s, yellow in (("train", False), ("heldout", True)):
        assert all((a.paint[0, 2] < 0.6 * a.paint[0, 0]) == yellow for a in looks[s])


def test_route_can_be_driven() -> None:
    for seed in (1, 2, 3):
        town = Town.generate(seed)
        route = town.lane_route(np.random.default_rng(seed), 650.0)
        assert polyline.arc_length(route)[-1] > 600
        assert np.hypot(*np.diff(route, axis=0).T).max() < 0.6
        assert 1 / np.abs(polyline.curvature(route)).max() > MIN_RADIUS
        assert np.abs(route).max() < town.size / 2 - 50
        on_road = np.isin(town.surface.material.sample(route), (*m.ROADS, m.KERB))
        assert on_road.mean() > 0.99
        heading = np.arctan2(*np.diff(route, axis=0).T[::-1])
        assert np.ptp(np.unwrap(heading)) > np.radians(80)
    with pytest.raises(ValueError, match="larger town"):
        town.lane_route(np.random.default_rng(0), 650.0, margin=190.0)


def test_terrain_is_gentle_but_not_flat(town: Town) -> None:
    points = np.random.default_rng(0).uniform(-200, 200, (2000, 2))
    east = town.terrain(points + [0.5, 0]) - town.terrain(points - [0.5, 0])
    assert np.abs(east).max() <= MAX_SLOPE
    assert np.ptp(town.terrain(points)) > 0.1


def test_vehicle_pitches_with_the_terrain(town: Town) -> None:
    T = town.terrain.attitude(10.0, 20.0, 0.7)
    ahead = town.terrain(np.array([10.0, 20.0]) + 1.4 * np.array([np.cos(0.7), np.sin(0.7)]))
    assert T[2, 0] == pytest.approx((ahead - T[2, 3]) / 1.4, abs=1e-3)
    assert T[:3, :3] @ T[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1)


def test_orthophoto_is_where_its_georeference_says(flat_paint: Town, tmp_path) -> None:
    """Pixels, through the file's own CRS and WGS84, are the town's points; and the town's paint is in them."""
    path = write_orthophoto(flat_paint, tmp_path / "town.tif", cell=0.5, seed=4)
    with rasterio.open(path) as raster:
        assert raster.crs.to_epsg() // 100 in (326, 327)
        to_utm = np.array(raster.transform).reshape(3, 3)
        picture = raster.read().transpose(1, 2, 0)

    def town_point(pixel: np.ndarray) -> np.ndarray:
        easting, northing = to_utm[:2] @ [*pixel, 1.0]
        (longitude,), (latitude,) = warp.transform(raster.crs, "EPSG:4326", [easting], [northing])
        return flat_paint.datum.to_enu(latitude, longitude)

    # The same place rendered once more, about points that the georeference gives; it must coincide to 5 cm.
    corner, size = np.array([640.0, 300.0]), 120
    here, ahead = town_point(corner), town_point(corner - [0, 100])
    pose = SE2(float(here[0]), float(here[1]), float(np.arctan2(*(ahead - here)[::-1])))
    grid = GroundGrid.centred(size, float(np.hypot(*(ahead - here))) / 100)
    look = Appearance.draw(np.random.default_rng([flat_paint.seed, 4, 31]), style="train", view="satellite")
    again = flat_paint.render_satellite(pose, grid, appearance=look, cars=4)
    part = picture[300 - size // 2 : 300 + size // 2, 640 - size // 2 : 640 + size // 2]
    a, b = (k.astype(np.float32).mean(axis=2) for k in (part, again))
    assert a.std() > 3
    shift, _ = cv2.phaseCorrelate(a - a.mean(), b - b.mean(), cv2.createHanningWindow((size, size), cv2.CV_32F))
    assert np.abs(shift).max() * 0.5 < 0.05


def test_map_to_utm_is_true_to_a_centimetre(town: Town) -> None:
    point = np.array([137.0, -161.0])
    epsg, M = map_to_utm(town.datum, town.size)
    latitude, longitude = town.datum.to_wgs84(point)
    (easting,), (northing,) = warp.transform("EPSG:4326", f"EPSG:{epsg}", [longitude], [latitude])
    assert M @ [*point, 1.0] == pytest.approx([easting, northing], abs=0.01)
    assert abs(np.hypot(*M[:, 0]) - 1) < 0.0011


def test_unknown_style_and_tiny_town_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="heldout"):
        Town.generate(0, style="martian")
    with pytest.raises(ValueError, match="200 to 2000"):
        Town.generate(0, size=50)
