"""The tracker on a simulated drive: biased GNSS, drifting odometry, localizations with outliers."""

from dataclasses import replace

import numpy as np
import pytest
from tracker_inputs import LARGEST, LEVER, SECOND, START, Drive, localization, rmse, run, search, tracked

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.search_box import search_box
from cvloc_ros.localization.tracker import Tracker, TrackerConfig, TrackerState


@pytest.mark.parametrize("seed", range(3))
def test_fused_pose_is_accurate_and_its_covariance_honest(seed):
    tracker, rows = run(Drive(seed))
    good = tracked(rows)
    assert tracker.state is TrackerState.TRACKING and tracker.waiting_for == ""
    assert (good[0][0] - START) / SECOND < 8  # stands for 2 s, then heading from motion, then confirmations
    assert rmse(good) <= 0.6
    assert np.degrees(np.median([row[3] for row in good])) < 0.6
    assert 0.5 < np.mean([row[4] for row in good]) < 5
    outage = [row for row in good if 30 < (row[0] - START) / SECOND < 52]
    assert len(outage) > 500 and rmse(outage) <= 0.6


def test_without_localizations_the_error_stays_that_of_gnss_and_is_admitted():
    tracker, rows = run(Drive(1), skip=("localization",))
    late = [row for row in rows if row[0] > START + 20 * SECOND]
    assert tracker.state is TrackerState.INITIALIZING and "localizations" in tracker.waiting_for
    assert 3 < rmse(late) < 12
    assert np.mean([row[4] for row in late]) < 9


def test_without_gnss_outliers_and_drift_are_held_from_a_given_pose():
    drive = Drive(2)
    tracker = Tracker()
    tracker.add_odometry(*drive.odometry[0])
    tracker.set_pose(START, drive.truth[START], np.diag([2.0, 2.0, 0.05]) ** 2)
    _, rows = run(drive, tracker=tracker, skip=("fix",))
    assert rmse(tracked(rows)) <= 0.6


def test_fixes_still_count_where_they_no_longer_tell_the_heading():
    """Odometry that may stray by metres over each metre: fixes of a while ago say nothing of today's heading."""
    tracker = Tracker(TrackerConfig(odometry_position_noise=1.0, odometry_turn_noise=20.0))
    rng, sigmas = np.random.default_rng(0), []
    pose = SE2()
    for step in range(1200):  # 60 s straight on, then round and round
        stamp = START + step * SECOND // 10
        pose = pose @ SE2(0.6, 0.0, 0.0 if step < 600 else 0.05)
        tracker.add_odometry(stamp, pose)
        if step % 10 == 0:
            tracker.add_gnss(stamp, pose.apply(np.zeros(2)) + rng.normal(size=2), np.eye(2) * 9)
        if step > 100:
            sigmas.append(np.sqrt(tracker.pose(stamp)[1][0, 0]))
    assert max(sigmas) < 20


def test_late_localizations_are_as_good_as_punctual_ones():
    drive = Drive(3)
    _, punctual = run(drive)
    _, late = run(drive, late=0.2)
    assert rmse(tracked(late)) < rmse(tracked(punctual)) + 0.05


def test_late_correction_equals_a_punctual_one_while_tracking():
    drive = Drive(4, outliers=0.0)
    poses = []
    for delay in (0, 5):
        tracker = Tracker()
        tracker.add_odometry(*drive.odometry[0])
        tracker.set_pose(START, drive.truth[START], np.diag([1.0, 1.0, 0.02]) ** 2)
        pending = list(drive.localizations[:100])
        for i, (stamp, pose) in enumerate(drive.odometry[:250]):
            tracker.add_odometry(stamp, pose)
            while pending and i >= delay and pending[0].stamp <= drive.odometry[i - delay][0]:
                search(tracker, pending.pop(0))
        while pending and pending[0].stamp <= drive.odometry[249][0]:
            search(tracker, pending.pop(0))
        poses.append(tracker.pose(drive.odometry[249][0])[0])
    difference = poses[0].vector() - poses[1].vector()
    assert np.hypot(*difference[:2]) < 0.05 and abs(difference[2]) < np.radians(0.1)


