"""Ford multi-AV with satellite pictures, in the layout and with the splits of HighlyAccurate (CVPR 2022).

::

    ROOT/<date>/V2/LogN/<date>-V2-LogN-FL/<timestamp>.png             1656 x 860, rectified, front left camera
    ROOT/<date>/V2/LogN/SatelliteMaps_18/<s_lat>_<s_lon>.png          1280 x 1280, zoom 18 @2x, around (s_lat, s_lon)
    ROOT/<date>/V2/LogN/grd_sat_quaternion_latlon.txt                 name q0 q1 q2 q3 g_lat g_lon s_lat s_lon
    ROOT/<date>/V2/LogN/grd_sat_quaternion_latlon_test.txt            the same, shift_u shift_v theta
    ROOT/Calibration-V2/V2/cameraFrontLeft_body.yaml, cameraFrontLeftIntrinsics.yaml

Conventions:

- The quaternion (q0 is its real part) turns the body (x forward, y right, z down) into the world (x north, y east,
  z down): its yaw is clockwise from north. The body's origin is the middle of the rear axle (avdata.ford.com).
- The map's origin is the satellite picture's middle. base_link is the ground under the body's origin.
- A test line's shift_u, shift_v and theta are in [-1, 1] and of the *opposite* sign to KITTI's: in a picture with the
  prior's heading up, the vehicle is at R(10° theta) (-20 shift_u, 20 shift_v) metres to the right and up. So shift_u
  is lateral and shift_v longitudinal.

The truth is known to be metres off the pictures in places (github.com/Ford/AVData, issue 37).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.aerial_image import AerialImage
from cvloc_ros.datasets.files import DatasetError, numbers, place, read_lines, read_rgb, read_yaml
from cvloc_ros.datasets.item import PATCH_GRID, Item, box_prior, digest_of
from cvloc_ros.geometry import SE2, GroundGrid, PinholeCamera
from cvloc_ros.localization.types import Frame

RADIUS, YAW = 20.0, np.radians(10.0)  # of the prior's error
ZOOM, SCALE = 18, 2
SIZE = (1656, 860)  # pixels, width and height
AXLE_HEIGHT = 0.33  # metres: a wheel's radius (235/50 R17)

# Of each log the recording for training, the ranges of its lines that are used, and the recording for the test.
LOGS: dict[int, tuple[str, tuple[tuple[int, int], ...], str]] = {
    1: ("2017-10-26", ((4500, 8500),), "2017-08-04"),
    2: ("2017-10-26", ((0, 3150), (6000, 9200), (11000, 15000)), "2017-08-04"),
    3: ("2017-08-04", ((0, 1500),), "2017-08-04"),
    4: ("2017-10-26", ((0, 7466),), "2017-08-04"),
    5: ("2017-08-04", ((0, 3200), (5300, 9900), (10500, 11130)), "2017-10-26"),
    6: ("2017-08-04", ((1000, 3500), (4500, 5000), (7000, 7857)), "2017-10-26"),
}
PARTS = ("train", "test")

_DATA = "https://avdata.ford.com"
_LISTS = "the links at https://github.com/YujiaoShi/HighlyAccurate (satellite images may not be redistributed)"


class Ford:
    """The training or test frames of one of the six logs."""

    def __init__(
        self, root: str | Path, log: int, part: str = "test", *, grid: GroundGrid = PATCH_GRID, seed: int = 0
    ) -> None:
        """Read the log's list.

        Args:
            root: folder with the dates and ``Calibration-V2``.
            log: 1 to 6.
            part: one of `PARTS`.
            grid: of the patches.
            seed: of the priors of the training frames; the test's list says theirs.

        Raises:
            DatasetError: the list is missing or wrong.
            ValueError: there is no such log or part.

        """
        if log not in LOGS or part not in PARTS:
            raise ValueError(
                f"expected a log of 1 to {len(LOGS)} and a part of {', '.join(PARTS)}, got {log}, {part!r}"
            )
        self.root, self.grid, self.seed = Path(root), grid, seed
        train_date, ranges, test_date = LOGS[log]
        date = train_date if part == "train" else test_date
        self.folder = self.root / date / "V2" / f"Log{log}"
        self._images = self.folder / f"{date}-V2-Log{log}-FL"
        test = part == "test"
        path = self._list = self.folder / f"grd_sat_quaternion_latlon{'_test' if test else ''}.txt"
        lines = read_lines(path, f"the list of Ford's log {log}", _LISTS, fields=[12 if test else 9])
        if not test:
            if len(lines) < ranges[-1][1]:
                raise DatasetError(
                    f"expected {ranges[-1][1]} lines or more in {path}, got {len(lines)}: get it again from {_LISTS}"
                )
            lines = [line for begin, end in ranges for line in lines[begin:end]]
        self.names = [Path(line[0]).stem + ".png" for line in lines]  # the lists say .txt in places
        self._satellites = [f"{line[7]}_{line[8]}.png" for line in lines]
        self._values = numbers([word for line in lines for word in line[1:]], path).reshape(len(lines), -1)

    @property
    def digest(self) -> str:
        """Is another one where the list is another."""
        return digest_of(self.names, self._satellites, self._values)

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.names)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is the satellite picture's middle.

        Raises:
            DatasetError: a file is missing or wrong.
            IndexError: there is no such item.

        """
        name = self.names[index]
        values = self._values[index]
        camera, T_base_camera = self._calibration
        image = read_rgb(self._images / name, "a frame of the front left camera", _DATA)
        if image.shape[:2] != SIZE[::-1]:
            raise DatasetError(
                f"expected {SIZE[0]} x {SIZE[1]} pixels, but {self._images / name} has {image.shape[1]} x "
                f"{image.shape[0]}: use the images as they are published"
            )
        centre = place(values[6], values[7], self._list)
        east, north = centre.to_enu(values[4], values[5])
        truth = SE2(float(east), float(north), np.pi / 2 - yaw_of(values[:4]))
        shift = values[8:11] if len(values) > 8 else self._draw_shift(index)
        T_map_prior = truth @ prior_to_vehicle(*shift).inverse()
        path = self.folder / f"SatelliteMaps_{ZOOM}" / self._satellites[index]
        aerial = AerialImage.web_mercator(
            read_rgb(path, "the satellite picture of a frame", _LISTS), centre, zoom=ZOOM, scale=SCALE
        )
        return Item(
            name=name,
            frame=Frame(index % len(self), image, camera, T_base_camera),
            prior=box_prior(T_map_prior, radius=RADIUS, yaw=YAW),
            truth=truth,
            patch=aerial.patch(T_map_prior, self.grid),
        )

    @cached_property
    def _calibration(self) -> tuple[PinholeCamera, np.ndarray]:
        return read_calibration(self.root / "Calibration-V2" / "V2")

    def _draw_shift(self, index: int) -> np.ndarray:
        return np.random.default_rng([self.seed, range(len(self))[index]]).uniform(-1, 1, 3)


