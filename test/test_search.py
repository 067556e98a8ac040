"""The search for a pose: wrong and unknown headings, dark images, streets that look alike; IMU and bad receivers."""

from dataclasses import replace

import numpy as np
import pytest
from recorded_drive import DATUM, EPOCH, OracleLocalizer, RecordedDrive
from tracker_inputs import (
    LEVER,
    SECOND,
    START,
    Drive,
    Street,
    drive_street,
    found_after,
    localization,
    longest_sure_and_wrong,
    rmse,
)

from cvloc_ros.geometry import SE2, wrap_angle
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.sweep import Sweep
from cvloc_ros.localization.tracker import Tracker, TrackerState

RVIZ = np.diag([0.5, 0.5, np.radians(15.0)]) ** 2  # what its button sends, wherever one clicks


def biased(seed, **kwargs):
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return Drive(seed, outliers=0.0, gnss_bias=(8 * np.cos(angle), 8 * np.sin(angle)), **kwargs)


@pytest.mark.parametrize(("radius", "heading"), [(35.0, 24.0), (35.0, 180.0), (15.0, 18.0), (60.0, 10.0)])
def test_a_sweep_leaves_no_gap(radius, heading):
    rng = np.random.default_rng(0)
    about, odom = SE2(100.0, 50.0, 2.0), SE2(3.0, -4.0, 1.0)
    sweep = Sweep(about, odom, radius=radius, heading=np.radians(heading))
    boxes = []
    for _ in range(len(sweep)):
        assert sweep.rounds == 0
        boxes.append(sweep.box(odom))
        sweep.visit(boxes[-1], odom)
    assert sweep.rounds == 1
    for _ in range(300):
        angle, distance = rng.uniform(0, 2 * np.pi), radius * 0.85 * np.sqrt(rng.random())
        yaw = about.yaw + np.radians(heading) * rng.uniform(-1, 1)
        pose = SE2(about.x + distance * np.cos(angle), about.y + distance * np.sin(angle), float(wrap_angle(yaw)))
        steps = [box.T_map_base.inverse() @ pose for box in boxes]
        assert any(max(abs(s.x), abs(s.y)) < 20 and abs(s.yaw) < np.radians(10) for s in steps)


