"""A short drive in memory and a localizer that knows the truth: for the tests of the loop around the matcher."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import cv2
import numpy as np

from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town.sensors import (
    SECOND,
    GnssModel,
    OdometryModel,
    Trajectory,
    simulate_gnss,
    simulate_odometry,
)
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics, wrap_angle
from cvloc_ros.localization.search_box import search_box
from cvloc_ros.localization.types import Frame, Localization, Matches, Posterior

EPOCH = 1_750_000_000 * SECOND
DATUM = LocalFrame(48.2082, 16.3738, 180.0)
CAMERA = PinholeCamera.from_focal(208, 64, 120.0)
LARGEST = (20.0, np.radians(10.0))
_JPEG = cv2.imencode(".jpg", np.full((64, 208, 3), 120, np.uint8))[1].ravel()


@dataclass(eq=False)
class RecordedDrive:
    """What a bag offers, without a file."""

    seconds: float = 40.0
    seed: int = 0
    gnss: GnssModel = field(default_factory=lambda: GnssModel(outage=(15.0, 25.0)))
    image_rate: float = 10.0
    with_truth: bool = True
    source: str = "drive in memory"
    datum: LocalFrame | None = DATUM

    def __post_init__(self):
        t = np.arange(0, self.seconds + 1e-9, 0.01)
        speed = np.clip(3 * t, 0, 9.0)
        rate = 0.3 * np.sin(2 * np.pi * t / 14)
        yaw = 0.6 + np.cumsum(rate) * 0.01
        x = np.cumsum(speed * np.cos(yaw)) * 0.01 - 60
        y = np.cumsum(speed * np.sin(yaw)) * 0.01 - 40
        stamps = EPOCH + np.round(t * SECOND).astype(np.int64)
        twists = np.stack([speed, 0 * speed, rate], axis=-1)
        self.trajectory = Trajectory(stamps, np.stack([x, y, yaw], axis=-1), twists)
        rng = np.random.default_rng(self.seed)
        self.fixes = simulate_gnss(self.trajectory, DATUM, rng, model=self.gnss)
        self.odometry = simulate_odometry(self.trajectory, rng, model=OdometryModel())
        self.gnss_lever_arm = np.array(self.gnss.lever_arm[:2])
        self.start, self.end = int(stamps[0]), int(stamps[-1])

    def __iter__(self):
        images = [ImageEvent(int(s), "camera", _JPEG) for s in self.trajectory.every(1 / self.image_rate)]
        truth = [self.trajectory.at(int(s)) for s in self.trajectory.every(0.04)] if self.with_truth else []
        return heapq.merge(truth, self.odometry, self.fixes, images, key=lambda event: event.stamp)

    def frame(self, event):
        return Frame(event.stamp, event.image(), CAMERA, camera_extrinsics(height=1.6))


class OracleLocalizer:
    """Answers with the truth, some noise and some outliers; the covariance is that of the noise.

    Where the truth is not in the search box it answers with the box's middle, and is not sure.
    """

    def __init__(self, drive, *, sigma=0.4, outliers=0.05, rejected=0.05, seed=0):
        self._drive, self._sigma, self._outliers, self._rejected = drive, sigma, outliers, rejected
        self._rng = np.random.default_rng(seed)

    def localize(self, frame, prior):
        truth = self._drive.trajectory.at(frame.stamp).T_map_base
        sigmas = np.array([self._sigma, self._sigma, np.radians(0.5)])
        noise = self._rng.normal(0, sigmas)
        if self._rng.random() < self._outliers:
            noise[:2] += 10.0
        reason = "low_quality" if self._rng.random() < self._rejected else ""
        pose = SE2(truth.x + noise[0], truth.y + noise[1], float(wrap_angle(truth.yaw + noise[2])))
        box, quality = search_box(prior, LARGEST), 0.9
        if (np.abs((prior.T_map_base.inverse() @ pose).vector()) > box).any():
            pose, quality, reason = prior.T_map_base, 0.2, "low_quality"
        base = self._rng.uniform([8, -10], [35, 10], (60, 2))
        placed = (prior.T_map_base.inverse() @ pose).apply(base)
        posterior = _peak_at(prior.T_map_base.inverse() @ pose)
        weights = self._rng.uniform(0.2, 1, 60)
        matches = Matches(base, placed, weights)
        stages = {"patch": 1.0, "match": 5.0}
        return Localization(
            frame.stamp,
            prior,
            pose,
            np.diag(sigmas**2),
            quality,
            not reason,
            reason,
            matches,
            posterior,
            stages,
            search_box=box,
        )


def _peak_at(step):
    axis, turns = np.linspace(-20, 20, 26), np.radians(np.linspace(-10, 10, 11))
    yaw, x, y = np.meshgrid(turns, axis, axis, indexing="ij")
    p = np.exp(-((x - step.x) ** 2 + (y - step.y) ** 2) / 2 - (yaw - step.yaw) ** 2 / (2 * np.radians(1.0) ** 2))
    return Posterior(p / p.sum(), axis, axis, turns)
