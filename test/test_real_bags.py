"""Real recordings through the tracker: robots' wheel odometry with GNSS, or from a known pose on; without images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rosbags.highlevel import AnyReader

from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.message_reading import fix_event, odometry_event, planar_covariance, pose_matrix, stamp_of
from cvloc_ros.evaluation.metrics import CHI2_3DOF_95
from cvloc_ros.geometry import SE2, LocalFrame, wrap_angle
from cvloc_ros.localization.tracker import Tracker
from cvloc_ros.localization.tracker_config import TrackerConfig

ODOMETRY, FIX = "/husky_velocity_controller/odom", "/fix"


def real_bag(shared_data: Path, name: str) -> Path:
    path = shared_data / "bags" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


def draw(name: str, tracks: dict[str, np.ndarray], numbers: np.ndarray, title: str) -> None:
    """Leave a picture for a person to judge: tracks (N, 2) from above, and a number along the way."""
    if not (folder := os.environ.get("CVLOC_TEST_PICTURES")):
        return
    figure = Figure(figsize=(12, 6), layout="constrained")
    above, along = figure.subplots(1, 2)
    for label, points in tracks.items():
        above.plot(*points.T, label=label, linewidth=1)
    above.set(aspect="equal", xlabel="east, m", ylabel="north, m")
    above.legend()
    along.plot(numbers)
    along.set(xlabel="measurement", title=title)
    Path(folder).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(folder) / f"{name}.png", dpi=110)


@pytest.mark.shared_data
def test_a_robots_track_agrees_with_its_gnss(shared_data, tmp_path):
    """400 s of a skid-steered robot whose odometry turns away by tens of degrees, converted from ROS 1.

    The fixes say 0.8 m, and their errors wander: the tracker takes them for 2.5 m. It must stay within that.
    """
    write_bag(tmp_path / "bag", open_recording(real_bag(shared_data, "rl_test1.bag")).messages())
    config = TrackerConfig()
    tracker, datum = Tracker(config), None
    ways: list[tuple[np.ndarray, np.ndarray, SE2]] = []
    honest = []
    T_odom_base = SE2()
    with AnyReader([tmp_path / "bag"]) as reader:
        for connection, received, data in reader.messages():
            if connection.topic not in (ODOMETRY, FIX):
                continue
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == ODOMETRY:
                event = odometry_event(message, received)
                T_odom_base = event.T_odom_base
                tracker.add_odometry(event.stamp, T_odom_base)
                continue
            fix = fix_event(message, received)
            datum = datum or LocalFrame(fix.latitude, fix.longitude)
            position = datum.to_enu(fix.latitude, fix.longitude)
            predicted = tracker.pose(fix.stamp)
            if predicted is not None:
                pose, covariance = predicted
                error = position - [pose.x, pose.y]
                expected = covariance[:2, :2] + config.fix_noise(fix.covariance)
                honest.append(error @ np.linalg.solve(expected, error) < 5.99)  # chi squared, 2 d.o.f., 95 %
                ways.append((error, position, T_odom_base))
            tracker.add_gnss(fix.stamp, position, fix.covariance)
    errors = np.array([error for error, _, _ in ways])
    assert len(errors) > 950, "of 989 fixes, all but the first metres have a pose before them"
    assert (np.sqrt((errors**2).mean(axis=0)) < config.gnss_sigma_floor).all()
    assert np.median(np.linalg.norm(errors, axis=1)) < 2.0
    assert np.mean(honest) > 0.95
    # dead reckoning from the first pose on would not do: laid onto the first 20 m, it ends far away
    positions, odometry = np.array([p for _, p, _ in ways]), np.array([[o.x, o.y] for _, _, o in ways])
    first = np.linalg.norm(odometry - odometry[0], axis=1) < 20
    first[np.argmin(first) :] = False
    a, b = odometry[first] - odometry[0], positions[first] - positions[0]
    turn = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    alone = SE2(*positions[0], turn).apply(odometry - odometry[0])
    draw(
        "rl_test1",
        {"fixes": positions, "tracker, before each fix": positions - errors, "odometry alone": alone},
        np.linalg.norm(errors, axis=1),
        "from the fix, m",
    )
    assert np.linalg.norm(alone[-1] - positions[-1]) > 10


@pytest.mark.shared_data
def test_dead_reckoning_strays_no_farther_than_it_says(shared_data):
    """A turtlebot in 97 s and 34 m of corridors, set once to a pose on its map, and never told another.

    The judge is its lidar's localization (AMCL): the covariances of both must account for what lies between them.
    """
    tracker, began = Tracker(), False
    ways: list[tuple[SE2, SE2, float]] = []
    with AnyReader([real_bag(shared_data, "evo_nav2_turtlebot.mcap")]) as reader:
        for connection, received, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype) if "tf" not in connection.topic else None
            if connection.topic == "/odom":
                event = odometry_event(message, received)
                tracker.add_odometry(event.stamp, event.T_odom_base)
            elif connection.topic == "/amcl_pose":
                stamp, lidar = stamp_of(message, received), SE2.from_matrix(pose_matrix(message.pose.pose))
                covariance = planar_covariance(message.pose.covariance)
                if not began:
                    tracker.set_pose(stamp, lidar, covariance)
                    began = True
                elif (predicted := tracker.pose(stamp)) is not None:
                    pose, claimed = predicted
                    error = np.array([pose.x - lidar.x, pose.y - lidar.y, wrap_angle(pose.yaw - lidar.yaw)])
                    ways.append((pose, lidar, float(error @ np.linalg.solve(claimed + covariance, error))))
    tracks = [np.array([[pose.x, pose.y] for pose in poses]) for poses in list(zip(*ways, strict=True))[:2]]
    nees = np.array([value for _, _, value in ways])
    draw(
        "turtlebot",
        dict(zip(("odometry, from the first pose", "lidar (AMCL)"), tracks, strict=True)),
        nees,
        "squared error in units of both covariances",
    )
    assert len(ways) == 134
    away = np.linalg.norm(tracks[0] - tracks[1], axis=1)
    assert away[:20].max() < 0.3 and 1 < away[-1] < 2, "it drifts, and odometry is all that it has"
    assert np.mean(nees < CHI2_3DOF_95) > 0.95 and nees.mean() > 0.1, "neither too sure nor worthless"
