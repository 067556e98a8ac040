"""A drive: a vehicle follows a route at a plausible speed while its camera, GNSS and odometry are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.town.drive_images import DriveRenderer, TownRenderer, render_jpegs
from cvloc_ros.datasets.town.motion import SECOND, Trajectory, follow
from cvloc_ros.datasets.town.sensors import GnssModel, OdometryModel, simulate_gnss, simulate_odometry
from cvloc_ros.geometry import LocalFrame, PinholeCamera, camera_extrinsics

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.appearance import Appearance
    from cvloc_ros.datasets.town.town import Town

CAMERA_FRAME = "camera_optical"
DEMO_CAMERA = PinholeCamera.from_focal(624, 192, 312 / np.tan(np.radians(40)))
"""A view of 80 degrees."""
DEMO_MOUNT = camera_extrinsics(height=1.65, x=1.2, pitch=np.radians(2))
_CRUISE = (8.0, 10.0)  # m/s

Progress = Callable[[int, int], None]
"""Called with how many images are done, and how many there are."""


@dataclass(frozen=True, eq=False)
class Drive:
    """A simulated drive. The images are rendered when they are asked for, everything else is there.

    Attributes:
        datum: of the map frame.
        camera: intrinsics of the images.
        T_base_camera: 4x4, optical frame to base_link.
        gnss: the receiver's model; its lever arm says where the antenna sits.
        trajectory: the truth.
        image_stamps: (K,) int64 nanoseconds.
        fixes: GNSS, in time order.
        odometry: in time order.
        renderer: makes the images.

    """

    datum: LocalFrame
    camera: PinholeCamera
    T_base_camera: np.ndarray
    gnss: GnssModel
    trajectory: Trajectory
    image_stamps: np.ndarray
    fixes: list[FixEvent]
    odometry: list[OdometryEvent]
    renderer: DriveRenderer

    def truth(self) -> Iterator[TruthEvent]:
        """Yield the truth at every odometry message and every image."""
        stamps = {event.stamp for event in self.odometry} | {int(stamp) for stamp in self.image_stamps}
        return (self.trajectory.at(stamp) for stamp in sorted(stamps))

    def images(self, *, workers: int = 2, progress: Progress | None = None) -> Iterator[ImageEvent]:
        """Render the images in worker processes and yield them in order, as JPEG.

        Args:
            workers: processes; with 1 they are rendered in this one.
            progress: told after every image.

        """
        events = [self.trajectory.at(int(stamp)) for stamp in self.image_stamps]
        poses = [event.T_map_base for event in events]
        seconds = [(event.stamp - int(self.trajectory.stamps[0])) / SECOND for event in events]
        jpegs = render_jpegs(self.renderer, poses, seconds, workers=workers)
        for done, (event, jpeg) in enumerate(zip(events, jpegs, strict=True), start=1):
            yield ImageEvent(event.stamp, CAMERA_FRAME, jpeg)
            if progress is not None:
                progress(done, len(events))


def simulate_drive(
    town: Town,
    seed: int,
    *,
    duration: float = 75.0,
    image_rate: float = 10.0,
    camera: PinholeCamera = DEMO_CAMERA,
    T_base_camera: np.ndarray = DEMO_MOUNT,
    appearance: Appearance | None = None,
) -> Drive:
    """Drive through a town along a route with turns; same town and seed, same drive.

    Args:
        town: where.
        seed: chooses route, speed, cars, light and every error of the sensors.
        duration: seconds.
        image_rate: images per second.
        camera: intrinsics.
        T_base_camera: 4x4, optical frame to base_link.
        appearance: of all images; None lets the seed draw one.

    Raises:
        ValueError: the town is too small for so long a drive.

    """
    rng = np.random.default_rng([seed, 2])
    cruise = float(rng.uniform(*_CRUISE))
    trajectory = follow(town.lane_route(rng, duration * cruise + 20), duration=duration, cruise=cruise)
    mount: dict[str, Any] = {"camera": camera, "T_base_camera": T_base_camera}
    renderer = TownRenderer.draw(town, trajectory, rng, appearance=appearance, **mount)
    return record(trajectory, renderer, town.datum, seed, image_rate=image_rate, **mount)


def record(
    trajectory: Trajectory,
    renderer: DriveRenderer,
    datum: LocalFrame,
    seed: int,
    *,
    camera: PinholeCamera,
    T_base_camera: np.ndarray,
    image_rate: float = 10.0,
    gnss: GnssModel | None = None,
    odometry: OdometryModel | None = None,
) -> Drive:
    """Simulate the sensors of a vehicle that moves so; ``datum`` is that of the map frame."""
    rng = np.random.default_rng([seed, 1])
    gnss = gnss or GnssModel()
    return Drive(
        datum=datum,
        camera=camera,
        T_base_camera=T_base_camera,
        gnss=gnss,
        trajectory=trajectory,
        image_stamps=trajectory.every(1 / image_rate),
        fixes=simulate_gnss(trajectory, datum, rng, model=gnss),
        odometry=simulate_odometry(trajectory, rng, model=odometry or OdometryModel()),
        renderer=renderer,
    )
