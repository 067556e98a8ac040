"""A traversal of Oxford RobotCar as messages that the node and `cvloc run` can replay.

::

    TRAVERSAL/stereo/centre/<microseconds>.png      raw Bayer images (GBRG), 1280 x 960
    TRAVERSAL/vo/vo.csv                             source_timestamp destination_timestamp x y z roll pitch yaw
    TRAVERSAL/gps/gps.csv, gps/ins.csv              the receiver's positions; the inertial sensor's solution
    TRAVERSAL/rtk.csv                               the RTK solution, released on its own: the truth
    SDK/models/stereo_narrow_left.txt, stereo_narrow_left_distortion_lut.bin, SDK/extrinsics/ins.txt

Conventions:

- The data set's frames are x forward, y right, z down; its headings are clockwise from north.
- base_link is the ground under the inertial sensor, as in `oxford`; the camera is taken to be 1.65 m over the ground.
- A line of vo.csv is the pose of the camera at source_timestamp in the one before it; the poses are chained.
- The images are undistorted with the SDK's table, so that its pinhole model holds, and encoded as JPEG.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from cvloc_ros.datasets import convert, visual_odometry
from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.files import DatasetError, numbered, numbers, require
from cvloc_ros.datasets.image_decoding import RawLayout, decode_raw, is_whole_file
from cvloc_ros.datasets.oxford import CAMERA_HEIGHT, CAMERA_SIZE, SDK_SOURCE, read_camera, read_mount, transform
from cvloc_ros.geometry import SE2, LocalFrame

_SITE = "https://robotcar-dataset.robots.ox.ac.uk"
_FLIP = np.diag([1.0, -1.0, -1.0])  # y right, z down <-> y left, z up
_ENU_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
_JPEG_QUALITY = 95
_FAR = 1e5  # pixels: lenses send none of an image's so far
_ATTITUDE_SIGMA = np.radians(1.0)


class OxfordTraversal:
    """One traversal; `notes` say what a user must know of the bag."""

    kind = "Oxford RobotCar traversal"
    latched = convert.LATCHED

    def __init__(self, path: str | Path, *, sdk: str | Path | None = None) -> None:
        """Read calibration and tables.

        Args:
            path: the traversal's folder.
            sdk: folder with the SDK's ``models`` and ``extrinsics``; None for the one in which the traversal lies.

        Raises:
            DatasetError: a file is missing or wrong.

        """
        self.path = Path(path).resolve()
        self.sdk = Path(sdk) if sdk is not None else self.path.parent
        self.camera, T_vehicle_optical = read_camera(self.sdk)
        self.T_base_vehicle = read_mount(self.sdk)
        self.T_base_camera = self.T_base_vehicle @ T_vehicle_optical
        ins_height = CAMERA_HEIGHT - self.T_base_camera[2, 3]
        self.T_base_camera[2, 3] = CAMERA_HEIGHT
        self._T_base_ins = np.eye(4)
        self._T_base_ins[2, 3] = ins_height
        self._undistortion = read_undistortion(self.sdk)
        self.notes = [
            "odometry: the released visual odometry (vo.csv), chained",
            "the camera's height over the ground is not published: 1.65 m are assumed",
        ]
        images = numbered(self.path / "stereo" / "centre", ".png")
        if not images:
            raise DatasetError(
                f"expected images named by their microseconds, such as 1418381798086398.png, in "
                f"{self.path / 'stereo' / 'centre'}: get them from {_SITE}"
            )
        self._images = [(1000 * int(path.stem), path) for path in images]
        self.start, self.end = self._images[0][0], self._images[-1][0]
        self._steps = self._table("vo/vo.csv", "source_timestamp", "x", "y", "z", "roll", "pitch", "yaw")
        places = "timestamp", "latitude", "longitude", "altitude"
        self._positions = self._table("gps/gps.csv", *places, "latitude_sigma", "longitude_sigma")
        self._attitudes = self._table("gps/ins.csv", "timestamp", "roll", "pitch", "yaw", optional=True)
        self._rtk = self._table("rtk.csv", *places, "yaw", optional=True)
        if not len(self._attitudes):
            self.notes.append(f"no imu: there is no {self.path / 'gps/ins.csv'}")
        if not len(self._rtk):
            self.notes.append(f"no truth: there is no {self.path / 'rtk.csv'} (RTK ground truth, {_SITE})")
        latitude, longitude, altitude = (self._rtk if len(self._rtk) else self._positions)[0, 1:4]
        self.datum = LocalFrame(latitude, longitude, altitude)

    def messages(self) -> Iterator[Message]:
        """Yield all messages from the first to the last image in time order, what is latched first."""
        yield from self._latched()
        streams = self._truth(), self._odometry(), self._imu(), self._fixes(), self._camera()
        for message in heapq.merge(*streams, key=lambda message: message[0]):
            if self.start <= message[0] <= self.end:
                yield message

    @cached_property
    def truth(self) -> list[tuple[int, SE2]]:
        """The stamp and ``T_map_base`` of every RTK solution."""
        places = self.datum.to_enu(self._rtk[:, 1], self._rtk[:, 2]).reshape(-1, 2)
        yaws = np.pi / 2 - self._rtk[:, 4]
        return [
            (_nanoseconds(t), SE2(float(x), float(y), float(yaw)))
            for t, (x, y), yaw in zip(self._rtk[:, 0], places, yaws, strict=True)
        ]

    def _latched(self) -> Iterator[Message]:
        mounts = [
            (convert.BASE, frame, T)
            for frame, T in (
                (convert.CAMERA_FRAME, self.T_base_camera),
                (convert.GNSS_FRAME, self._T_base_ins),
                (convert.IMU_FRAME, self._T_base_ins),
            )
        ]
        yield self.start, convert.TF_STATIC, build.transforms(self.start, *mounts)
        yield self.start, convert.DATUM, convert.datum_message(self.start, self.datum)

    def _truth(self) -> Iterator[Message]:
        for stamp, pose in self.truth:
            yield stamp, convert.TRUTH, build.odometry(stamp, pose, frame_id="map")

    def _odometry(self) -> Iterator[Message]:
        track, T_odom_base = [], np.eye(4)
        for row in self._steps:
            T_odom_base = T_odom_base @ self.T_base_vehicle @ transform(row[1:]) @ np.linalg.inv(self.T_base_vehicle)
            track.append((_nanoseconds(row[0]), SE2.from_matrix(T_odom_base)))
        return visual_odometry.odometry_messages(track)

    def _imu(self) -> Iterator[Message]:
        for time, *angles in self._attitudes:
            # north, east, down -> east, north, up on the left; the sensor's own axes on the right
            R = _ENU_NED @ transform(np.array([0.0, 0.0, 0.0, *angles]))[:3, :3] @ _FLIP
            stamp = _nanoseconds(time)
            yield stamp, convert.IMU, build.imu(stamp, frame_id=convert.IMU_FRAME, orientation=R, sigma=_ATTITUDE_SIGMA)

    def _fixes(self) -> Iterator[Message]:
        for time, latitude, longitude, altitude, north, east in self._positions:
            stamp = _nanoseconds(time)
            message = build.fix(
                stamp,
                latitude=latitude,
                longitude=longitude,
                altitude=altitude,
                covariance=np.diag([east**2, north**2]) if east > 0 and north > 0 else None,
                frame_id=convert.GNSS_FRAME,
            )
            yield stamp, convert.FIX, message

    def _camera(self) -> Iterator[Message]:
        for stamp, path in self._images:
            yield stamp, convert.CAMERA_INFO, build.camera_info(stamp, self.camera, frame_id=convert.CAMERA_FRAME)
            rgb = cv2.remap(read_bayer(path), *self._undistortion, cv2.INTER_LINEAR)
            _, data = cv2.imencode(
                ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
            )
            yield stamp, convert.IMAGE, build.jpeg(stamp, data.ravel(), frame_id=convert.CAMERA_FRAME)

    def _table(self, name: str, *columns: str, optional: bool = False) -> np.ndarray:
        """Read columns of a CSV file in the order of their times, the first column's; (0, columns) if it may be absent.

        Raises:
            DatasetError: the file is missing or wrong.

        """
        path = self.path / name
        if optional and not path.exists():
            return np.empty((0, len(columns)))
        with require(path, "a table of the traversal", _SITE).open(newline="", errors="replace") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            try:
                missing = set(columns) - set(reader.fieldnames or [])
                if missing:
                    raise DatasetError(
                        f"expected the columns {', '.join(columns)} in {path}, {', '.join(sorted(missing))} missing: "
                        f"get it again from {_SITE}"
                    )
                rows = [numbers([row[column] for column in columns], path) for row in reader]
            except csv.Error as error:
                raise DatasetError(f"{path}, line {reader.line_num + 1}: {error}; get it again from {_SITE}") from error
        if not rows:
            raise DatasetError(f"expected rows below the header of {path}: get it again from {_SITE}")
        table = np.array(rows)
        return table[np.unique(table[:, 0], return_index=True)[1]]


def read_undistortion(sdk: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read where an undistorted image's pixels are in the camera's: columns and rows, each (H, W) float32.

    Raises:
        DatasetError: the table is missing or wrong.

    """
    path = require(
        sdk / "models" / "stereo_narrow_left_distortion_lut.bin", "the camera's table of undistortion", SDK_SOURCE
    )
    width, height = CAMERA_SIZE
    table = np.fromfile(path, np.float64)
    if table.size != 2 * width * height:
        raise DatasetError(
            f"expected 2 x {width} x {height} numbers in {path}, got {table.size}: get it again from {SDK_SOURCE}"
        )
    if not (np.abs(table) < _FAR).all():
        raise DatasetError(
            f"expected columns and rows of an image in {path}, got others: get it again from {SDK_SOURCE}"
        )
    columns, rows = table.reshape(2, height, width).astype(np.float32)
    return columns, rows


def read_bayer(path: Path) -> np.ndarray:
    """Read a raw image as RGB (H, W, 3).

    Raises:
        DatasetError: it does not decode, or has another size.

    """
    data = np.fromfile(path, np.uint8)
    try:
        raw = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if is_whole_file(data) else None
    except cv2.error:  # a header that claims more pixels than OpenCV takes
        raw = None
    width, height = CAMERA_SIZE
    if raw is None or raw.shape != (height, width):
        found = "it does not decode" if raw is None else f"it is {raw.shape}"
        raise DatasetError(
            f"expected {width} x {height} raw grey pixels in {path}, but {found}: get it again from {_SITE}"
        )
    return decode_raw(raw.ravel(), RawLayout(height, width, width, "bayer_gbrg8"))


def _nanoseconds(microseconds: float) -> int:
    return int(microseconds) * 1000
