"""Ground that carries an orthophoto, flat or hilly, as a camera sees it: anti-aliased, under a sky, in own colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from cvloc_ros.datasets.height_map import HeightMap
from cvloc_ros.datasets.town.terrain import attitude_on
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera
from cvloc_ros.imagery.raster import RasterReader, open_raster

_REACH = 150.0  # metres around the route that are read
_FINEST, _MOST_CELLS = 0.1, 16384  # metres a cell, and cells a side, of the ground in memory
_LEVELS = 6  # of its pyramid
_SAMPLES = 4  # a pixel, one below the other: that is how the ground is foreshortened
_COARSE = 4  # columns that meet the terrain at the same distance
_REMAP_ROW = 1024  # OpenCV looks up rows of less than 32768 points
_HORIZON, _ZENITH = np.array([[208, 214, 220], [112, 150, 200]], np.float32)
_HAZE = 250.0  # metres at which 63 % of the ground's colour is lost
_DRIFT, _DRIFT_PERIOD = 0.08, 17.0  # how far the exposure wanders (log), in how many seconds
_CLOUD = 15.0  # metres from a light patch to a dark one on another day
_BLUR, _NOISE = 0.6, 3.0  # pixels, counts


@dataclass(frozen=True, eq=False)
class Ground:
    """A piece of an orthophoto in memory, north up in the map frame.

    Attributes:
        rgb: (H, W, 3) uint8.
        covered: (H, W) bool: where the imagery has data.
        west: metres, outer edge of column 0.
        north: metres, outer edge of row 0.
        cell: metres.

    """

    rgb: np.ndarray
    covered: np.ndarray
    west: float
    north: float
    cell: float

    @classmethod
    def read(cls, imagery: str, datum: LocalFrame, points: np.ndarray) -> Ground:
        """Read the imagery around points (N, 2), metres in the map frame, at its own resolution.

        Raises:
            ImageryError: the imagery cannot be read.

        """
        west, south = points.min(axis=0) - _REACH
        east, north = points.max(axis=0) + _REACH
        with open_raster(imagery) as dataset:
            reader = RasterReader.of(dataset, datum)
            cell = max(reader.resolution, _FINEST, (east - west) / _MOST_CELLS, (north - south) / _MOST_CELLS)
            rows, cols = (int(np.ceil(extent / cell)) for extent in (north - south, east - west))
            rgba = reader.read(west=west, north=north, rows=rows, cols=cols, cell=cell)
        rgb, covered = np.ascontiguousarray(rgba[..., :3]), rgba[..., 3] > 0
        if covered.any():
            rgb[~covered] = rgb[covered].mean(axis=0)
        return cls(rgb, covered, float(west), float(north), float(cell))

    def in_another_season(self, seed: int) -> Ground:
        """Return the place on another day: what is green has faded, streets are wet, and light falls in patches."""
        rng = np.random.default_rng([seed, 7])
        rgb = self.rgb.astype(np.float32)
        red, green, blue = np.moveaxis(rgb, -1, 0)
        grey = rgb.mean(axis=-1)
        leaves = np.clip((2 * green - red - blue - 8) / 20, 0, 1)[..., None]
        straw = grey[..., None] / 105 * rng.uniform([120, 95, 60], [175, 150, 110]).astype(np.float32)
        street = (np.clip(1 - np.ptp(rgb, axis=-1) / 30, 0, 1) * np.clip((200 - grey) / 30, 0, 1))[
            ..., None
        ]  # no paint
        rgb = leaves * straw + (1 - leaves) * rgb * (1 - street * np.float32(rng.uniform(0.25, 0.45)))
        size = rgb.shape[1::-1]
        coarse = [max(2, int(n * self.cell / _CLOUD)) for n in size[::-1]]
        light = cv2.resize(rng.normal(0, 0.25, coarse).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        return replace(self, rgb=np.clip(rgb * np.exp(light)[..., None], 0, 255).astype(np.uint8))

    @cached_property
    def pyramid(self) -> list[np.ndarray]:
        """The picture at its own cell, and at ever twice as large ones."""
        side = 2 ** (_LEVELS - 1)
        rows, cols = (-(-n // side) * side for n in self.rgb.shape[:2])  # halves line up with their wholes
        padded = np.pad(self.rgb, ((0, rows - self.rgb.shape[0]), (0, cols - self.rgb.shape[1]), (0, 0)), mode="edge")
        levels = [padded]
        for _ in range(_LEVELS - 1):
            levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        return levels

    def covers(self, points: np.ndarray) -> np.ndarray:
        """Return which of some points (N, 2) lie on the imagery, (N,) bool."""
        col, row = np.floor((points - [self.west, self.north]) / [self.cell, -self.cell]).astype(int).T
        inside = (row >= 0) & (row < self.covered.shape[0]) & (col >= 0) & (col < self.covered.shape[1])
        found = np.zeros(len(points), bool)
        found[inside] = self.covered[row[inside], col[inside]]
        return found

    def colours(self, east: np.ndarray, north: np.ndarray, level: int) -> np.ndarray:
        """Return the colours (N, 3) uint8 at map coordinates (N,) float32, from a level of the pyramid."""
        count, cell = len(east), np.float32(self.cell * 2**level)
        shape = -(-count // _REMAP_ROW), _REMAP_ROW
        col, row = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        col.ravel()[:count] = (east - np.float32(self.west)) / cell - np.float32(0.5)
        row.ravel()[:count] = (np.float32(self.north) - north) / cell - np.float32(0.5)
        picture = self.pyramid[level]
        found = cv2.remap(picture, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) if count else picture
        return found.reshape(-1, 3)[:count]


@dataclass(frozen=True, eq=False)
class _View:
    """Where a camera's samples meet the ground; over a plane it never changes.

    Attributes:
        ground: by level of the pyramid: which samples of the image (`_SAMPLES` rows a pixel, flat) lie on the ground,
            and where in the frame of eye and rays, metres.
        clear: (H, W) how much of the ground's colour reaches the camera.
        backdrop: (H, W, 3) what is added to it: sky and haze.

    """

    ground: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    clear: np.ndarray
    backdrop: np.ndarray

    @classmethod
    def of(cls, eye: np.ndarray, rays: np.ndarray, distance: np.ndarray, *, cell: float) -> _View:
        """Sort the samples by how coarse the ground looks to them.

        Args:
            eye: (3,) the camera's position, metres.
            rays: (`_SAMPLES` H, W, 3) of length 1.
            distance: (`_SAMPLES` H, W) to the ground, metres; 0 where there is none.
            cell: of the ground's picture, metres.

        """
        down = distance > 0
        points = eye[:2] + distance[..., None] * rays[..., :2]
        steps = [np.linalg.norm(np.gradient(points, axis=axis), axis=-1) for axis in (0, 1)]
        level = np.round(np.log2(np.maximum(np.maximum(*steps) / cell, 1.0)))
        level = np.where(down, np.minimum(level, _LEVELS - 1), -1).ravel()
        flat = points.reshape(-1, 2).astype(np.float32)
        places = [np.flatnonzero(level == k) for k in range(_LEVELS)]
        clear = np.where(down, np.exp(-distance / _HAZE), 0.0).astype(np.float32)
        up = np.clip(2 * rays[..., 2:], 0, 1).astype(np.float32)
        backdrop = (_HORIZON + (_ZENITH - _HORIZON) * up) * (1 - clear[..., None])
        size = rays.shape[1], rays.shape[0] // _SAMPLES
        return cls(
            [(p, np.ascontiguousarray(flat[p, 0]), np.ascontiguousarray(flat[p, 1])) for p in places],
            cv2.resize(clear, size, interpolation=cv2.INTER_AREA),
            cv2.resize(backdrop, size, interpolation=cv2.INTER_AREA),
        )


@dataclass(frozen=True, eq=False)
class OrthophotoRenderer:
    """What a camera sees on ground that carries an orthophoto; the camera's colours are not the orthophoto's.

    Attributes:
        ground: the orthophoto.
        camera: intrinsics.
        T_base_camera: 4x4, optical frame to base_link; base_link moves on the ground.
        seed: chooses the camera's colours and its noise.
        terrain: the ground's heights, on which the vehicle stands; None for the plane.

    """

    ground: Ground
    camera: PinholeCamera
    T_base_camera: np.ndarray
    seed: int
    terrain: HeightMap | None = None

    def render(self, T_map_base: SE2, seconds: float) -> np.ndarray:
        """Return the RGB image (H, W, 3) uint8 taken at a pose, so many seconds after the start."""
        if self.terrain is None:
            view, pose = self._flat_view, T_map_base
        else:
            view, pose = self._view_on(self.terrain, T_map_base), SE2()
        c, s = np.float32(np.cos(pose.yaw)), np.float32(np.sin(pose.yaw))
        samples = np.zeros((self.camera.height * _SAMPLES * self.camera.width, 3), np.uint8)
        for level, (places, x, y) in enumerate(view.ground):
            east = c * x - s * y + np.float32(pose.x)
            north = s * x + c * y + np.float32(pose.y)
            samples[places] = self.ground.colours(east, north, level)
        size = self.camera.width, self.camera.height
        ground = cv2.resize(samples.reshape(-1, size[0], 3), size, interpolation=cv2.INTER_AREA)
        scene = ground * view.clear[..., None] + view.backdrop
        return self._exposed(scene, seconds)

    @cached_property
    def _rays(self) -> np.ndarray:
        """The samples' rays in the optical frame, of length 1: (`_SAMPLES` H, W, 3)."""
        v = (np.arange(self.camera.height * _SAMPLES) + 0.5) / _SAMPLES - 0.5
        rays = self.camera.rays(np.stack(np.meshgrid(np.arange(self.camera.width), v), axis=-1))
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    @cached_property
    def _flat_view(self) -> _View:
        """In base_link, over the plane."""
        rays, eye = self._rays @ self.T_base_camera[:3, :3].T, self.T_base_camera[:3, 3]
        down = rays[..., 2] < -1e-4
        distance = np.where(down, eye[2] / np.where(down, -rays[..., 2], 1.0), 0.0)
        return _View.of(eye, rays, distance, cell=self.ground.cell)

    def _view_on(self, terrain: HeightMap, T_map_base: SE2) -> _View:
        """In the map, from a vehicle that stands on the terrain."""
        T_map_camera = attitude_on(terrain, T_map_base.x, T_map_base.y, T_map_base.yaw) @ self.T_base_camera
        rays, eye = self._rays @ T_map_camera[:3, :3].T, T_map_camera[:3, 3]
        run = np.linalg.norm(rays[..., :2], axis=-1)
        distance = terrain.distances(eye, rays[:, ::_COARSE])
        distance = cv2.resize(distance, rays.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return _View.of(eye, rays, distance / np.maximum(run, 1e-6), cell=self.ground.cell)

    def _exposed(self, scene: np.ndarray, seconds: float) -> np.ndarray:
        """Return what this camera makes of scene colours (H, W, 3) float32: another colour balance, blur and noise."""
        rng = np.random.default_rng([self.seed, 5])
        balance, gamma, phase = (
            np.exp(rng.normal(-0.15, 0.06, 3)),
            np.exp(rng.normal(0, 0.2)),
            rng.uniform(0, 2 * np.pi),
        )
        saturation = rng.uniform(0.6, 0.95)
        grey = scene @ np.array([0.3, 0.59, 0.11], np.float32)
        scene = grey[..., None] + np.float32(saturation) * (scene - grey[..., None])
        exposure = np.exp(_DRIFT * np.sin(2 * np.pi * seconds / _DRIFT_PERIOD + phase))
        picture = 255 * np.clip(scene * np.float32(balance * exposure / 255), 0, 1) ** np.float32(gamma)
        picture = cv2.GaussianBlur(picture, (0, 0), _BLUR)
        grain = np.random.default_rng([self.seed, 6, round(1000 * seconds)])
        picture += _NOISE * grain.standard_normal(picture.shape, np.float32)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
