"""Oxford RobotCar over one stitched satellite map, with the splits of Xia and others (ECCV 2022).

::

    ROOT/satellite_map_new.png                                  the map, 0.0924 m/px, true north up
    ROOT/training.txt, validation.txt, test1_j.txt, test2_j.txt, test3_j.txt     ground satellite easting northing
    ROOT/train_yaw.npy, val_yaw.npy, test_yaw.npy               radians; the three tests' one after the other
    ROOT/<traversal>/ground/<easting>_<northing>.png            1200 x 800: stereo/centre, undistorted, cropped
    ROOT/models/stereo_narrow_left.txt, ROOT/extrinsics/ins.txt     of the RobotCar SDK

Conventions:

- Easting and northing are UTM zone 30N. Five control points of the literature's code tie the map's pixels to them; the
  affine fit turns by 1.37 degrees, which is the zone's grid convergence there: the map's rows run true east.
- The headings of the ``.npy`` files are clockwise from *west* and true, not the grid's: pi - yaw from east. (Between
  successive frames of the tests the vehicle moves so to within 0.2 degrees, and opposite traffic is on its right.)
- The map frame's origin is the middle control point.
- base_link is the ground under the inertial sensor, whose positions these are; the camera is 1.71 m ahead of it. Its
  height over the ground is not published; the literature takes KITTI's 1.65 m.
- The published images lack the first 40 columns of the camera's, and so does the principal point: cx is 603.8.
- A test's prior is the middle of a tile of 800 pixels on a lattice of 400: the truth lies in its middle half.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from cvloc_ros.datasets.aerial_image import AerialImage, fit_affine
from cvloc_ros.datasets.files import DatasetError, numbers, read_lines, read_rgb, require
from cvloc_ros.datasets.item import KNOWN_YAW, PATCH_GRID, Item, digest_of
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, PinholeCamera
from cvloc_ros.localization.types import Frame, Prior

TESTS = ("test1", "test2", "test3")
SPLITS = {"training": "training.txt", "validation": "validation.txt", **{test: f"{test}_j.txt" for test in TESTS}}
CAMERA_HEIGHT = 1.65  # metres, assumed
CROP = (40, 0, 1200, 800)  # left, top, width and height of the published images in the camera's
CAMERA_SIZE = (1280, 960)

UTM = "EPSG:32630"
CONTROL_UTM = np.array(
    [[619400, 5736195], [619400, 5734600], [620795, 5736195], [620795, 5734600], [620100, 5735400]], float
)
CONTROL_PIXELS = np.array([[900, 900], [492, 18168], [15966, 1260], [15553, 18528], [8255, 9688]], float)

_LATTICE, _TILE = 400, 800  # pixels
_STRIP = 128  # rows of the averaged map that are read at a time
_CACHE = 64  # MiB that GDAL may keep of the map besides
_BROKEN = (937, 9050, 11811, 12388, 16584)  # training images that do not load as published
_MAP = "https://github.com/tudelft-iv/CrossViewMetricLocalization (README, Datasets)"
_LISTS = "https://github.com/tudelft-iv/CrossViewMetricLocalization (Oxford_split)"
_IMAGES = "https://robotcar-dataset.robots.ox.ac.uk, prepared by data_preprocessing_Oxford.py of " + _LISTS
SDK_SOURCE = "https://github.com/ori-mrg/robotcar-dataset-sdk"


class Oxford:
    """The frames of one split: ``training``, ``validation``, ``test1``, ``test2`` or ``test3``."""

    def __init__(self, root: str | Path, split: str, *, grid: GroundGrid = PATCH_GRID, seed: int = 0) -> None:
        """Read the split's list and headings.

        Args:
            root: folder with the map, the lists and the traversals.
            split: one of `SPLITS`.
            grid: of the patches.
            seed: of the priors of the training frames; those of the others follow from the lattice.

        Raises:
            DatasetError: a list is missing or wrong.
            ValueError: there is no such split.

        """
        if split not in SPLITS:
            raise ValueError(f"expected an Oxford split of {', '.join(SPLITS)}, got {split!r}")
        self.root, self.grid, self.seed, self.split = Path(root), grid, seed, split
        together = TESTS if split in TESTS else (split,)
        lists = {name: self._list(name) for name in together}
        yaws = self._headings(sum(len(lines) for lines in lists.values()))
        begin = sum(len(lists[name]) for name in together[: together.index(split)])
        lines, yaws = lists[split], yaws[begin : begin + len(lists[split])]
        kept = [k for k in range(len(lines)) if split != "training" or k not in _BROKEN]
        self.names = [lines[k][0] for k in kept]
        positions = [numbers(lines[k][2:], self.root / SPLITS[split]) for k in kept]
        self.datum = map_datum()
        self._positions = utm_to_map(np.array(positions), self.datum)
        self._yaws = np.pi - yaws[kept]

    @property
    def digest(self) -> str:
        """Is another one where the list is another."""
        return digest_of(self.names, self._positions, self._yaws)

    def __len__(self) -> int:
        """Return how many frames the split has."""
        return len(self.names)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is the datum.

        Raises:
            DatasetError: a file is missing or wrong.
            IndexError: there is no such item.

        """
        name = self.names[index]
        camera, T_base_camera = self._calibration
        image = read_rgb(self.root / name, "a frame of the centre camera", _IMAGES)
        if image.shape[:2] != (camera.height, camera.width):
            raise DatasetError(
                f"expected {camera.width} x {camera.height} pixels, but {self.root / name} has {image.shape[1]} x "
                f"{image.shape[0]}: prepare the images as {_IMAGES} does"
            )
        truth = self.pose(index)
        east, north = self._prior_position(index)
        T_map_prior = SE2(east, north, truth.yaw)
        radius = _LATTICE / 2 * float(np.sqrt(1 / abs(np.linalg.det(self._pixel_from_map[:, :2]))))
        return Item(
            name=name,
            frame=Frame(index % len(self), image, camera, T_base_camera),
            prior=Prior(T_map_prior, np.diag([radius**2 / 3, radius**2 / 3, KNOWN_YAW**2])),
            truth=truth,
            patch=self._map.patch(T_map_prior, self.grid),
        )

    def pose(self, index: int) -> SE2:
        """Return a frame's true pose in the map without reading its image."""
        east, north = self._positions[index]
        return SE2(float(east), float(north), float(self._yaws[index]))

    def _prior_position(self, index: int) -> tuple[float, float]:
        M = self._pixel_from_map
        pixel = M[:, :2] @ self._positions[index] + M[:, 2]
        if self.split == "training":
            rng = np.random.default_rng([self.seed, range(len(self))[index]])
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, _LATTICE / np.sqrt(2))
            pixel = pixel + length * np.array([np.cos(angle), np.sin(angle)])
        else:
            corner = pixel // _LATTICE
            corner -= np.round(pixel - _LATTICE * corner) < _LATTICE / 2
            pixel = _LATTICE * corner + _TILE / 2 - 0.5
        east, north = np.linalg.solve(M[:, :2], pixel - M[:, 2])
        return float(east), float(north)

    @cached_property
    def _pixel_from_map(self) -> np.ndarray:
        return map_pixels(self.datum)

    @cached_property
    def _map(self) -> AerialImage:
        """The map, no finer than the patches need it."""
        pixel_from_map = self._pixel_from_map
        size = float(np.sqrt(1 / abs(np.linalg.det(pixel_from_map[:, :2]))))  # metres a pixel
        factor = max(1, int(self.grid.cell / size))
        rgb = _read_averaged(self.root / "satellite_map_new.png", factor)
        shrunk = pixel_from_map.copy()
        shrunk[:, 2] -= (factor - 1) / 2
        return AerialImage(rgb, shrunk / factor)

    @cached_property
    def _calibration(self) -> tuple[PinholeCamera, np.ndarray]:
        return read_calibration(self.root)

    def _list(self, split: str) -> list[list[str]]:
        return read_lines(self.root / SPLITS[split], f"the list of Oxford's {split}", _LISTS, fields=[4])

    def _headings(self, count: int) -> np.ndarray:
        name = {"training": "train", "validation": "val"}.get(self.split, "test")
        path = require(self.root / f"{name}_yaw.npy", "the headings", _LISTS)
        try:
            yaws = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DatasetError(f"expected the headings in {path}: {error}; get them again from {_LISTS}") from error
        if yaws.shape != (count,):
            raise DatasetError(
                f"expected {count} headings as the lists have lines, {path} has the shape {yaws.shape}: get lists and "
                f"headings together from {_LISTS}"
            )
        return yaws