@pytest.mark.parametrize("gnss", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_initial_pose_is_recovered(seed, gnss):
    drive, tracker = biased(seed, duration=25.0), Tracker()
    truth = drive.truth[START]
    tracker.add_odometry(*drive.odometry[0])
    angle = 2.0 * seed
    wrong = SE2(truth.x + 25 * np.cos(angle), truth.y + 25 * np.sin(angle), truth.yaw + np.radians(20))
    tracker.set_pose(START, wrong, RVIZ)
    rows = drive_street(drive, Street(drive, seed=seed), tracker, gnss=gnss)
    assert found_after(rows, 0.0) < 10 and longest_sure_and_wrong(rows) == 0


def test_dark_images_do_not_keep_a_track_sure_and_good_ones_bring_it_back():
    drive, tracker = biased(1, duration=90.0, outage=(999.0, 999.0)), Tracker()
    rows = drive_street(drive, Street(drive, dark=(12.0, 72.0)), tracker)
    dark = {row[1] for row in rows if 16 < row[0] < 72}
    assert TrackerState.TRACKING not in dark and len(dark) > 1
    assert found_after(rows, 72.0) < 10 and longest_sure_and_wrong(rows) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_streets_that_look_alike_do_not_mislead_the_track(seed):
    drive, tracker = biased(seed, outage=(10.0, 70.0)), Tracker()
    rows = drive_street(drive, Street(drive, seed=seed, wrong=0.15), tracker)
    assert longest_sure_and_wrong(rows) <= 2
    sure = [row for row in rows if row[1] in (TrackerState.TRACKING, TrackerState.DEGRADED)]
    assert len(sure) > 0.85 * len(rows) and rmse(sure) < 0.6


def test_heading_of_a_standing_vehicle_is_found_once_it_moves_without_fixes():
    drive, tracker = biased(3, duration=20.0, outage=(1.9, 999.0)), Tracker()  # it stands for two seconds
    rows = drive_street(drive, Street(drive), tracker, image_period=1)
    assert {row[1] for row in rows if row[0] < 2} == {TrackerState.INITIALIZING}
    assert found_after(rows, 2.0) < 6


def test_relocalize_searches_around_the_pose_and_forgets_nothing_else():
    drive, tracker = biased(4, duration=30.0), Tracker()
    doubted = []

    def doubt(seconds):
        if seconds == 15.0:
            before = tracker.T_map_odom
            tracker.relocalize()
            doubted.append((tracker.state, tracker.T_map_odom == before, tracker.waiting_for))

    rows = drive_street(drive, Street(drive), tracker, each=doubt)
    state, kept, waiting_for = doubted[0]
    assert state is TrackerState.LOST and kept and "have to agree on one of 0 places" in waiting_for
    assert 1 < found_after(rows, 15.0) < 8


def test_relocalize_without_a_pose_changes_nothing():
    tracker = Tracker()
    tracker.relocalize()
    assert tracker.state is TrackerState.WAITING


@pytest.mark.parametrize("sure", [True, False])
def test_failed_matches_leave_no_trace(sure):
    tracker = Tracker()
    tracker.add_odometry(START, SE2())
    tracker.set_pose(START, SE2(), RVIZ)
    if sure:
        tracker._confidence.confirm(START, 0.0)
    before = tracker.pose(START)[0]
    for _ in range(8):
        for prior in tracker.priors(START):
            failed = replace(localization(START, prior.T_map_base), prior=prior, accepted=False, quality=np.nan)
            failed = replace(failed, covariance=np.full((3, 3), np.nan), reason="degenerate_matches")
            assert not tracker.add_localization(failed) and tracker.last_rejection == "degenerate_matches"
    assert tracker.pose(START)[0] == before and tracker.hypotheses == 0 and np.isfinite(tracker._confidence.log_odds)
    assert tracker.state is (TrackerState.TRACKING if sure else TrackerState.INITIALIZING)


def test_imu_heading_starts_a_track_without_motion():
    drive, tracker = biased(5, duration=8.0, outage=(999.0, 999.0)), Tracker()
    tracker.add_odometry(*drive.odometry[0])
    tracker.add_gnss(*drive.fixes[0], LEVER)
    assert tracker.T_map_odom is None
    yaw = drive.truth[START].yaw
    tracker.add_heading(START, yaw + np.radians(4.0), np.radians(2.0))
    pose, covariance = tracker.pose(START)
    assert abs(wrap_angle(pose.yaw - yaw)) == pytest.approx(np.radians(4.0))
    assert np.sqrt(covariance[2, 2]) == pytest.approx(np.radians(3.0))  # the floor
    assert tracker.state is TrackerState.INITIALIZING


def test_imu_is_a_weak_measurement_of_a_track():
    tracker = Tracker()
    tracker.add_odometry(START, SE2())
    tracker.set_pose(START, SE2(0.0, 0.0, 1.0), np.diag([1.0, 1.0, np.radians(10.0)]) ** 2)
    for i in range(200):  # two seconds with one and the same bias: no more than one measurement
        tracker.add_heading(START + i * SECOND // 100, 1.1, np.radians(3.0))
        tracker.add_odometry(START + i * SECOND // 100, SE2())
    once, covariance = tracker.pose(START + SECOND)
    assert 1.07 < once.yaw < 1.1 and np.degrees(np.sqrt(covariance[2, 2])) > 2.0
    tracker.add_heading(START + SECOND, once.yaw + 2.5, np.radians(3.0))  # absurd
    tracker.add_heading(START + SECOND, np.nan, np.radians(3.0))
    assert abs(tracker.pose(START + SECOND)[0].yaw - once.yaw) < np.radians(1.0)


def test_imu_of_another_convention_is_overcome_by_motion():
    drive, tracker = biased(6, duration=15.0, outage=(999.0, 999.0)), Tracker()
    for kind, data in drive.events():
        if kind == "odometry":
            tracker.add_odometry(*data)
            compass = np.pi / 2 - drive.truth[data[0]].yaw  # clockwise from north
            tracker.add_heading(data[0], float(wrap_angle(compass)), np.radians(2.0))
        elif kind == "fix":
            tracker.add_gnss(*data, LEVER)
    truth, pose = list(drive.truth.items())[-1][1], tracker.pose(drive.odometry[-1][0])[0]
    assert abs(wrap_angle(pose.yaw - truth.yaw)) < np.radians(8.0)


@pytest.mark.parametrize("fault", ["stuck", "jump"])
def test_receiver_that_does_not_move_as_odometry_does_is_not_believed(fault):
    drive = biased(7, duration=30.0, outage=(999.0, 999.0))
    broken = START + 15 * SECOND
    held = next(fix[1] for fix in drive.fixes if fix[0] >= broken)
    drive.fixes = [
        (stamp, position if stamp < broken else held if fault == "stuck" else position + [40.0, 0.0], covariance)
        for stamp, position, covariance in drive.fixes
    ]
    tracker, said = Tracker(), {}

    def listen(seconds):
        said[seconds] = tracker.gnss_complaint

    rows = drive_street(drive, Street(drive), tracker, each=listen)
    assert "odometry moved" in said[18.0] and not any(said[t] for t in said if t < 15)
    assert {row[1] for row in rows if row[0] > 10} == {TrackerState.TRACKING}
    assert max(row[2] for row in rows if row[0] > 10) < 2.0


def test_a_session_passes_headings_and_doubts_on():
    drive = RecordedDrive(seconds=2)
    session = LocalizationSession(OracleLocalizer(drive))
    fix, odometry = drive.fixes[0], drive.odometry[0]
    session.on_odometry(odometry.stamp, odometry.T_odom_base)
    session.on_fix(fix.stamp, DATUM.to_enu(fix.latitude, fix.longitude), fix.covariance)
    assert session.status().T_map_odom is None
    session.on_heading(EPOCH, 0.6, 0.05)
    assert session.status().T_map_odom is not None
    session.relocalize()
    assert session.status().state is TrackerState.LOST and session.status().T_map_odom is not None
    session.reset()
    assert session.status().state is TrackerState.WAITING and session.status().T_map_odom is None
