"""What GNSS and odometry say about where a vehicle is: wrong in known ways, and with the covariance that is due."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.events import FixEvent, OdometryEvent
from cvloc_ros.datasets.town.motion import SECOND, Trajectory
from cvloc_ros.geometry import SE2, LocalFrame

GNSS_FRAME = "gnss"


@dataclass(frozen=True)
class GnssModel:
    """A receiver between houses: a constant error, an error that wanders, noise, and no reception for a while.

    Attributes:
        rate: fixes per second.
        bias: metres of constant error, in a direction that the drive's seed chooses.
        multipath: standard deviation in metres of the wandering error, per axis.
        multipath_time: seconds in which the wandering error forgets itself (first-order Gauss-Markov).
        noise: standard deviation in metres of what is new in every fix, per axis.
        outage: seconds from the start, first and last, without any fix.
        reported: standard deviation in metres, per axis, that the receiver states.
        lever_arm: metres forward, left and up of base_link at which the antenna sits.

    """

    rate: float = 5.0
    bias: float = 6.0
    multipath: float = 1.5
    multipath_time: float = 15.0
    noise: float = 0.5
    outage: tuple[float, float] = (30.0, 52.0)
    reported: float = 5.0
    lever_arm: tuple[float, float, float] = (0.3, 0.2, 1.6)


@dataclass(frozen=True)
class OdometryModel:
    """Wheel speed and gyro: a wrong wheel radius, a gyro bias and noise, integrated from the start.

    Attributes:
        rate: messages per second.
        scale: error of the speed, as a share; its sign is the seed's.
        yaw_bias: rad/s, its sign is the seed's.
        speed_noise: standard deviation in m/s of every message.
        yaw_noise: standard deviation in rad/s of every message.

    """

    rate: float = 25.0
    scale: float = 0.015
    yaw_bias: float = float(np.radians(0.07))
    speed_noise: float = 0.05
    yaw_noise: float = float(np.radians(0.3))


def simulate_gnss(
    trajectory: Trajectory, datum: LocalFrame, rng: np.random.Generator, *, model: GnssModel
) -> list[FixEvent]:
    """Return the fixes of a drive."""
    stamps = trajectory.every(1 / model.rate)
    poses = trajectory.poses_at(stamps)
    direction = rng.uniform(-np.pi, np.pi)
    bias = model.bias * np.array([np.cos(direction), np.sin(direction)])
    keep = np.exp(-1 / (model.rate * model.multipath_time))
    wander = rng.normal(0, model.multipath, 2)
    covariance = np.eye(2) * model.reported**2
    fixes = []
    for stamp, (x, y, yaw) in zip(stamps, poses, strict=True):
        wander = keep * wander + np.sqrt(1 - keep**2) * rng.normal(0, model.multipath, 2)
        error = bias + wander + rng.normal(0, model.noise, 2)
        if model.outage[0] <= (stamp - stamps[0]) / SECOND < model.outage[1]:
            continue
        antenna = SE2(x, y, yaw).apply(np.array(model.lever_arm[:2]))
        latitude, longitude = datum.to_wgs84(antenna + error)
        altitude = datum.altitude + model.lever_arm[2]
        fixes.append(FixEvent(int(stamp), float(latitude), float(longitude), altitude, covariance, GNSS_FRAME))
    return fixes


def simulate_odometry(trajectory: Trajectory, rng: np.random.Generator, *, model: OdometryModel) -> list[OdometryEvent]:
    """Return the odometry of a drive, with the covariance that its errors deserve.

    The pose covariance is propagated to first order: noise adds up from message to message, while the scale and the
    bias are one unknown each, whose effect on the pose grows as a whole.
    """
    stamps = trajectory.every(1 / model.rate)
    truth = trajectory.poses_at(stamps)
    scale = 1 + model.scale * rng.choice([-1, 1])
    yaw_bias = model.yaw_bias * rng.choice([-1, 1])
    twist_covariance = np.diag([model.speed_noise**2, 1e-4, model.yaw_noise**2])
    dt = 1 / model.rate

    pose = SE2()
    white = np.diag([1e-6, 1e-6, 1e-8])
    by_scale, by_bias = np.zeros(3), np.zeros(3)  # derivative of the pose
    first = trajectory.at(int(stamps[0])).twist
    events = [OdometryEvent(int(stamps[0]), pose, white.copy(), first, twist_covariance)]
    for stamp, before, after in zip(stamps[1:], truth[:-1], truth[1:], strict=True):
        turned = after[2] - before[2]
        middle = before[2] + turned / 2
        driven = float((after[:2] - before[:2]) @ [np.cos(middle), np.sin(middle)])
        speed = scale * driven / dt + rng.normal(0, model.speed_noise)
        yaw_rate = turned / dt + yaw_bias + rng.normal(0, model.yaw_noise)

        heading = pose.yaw + yaw_rate * dt / 2
        along = np.array([np.cos(heading), np.sin(heading)])
        across = np.array([-along[1], along[0]])
        F = np.eye(3)
        F[:2, 2] = speed * dt * across
        G = np.zeros((3, 2))
        G[:2, 0], G[:2, 1], G[2, 1] = along * dt, across * speed * dt**2 / 2, dt
        noise = np.diag([model.speed_noise**2, model.yaw_noise**2])
        white = F @ white @ F.T + G @ noise @ G.T
        by_scale = F @ by_scale + G[:, 0] * speed
        by_bias = F @ by_bias + G[:, 1]
        covariance = (
            white + model.scale**2 * np.outer(by_scale, by_scale) + model.yaw_bias**2 * np.outer(by_bias, by_bias)
        )
        pose = pose @ SE2(
            float(speed * dt * np.cos(yaw_rate * dt / 2)),
            float(speed * dt * np.sin(yaw_rate * dt / 2)),
            float(yaw_rate * dt),
        )
        events.append(OdometryEvent(int(stamp), pose, covariance, np.array([speed, 0.0, yaw_rate]), twist_covariance))
    return events
