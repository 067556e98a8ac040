"""A plane that carries an orthophoto, as a camera sees it: anti-aliased, under a sky, in colours of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera
from cvloc_ros.imagery.raster import RasterReader, open_raster

_REACH = 150.0  # metres around the route that are read
_FINEST, _MOST_CELLS = 0.1, 16384  # metres a cell, and cells a side, of the ground in memory
_LEVELS = 6  # of its pyramid
_SAMPLES = 4  # a pixel, one below the other: that is how the ground is foreshortened
_REMAP_ROW = 1024  # OpenCV looks up rows of less than 32768 points
_HORIZON, _ZENITH = np.array([[208, 214, 220], [112, 150, 200]], np.float32)
_HAZE = 250.0  # metres at which 63 % of the ground's colour is lost
_DRIFT, _DRIFT_PERIOD = 0.08, 17.0  # how far the exposure wanders (log), in how many seconds
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
    """What never changes while a camera moves over a plane.

    Attributes:
        ground: by level of the pyramid: which samples of the image (`_SAMPLES` rows a pixel, flat) lie on the ground,
            and where: x forward and y left of base_link, metres.
        clear: (H, W) how much of the ground's colour reaches the camera.
        backdrop: (H, W, 3) what is added to it: sky and haze.

    """

    ground: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    clear: np.ndarray
    backdrop: np.ndarray

    @classmethod
    def of(cls, camera: PinholeCamera, T_base_camera: np.ndarray, *, cell: float) -> _View:
        """Trace a camera's rays to a plane whose picture has cells of ``cell`` metres."""
        v = (np.arange(camera.height * _SAMPLES) + 0.5) / _SAMPLES - 0.5
        pixels = np.stack(np.meshgrid(np.arange(camera.width), v), axis=-1)
        rays = camera.rays(pixels) @ T_base_camera[:3, :3].T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        eye = T_base_camera[:3, 3]
        down = rays[..., 2] < -1e-4
        distance = np.where(down, eye[2] / np.where(down, -rays[..., 2], 1.0), 0.0)
        points = eye[:2] + distance[..., None] * rays[..., :2]
        steps = [np.linalg.norm(np.gradient(points, axis=axis), axis=-1) for axis in (0, 1)]
        level = np.round(np.log2(np.maximum(np.maximum(*steps) / cell, 1.0)))
        level = np.where(down, np.minimum(level, _LEVELS - 1), -1).ravel()
        flat = points.reshape(-1, 2).astype(np.float32)
        places = [np.flatnonzero(level == k) for k in range(_LEVELS)]
        clear = np.where(down, np.exp(-distance / _HAZE), 0.0).astype(np.float32)
        up = np.clip(2 * rays[..., 2:], 0, 1).astype(np.float32)
        backdrop = (_HORIZON + (_ZENITH - _HORIZON) * up) * (1 - clear[..., None])
        size = camera.width, camera.height
        return cls(
            [(p, np.ascontiguousarray(flat[p, 0]), np.ascontiguousarray(flat[p, 1])) for p in places],
            cv2.resize(clear, size, interpolation=cv2.INTER_AREA),
            cv2.resize(backdrop, size, interpolation=cv2.INTER_AREA),
        )


@dataclass(frozen=True, eq=False)
class OrthophotoRenderer:
    """What a camera sees on a plane that carries an orthophoto; the camera's colours are not the orthophoto's.

    Attributes:
        ground: the orthophoto.
        camera: intrinsics.
        T_base_camera: 4x4, optical frame to base_link; base_link moves on the plane.
        seed: chooses the camera's colours and its noise.

    """

    ground: Ground
    camera: PinholeCamera
    T_base_camera: np.ndarray
    seed: int

    def render(self, T_map_base: SE2, seconds: float) -> np.ndarray:
        """Return the RGB image (H, W, 3) uint8 taken at a pose, so many seconds after the start."""
        view = self._view
        c, s = np.float32(np.cos(T_map_base.yaw)), np.float32(np.sin(T_map_base.yaw))
        samples = np.zeros((self.camera.height * _SAMPLES * self.camera.width, 3), np.uint8)
        for level, (places, x, y) in enumerate(view.ground):
            east = c * x - s * y + np.float32(T_map_base.x)
            north = s * x + c * y + np.float32(T_map_base.y)
            samples[places] = self.ground.colours(east, north, level)
        size = self.camera.width, self.camera.height
        ground = cv2.resize(samples.reshape(-1, size[0], 3), size, interpolation=cv2.INTER_AREA)
        scene = ground * view.clear[..., None] + view.backdrop
        return self._exposed(scene, seconds)

    @cached_property
    def _view(self) -> _View:
        return _View.of(self.camera, self.T_base_camera, cell=self.ground.cell)

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
