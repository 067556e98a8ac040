"""Odometry between its messages, and in gaps."""

import numpy as np
import pytest
from tracker_inputs import SECOND, START

from cvloc_ros.evaluation.records import pose_track
from cvloc_ros.geometry import SE2
from cvloc_ros.localization.odometry import OdometryBuffer
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.stamp_order import Order, StampOrder
from cvloc_ros.localization.tracker import Tracker


def test_odometry_interpolation_follows_the_arc():
    buffer = OdometryBuffer(seconds=10, extrapolation=0.3, gap=1.0)
    step = SE2(0.4, 0.0, 0.02)
    pose = SE2(5.0, 5.0, 3.13)  # the heading wraps on the way
    for i in range(11):
        assert buffer.add(i * 40, pose)
        pose = pose @ step
    assert not buffer.add(400, pose)
    half = buffer.at(60)
    expected = SE2(5.0, 5.0, 3.13) @ step @ SE2(0.2, 0.0, 0.01)
    np.testing.assert_allclose(half.vector(), expected.vector(), atol=1e-9)
    assert buffer.motion(400, 0).distance == pytest.approx(4.0, rel=1e-3)
    assert buffer.motion(0, 400).turned == pytest.approx(0.2)
    assert buffer.at(-1) is None


def test_nothing_is_interpolated_over_a_gap():
    track = pose_track([(0, SE2()), (SECOND // 2, SE2(1.0, 0.0, 0.0)), (4 * SECOND, SE2(8.0, 0.0, 0.0))])
    assert track.at(SECOND // 4).x == pytest.approx(0.5)
    assert track.at(SECOND // 2).x == 1.0 and track.at(4 * SECOND).x == 8.0
    assert track.at(2 * SECOND) is None
    tracker = Tracker()
    tracker.add_odometry(START, SE2())
    tracker.set_pose(START, SE2(), np.eye(3))
    tracker.add_odometry(START + 3 * SECOND, SE2(20.0, 0.0, 0.0))
    assert tracker.pose(START + 3 * SECOND) is not None and tracker.priors(START + SECOND) == []
    assert "2.0 s before the newest message" in tracker.missing_at(START + SECOND)


@pytest.mark.parametrize("astray", [10.0, -10.0, -1.2, -0.3])
def test_one_stray_stamp_ends_no_drive(astray):
    session = LocalizationSession(None)
    for i in range(20):
        session.on_odometry(START + i * SECOND // 25, SE2(0.4 * i, 0.0, 0.0))
    session.set_pose(START, SE2(), np.eye(3))
    session.on_odometry(START + round((0.8 + astray) * SECOND), SE2(8.0, 0.0, 0.0))
    for i in range(21, 30):
        session.on_odometry(START + i * SECOND // 25, SE2(0.4 * i, 0.0, 0.0))
        pose, _ = session.pose(START + i * SECOND // 25)
        assert pose.x == pytest.approx(0.4 * i)


def test_second_stamp_in_a_row_confirms_a_jump():
    def orders(*seconds, elapsed=0.0):
        order = StampOrder()
        return "".join(order.take(round(s * SECOND), elapsed=round(elapsed * SECOND)).value[0] for s in seconds)

    assert orders(0, 0.1, 0.2, 60, 60.1, 60.2) == "nnnlnn", "somebody has skipped a part of the bag"
    assert orders(60, 60.1, 0, 0.1, 0.2) == "nnljn", "the bag has started again"
    assert orders(60, 60.1, 0, 60.2, 0.1, 60.3) == "nnlnln", "two publishers, of which one has another clock"
    assert orders(0, 0.1, 10, 0.2, -10, 0.3) == "nnlnln" and orders(0, 0.1, 10, -10, 0.2) == "nnlln"
    assert orders(0, 2, 4, 6, 8, 14) == "nlnnnn", "slow odometry; some is lost"
    assert orders(0, 30, elapsed=30) == "nn", "no odometry for half a minute"
    assert StampOrder().take(0) is Order.NEXT


@pytest.mark.parametrize("ahead", [0.0, 0.5, 3.0])
def test_fixes_and_headings_wait_for_odometry_of_their_stamps(ahead):
    tracker, shift = Tracker(), round(ahead * SECOND)
    for i in range(250):
        stamp = START + i * SECOND // 25
        tracker.add_odometry(stamp, SE2(0.4 * i, 0.0, 0.0))
        if i % 5 == 0:
            tracker.add_gnss(stamp + shift, np.array([50.0, 0.4 * i + 10.0 * ahead]), np.eye(2))
        if i % 10 == 0:
            tracker.add_heading(stamp + shift, np.pi / 2, 0.02)
        assert not tracker.gnss_complaint and not tracker.imu_complaint
    np.testing.assert_allclose(tracker.pose(stamp)[0].vector(), [50.0, 0.4 * i, np.pi / 2], atol=0.05)


def test_fixes_and_headings_that_odometry_never_reaches_are_complained_of():
    tracker = Tracker()

    def send(stamp):
        tracker.add_gnss(stamp, np.zeros(2), np.eye(2))
        tracker.add_heading(stamp, 0.0, 0.02)

    def complains(why):
        return f"some fixes are not used: {why}" in tracker.gnss_complaint and why in tracker.imu_complaint

    send(START - SECOND)
    tracker.add_odometry(START, SE2())
    assert tracker.gnss_complaint == tracker.imu_complaint == "", "before the start"
    send(START + 18 * SECOND)
    assert tracker.gnss_complaint == "", "odometry may have fallen silent"
    tracker.add_odometry(START + SECOND // 2, SE2())
    assert complains("stamped 17.5 s ahead of odometry")
    assert "17.5 s ahead of odometry" in tracker.waiting_for, "rather than that there is no fix"
    send(START + 3 * SECOND // 2)
    for i in range(1, 15):
        tracker.add_odometry(START + 2 * i * SECOND, SE2())
        if i == 1:
            assert complains("odometry has a gap")
    assert tracker.gnss_complaint == tracker.imu_complaint == ""
    send(START)
    assert complains("stamped 28.0 s before odometry")


def test_velocity_is_not_taken_from_a_burst():
    buffer = OdometryBuffer(seconds=10, extrapolation=0.3, gap=1.0)
    buffer.add(START, SE2())
    buffer.add(START + 1_000, SE2(0.001, 0.0, 0.0))
    assert buffer.at(START + SECOND // 10).x == pytest.approx(0.001), "of no velocity there is nothing to go by"
    for i in range(1, 11):  # 10 m/s at 25 Hz, then two messages in a microsecond
        buffer.add(START + i * SECOND // 25, SE2(0.4 * i, 0.0, 0.0))
    buffer.add(buffer.newest + 1_000, SE2(4.001, 0.0, 0.0))
    ahead = buffer.newest + SECOND // 10
    assert buffer.at(ahead).x == pytest.approx(5.0, abs=0.05)
    assert buffer.motion(buffer.newest, ahead).distance == pytest.approx(1.0, abs=0.05)
    assert buffer.at(buffer.newest).x == 4.001