def map_datum() -> LocalFrame:
    """Return the map frame of the data set: its datum is the middle control point."""
    longitude, latitude = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(*CONTROL_UTM[-1])
    return LocalFrame(float(latitude), float(longitude))


def utm_to_map(points: np.ndarray, datum: LocalFrame) -> np.ndarray:
    """Return eastings and northings (N, 2) as metres in the map frame (N, 2)."""
    longitude, latitude = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(points[:, 0], points[:, 1])
    return datum.to_enu(latitude, longitude)


def map_pixels(datum: LocalFrame) -> np.ndarray:
    """Return how the satellite map lies in the map frame: (2, 3), metres to (column, row)."""
    return fit_affine(utm_to_map(CONTROL_UTM, datum), CONTROL_PIXELS)


def read_calibration(folder: Path) -> tuple[PinholeCamera, np.ndarray]:
    """Read the SDK's calibration of the camera of the published images.

    Args:
        folder: with ``models`` and ``extrinsics`` of the SDK.

    Returns:
        The camera after the crop, and ``T_base_camera`` (4x4).

    Raises:
        DatasetError: a file is missing or wrong.

    """
    camera, T_vehicle_optical = read_camera(folder)
    left, top, width, height = CROP
    T_base_camera = read_mount(folder) @ T_vehicle_optical
    T_base_camera[2, 3] = CAMERA_HEIGHT
    return camera.cropped(left=left, top=top, width=width, height=height), T_base_camera