def prior_to_vehicle(shift_u: float, shift_v: float, theta: float) -> SE2:
    """Return the vehicle's true pose in the frame of the prior from the three numbers of a test line."""
    turn = SE2(0.0, 0.0, float(YAW * theta))
    return turn @ SE2(float(RADIUS * shift_v), float(RADIUS * shift_u))


def yaw_of(quaternion: np.ndarray) -> float:
    """Return the rotation about z, in radians, of a quaternion (real part first)."""
    w, x, y, z = quaternion
    return float(np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z))


def read_calibration(folder: Path) -> tuple[PinholeCamera, np.ndarray]:
    """Read the front left camera's calibration: intrinsics, and ``T_base_camera`` (4x4).

    Raises:
        DatasetError: a file is missing or wrong.

    """
    path = folder / "cameraFrontLeftIntrinsics.yaml"
    K = numbers(read_yaml(path, "the camera's intrinsics", _DATA).get("K", []), path)
    try:
        camera = PinholeCamera(*SIZE, K.reshape(3, 3))
    except ValueError as error:
        raise DatasetError(f"expected the 9 numbers of a camera's K in {path}: {error}; get it from {_DATA}") from error
    path = folder / "cameraFrontLeft_body.yaml"
    content = read_yaml(path, "the camera's place on the body", _DATA)
    try:
        transform = content["transform"]
        rotation = numbers([transform["rotation"][k] for k in "wxyz"], path)
        translation = numbers([transform["translation"][k] for k in "xyz"], path)
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"expected transform with rotation (x, y, z, w) and translation (x, y, z) in {path}, {error} is missing: "
            f"get it from {_DATA}"
        ) from error
    if not rotation.any():
        raise DatasetError(f"expected a rotation in {path}, got the quaternion 0 0 0 0: get it from {_DATA}")
    base_from_body = np.diag([1.0, -1.0, -1.0])  # x forward, y right, z down to x forward, y left, z up
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = base_from_body @ _rotation(rotation)
    T_base_camera[:3, 3] = base_from_body @ translation + [0, 0, AXLE_HEIGHT]
    return camera, T_base_camera


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation matrix of a quaternion (real part first)."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
