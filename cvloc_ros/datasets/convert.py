"""Recordings of other formats as messages for a rosbag2: what it is that a path holds, and what all of them give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.bag_writing import Message
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.geometry import SE2, LocalFrame

if TYPE_CHECKING:
    from cvloc_ros.datasets.convert_kitti import KittiDrive
    from cvloc_ros.datasets.convert_oxford import OxfordTraversal
    from cvloc_ros.datasets.convert_ros1 import Ros1Bag

IMAGE, CAMERA_INFO = "/camera/image/compressed", "/camera/camera_info"
FIX, ODOM, IMU = "/gnss/fix", "/odom", "/imu"
TF, TF_STATIC = "/tf", "/tf_static"
TRUTH, DATUM = "/ground_truth", "/datum"
LATCHED = frozenset({TF_STATIC, DATUM})
BASE, CAMERA_FRAME, GNSS_FRAME, IMU_FRAME = "base_link", "camera_optical", "gnss", "imu"
NO_DRIVE = "it is a date of KITTI: name one of its drives, a folder ending in _sync"


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


def odometry_messages(stamp: int, pose: SE2, *, twist: np.ndarray, sigma: np.ndarray) -> Iterator[Message]:
    """Yield Odometry and TF of a pose ``T_odom_base``.

    Args:
        stamp: nanoseconds.
        pose: of base_link in odom.
        twist: (3,) forward and leftward m/s and yaw rate rad/s.
        sigma: (3,) standard deviations of these.

    """
    covariance = np.diag(sigma**2)
    yield stamp, ODOM, build.odometry(stamp, pose, frame_id="odom", twist=twist, twist_covariance=covariance)
    yield stamp, TF, build.transforms(stamp, ("odom", BASE, pose.matrix()))


def open_recording(
    path: str | Path,
    *,
    odometry: str | Path | None = None,
    gnss_error: float | None = None,
    seed: int | None = None,
    sdk: str | Path | None = None,
) -> Recording:
    """Open what can be converted: a KITTI raw drive, an Oxford RobotCar traversal or a ROS 1 bag.

    Args:
        path: a drive's or traversal's folder, or a .bag file.
        odometry: KITTI: a visual odometry's trajectory; see `convert_kitti.KittiDrive`.
        gnss_error: KITTI: metres of error added to the fixes; see `convert_kitti.KittiDrive`.
        seed: KITTI: of that error.
        sdk: Oxford: the RobotCar SDK's folder, with ``models`` and ``extrinsics``.

    Raises:
        DatasetError: there is nothing of these, a file of it is missing or wrong, or an option is not for it.
        BagError: the ROS 1 bag cannot be read.

    """
    from cvloc_ros.datasets.convert_kitti import KittiDrive
    from cvloc_ros.datasets.convert_oxford import OxfordTraversal

    path = Path(path)
    kind = _kind(path)
    if kind is None:
        held = "nothing is there" if not path.exists() else "it is none of them"
        if (path / "metadata.yaml").is_file() or path.suffix in (".mcap", ".db3"):
            held = "it is a rosbag2 already: use it as it is"
        elif is_date(path):
            held = NO_DRIVE
        raise DatasetError(
            f"expected a KITTI raw drive (a folder with oxts/ and image_02/), an Oxford RobotCar traversal (a folder "
            f"with stereo/centre/, vo/ and gps/) or a ROS 1 bag (a .bag file) at {path}, but {held}"
        )
    options: dict[str, Any] = {"odometry": odometry, "gnss_error": gnss_error, "seed": seed, "sdk": sdk}
    given = {name: value for name, value in options.items() if value is not None}
    takes = (KittiDrive, ("odometry", "gnss_error", "seed")), (OxfordTraversal, ("sdk",))
    for other, names in takes:
        wrong = " and ".join(f"--{name.replace('_', '-')}" for name in names if name in given)
        if wrong and kind is not other:
            raise DatasetError(
                f"expected a recording for which {wrong} can be chosen ({other.kind}) at {path}, got another kind "
                f"({kind.kind}): leave {wrong} out"
            )
    return kind(path, **given)


def is_drive(path: str | Path) -> bool:
    """Whether a folder is a KITTI raw drive or an Oxford RobotCar traversal, complete or not."""
    return Path(path).is_dir() and _kind(Path(path)) is not None


def is_date(path: str | Path) -> bool:
    """Whether a folder is a date of KITTI raw, which holds drives."""
    return Path(path).is_dir() and any(Path(path).glob("*_sync"))


def _kind(path: Path) -> type[KittiDrive] | type[OxfordTraversal] | type[Ros1Bag] | None:
    from cvloc_ros.datasets.convert_kitti import KittiDrive
    from cvloc_ros.datasets.convert_oxford import OxfordTraversal
    from cvloc_ros.datasets.convert_ros1 import Ros1Bag

    if path.is_file() and path.suffix == ".bag":
        return Ros1Bag
    if any((path / name).is_dir() for name in ("oxts", "image_02")):
        return KittiDrive
    if any((path / name).is_dir() for name in ("stereo", "vo", "gps")):
        return OxfordTraversal
    return None