def read_camera(folder: Path) -> tuple[PinholeCamera, np.ndarray]:
    """Read the SDK's model of the centre camera: undistorted and whole, and its optical frame in the vehicle's (4x4).

    The SDK's frames are x forward, y right, z down; the vehicle's is where the stereo camera is.

    Raises:
        DatasetError: the file is missing or wrong.

    """
    path = folder / "models" / "stereo_narrow_left.txt"
    lines = read_lines(path, "the camera's model", SDK_SOURCE, fields=[4])
    if len(lines) != 5:
        raise DatasetError(f"expected 5 lines of 4 numbers in {path}, got {len(lines)} lines: get it from {SDK_SOURCE}")
    fx, fy, cx, cy = numbers(lines[0], path)
    try:
        camera = PinholeCamera(*CAMERA_SIZE, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    except ValueError as error:
        raise DatasetError(f"{path} describes no camera: {error}; get it from {SDK_SOURCE}") from error
    return camera, np.array([numbers(line, path) for line in lines[1:]])


def read_mount(folder: Path) -> np.ndarray:
    """Read where the SDK's vehicle frame is in base_link (4x4): under the inertial sensor, y left and z up.

    Raises:
        DatasetError: the file is missing or wrong.

    """
    path = folder / "extrinsics" / "ins.txt"
    T_vehicle_ins = transform(numbers(read_lines(path, "the inertial sensor's place", SDK_SOURCE, fields=[6])[0], path))
    return np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(T_vehicle_ins)


def transform(xyzrpy: np.ndarray) -> np.ndarray:
    """Return the SDK's six numbers x, y, z (m), roll, pitch, yaw (rad) as a rigid transform (4x4)."""
    T = np.eye(4)
    T[:3, :3] = _rotation(2, xyzrpy[5]) @ _rotation(1, xyzrpy[4]) @ _rotation(0, xyzrpy[3])
    T[:3, 3] = xyzrpy[:3]
    return T


def _rotation(axis: int, angle: float) -> np.ndarray:
    """Return the rotation (3x3) about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i] = R[j, j] = np.cos(angle)
    R[j, i], R[i, j] = np.sin(angle), -np.sin(angle)
    return R


def _read_averaged(path: Path, factor: int) -> np.ndarray:
    """Read a large picture as RGB (H, W, 3), averaged over squares of ``factor`` pixels; a strip at a time."""
    require(path, "the stitched satellite map", _MAP)
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                rows, cols = dataset.height // factor, dataset.width // factor
                averaged = np.empty((rows, cols, 3), np.uint8)
                for row in range(0, rows, _STRIP):
                    count = min(_STRIP, rows - row)
                    window = Window(0, row * factor, cols * factor, count * factor)
                    strip = dataset.read([1, 2, 3], window=window).transpose(1, 2, 0)
                    cv2.resize(
                        np.ascontiguousarray(strip),
                        (cols, count),
                        dst=averaged[row : row + count],
                        interpolation=cv2.INTER_AREA,
                    )
    except (RasterioError, OSError, IndexError) as error:
        raise DatasetError(
            f"expected the stitched satellite map at {path}: {error}; get it again from {_MAP}"
        ) from error
    return averaged
