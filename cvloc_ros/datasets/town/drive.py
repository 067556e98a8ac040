"""A drive: a vehicle follows a route at a plausible speed while its camera, GNSS and odometry are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.town.drive_images import DriveRenderer, render_jpegs
from cvloc_ros.datasets.town.sensors import (
    SECOND,
    GnssModel,
    OdometryModel,
    Trajectory,
    simulate_gnss,
    simulate_odometry,
)
from cvloc_ros.geometry import LocalFrame, PinholeCamera

EPOCH = 1_750_000_000 * SECOND  # June 2025: a stamp that every tool takes for real
CAMERA_FRAME = "camera_optical"
_TRUTH_RATE = 100.0  # poses a second, interpolated between

_SIDE_ACCELERATION = 2.0  # m/s² in turns
_ACCELERATION, _BRAKING = 1.2, 1.8  # m/s²
_MIN_SPEED = 1.5  # m/s
_PATH_SMOOTHING = 1.5  # metres: no vehicle turns on a point

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


def drive_along(
    route: np.ndarray,
    renderer: DriveRenderer,
    datum: LocalFrame,
    seed: int,
    *,
    camera: PinholeCamera,
    T_base_camera: np.ndarray,
    duration: float,
    image_rate: float = 10.0,
    gnss: GnssModel | None = None,
    odometry: OdometryModel | None = None,
) -> Drive:
    """Drive along a route (N, 2) in the map; same seed, same drive.

    Raises:
        ValueError: the route is too short for the duration.

    """
    rng = np.random.default_rng([seed, 1])
    gnss = gnss or GnssModel()
    trajectory = follow(route, duration=duration, cruise=float(rng.uniform(8, 10)))
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


def follow(route: np.ndarray, *, duration: float, cruise: float) -> Trajectory:
    """Return the motion of a vehicle along a route (N, 2) that slows down for turns, from `EPOCH` on.

    Raises:
        ValueError: the route ends before the duration.

    """
    path = _smoothed(_resampled(route, 0.25), _PATH_SMOOTHING / 0.25)
    heading = np.unwrap(np.arctan2(*np.gradient(path, axis=0).T[::-1]))
    step = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(step)])
    bend = np.abs(np.gradient(heading, along))

    speed = np.clip(np.sqrt(_SIDE_ACCELERATION / np.maximum(bend, 1e-6)), _MIN_SPEED, cruise)
    for i in range(1, len(speed)):
        speed[i] = min(speed[i], np.sqrt(speed[i - 1] ** 2 + 2 * _ACCELERATION * step[i - 1]))
    for i in range(len(speed) - 2, -1, -1):
        speed[i] = min(speed[i], np.sqrt(speed[i + 1] ** 2 + 2 * _BRAKING * step[i]))
    passed = np.concatenate([[0.0], np.cumsum(2 * step / (speed[1:] + speed[:-1]))])
    if passed[-1] < duration:
        raise ValueError(
            f"expected a route for {duration:.0f} s of driving, got {along[-1]:.0f} m that are driven in "
            f"{passed[-1]:.0f} s: give a longer route or a shorter duration"
        )
    seconds = np.arange(0, duration + 1e-9, 1 / _TRUTH_RATE)
    stamps = EPOCH + np.round(seconds * SECOND).astype(np.int64)
    poses = np.stack([np.interp(seconds, passed, column) for column in (*path.T, heading)], axis=-1)
    yaw_rate = np.gradient(poses[:, 2], 1 / _TRUTH_RATE)
    twists = np.stack([np.interp(seconds, passed, speed), np.zeros_like(yaw_rate), yaw_rate], axis=-1)
    return Trajectory(stamps, poses, twists)


def _resampled(route: np.ndarray, spacing: float) -> np.ndarray:
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(route, axis=0).T))])
    along = np.arange(0, length[-1], spacing)
    return np.stack([np.interp(along, length, column) for column in route.T], axis=-1)


def _smoothed(path: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian along a path (N, 2); beyond its ends it goes straight on, so that they stay where they are."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(path, ((radius, radius), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=-1)
