"""KITTI raw with satellite pictures, in the layout and with the splits of HighlyAccurate (CVPR 2022).

::

    ROOT/raw_data/<date>/calib_cam_to_cam.txt, calib_imu_to_velo.txt, calib_velo_to_cam.txt
    ROOT/raw_data/<date>/<date>_drive_NNNN_sync/image_02/data/0000000000.png
    ROOT/raw_data/<date>/<date>_drive_NNNN_sync/oxts/data/0000000000.txt
    ROOT/satmap/<date>/<date>_drive_NNNN_sync/0000000000.png     1280 x 1280, zoom 18 @2x, around oxts' position
    SPLITS/train_files.txt, test1_files.txt, test2_files.txt     SPLITS is ROOT/dataLoader unless given

Conventions:

- oxts' yaw is counter-clockwise from east, in radians (dataformat.txt of the raw data): our own.
- The map's origin is where oxts is; so is the satellite picture's middle.
- base_link is the ground under the left colour camera with the axes of the GPS/IMU. The literature scores the camera's
  position too, but takes it 1.08 m ahead and 0.26 m to the right of the GPS/IMU on all days; here the day's calibration
  says where it is (1.08 and 0.25 m on 2011_09_26).
- A test line ends in sx, sy and th, each in [-1, 1]. In a picture with the *prior's* heading to the right, the vehicle
  is at R(10° th) (20 sx, 20 sy) metres to the right and up, and heads 10° th counter-clockwise: the prior is off by up
  to 20 m along and across the true heading, and by 10 degrees.
- 359 frames are in the list of ``same`` twice or three times, each time with another prior: all count, as in the
  literature. Its frames are neighbours of training frames; drives of ``cross`` are not in the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.aerial_image import AerialImage
from cvloc_ros.datasets.files import DatasetError, numbers, place, read_lines, read_rgb, require
from cvloc_ros.datasets.item import PATCH_GRID, Item, box_prior, digest_of
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, PinholeCamera, is_rotation
from cvloc_ros.localization.types import Frame

SPLITS = {"train": "train_files.txt", "same": "test1_files.txt", "cross": "test2_files.txt"}
RADIUS, YAW = 20.0, np.radians(10.0)  # of the prior's error
CAMERA_HEIGHT = 1.65  # metres over the ground: the data set's paper (Geiger et al., 2013)
ZOOM, SCALE = 18, 2

RAW_SOURCE = "https://www.cvlibs.net/datasets/kitti/raw_data.php (synced+rectified data and calibration of the date)"
_SATMAP = "the form at https://github.com/YujiaoShi/HighlyAccurate (satellite images may not be redistributed)"
_LISTS = "the folder dataLoader of https://github.com/YujiaoShi/HighlyAccurate"
_OXTS_FIELDS = 30
_ROTATIONS = {"R", "R_rect_00"}  # lines of the calibration


class Kitti:
    """The frames of one of the literature's splits: ``train``, ``same`` (test 1) or ``cross`` (test 2)."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        splits: str | Path | None = None,
        grid: GroundGrid = PATCH_GRID,
        seed: int = 0,
    ) -> None:
        """Read the split's list.

        Args:
            root: folder with ``raw_data`` and ``satmap``.
            split: one of `SPLITS`.
            splits: folder with the lists.
            grid: of the patches.
            seed: of the priors of the training frames; the tests' lists say theirs.

        Raises:
            DatasetError: the list is missing or wrong.
            ValueError: there is no such split.

        """
        if split not in SPLITS:
            raise ValueError(f"expected a KITTI split of {', '.join(SPLITS)}, got {split!r}")
        self.root, self.grid, self.seed = Path(root), grid, seed
        path = (Path(splits) if splits else self.root / "dataLoader") / SPLITS[split]
        fields = 1 if split == "train" else 4
        lines = read_lines(path, f"the list of KITTI's split '{split}'", _LISTS, fields=[fields])
        self.names = [line[0] for line in lines]
        shifts = numbers([word for line in lines for word in line[1:]], path)
        self.shifts = None if split == "train" else shifts.reshape(-1, 3)
        """The numbers sx, sy and th of the lines (N, 3), see `prior_to_vehicle`; None for the training frames."""
        self._calibration = cache(lambda date: read_calibration(self.root / "raw_data" / date))

    @property
    def digest(self) -> str:
        """Is another one where the list is another."""
        return digest_of(self.names, self.shifts)

    def __len__(self) -> int:
        """Return how many frames the split has."""
        return len(self.names)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is oxts' position.

        Raises:
            DatasetError: a file is missing or wrong.
            IndexError: there is no such item.

        """
        name = self.names[index]
        drive, number = Path(name).parent, Path(name).name
        oxts = read_oxts(self._oxts(index))
        camera, T_imu_camera = self._calibration(drive.parts[0])
        path = self.root / "raw_data" / drive / "image_02" / "data" / number
        image = read_rgb(path, "a frame of the left colour camera", RAW_SOURCE)
        if image.shape[:2] != (camera.height, camera.width):
            raise DatasetError(
                f"expected {camera.width} x {camera.height} pixels as the date's calibration says, but {path} has "
                f"{image.shape[1]} x {image.shape[0]}: use the rectified images (_sync) as they are published"
            )
        T_base_camera = T_imu_camera.copy()
        T_base_camera[:3, 3] = 0.0, 0.0, CAMERA_HEIGHT
        truth = SE2(0.0, 0.0, float(oxts[5])) @ SE2(T_imu_camera[0, 3], T_imu_camera[1, 3])
        shift = self._draw_shift(index) if self.shifts is None else self.shifts[index]
        T_map_prior = truth @ prior_to_vehicle(*shift).inverse()
        path = self.root / "satmap" / drive / number
        satellite = read_rgb(path, "the satellite picture of a frame", _SATMAP)
        aerial = AerialImage.web_mercator(satellite, place(oxts[0], oxts[1], self._oxts(index)), zoom=ZOOM, scale=SCALE)
        stamp = int(Path(number).stem) * 100_000_000  # 10 frames a second
        return Item(
            name=name,
            frame=Frame(stamp, image, camera, T_base_camera),
            prior=box_prior(T_map_prior, radius=RADIUS, yaw=YAW),
            truth=truth,
            patch=aerial.patch(T_map_prior, self.grid),
        )

    def places(self) -> np.ndarray:
        """Read where all frames are: latitude and longitude (N, 2), degrees."""
        return np.array([read_oxts(self._oxts(index))[:2] for index in range(len(self))])

    def _oxts(self, index: int) -> Path:
        name = Path(self.names[index])
        return self.root / "raw_data" / name.parent / "oxts" / "data" / f"{name.stem}.txt"

    def _draw_shift(self, index: int) -> np.ndarray:
        return np.random.default_rng([self.seed, range(len(self))[index]]).uniform(-1, 1, 3)


def far_from(frames: Kitti, others: Kitti, distance: float) -> list[int]:
    """Return the indices of the frames that are more than ``distance`` metres from all of the others.

    Raises:
        DatasetError: the GPS/IMU record of a frame of either is missing or wrong.

    """
    places, taken = frames.places(), others.places()
    centre = LocalFrame(*places.mean(axis=0))
    here, there = centre.to_enu(*places.T), centre.to_enu(*taken.T)
    nearest = [np.square(there - point).sum(axis=1).min() for point in here]
    return np.flatnonzero(np.array(nearest) > distance**2).tolist()


def prior_to_vehicle(sx: float, sy: float, th: float) -> SE2:
    """Return the vehicle's true pose in the frame of the prior from the three numbers of a test line."""
    turn = SE2(0.0, 0.0, float(YAW * th))
    return turn @ SE2(float(RADIUS * sx), float(RADIUS * sy))


