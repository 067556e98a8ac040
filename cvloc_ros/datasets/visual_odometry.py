"""The trajectory that a visual odometry has written of a drive, in either of the usual formats, and its messages.

::

    KITTI    r11 r12 r13 x r21 r22 r23 y r31 r32 r33 z      a line for each of the drive's images, in order
    TUM      time x y z qx qy qz qw                         a line for an image that has a pose

A pose is that of the camera (x right, y down, z forward) in a fixed frame, the first image's as a rule, in metres. A
time is seconds since 1970 or since the drive's first image. What follows a # is a comment.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cvloc_ros.datasets import convert
from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.files import DatasetError, require
from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import rotation_matrix
from cvloc_ros.geometry import SE2, is_rotation

_KITTI, _TUM = 12, 8  # numbers a line
_FORMATS = f"a line of {_KITTI} numbers for each image (KITTI) or of {_TUM}, the time first, for each pose (TUM)"
_SINCE_1970 = 1e8  # seconds: lower times count from the first image
_NEAR = 0.02  # seconds between a pose and its image: a drive's cameras do not have quite the same times
_TWIST_SIGMA = np.array([0.15, 0.1, 0.01])  # m/s, m/s, rad/s


def read_trajectory(path: str | Path, stamps: list[int]) -> tuple[list[int], np.ndarray]:
    """Read the camera's poses.

    Args:
        path: a file in the format of KITTI or TUM.
        stamps: of the drive's images, nanoseconds, in order.

    Returns:
        The stamps of the images that have a pose, and these poses (N, 4, 4) in the frame of the first of them.

    Raises:
        DatasetError: the file is missing or wrong.

    """
    path = Path(path)
    rows = _read_rows(path)
    if rows.shape[1] == _KITTI:
        if len(rows) != len(stamps):
            raise DatasetError(
                f"expected a line for each of the drive's {len(stamps)} images in {path}, got {len(rows)} lines: where "
                "images have no pose the format must be TUM's, with times; if it is of the first images, as of "
                "most of KITTI odometry's sequences, the others can be taken out of image_02/data instead"
            )
        T = np.tile(np.eye(4), (len(rows), 1, 1))
        T[:, :3] = rows.reshape(-1, 3, 4)
    else:
        stamps = _of_images(rows[:, 0], stamps, path)
        T = np.array([_pose(row[1:], f"pose {number} of {path}") for number, row in enumerate(rows, start=1)])
    R = T[:, :3, :3]
    wrong = np.flatnonzero(~is_rotation(R))
    if len(wrong):
        held = " ".join(f"{value:.4g}" for value in R[wrong[0]].ravel())
        raise DatasetError(
            f"expected a rotation and a place, r11 r12 r13 x r21 …, in pose {wrong[0] + 1} of {path}, but the "
            f"rotation is {held}: write [R | t] row by row"
        )
    return stamps, np.linalg.inv(T[0]) @ T


def odometry_messages(track: Iterable[tuple[int, SE2]]) -> Iterator[Message]:
    """Yield Odometry and TF of poses ``T_odom_base``, with the twist of the step that led to each."""
    last: tuple[int, SE2] | None = None
    for stamp, pose in track:
        twist = np.zeros(3)
        if last is not None:
            twist = (last[1].inverse() @ pose).vector() / ((stamp - last[0]) * 1e-9)
        yield from convert.odometry_messages(stamp, pose, twist=twist, sigma=_TWIST_SIGMA)
        last = stamp, pose


def _read_rows(path: Path) -> np.ndarray:
    """Read the numbers (N, 12 or 8), N at least 2."""
    require(path, "a visual odometry's trajectory", f"your visual odometry, as {_FORMATS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an empty file
        try:
            rows = np.loadtxt(path, ndmin=2, encoding="utf-8")
        except ValueError as error:
            raise DatasetError(f"expected {_FORMATS} in {path}, which does not read: {error}") from error
    if len(rows) < 2 or rows.shape[1] not in (_KITTI, _TUM):
        held = f"{len(rows)} lines" + (f" of {rows.shape[1]} numbers" if len(rows) else "")
        raise DatasetError(f"expected {_FORMATS}, two or more, in {path}, got {held}")
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise DatasetError(
            f"expected finite numbers in {path}, but pose {wrong[0] + 1} has {rows[wrong[0]].tolist()}: leave such a "
            "pose out, in TUM's format"
        )
    return rows


def _of_images(seconds: np.ndarray, stamps: list[int], path: Path) -> list[int]:
    """Return the stamps of the images that were taken at times of a trajectory: those are rounded."""
    images = np.array([stamp - stamps[0] for stamp in stamps]) * 1e-9
    times = seconds - (stamps[0] * 1e-9 if seconds[0] > _SINCE_1970 else 0.0)
    nearest = [int(np.abs(images - time).argmin()) for time in times]
    gaps = np.abs(images[nearest] - times)
    wrong = np.flatnonzero(gaps > _NEAR)
    if len(wrong):
        raise DatasetError(
            f"expected times of the drive's images in {path}, seconds since 1970 ({stamps[0] * 1e-9:.3f} to "
            f"{stamps[-1] * 1e-9:.3f}, as image_02/timestamps.txt is in UTC) or since the first image, but pose "
            f"{wrong[0] + 1} is of {seconds[wrong[0]]:.3f}, {gaps[wrong[0]]:.3f} s from the nearest image"
        )
    repeated = np.flatnonzero(np.diff(nearest) <= 0)
    if len(repeated):
        raise DatasetError(
            f"expected one pose an image, in the order of time, in {path}, but pose {repeated[0] + 2} of "
            f"{seconds[repeated[0] + 1]:.3f} s is of no later image than the one before: sort the lines"
        )
    return [stamps[k] for k in nearest]


def _pose(row: np.ndarray, where: str) -> np.ndarray:
    """Return x y z qx qy qz qw as a rigid transform (4x4)."""
    T = np.eye(4)
    T[:3, 3] = row[:3]
    x, y, z, w = row[3:]
    try:
        T[:3, :3] = rotation_matrix(build.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w))
    except ConversionError as error:
        raise DatasetError(f"{where}: {error}; a line is: time x y z qx qy qz qw") from error
    return T
