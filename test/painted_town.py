"""A flat town that is nothing but its white paint, written as any data set has it, and what an item says of it.

Pictures of it can be compared to the decimetre: the ground under a camera's image with the satellite picture at the
pose that a data set's reader calls the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from test_town import NO_CARS, chart, cleared

from cvloc_ros.datasets.item import Item
from cvloc_ros.datasets.town import Appearance, Town
from cvloc_ros.datasets.town.scenery import Prisms
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, PinholeCamera, camera_extrinsics
from cvloc_ros.geometry.camera import Camera

FINE = GroundGrid.centred(1200, 0.1)
"""For the readers: fine enough to see a decimetre."""

_CELL, _SIZE = 0.15, 240.0  # metres
_REACH = 5  # steps of 0.1 m that are searched to each side


@dataclass(frozen=True, eq=False)
class PaintedTown:
    """The town's frame is metres east and north of a datum that each data set chooses.

    Attributes:
        town: flat, without anything that stands on it.
        above: (H, W) uint8 paint, north up, the origin in its middle.
        pose: on a road, with lines along and across ahead.

    """

    town: Town
    above: np.ndarray
    pose: SE2

    def paint(self, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        """Return an RGB picture whose pixels lie at these metres (H, W)."""
        grid = GroundGrid.centred(self.above.shape[0], _CELL)
        cells = grid.to_cells(np.stack([north, -east], axis=-1)).astype(np.float32)
        grey = cv2.remap(self.above, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR, borderValue=0)
        return cv2.merge([grey] * 3)

    def static_map(self, datum: LocalFrame, centre: np.ndarray, *, zoom: int, scale: int, size: int) -> np.ndarray:
        """Return a square of the Web Mercator pyramid around a point of the town (2,), as map servers cut it."""
        latitude, longitude = datum.to_wgs84(centre)
        pixels = 256 * 2**zoom * scale  # around the equator
        offset = np.arange(size) - (size - 1) / 2
        x = (longitude + 180) / 360 * pixels + offset
        y = (1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * pixels + offset
        longitudes = x / pixels * 360 - 180
        latitudes = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y / pixels))))
        # east depends on the column alone and north on the row alone, to 3 mm
        east = datum.to_enu(np.full(size, latitude), longitudes)[:, 0]
        north = datum.to_enu(latitudes, np.full(size, longitude))[:, 1]
        return self.paint(*np.meshgrid(east, north))

    def ground(self, pose: SE2, camera: Camera, T_base_camera: np.ndarray) -> np.ndarray:
        """Return what any camera sees on a vehicle at a pose."""
        return see(self.town, pose, camera, T_base_camera, appearance=chart("ground"))


def see(
    town: Town, pose: SE2, camera: Camera, T_base_camera: np.ndarray, *, appearance: Appearance, cars: Prisms = NO_CARS
) -> np.ndarray:
    """Render what any camera sees: other than pinhole ones are put together from four that look all round."""
    if isinstance(camera, PinholeCamera):
        return town.render_ground(pose, camera, T_base_camera, appearance=appearance, cars=cars)
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = camera.rays(np.stack([columns, rows], axis=-1)) @ T_base_camera[:3, :3].T
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    side = PinholeCamera.from_focal(760, 540, 350.0, cy=120.0)  # 95 degrees: they overlap; the zenith stays black
    for yaw in np.radians([0, 90, 180, 270]):
        mount = camera_extrinsics(height=T_base_camera[2, 3], x=T_base_camera[0, 3], y=T_base_camera[1, 3], yaw=yaw)
        pixels, seen = side.project(rays @ mount[:3, :3])
        maps = pixels.astype(np.float32)
        face = see(town, pose, side, mount, appearance=appearance, cars=cars)
        image[seen] = cv2.remap(face, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)[seen]
    return image


@cache
def painted_town() -> PaintedTown:
    """Return the one painted town of a test run."""
    town = Town.generate(11, size=_SIZE)
    town = cleared(town, tuple(np.where(c.data > 40, 255, 0).astype(np.uint8) for c in town.surface.paint))
    town = replace(town, terrain=replace(town.terrain, amplitudes=0 * town.terrain.amplitudes))
    grid = GroundGrid.centred(int(_SIZE / _CELL), _CELL)
    above = town.render_satellite(SE2(0, 0, np.pi / 2), grid, appearance=chart("satellite"), cars=NO_CARS)[..., 0]
    world = PaintedTown(town, np.ascontiguousarray(above), SE2())
    return replace(world, pose=find_pose(world))


def find_pose(world: PaintedTown, *, yaw: float | None = None) -> SE2:
    """Return the pose, of a few hundred near the middle, that has most lines both along and across ahead."""
    rng = np.random.default_rng(0)
    ahead = GroundGrid(50, 80, 0.2, 16.0).centres()
    best, found = -1.0, SE2()
    for _ in range(400):
        x, y = (float(v) for v in rng.uniform(-50, 50, 2))
        pose = SE2(x, y, float(rng.uniform(-np.pi, np.pi)) if yaw is None else yaw)
        seen = world.paint(*np.moveaxis(pose.apply(ahead), -1, 0))[..., 0].astype(np.float32)
        down, right = cv2.Sobel(seen, cv2.CV_32F, 0, 1), cv2.Sobel(seen, cv2.CV_32F, 1, 0)
        tensor = [[(down**2).mean(), (down * right).mean()], [(down * right).mean(), (right**2).mean()]]
        if (weaker := float(np.linalg.eigvalsh(tensor)[0])) > best:
            best, found = weaker, pose
    return found


def disagreement(item: Item, *, far: float = 18.0) -> np.ndarray:
    """Return where the frame's ground fits the patch best, relative to the truth: metres ahead and left, degrees.

    Searched within half a metre and a degree, in steps of 0.1 m and 0.25 degrees.
    """
    frame, patch = item.frame, item.patch
    grid = GroundGrid(int((far - 6) / 0.1), 160, 0.1, far)
    optical = (
        np.concatenate([grid.centres(), np.zeros((grid.rows, grid.cols, 1))], axis=-1) - frame.T_base_camera[:3, 3]
    )
    pixels, visible = frame.camera.project(optical @ frame.T_base_camera[:3, :3])
    assert visible.mean() > 0.5, "the camera hardly sees the ground ahead"
    maps = pixels.astype(np.float32)
    seen = cv2.remap(frame.image[..., 0], maps[..., 0], maps[..., 1], cv2.INTER_LINEAR).astype(np.float32)
    seen = cv2.GaussianBlur(np.where(visible, seen, 0), (0, 0), 2)
    assert seen[visible].std() > 5, "hardly any paint ahead: choose another pose"
    above = cv2.GaussianBlur(patch.image[..., 0].astype(np.float32), (0, 0), 2)
    T_patch_base = patch.T_map_patch.inverse() @ item.truth
    wider = GroundGrid(grid.rows + 2 * _REACH, grid.cols + 2 * _REACH, 0.1, far + 0.1 * _REACH)
    best, found = -1.0, np.zeros(3)
    for degrees in np.arange(-4, 5) * 0.25:
        points = (T_patch_base @ SE2(0.0, 0.0, np.radians(degrees))).apply(wider.centres())
        cells = patch.grid.to_cells(points).astype(np.float32)
        there = cv2.remap(above, cells[..., 1], cells[..., 0], cv2.INTER_LINEAR)
        scores = cv2.matchTemplate(there, seen, cv2.TM_CCOEFF_NORMED, mask=visible.astype(np.float32))
        _, score, _, (column, row) = cv2.minMaxLoc(scores)
        if score > best:
            best, found = score, np.array([0.1 * (_REACH - row), 0.1 * (_REACH - column), degrees])
    assert best > 0.5, f"the pictures do not fit anywhere near the truth: correlation {best:.2f}"
    return found


def assert_pictures_agree(item: Item, *, far: float = 18.0) -> None:
    """The ground of the image lies on the patch where the truth says, to a step of the search."""
    x, y, degrees = disagreement(item, far=far)
    assert abs(x) <= 0.11 and abs(y) <= 0.11 and abs(degrees) <= 0.26, (x, y, degrees)


def assert_same_pose(found: SE2, expected: SE2) -> None:
    """Within 5 cm and 0.05 degrees."""
    error = expected.inverse() @ found
    assert np.hypot(error.x, error.y) < 0.05, error
    assert abs(np.degrees(error.yaw)) < 0.05, error


def in_frame(pose: SE2, datum: LocalFrame, centre: np.ndarray) -> SE2:
    """Return a pose of the town's frame in the ENU frame around one of its points (2,)."""
    place = datum.to_wgs84(np.array([centre, [pose.x, pose.y]]))
    east, north = LocalFrame(*place[0]).to_enu(*place[1])
    return SE2(float(east), float(north), pose.yaw)


def write_image(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