def read_oxts(path: Path) -> np.ndarray:
    """Read a GPS/IMU record: its 30 numbers, of which 0 and 1 are latitude and longitude, 3 to 5 roll, pitch, yaw.

    Raises:
        DatasetError: the file is missing or wrong.

    """
    words = require(path, "the GPS/IMU record of a frame", RAW_SOURCE).read_text(errors="replace").split()
    if len(words) != _OXTS_FIELDS:
        raise DatasetError(
            f"expected the {_OXTS_FIELDS} numbers of oxts in {path}, got {len(words)}: get it from {RAW_SOURCE}"
        )
    return numbers(words, path)


def read_calibration(folder: Path) -> tuple[PinholeCamera, np.ndarray]:
    """Read a date's calibration.

    Args:
        folder: with ``calib_cam_to_cam.txt``, ``calib_imu_to_velo.txt`` and ``calib_velo_to_cam.txt``.

    Returns:
        The rectified left colour camera (number 2), and ``T_imu_camera`` (4x4): its optical frame in that of the
        GPS/IMU (x forward, y left, z up).

    Raises:
        DatasetError: a file is missing or wrong.

    """
    cameras, imu, lidar = (
        _read_numbers(folder / f"calib_{name}.txt", keys)
        for name, keys in (
            ("cam_to_cam", {"S_rect_02": 2, "R_rect_00": 9, "P_rect_02": 12}),
            ("imu_to_velo", {"R": 9, "T": 3}),
            ("velo_to_cam", {"R": 9, "T": 3}),
        )
    )
    P = cameras["P_rect_02"].reshape(3, 4)
    K = P[:, :3]
    width, height = (int(n) for n in cameras["S_rect_02"])
    try:
        camera = PinholeCamera(width, height, K)
    except ValueError as error:
        raise DatasetError(
            f"{folder / 'calib_cam_to_cam.txt'} describes no camera: {error}: get it from {RAW_SOURCE}"
        ) from error
    # the point in the GPS/IMU's frame -> lidar -> camera 0 -> rectified camera 0 -> rectified camera 2
    T_camera_imu = (
        _rigid(np.eye(3), np.linalg.inv(K) @ P[:, 3])
        @ _rigid(cameras["R_rect_00"], np.zeros(3))
        @ _rigid(lidar["R"], lidar["T"])
        @ _rigid(imu["R"], imu["T"])
    )
    return camera, np.linalg.inv(T_camera_imu)


def _rigid(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R.reshape(3, 3), t
    return T


def _read_numbers(path: Path, keys: dict[str, int]) -> dict[str, np.ndarray]:
    """Read lines "key: numbers" of a calibration file; ``keys`` says how many numbers each wanted one has."""
    text = require(path, "a calibration file", RAW_SOURCE).read_text(errors="replace")
    found = {key: line.split() for key, _, line in (line.partition(":") for line in text.splitlines())}
    for key, count in keys.items():
        if len(found.get(key, [])) != count:
            raise DatasetError(
                f"expected a line '{key}:' with {count} numbers in {path}, got {len(found.get(key, []))} numbers: get "
                f"it again from {RAW_SOURCE}"
            )
    read = {key: numbers(found[key], path) for key in keys}
    for key in _ROTATIONS & keys.keys():
        if not is_rotation(read[key].reshape(3, 3)):
            raise DatasetError(
                f"expected a rotation, row by row, in the line '{key}:' of {path}, got {' '.join(found[key])}: get it "
                f"again from {RAW_SOURCE}"
            )
    return read
