"""What drives are put through: GNSS that is biased and cut, wrong initial poses, images that are black."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from cvloc_ros.datasets.events import Event, ImageEvent
from cvloc_ros.datasets.town import Town
from cvloc_ros.datasets.town.drive import Drive, record, simulate_drive
from cvloc_ros.datasets.town.sensors import SECOND, GnssModel
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.types import Frame

DURATION = 100.0  # seconds
TOWN_SIZE = 600.0  # metres
_TROUBLE = (20.0, 80.0)  # seconds from the start
_BIASED = GnssModel(bias=8.0, outage=(0.0, 0.0))
_INITIAL_COVARIANCE = np.diag([0.5, 0.5, np.radians(15.0)]) ** 2  # what RViz sends


@dataclass(frozen=True)
class Scenario:
    """What a drive is put through.

    Attributes:
        name: for the table.
        gnss: the receiver.
        initial_error: (metres, degrees) by which an initial pose at the start is wrong; None for no initial pose.
        black: seconds from the start, first and last, in which the images are black.

    """

    name: str
    gnss: GnssModel
    initial_error: tuple[float, float] | None = None
    black: tuple[float, float] = (0.0, 0.0)

    def sensors(self, drive: Drive, seed: int) -> Drive:
        """Return the drive as the scenario's receiver records it."""
        return record(
            drive.trajectory,
            drive.renderer,
            drive.datum,
            seed,
            camera=drive.camera,
            T_base_camera=drive.T_base_camera,
            gnss=self.gnss,
        )

    def images(self, drive: Drive, images: Iterable[ImageEvent]) -> list[ImageEvent]:
        """Return a drive's images, which were rendered before, with those black that are."""
        first, last = int(drive.trajectory.stamps[0]) + np.array(self.black) * SECOND
        picture = np.zeros((drive.camera.height, drive.camera.width, 3), np.uint8)
        black = cv2.imencode(".jpg", picture)[1].ravel()
        return [replace(image, data=black) if first <= image.stamp < last else image for image in images]

    def initial_pose(self, drive: Drive, seed: int) -> tuple[SE2, np.ndarray] | None:
        """Return the pose that is given at the start, wrong in directions that the seed chooses, and its covariance."""
        if self.initial_error is None:
            return None
        rng = np.random.default_rng([seed, 3])
        metres, degrees = self.initial_error
        truth = drive.trajectory.at(int(drive.trajectory.stamps[0])).T_map_base
        angle, turn = rng.uniform(-np.pi, np.pi), rng.choice([-1, 1]) * np.radians(degrees)
        away = metres * np.array([np.cos(angle), np.sin(angle)])
        return SE2(truth.x + float(away[0]), truth.y + float(away[1]), truth.yaw + float(turn)), _INITIAL_COVARIANCE


SCENARIOS = (
    Scenario("gnss-cut", replace(_BIASED, outage=_TROUBLE)),
    Scenario("initialpose", replace(_BIASED, outage=_TROUBLE), initial_error=(25.0, 20.0)),
    Scenario("initialpose-only", replace(_BIASED, outage=(0.0, np.inf)), initial_error=(25.0, 20.0)),
    Scenario("black", _BIASED, black=_TROUBLE),
)
"""GNSS is 8 m wrong in all of them, and in most of them cut for a minute, or altogether."""


class MemoryDrive:
    """A drive and its images, which were rendered before, to be replayed like a bag."""

    def __init__(self, drive: Drive, images: Sequence[ImageEvent]) -> None:
        """Replay a drive's sensors, and these images."""
        self._drive, self._images = drive, images
        self._start = int(drive.trajectory.stamps[0])
        self.source = f"drive at {drive.datum}"
        self.gnss_lever_arm = np.array(drive.gnss.lever_arm[:2])

    @property
    def datum(self) -> LocalFrame | None:
        """Of the town's frame."""
        return self._drive.datum

    @property
    def start(self) -> int:
        """Stamp of the first message, nanoseconds."""
        return self._start

    @property
    def end(self) -> int:
        """Stamp of the last message, nanoseconds."""
        return int(self._drive.trajectory.stamps[-1])

    def __iter__(self) -> Iterator[Event]:
        """Yield the messages by stamp."""
        sources: list[Iterable[Event]] = [self._drive.truth(), self._drive.odometry, self._drive.fixes, self._images]
        return iter(heapq.merge(*sources, key=lambda event: event.stamp))

    def frame(self, event: ImageEvent) -> Frame:
        """Decode an image."""
        return Frame(event.stamp, event.image(), self._drive.camera, self._drive.T_base_camera)


def make_drive(seed: int, *, duration: float = DURATION, image_rate: float = 5.0) -> tuple[Town, Drive]:
    """Make the town of a seed, larger than `TOWN_SIZE` if it has no streets for so long a drive, and the drive."""
    size = TOWN_SIZE
    while True:
        town = Town.generate(seed, size=size)
        try:
            return town, simulate_drive(town, seed, duration=duration, image_rate=image_rate)
        except ValueError:
            size += 200.0
            if size > 1200.0:
                raise