@pytest.mark.parametrize("yaw", [0.0, 1.0, -2.5])
def test_lever_arm_places_the_vehicle_not_the_antenna(yaw):
    truth = SE2(10.0, 20.0, yaw)
    tracker = Tracker(TrackerConfig(gnss_correlation_time=0.0, gnss_sigma_floor=0.1))
    tracker.add_odometry(START, SE2(1.0, 2.0, 0.3))
    tracker.set_pose(START, SE2(11.0, 19.0, yaw), np.diag([3.0, 3.0, 1e-3]) ** 2)
    for _ in range(20):
        tracker.add_gnss(START, truth.apply(np.array([2.0, -1.0])), np.eye(2) * 0.01, (2.0, -1.0))
    pose, _ = tracker.pose(START)
    np.testing.assert_allclose([pose.x, pose.y], [10.0, 20.0], atol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_heading_is_found_from_motion_and_until_then_asked_for(seed):
    drive = Drive(seed)
    tracker = Tracker()
    assert tracker.state is TrackerState.WAITING and "odometry" in tracker.waiting_for
    tracker.add_odometry(*drive.odometry[0])
    assert tracker.state is TrackerState.WAITING and "GNSS" in tracker.waiting_for
    tracker.add_gnss(*drive.fixes[0], LEVER)
    assert tracker.state is TrackerState.INITIALIZING
    assert "heading is unknown until the vehicle has moved 8 m" in tracker.waiting_for
    assert tracker.T_map_odom is None
    # Meanwhile the images are asked: the place is known, and every heading is tried.
    turns = []
    for _ in range(40):
        for prior in tracker.priors(START):
            turns.append(prior.T_map_base.yaw)
            tracker.add_localization(replace(localization(START, prior.T_map_base), prior=prior, accepted=False))
    assert np.diff(np.sort(turns)).max() < np.radians(20) and len(tracker.priors(START)) <= 2
    _, rows = run(drive, tracker=tracker, skip=("localization",))
    stamp, _, error, heading_error, _ = rows[0]
    assert (stamp - START) / SECOND < 6
    assert np.degrees(heading_error) < 15 and error < 12  # within 3 sigma, so inside the search box
    assert np.degrees(rows[250][3]) < 5  # more motion improves it


def test_standing_still_confirms_nothing():
    tracker = Tracker()
    for i in range(100):
        stamp = START + i * SECOND // 10
        tracker.add_odometry(stamp, SE2())
        if i == 0:
            tracker.set_pose(stamp, SE2(5.0, 5.0, 1.0), np.diag([3.0, 3.0, 0.1]) ** 2)
        assert not search(tracker, localization(stamp, SE2(9.0, 5.0, 1.0)))
    assert tracker.state is TrackerState.INITIALIZING


def test_wrong_initial_pose_is_overruled():
    drive = Drive(5)
    # A person clicks 15 m beside the truth and is sure of it: localizations that agree win.
    tracker = Tracker()
    tracker.add_odometry(*drive.odometry[0])
    wrong = SE2(drive.truth[START].x + 15.0, drive.truth[START].y, drive.truth[START].yaw + 0.1)
    tracker.set_pose(START, wrong, np.diag([0.3, 0.3, 0.02]) ** 2)
    _, rows = run(drive, tracker=tracker)
    assert rmse(tracked(rows)) <= 0.6


def test_slipped_track_is_recovered():
    tracker, _ = run(Drive(5, outliers=0.0))
    stamp, odom = tracker._odometry.newest, tracker._odometry.at(tracker._odometry.newest)
    truth = Drive(5).truth[stamp] @ SE2(0.0, 8.0, 0.0)  # the wheels did not see that
    reasons = []
    for i in range(1, 100):
        odom, truth = odom @ SE2(1.0, 0.0, 0.0), truth @ SE2(1.0, 0.0, 0.0)
        tracker.add_odometry(stamp + i * SECOND // 10, odom)
        search(tracker, localization(stamp + i * SECOND // 10, truth))
        reasons.append(tracker.last_rejection)
    assert "" not in reasons[:20] and set(reasons[70:]) == {""}  # a metre each
    pose = tracker.pose(stamp + 99 * SECOND // 10)[0]
    assert np.hypot(pose.x - truth.x, pose.y - truth.y) < 0.5


def test_short_run_of_equal_errors_does_not_overrule_the_track():
    drive = Drive(5, outliers=0.0)
    for i in range(300, 312):  # 12 frames in a row agree with one another, 6 m beside the truth
        pose = drive.localizations[i].T_map_base @ SE2(0.0, 6.0, 0.0)
        drive.localizations[i] = localization(drive.localizations[i].stamp, pose)
    _, rows = run(drive)
    assert max(row[2] for row in tracked(rows)) < 1.5


def test_slow_vehicle_recovers_too():
    tracker = Tracker()
    tracker.add_odometry(START, SE2())
    tracker.set_pose(START, SE2(), np.diag([0.5, 0.5, 0.02]) ** 2)
    errors, states = [], []
    for i in range(1, 800):  # 1 m/s; the localizations jump at 30 m and stay there
        stamp, odom = START + i * SECOND // 10, SE2(0.1 * i, 0.0, 0.0)
        tracker.add_odometry(stamp, odom)
        search(tracker, localization(stamp, odom if i < 300 else SE2(odom.x, 6.0, 0.0), sigma=0.2))
        errors.append(tracker.pose(stamp)[0].y)
        states.append(tracker.state)
    assert states[299] is TrackerState.TRACKING and max(np.abs(errors[:400])) < 0.5
    assert states[-1] is TrackerState.TRACKING and errors[-1] == pytest.approx(6.0, abs=0.3)


def test_far_initial_pose_is_replaced_by_fixes_that_contradict_it():
    drive = Drive(6)
    tracker = Tracker()
    tracker.add_odometry(*drive.odometry[0])
    tracker.set_pose(START, SE2(500.0, 500.0, 0.0), np.diag([1.0, 1.0, 0.1]) ** 2)
    _, rows = run(drive, tracker=tracker, skip=("localization",))
    assert rows[10][2] > 400 and rows[-1][2] < 15


def answers_with_the_middle(tracker, stamp, seen):
    """A matcher that sees nothing and answers with its box's middle, or with what it has learned is likely there."""
    for prior in tracker.priors(stamp):
        pose = prior.T_map_base @ SE2(1.5, 0.0, 0.0)
        tracker.add_localization(replace(localization(stamp, pose), prior=prior, search_box=search_box(prior, LARGEST)))
        seen.add(tracker.state)


def test_answers_that_follow_the_prior_start_no_track():
    drive, tracker, seen = Drive(6, duration=40.0, outage=(99.0, 99.0)), Tracker(), set()
    for kind, data in drive.events():
        if kind == "odometry":
            tracker.add_odometry(*data)
        elif kind == "fix":
            tracker.add_gnss(*data, LEVER)
        else:
            answers_with_the_middle(tracker, data.stamp, seen)
    assert seen == {TrackerState.INITIALIZING}


def test_answers_that_follow_the_prior_do_not_keep_a_track_sure():
    drive, tracker = Drive(6, duration=60.0, outage=(15.0, 99.0)), Tracker()
    sure_and_wrong = 0
    for kind, data in drive.events():
        if kind == "odometry":
            tracker.add_odometry(*data)
        elif kind == "fix":
            tracker.add_gnss(*data, LEVER)
        elif data.stamp < START + 15 * SECOND:
            search(tracker, data)
        else:
            answers_with_the_middle(tracker, data.stamp, set())
            pose, truth = tracker.pose(data.stamp)[0], drive.truth[data.stamp]
            wrong = np.hypot(pose.x - truth.x, pose.y - truth.y) > 5
            sure_and_wrong += wrong and tracker.state is TrackerState.TRACKING
    assert tracker.state is TrackerState.LOST and sure_and_wrong < 20  # images, of 10 a second


def test_gnss_multipath_does_not_pull_a_good_track():
    drive = Drive(7, outage=(1000.0, 1000.0))
    drive.fixes = [
        (stamp, position + ([30.0, 25.0] if 30 < (stamp - START) / SECOND < 45 else [0.0, 0.0]), covariance)
        for stamp, position, covariance in drive.fixes
    ]
    _, rows = run(drive)
    assert rmse(tracked(rows)) <= 0.6


def test_states_without_localizations():
    drive = Drive(8)
    kept = drive.localizations
    drive.localizations = [x for x in kept if x.stamp < START + 15 * SECOND]
    tracker, rows = run(drive)
    states = [row[1] for row in rows]
    assert states.index(TrackerState.TRACKING) < states.index(TrackerState.DEGRADED) < states.index(TrackerState.LOST)
    assert "have to agree on one of 0 places" in tracker.waiting_for
    # A wide prior admits that the pose is lost; localizations that agree bring it back.
    drive.localizations = [x for x in kept if not START + 15 * SECOND < x.stamp < START + 60 * SECOND]
    tracker, rows = run(drive)
    assert TrackerState.LOST in [row[1] for row in rows] and tracker.state is TrackerState.TRACKING
    assert rows[-1][2] < 1.0


def test_degraded_by_distance_and_time():
    tracker, _ = run(Drive(9, duration=20.0))
    assert tracker.state is TrackerState.TRACKING
    stamp = tracker._odometry.newest
    odom = tracker._odometry.at(stamp)
    tracker.add_odometry(stamp + 2 * SECOND, odom)
    assert tracker.state is TrackerState.TRACKING
    tracker.add_odometry(stamp + 4 * SECOND, odom)
    assert tracker.state is TrackerState.DEGRADED and "too few, accepted for" in tracker.waiting_for


def test_reset_forgets():
    drive = Drive(10, duration=20.0)
    tracker, _ = run(drive)
    tracker.reset()
    assert tracker.state is TrackerState.WAITING and tracker.pose(START) is None
    _, rows = run(drive, tracker=tracker)
    assert tracker.state is TrackerState.TRACKING and rmse(tracked(rows)) <= 0.6


def test_odometry_that_starts_again_elsewhere_resets():
    tracker, _ = run(Drive(11, duration=20.0))
    stamp = tracker._odometry.newest
    before = tracker.pose(stamp)[0]
    tracker.add_odometry(stamp - SECOND // 2, SE2())  # out of order: ignored, not a new start
    assert tracker.pose(stamp)[0] == before
    tracker.add_odometry(stamp + SECOND // 25, SE2())
    assert tracker.T_map_odom is None and tracker.state is TrackerState.WAITING


def test_prior_has_a_floor_and_grows_past_the_newest_odometry():
    tracker = Tracker()
    tracker.add_odometry(START, SE2())
    tracker.add_odometry(START + SECOND // 25, SE2(0.4, 0.0, 0.0))
    tracker.set_pose(START + SECOND // 25, SE2(1.0, 1.0, 0.0), np.eye(3) * 1e-8)
    tracker._confidence.confirm(START + SECOND // 25, 0.4)
    tracker._images = 1
    (prior,) = tracker.priors(START + SECOND // 25)
    np.testing.assert_allclose(np.sqrt(np.diag(prior.covariance)), [2.0, 2.0, np.radians(1.0)], rtol=1e-3)
    ahead, covariance = tracker.pose(START + SECOND // 25 + SECOND // 10)
    assert ahead.x == pytest.approx(2.0) and covariance[0, 0] > 1e-4
    assert tracker.pose(START + SECOND) is None
    assert "1.0 s older" in tracker.missing_at(START + SECOND)
    assert tracker.pose(START - SECOND) is None


def test_config_refuses_what_is_out_of_range():
    with pytest.raises(ValueError, match="lost_sigma: expected 1.0 to 1000.0 m, got -1"):
        replace(TrackerConfig(), lost_sigma=-1)
