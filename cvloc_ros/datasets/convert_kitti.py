"""A drive of KITTI raw ("synced+rectified") as messages that the node and `cvloc run` can replay.

::

    <date>/calib_cam_to_cam.txt, calib_imu_to_velo.txt, calib_velo_to_cam.txt
    <date>/<date>_drive_NNNN_sync/image_02/timestamps.txt, image_02/data/0000000000.png
    <date>/<date>_drive_NNNN_sync/oxts/timestamps.txt, oxts/data/0000000000.txt

Conventions:

- base_link is the ground under the GPS/IMU, with its axes; the camera is 1.65 m over the ground.
- Truth is the GPS/IMU's position and heading; the datum is the first record's.
- Odometry is what the GPS/IMU says of velocity and yaw rate, integrated; never its poses. It has drift of its own, but
  less than wheels have: results must say that odometry is "oxts velocities". Or it is a visual odometry's trajectory of
  the camera, carried over to base_link by the calibration: see `visual_odometry` for the formats.
- The fixes would be the truth again: an error is added to them, that of a receiver between houses.
- The Imu has no orientation, because its yaw is the truth's.
- Time stamps are taken as UTC. KITTI does not say of which time zone they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from cvloc_ros.datasets import convert, visual_odometry
from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.files import DatasetError, numbered, require
from cvloc_ros.datasets.kitti import CAMERA_HEIGHT, RAW_SOURCE, read_calibration, read_oxts
from cvloc_ros.geometry import SE2, LocalFrame

_LATITUDE, _LONGITUDE, _ALTITUDE, _YAW = 0, 1, 2, 5
_VELOCITY, _YAW_RATE = slice(8, 10), 22  # forward and leftward, over the ground; about the vertical
_ACCELERATIONS, _RATES = slice(11, 14), slice(17, 20)  # along and about the sensor's axes
_TWIST_SIGMA = np.array([0.05, 0.05, 0.003])  # m/s, m/s, rad/s: the data sheet's 0.05 km/h with room for the mounting
_DRIVEN, _AGREE = 10.0, 0.5  # metres from which on a visual odometry must agree with the velocities, to this share
_FIX_PERIOD = 1_000_000_000  # ns between fixes
_WANDER_TIME, _FIX_NOISE = 60.0, 0.5  # seconds in which the added error forgets itself; metres that are new each time


class KittiDrive:
    """One drive.

    Attributes:
        notes: what a user must know of the bag.
        skipped: records of the GPS/IMU that are no newer than the one before, and images without a time.

    """

    kind = "KITTI raw drive"
    latched = convert.LATCHED

    def __init__(
        self, path: str | Path, *, odometry: str | Path | None = None, gnss_error: float = 5.0, seed: int = 0
    ) -> None:
        """Read calibration, times and what the GPS/IMU has recorded.

        Args:
            path: the drive's folder, in that of its date.
            odometry: file with the trajectory of the left colour camera that a visual odometry has found; None for the
                GPS/IMU's velocities.
            gnss_error: standard deviation in metres, per axis, of the error that is added to the fixes; it wanders
                within a minute. 0 leaves them as recorded.
            seed: of that error.

        Raises:
            DatasetError: a file is missing or wrong.

        """
        self.path, self.gnss_error, self.seed = Path(path).resolve(), gnss_error, seed
        self.camera, self.T_base_camera = read_calibration(self.path.parent)
        self.sensor_height = CAMERA_HEIGHT - float(self.T_base_camera[2, 3])
        self.T_base_camera[2, 3] = CAMERA_HEIGHT
        self.notes = [
            f"odometry: visual odometry ({odometry}), the camera's motion carried over to base_link"
            if odometry is not None
            else "odometry: the GPS/IMU's velocities and yaw rate, integrated; better than wheels, but not its poses",
            f"fixes: recorded positions with an added error of {gnss_error:g} m (1 sigma per axis, wandering) once a "
            "second; as recorded they are the truth"
            if gnss_error
            else "fixes: as recorded, which is the truth itself: no result with them says anything of localization",
            "imu: without orientation, whose yaw is the truth's",
        ]
        self._images = self._numbered("image_02", "png", "the images of the left colour camera")
        records = self._numbered("oxts", "txt", "the records of the GPS/IMU")
        in_order = [0, *(1 + np.flatnonzero(np.diff(np.maximum.accumulate([t for t, _ in records])) > 0))]
        if len(in_order) < len(records):
            self.notes.append(f"{len(records) - len(in_order)} records left out: they are no newer than one before")
        self._stamps = [records[k][0] for k in in_order]
        self._records = np.array([read_oxts(records[k][1]) for k in in_order])
        self.start = min(self._stamps[0], self._images[0][0])
        self.end = max(self._stamps[-1], self._images[-1][0])
        first = self._records[0]
        self.datum = LocalFrame(first[_LATITUDE], first[_LONGITUDE], first[_ALTITUDE])
        self._visual = None if odometry is None else self._read_visual(odometry)

    def messages(self) -> Iterator[Message]:
        """Yield all messages in time order: what is latched first, and at one stamp the image last."""
        yield from self._latched()
        yield from heapq.merge(
            self._truth(), self._odometry(), self._imu(), self._fixes(), self._camera(), key=lambda message: message[0]
        )

    @cached_property
    def truth(self) -> list[tuple[int, SE2]]:
        """The stamp and ``T_map_base`` of every record."""
        places = self.datum.to_enu(self._records[:, _LATITUDE], self._records[:, _LONGITUDE])
        yaws = self._records[:, _YAW]
        poses = [SE2(float(x), float(y), float(yaw)) for (x, y), yaw in zip(places, yaws, strict=True)]
        return list(zip(self._stamps, poses, strict=True))

    @property
    def _twists(self) -> np.ndarray:
        """Forward and leftward m/s and yaw rate rad/s of every record (N, 3)."""
        return np.column_stack([self._records[:, _VELOCITY], self._records[:, _YAW_RATE]])

    def _latched(self) -> Iterator[Message]:
        T_base_imu = np.eye(4)
        T_base_imu[2, 3] = self.sensor_height
        mounts = [
            (convert.BASE, frame, T)
            for frame, T in (
                (convert.CAMERA_FRAME, self.T_base_camera),
                (convert.GNSS_FRAME, T_base_imu),
                (convert.IMU_FRAME, T_base_imu),
            )
        ]
        yield self.start, convert.TF_STATIC, build.transforms(self.start, *mounts)
        yield self.start, convert.DATUM, convert.datum_message(self.start, self.datum)

    def _truth(self) -> Iterator[Message]:
        for (stamp, pose), twist in zip(self.truth, self._twists, strict=True):
            yield stamp, convert.TRUTH, build.odometry(stamp, pose, frame_id="map", twist=twist)

    def _odometry(self) -> Iterator[Message]:
        return self._integrated() if self._visual is None else visual_odometry.odometry_messages(self._visual)

    def _integrated(self) -> Iterator[Message]:
        """Yield the odometry of the GPS/IMU's velocities."""
        pose, twists = SE2(), self._twists
        for k, (stamp, twist) in enumerate(zip(self._stamps, twists, strict=True)):
            if k:
                seconds = (stamp - self._stamps[k - 1]) * 1e-9
                forward, left, turn = (twists[k - 1] + twist) / 2 * seconds
                half = SE2(0.0, 0.0, turn / 2)
                pose = pose @ half @ SE2(forward, left) @ half
            yield from convert.odometry_messages(stamp, pose, twist=twist, sigma=_TWIST_SIGMA)

    def _read_visual(self, path: str | Path) -> list[tuple[int, SE2]]:
        """Return the stamp and ``T_odom_base`` of every image that a visual odometry has a pose of.

        Raises:
            DatasetError: the file is missing or wrong, or what it says is not this drive.

        """
        stamps, T_first_camera = visual_odometry.read_trajectory(path, [stamp for stamp, _ in self._images])
        T_odom_base = self.T_base_camera @ T_first_camera @ np.linalg.inv(self.T_base_camera)
        poses = [SE2.from_matrix(T) for T in T_odom_base]
        said = np.array([(last.inverse() @ pose).x for last, pose in zip(poses, poses[1:], strict=False)])
        speeds = np.interp(stamps, self._stamps, self._twists[:, 0])
        driven = (speeds[1:] + speeds[:-1]) / 2 * np.diff(stamps) * 1e-9
        whole = np.abs(driven).sum()
        if whole > _DRIVEN and np.abs(said - driven).sum() > _AGREE * whole:
            raise DatasetError(
                f"expected this drive's camera in metres, x right, y down, z forward, in {path}: from step to step it "
                f"goes {said.sum():.0f} m forward in all, where the GPS/IMU's velocities say {driven.sum():.0f} m, or "
                "not at the same times. Is it of this drive, without scale, of other axes, or inverted?"
            )
        return list(zip(stamps, poses, strict=True))

    def _imu(self) -> Iterator[Message]:
        for stamp, record in zip(self._stamps, self._records, strict=True):
            message = build.imu(
                stamp, frame_id=convert.IMU_FRAME, rates=record[_RATES], accelerations=record[_ACCELERATIONS]
            )
            yield stamp, convert.IMU, message

    def _fixes(self) -> Iterator[Message]:
        rng, noise = np.random.default_rng(self.seed), _FIX_NOISE if self.gnss_error else 0.0
        wander = rng.normal(0, self.gnss_error, 2)
        covariance = np.eye(2) * (self.gnss_error**2 + noise**2 or 0.1**2)
        last: int | None = None
        for (stamp, pose), altitude in zip(self.truth, self._records[:, _ALTITUDE], strict=True):
            if last is not None and stamp - last < _FIX_PERIOD - 50_000_000:
                continue
            keep = np.exp(-(stamp - last) * 1e-9 / _WANDER_TIME) if last is not None else 1.0
            wander = keep * wander + np.sqrt(1 - keep**2) * rng.normal(0, self.gnss_error, 2)
            error = wander + rng.normal(0, noise, 2)
            latitude, longitude = self.datum.to_wgs84(np.array([pose.x, pose.y]) + error)
            message = build.fix(
                stamp,
                latitude=latitude,
                longitude=longitude,
                altitude=altitude,
                covariance=covariance,
                frame_id=convert.GNSS_FRAME,
            )
            yield stamp, convert.FIX, message
            last = stamp

    def _camera(self) -> Iterator[Message]:
        for stamp, path in self._images:
            yield stamp, convert.CAMERA_INFO, build.camera_info(stamp, self.camera, frame_id=convert.CAMERA_FRAME)
            data = np.frombuffer(path.read_bytes(), np.uint8)
            yield stamp, convert.IMAGE, build.compressed_image(stamp, data, kind="png", frame_id=convert.CAMERA_FRAME)

    def _numbered(self, sensor: str, suffix: str, what: str) -> list[tuple[int, Path]]:
        """Return the stamp and path of a sensor's files, which are named by the line of their time."""
        folder = self.path / sensor
        paths = numbered(folder / "data", f".{suffix}")
        if not paths:
            raise DatasetError(
                f"expected {what} at {folder / 'data'}/0000000000.{suffix} and on: get them from {RAW_SOURCE}"
            )
        times = read_timestamps(folder / "timestamps.txt")
        last = int(paths[-1].stem)
        if last >= len(times):
            raise DatasetError(
                f"expected a time for {paths[-1]} in line {last + 1} of {folder / 'timestamps.txt'}, which has "
                f"{len(times)} lines: get it again from {RAW_SOURCE}"
            )
        return [(times[int(path.stem)], path) for path in paths]


def read_timestamps(path: Path) -> list[int]:
    """Read times as nanoseconds since 1970; ``2011-09-26 13:02:25.594360375``, one a line.

    Raises:
        DatasetError: the file is missing or wrong.

    """
    lines = require(path, "the times of a sensor", RAW_SOURCE).read_text(errors="replace").splitlines()
    try:
        return np.array([line.strip() for line in lines if line.strip()], "datetime64[ns]").astype(int).tolist()
    except ValueError as error:
        raise DatasetError(
            f"expected times like 2011-09-26 13:02:25.594360375 in {path}: {error}; get it again from {RAW_SOURCE}"
        ) from error
