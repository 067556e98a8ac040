"""The images of a drive, rendered in worker processes and handed over in order as JPEG."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from cvloc_ros.datasets.town.appearance import Appearance
from cvloc_ros.datasets.town.cars import ahead_of
from cvloc_ros.datasets.town.motion import SECOND, Trajectory
from cvloc_ros.datasets.town.scenery import Prisms
from cvloc_ros.geometry import SE2, PinholeCamera

if TYPE_CHECKING:
    from cvloc_ros.datasets.town.town import Town

_JPEG_QUALITY = 92
_CLEARANCE = 2.4  # metres between the middle of a standing car and the vehicle's path
_HEADWAY = 2.5  # seconds to the car ahead
_AHEAD_PERIOD, _AHEAD_TIME = 40.0, 12.0  # seconds: there is a car ahead for the first of every so many
_EXPOSURE, _EXPOSURE_PERIOD = 0.06, 23.0  # how far the brightness wanders (log), in how many seconds
_AHEAD = 4  # images a worker may be ahead of the one that is asked for


class DriveRenderer(Protocol):
    """What a drive looks like to its camera; it travels to worker processes, so it must be picklable."""

    def render(self, T_map_base: SE2, seconds: float) -> np.ndarray:
        """Return the RGB image (H, W, 3) taken at a pose, so many seconds after the start."""
        ...


@dataclass(frozen=True, eq=False)
class TownRenderer:
    """A town as it is seen on a drive: one light, one set of parked cars, and a car ahead for a part of the way.

    Attributes:
        town: what is seen.
        camera: who sees it.
        T_base_camera: 4x4, from where.
        appearance: of all images, but for the exposure, which wanders a little.
        cars: that stand still.
        car_ahead: one car; its place is the vehicle's own, a while later.
        trajectory: of the vehicle.

    """

    town: Town
    camera: PinholeCamera
    T_base_camera: np.ndarray
    appearance: Appearance
    cars: Prisms
    car_ahead: Prisms
    trajectory: Trajectory

    @classmethod
    def draw(
        cls,
        town: Town,
        trajectory: Trajectory,
        rng: np.random.Generator,
        *,
        camera: PinholeCamera,
        T_base_camera: np.ndarray,
        appearance: Appearance | None,
    ) -> TownRenderer:
        """Draw cars, and a light unless it is given."""
        look = appearance or Appearance.draw(rng, style=town.style, view="ground")
        cars = town.cars(int(rng.integers(2**31)))
        gaps = np.stack([cars.x, cars.y], -1)[:, None] - trajectory.poses[::20, :2]
        clear = np.hypot(gaps[..., 0], gaps[..., 1]).min(axis=1) > _CLEARANCE  # nobody stands in the vehicle's way
        car_ahead = ahead_of(SE2(), rng).select(np.array([0]))
        return cls(town, camera, T_base_camera, look, cars.select(clear), car_ahead, trajectory)

    def render(self, T_map_base: SE2, seconds: float) -> np.ndarray:
        """Render the view from a pose."""
        cars = self.cars
        if seconds % _AHEAD_PERIOD < _AHEAD_TIME:
            cars = cars.joined(self._car_ahead(seconds + _HEADWAY))
        gain = self.appearance.gain * np.exp(_EXPOSURE * np.sin(2 * np.pi * seconds / _EXPOSURE_PERIOD))
        look = replace(self.appearance, gain=gain, seed=self.appearance.seed + round(seconds * 1000))
        return self.town.render_ground(T_map_base, self.camera, self.T_base_camera, appearance=look, cars=cars)

    def _car_ahead(self, seconds: float) -> Prisms:
        stamp = min(int(self.trajectory.stamps[0]) + round(seconds * SECOND), int(self.trajectory.stamps[-1]))
        pose = self.trajectory.at(stamp).T_map_base
        x, y, yaw = (np.array([value]) for value in pose.vector())
        return replace(self.car_ahead, x=x, y=y, yaw=yaw)


def render_jpegs(
    renderer: DriveRenderer, poses: Sequence[SE2], seconds: Sequence[float], *, workers: int
) -> Iterator[np.ndarray]:
    """Yield one JPEG file (uint8 bytes) per pose, in order; with one worker everything runs in this process."""
    jobs = zip(poses, seconds, strict=True)
    if workers == 1:
        for pose, time in jobs:
            yield _render_jpeg(renderer, pose, time)
        return
    # Spawned, not forked: a forked child of a process that talks DDS hangs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(renderer,))
    pending: deque[Future[np.ndarray]] = deque()
    try:
        for pose, time in jobs:
            pending.append(pool.submit(_render_in_worker, pose, time))
            if len(pending) > workers * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_renderer: DriveRenderer  # of a worker process


def _start_worker(renderer: DriveRenderer) -> None:
    global _renderer
    _renderer = renderer
    cv2.setNumThreads(1)  # the workers share the cores already


def _render_in_worker(T_map_base: SE2, seconds: float) -> np.ndarray:
    return _render_jpeg(_renderer, T_map_base, seconds)


def _render_jpeg(renderer: DriveRenderer, T_map_base: SE2, seconds: float) -> np.ndarray:
    image = cv2.cvtColor(renderer.render(T_map_base, seconds), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].ravel()
