"""A drive over any georeferenced orthophoto: try your own city's imagery before a camera is mounted.

    python -m cvloc_ros.datasets.orthophoto_drive city.tif route.csv out/bag
    cvloc run out/bag --imagery city.tif

The ground is the plane z = 0 with the orthophoto on it, seen through the vehicle's camera; houses and trees lie flat,
as they do in the image. What is measured on it is an upper bound of what a street shows, but camera, mount, imagery
and route are the real ones.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import DEMO_CAMERA, DEMO_MOUNT, Drive, record
from cvloc_ros.datasets.town.motion import follow
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics
from cvloc_ros.imagery import ImageryError, raster_datum
from cvloc_ros.imagery.raster import RasterReader, open_raster

_REACH = 150.0  # metres around the route that are read
_FINEST, _MOST_CELLS = 0.1, 16384  # metres a cell, and cells a side, of the ground in memory
_LEVELS = 6  # of its pyramid
_SAMPLES = 4  # a pixel, one below the other: that is how the ground is foreshortened
_REMAP_ROW = 1024  # OpenCV looks up rows of less than 32768 points
_HORIZON, _ZENITH = np.float32([208, 214, 220]), np.float32([112, 150, 200])
_HAZE = 250.0  # metres at which 63 % of the ground's colour is lost
_DRIFT, _DRIFT_PERIOD = 0.08, 17.0  # how far the exposure wanders (log), in how many seconds
_BLUR, _NOISE = 0.6, 3.0  # pixels, counts


class RouteError(ValueError):
    """A route cannot be read or driven; the message says which line, what was expected and what came."""


def read_route(path: str | Path) -> np.ndarray:
    """Read a route's waypoints: lines of ``latitude,longitude`` in WGS84 degrees, with or without a header.

    Returns:
        (N, 2) latitude and longitude, N >= 2.

    Raises:
        RouteError: a line is no coordinate, or there are fewer than two.

    """
    path = Path(path)
    if not path.is_file():
        raise RouteError(f"expected a route file with lines 'latitude,longitude', but there is no file '{path}'")
    points: list[tuple[float, float]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#") or (not points and cells[:2] == ["latitude", "longitude"]):
                continue
            try:
                latitude, longitude = (float(cell) for cell in cells)
                LocalFrame(latitude, longitude)  # checks their range
            except ValueError:
                raise RouteError(
                    f"'{path}', line {number}: expected 'latitude,longitude' in degrees, such as 48.1852,16.3122; got "
                    f"'{','.join(row)}'"
                ) from None
            points.append((latitude, longitude))
    if len(points) < 2:
        raise RouteError(f"expected at least two waypoints 'latitude,longitude' in '{path}', got {len(points)}")
    return np.array(points)


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
        samples = samples.reshape(-1, self.camera.width, 3)
        size = self.camera.width, self.camera.height
        ground = cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
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
        grey = scene @ np.float32([0.3, 0.59, 0.11])
        scene = grey[..., None] + np.float32(saturation) * (scene - grey[..., None])
        exposure = np.exp(_DRIFT * np.sin(2 * np.pi * seconds / _DRIFT_PERIOD + phase))
        picture = 255 * np.clip(scene * np.float32(balance * exposure / 255), 0, 1) ** np.float32(gamma)
        picture = cv2.GaussianBlur(picture, (0, 0), _BLUR)
        grain = np.random.default_rng([self.seed, 6, round(1000 * seconds)])
        picture += _NOISE * grain.standard_normal(picture.shape, np.float32)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def orthophoto_drive(
    imagery: str,
    waypoints: np.ndarray,
    *,
    duration: float | None = None,
    cruise: float = 8.0,
    seed: int = 0,
    camera: PinholeCamera = DEMO_CAMERA,
    T_base_camera: np.ndarray = DEMO_MOUNT,
) -> Drive:
    """Return a drive along a route over an orthophoto, whose centre is the map's datum.

    Args:
        imagery: a path, a URL or a GDAL description of a georeferenced raster.
        waypoints: (N, 2) latitude and longitude, degrees.
        duration: seconds; None for the whole route.
        cruise: m/s where the route is straight.
        seed: of the sensors' errors and the camera's colours.
        camera: intrinsics.
        T_base_camera: 4x4, optical frame to base_link.

    Raises:
        ImageryError: the imagery cannot be read.
        RouteError: the route leaves the imagery.
        ValueError: the route is too short for the duration.

    """
    datum = raster_datum(imagery)
    route = datum.to_enu(waypoints[:, 0], waypoints[:, 1])
    extent = np.ptp(route, axis=0).max()
    if not extent < 1e5:
        raise RouteError(f"expected a route of some kilometres, got waypoints {extent / 1e3:.0f} km apart")
    ground = Ground.read(imagery, datum, route)
    outside = np.flatnonzero(~ground.covers(route))
    if len(outside):
        k = int(outside[0])
        raise RouteError(
            f"expected a route on the imagery '{imagery}' (around {datum.latitude:.5f},{datum.longitude:.5f}), but "
            f"{len(outside)} of {len(route)} waypoints are not, the first is number {k + 1}: "
            f"{waypoints[k, 0]:.5f},{waypoints[k, 1]:.5f}. Each line is latitude,longitude in this order"
        )
    renderer = OrthophotoRenderer(ground, camera, T_base_camera, seed)
    trajectory = follow(route, duration=duration, cruise=cruise)
    return record(trajectory, renderer, datum, seed, camera=camera, T_base_camera=T_base_camera)


def main(
    imagery: Annotated[str, typer.Argument(help="Orthophoto: a georeferenced raster (path, URL, GDAL description).")],
    route: Annotated[Path, typer.Argument(help="Waypoints: lines of latitude,longitude in degrees.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new rosbag2; must not exist.")],
    duration: Annotated[float | None, typer.Option(min=1.0, help="Seconds; default: the whole route.")] = None,
    speed: Annotated[float, typer.Option(min=1.0, help="Cruising speed, m/s.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sensors' errors and the camera's colours.")] = 0,
    width: Annotated[int, typer.Option(min=64, help="Pixels.")] = DEMO_CAMERA.width,
    height: Annotated[int, typer.Option(min=32, help="Pixels.")] = DEMO_CAMERA.height,
    fov: Annotated[float, typer.Option(min=10.0, max=140.0, help="Horizontal field of view, degrees.")] = 80.0,
    mount_height: Annotated[float, typer.Option(min=0.2, help="Camera above the ground, metres.")] = 1.65,
    mount_forward: Annotated[float, typer.Option(help="Camera ahead of base_link, metres.")] = 1.2,
    pitch: Annotated[float, typer.Option(help="Camera's pitch, degrees, down is positive.")] = 2.0,
) -> None:
    """Drive a simulated vehicle over an orthophoto and record camera, GNSS, odometry and truth as a rosbag2."""
    from rich.progress import track

    camera = PinholeCamera.from_focal(width, height, width / 2 / np.tan(np.radians(fov / 2)))
    mount = camera_extrinsics(height=mount_height, x=mount_forward, pitch=np.radians(pitch))
    try:
        drive = orthophoto_drive(
            imagery, read_route(route), duration=duration, cruise=speed, seed=seed, camera=camera, T_base_camera=mount
        )
        steps = iter(track(range(len(drive.image_stamps)), description="rendering"))
        write_drive_bag(out, drive, progress=lambda done, total: next(steps, None))
    except (RouteError, ImageryError, OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    metres = drive.trajectory.distance
    print(f"{out}: {metres:.0f} m, {len(drive.image_stamps)} images. Next: cvloc run {out} --imagery {imagery}")


if __name__ == "__main__":
    typer.run(main)
