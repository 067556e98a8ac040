"""The images of a recorded drive whose truth is in the bag, as a data set: any rosbag2 or ROS 1 bag, on any imagery.

The truth is an Odometry message in the map (``ground_truth``), whose origin a NavSatFix (``datum``) or the user states;
topics, camera and mount are found as `cvloc_ros.datasets.bag.Bag` finds them. The bag is read once from end to end for
the stamps of its images and its truth. An item is then read by itself: of MCAP the chunk that holds it, of sqlite3 the
row, of ROS 1 the chunk. (An MCAP file without a chunk index, as rosbag2's preset "fastwrite" leaves it, has to be
searched from its start for each item; ``mcap recover`` writes an index.)

A prior is off by up to 20 m along and across its heading and by up to 10 degrees, uniformly: all truths are in reach.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_reading import reading, saying_damaged
from cvloc_ros.datasets.bag_topics import BagError
from cvloc_ros.datasets.events import ImageEvent, TruthEvent
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.item import PATCH_GRID, Item, box_prior, digest_of
from cvloc_ros.datasets.message_reading import image_event
from cvloc_ros.geometry import SE2, GroundGrid, LocalFrame, wrap_angle
from cvloc_ros.imagery import ImageryError, SatelliteMap
from cvloc_ros.localization.types import Frame

RADIUS, YAW = 20.0, np.radians(10.0)  # of the prior's error
ROLES = ("image", "camera_info", "ground_truth")
"""Topics without which there are no items."""
_UNUSED = ("odometry:", "fixes:", "imu:", "no imu:")  # notes of `cvloc convert` on what makes no difference here

_GAP = 1e9  # nanoseconds: nobody knows where a vehicle was in a longer gap


class BagFrames:
    """The images of a bag, in the order in which they were recorded.

    Images that are cut off, that have no truth, or where the imagery shows nothing are left out: `notes` say so.
    """

    def __init__(
        self,
        path: str | Path,
        imagery: str,
        *,
        datum: LocalFrame | None = None,
        topics: Mapping[str, str] | None = None,
        T_base_camera: np.ndarray | None = None,
        grid: GroundGrid = PATCH_GRID,
        seed: int = 0,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Read the stamps of the images, and the truth.

        Args:
            path: a rosbag2 folder or a single bag file.
            imagery: a raster, tiles or a server; several layers with | between; see doc/imagery.md.
            datum: of the items' map, and of the truth's where no topic says it; None for the bag's.
            topics: topic by role where it cannot be guessed; see `Bag.open`.
            T_base_camera: 4x4, where the camera sits, instead of what the bag's transforms say.
            grid: of the patches.
            seed: of the priors.
            progress: is called with the share of the bag that is read, 0 to 1.

        Raises:
            BagError: the bag cannot be read, or lacks images, camera info, mount, truth or datum.
            ImageryError: the imagery cannot be read, is elsewhere, or is not whole where the drive went.

        """
        self.grid, self.seed = grid, seed
        # neither is needed, so it need not be guessed either
        wanted = {"odom": "", "fix": "", **(topics or {})}
        self._bag = Bag.open(path, topics=wanted, T_base_camera=T_base_camera, datum=datum, required=ROLES)
        bag_datum = self._bag.datum
        assert bag_datum is not None  # Bag insists on one where there is truth
        self.datum = datum or bag_datum
        self._imagery = SatelliteMap.open(imagery, self.datum, cell=grid.cell)
        self._left_out: list[str] = []

        images, truth = self._read(bag_datum, progress)
        total = len(images)
        images = self._keep(images, images[:, 2] > 0, total, "cut off")
        if not len(images):
            raise BagError(
                f"'{path}': expected images on {self._bag.topics['image']}, but all {total} are cut off: see the driver"
            )
        poses, known = poses_at(images[:, 1], *truth)
        if not known.any():
            raise BagError(
                f"'{path}': expected images between messages of {self._bag.topics['ground_truth']} that are at most "
                f"{_GAP * 1e-9:.0f} s apart, but none is. {len(images)} images are of {_span(images[:, 1])}, the truth "
                f"is of {_span(truth[0])}: record both, stamped by one clock"
            )
        images, poses = self._keep(images, known, total, "no truth around their stamps"), poses[known]
        shown = self._shown(poses, imagery)
        self._places = self._keep(images, shown, total, "the imagery shows nothing where they were taken")[:, :2]
        """When each image was recorded, by which it is found again, and its stamp: (N, 2) int64 nanoseconds."""
        self._truth = poses[shown]

        self._lock = threading.Lock()  # a reader serves one thread at a time
        self._open = ExitStack()  # opening parses all types, and may count or decompress: once
        self._reader = self._open.enter_context(reading(path))
        self._connections = [c for c in self._reader.connections if c.topic == self._bag.topics["image"]]

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know: of the bag, of images left out, of the imagery so far."""
        credit = [f"Imagery: {self._imagery.attribution}"] if self._imagery.attribution else []
        of_bag = [note for note in self._bag.notes if not note.startswith(_UNUSED)]
        return [*of_bag, *self._left_out, *self._imagery.problems, *credit]

    @property
    def digest(self) -> str:
        """Is another one where the images, their truth, topics, the mount or the priors are others."""
        return digest_of(self._places, self._truth, self._bag.topics, self._bag.T_base_camera, self.seed)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._places)

    def __iter__(self) -> Iterator[Item]:
        """Read all items in order."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Item:
        """Read an item; the map's origin is the datum.

        Raises:
            BagError: the bag is damaged, or another one by now.
            DatasetError: the image does not decode, or does not have the size that the camera info says.
            ImageryError: the imagery cannot be read.
            IndexError: there is no such item.

        """
        number = range(len(self))[index]
        name = _seconds(self._places[number, 1])
        try:
            frame = self._frame(number)
        except ValueError as error:
            raise DatasetError(
                f"'{self._bag.source}', {self._bag.topics['image']}, the image of {name} s: {error}"
            ) from error
        x, y, yaw = self._truth[number].tolist()
        truth = SE2(x, y, yaw)
        offset = np.random.default_rng([self.seed, number]).uniform(-1, 1, 3) * [RADIUS, RADIUS, YAW]
        T_map_prior = truth @ SE2(*offset.tolist()).inverse()
        return Item(
            name=name,
            frame=frame,
            prior=box_prior(T_map_prior, radius=RADIUS, yaw=YAW),
            truth=truth,
            patch=self._imagery.patch(T_map_prior, self.grid),
        )

    def _read(
        self, bag_datum: LocalFrame, progress: Callable[[float], None]
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Read when each image was recorded, its stamp and whether it is whole (N, 3), and stamped true poses."""
        images, stamps, poses = [], [], []
        span = max(1, self._bag.end - self._bag.start)
        for received, event in self._bag.recorded("image", "ground_truth"):
            if isinstance(event, ImageEvent):
                images.append((received, event.stamp, event.is_whole))
                progress((received - self._bag.start) / span)
            elif isinstance(event, TruthEvent):
                stamps.append(event.stamp)
                poses.append(bag_datum.pose_in(self.datum, event.T_map_base).vector())
        progress(1.0)
        truth = np.array(stamps, np.int64), np.array(poses, float).reshape(-1, 3)
        return np.array(images, np.int64).reshape(-1, 3), truth

    def _keep(self, rows: np.ndarray, kept: np.ndarray, total: int, why: str) -> np.ndarray:
        if not kept.all():
            self._left_out.append(f"{np.count_nonzero(~kept)} of {total} images are left out: {why}.")
        return rows[kept]

    def _shown(self, poses: np.ndarray, imagery: str) -> np.ndarray:
        """Return at which poses (N, 3) the imagery shows something."""
        spot = GroundGrid.centred(2, self._imagery.cell)
        shown = np.array([self._imagery.patch(SE2(*pose), spot).coverage.any() for pose in poses.tolist()])
        if not shown.all() and self._imagery.problems:
            raise ImageryError(
                f"expected imagery along the whole drive, but '{imagery}' lacks {np.count_nonzero(~shown)} of "
                f"{len(shown)} places: {'; '.join(self._imagery.problems)}. Mend that, or fetch it before (cvloc "
                "prefetch); then run the same again"
            )
        if not shown.any():
            west, south, east, north = self._imagery.bounds
            corners = self.datum.to_wgs84(np.array([[west, south], [east, north]]))
            places = self.datum.to_wgs84(poses[:, :2])
            raise ImageryError(
                f"expected imagery where '{self._bag.source}' was driven ({_box(places)}), but '{imagery}' shows "
                f"nothing there; it is of {_box(corners)}: give imagery of this place (tiles that may only be read "
                "offline: cvloc prefetch), or the datum of the truth's map"
            )
        return shown

    def _frame(self, number: int) -> Frame:
        received, stamp = self._places[number].tolist()
        with self._lock, saying_damaged(self._bag.source):
            found = self._reader.messages(connections=self._connections, start=received, stop=received + 1)
            events = (image_event(self._reader.deserialize(data, c.msgtype), received) for c, _, data in found)
            event = next((event for event in events if event.stamp == stamp), None)
        if event is None:
            raise BagError(f"'{self._bag.source}' has changed since it was opened: open it again")
        return self._bag.frame(event)


def poses_at(stamps: np.ndarray, known_stamps: np.ndarray, known_poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate poses between their neighbours in time.

    Args:
        stamps: (M,) int64 nanoseconds.
        known_stamps: (N,) int64, in any order.
        known_poses: (N, 3) x m, y m, yaw rad.

    Returns:
        Poses (M, 3), and at which stamps (M,) they mean something: not outside, nor in gaps of more than a second.

    """
    if not len(known_stamps) or not len(stamps):
        return np.zeros((len(stamps), 3)), np.zeros(len(stamps), bool)
    times, order = np.unique(known_stamps, return_index=True)
    poses = known_poses[order].copy()
    poses[:, 2] = np.unwrap(poses[:, 2])
    since, at = times - times[0], stamps - times[0]  # small enough to be exact as floats
    found = np.stack([np.interp(at, since, column) for column in poses.T], axis=-1)
    found[:, 2] = wrap_angle(found[:, 2])
    before = np.clip(np.searchsorted(times, stamps, side="right") - 1, 0, None)
    after = np.clip(np.searchsorted(times, stamps, side="left"), None, len(times) - 1)
    inside = (stamps >= times[0]) & (stamps <= times[-1])
    return found, inside & (times[after] - times[before] <= _GAP)


def _seconds(stamp: int) -> str:
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"


def _span(stamps: np.ndarray) -> str:
    return f"{_seconds(stamps.min())} to {_seconds(stamps.max())} s" if len(stamps) else "no time at all"


def _box(places: np.ndarray) -> str:
    (south, west), (north, east) = places.min(axis=0), places.max(axis=0)
    return f"latitude {south:.5f} to {north:.5f}, longitude {west:.5f} to {east:.5f}"
