"""Recordings of other formats as messages for a rosbag2: what it is that a path holds, and what all of them give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.geometry import LocalFrame

IMAGE, CAMERA_INFO = "/camera/image/compressed", "/camera/camera_info"
FIX, ODOM, IMU = "/gnss/fix", "/odom", "/imu"
TF, TF_STATIC = "/tf", "/tf_static"
TRUTH, DATUM = "/ground_truth", "/datum"
LATCHED = frozenset({TF_STATIC, DATUM})
BASE, CAMERA_FRAME, GNSS_FRAME, IMU_FRAME = "base_link", "camera_optical", "gnss", "imu"


class Recording(Protocol):
    """A recording that can be written with `bag_writing.write_bag`."""

    kind: str
    """What it is, for people."""
    latched: frozenset[str]
    """Topics to be latched."""
    start: int
    """When its first message is, nanoseconds."""
    end: int
    """When its last message is, nanoseconds."""
    notes: list[str]
    """What a user must know of the bag; complete when all messages have been read."""

    def messages(self) -> Iterator[Message]:
        """Yield all messages in time order; `DatasetError` or `BagError` where a file is missing or wrong."""
        ...


def datum_message(stamp: int, place: LocalFrame) -> Any:
    """Return the message that says where the map of the truth is."""
    return build.fix(
        stamp,
        latitude=place.latitude,
        longitude=place.longitude,
        altitude=place.altitude,
        covariance=None,
        frame_id="map",
    )


def open_recording(
    path: str | Path, *, gnss_error: float = 5.0, seed: int = 0, sdk: str | Path | None = None
) -> Recording:
    """Open what can be converted: a KITTI raw drive, an Oxford RobotCar traversal or a ROS 1 bag.

    Args:
        path: a drive's or traversal's folder, or a .bag file.
        gnss_error: KITTI: metres of error added to the fixes; see `convert_kitti.KittiDrive`.
        seed: of that error.
        sdk: Oxford: the RobotCar SDK's folder, with ``models`` and ``extrinsics``.

    Raises:
        DatasetError: there is nothing of these, or a file of it is missing or wrong.
        BagError: the ROS 1 bag cannot be read.

    """
    path = Path(path)
    opener = _opener(path, gnss_error=gnss_error, seed=seed, sdk=sdk)
    if opener is None:
        held = "nothing is there" if not path.exists() else "it is none of them"
        if (path / "metadata.yaml").is_file() or path.suffix in (".mcap", ".db3"):
            held = "it is a rosbag2 already: use it as it is"
        elif path.is_dir() and any(path.glob("*_sync")):
            held = "it is a date of KITTI: name one of its drives, a folder ending in _sync"
        raise DatasetError(
            f"expected a KITTI raw drive (a folder with oxts/ and image_02/), an Oxford RobotCar traversal (a folder "
            f"with stereo/centre/, vo/ and gps/) or a ROS 1 bag (a .bag file) at {path}, but {held}"
        )
    return opener()


def is_drive(path: str | Path) -> bool:
    """Whether a folder is a KITTI raw drive or an Oxford RobotCar traversal, complete or not."""
    return Path(path).is_dir() and _opener(Path(path), gnss_error=0.0, seed=0, sdk=None) is not None


def _opener(path: Path, *, gnss_error: float, seed: int, sdk: str | Path | None) -> Callable[[], Recording] | None:
    from cvloc_ros.datasets.convert_kitti import KittiDrive
    from cvloc_ros.datasets.convert_oxford import OxfordTraversal
    from cvloc_ros.datasets.convert_ros1 import Ros1Bag

    if path.is_file() and path.suffix == ".bag":
        return lambda: Ros1Bag(path)
    if any((path / name).is_dir() for name in ("oxts", "image_02")):
        return lambda: KittiDrive(path, gnss_error=gnss_error, seed=seed)
    if any((path / name).is_dir() for name in ("stereo", "vo", "gps")):
        return lambda: OxfordTraversal(path, sdk=sdk)
    return None
