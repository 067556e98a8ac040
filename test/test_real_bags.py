"""Real recordings through the tracker: a robot's GNSS and wheel odometry, without images."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.message_reading import fix_event, odometry_event
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.tracker import Tracker
from cvloc_ros.localization.tracker_config import TrackerConfig

ODOMETRY, FIX = "/husky_velocity_controller/odom", "/fix"


@pytest.mark.shared_data
def test_a_robots_track_agrees_with_its_gnss(shared_data, tmp_path):
    """400 s of a skid-steered robot whose odometry turns away by tens of degrees, converted from ROS 1.

    The fixes say 0.8 m, and their errors wander: the tracker takes them for 2.5 m. It must stay within that.
    """
    source = shared_data / "bags/rl_test1.bag"
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    write_bag(tmp_path / "bag", open_recording(source).messages())
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
    assert np.linalg.norm(alone[-1] - positions[-1]) > 10
