"""Drives: plausible motion, sensors that are wrong in the way they say, images in order, and whole bags or none."""

import cv2
import numpy as np
import pytest

from cvloc_ros.datasets.town import Town
from cvloc_ros.datasets.town.bag_writer import write_drive_bag
from cvloc_ros.datasets.town.drive import DEMO_CAMERA, record, simulate_drive
from cvloc_ros.datasets.town.motion import EPOCH, SECOND, follow
from cvloc_ros.datasets.town.sensors import GnssModel, OdometryModel, simulate_gnss, simulate_odometry
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics, wrap_angle

DATUM = LocalFrame(48.2, 16.3, 180.0)
CAMERA = PinholeCamera.from_focal(64, 32, 40.0)
ROUTE = np.array([[0, 0], [120, 0], [130, 4], [136, 12], [138, 24], [138, 120], [143, 135], [160, 140], [900, 140]])


class Beacon:
    """Renders images that tell where and when they were taken."""

    def render(self, T_map_base, seconds):
        value = [T_map_base.x / 4, 128 + 40 * T_map_base.yaw, 3 * seconds]
        return np.tile(np.uint8(np.clip(value, 0, 255)), (CAMERA.height, CAMERA.width, 1))


class Broken:
    def render(self, T_map_base, seconds):
        if seconds > 0.5:
            raise RuntimeError("the renderer failed")
        return np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)


def drive(seed=1, *, renderer=None, duration=75.0, **models):
    mount = camera_extrinsics(height=1.65, x=1.2, pitch=0.03)
    trajectory = follow(ROUTE, duration=duration, cruise=9.0)
    return record(trajectory, renderer or Beacon(), DATUM, seed, camera=CAMERA, T_base_camera=mount, **models)


def gnss_errors(d):
    arm = np.array(d.gnss.lever_arm[:2])
    truth = np.array([d.trajectory.at(fix.stamp).T_map_base.apply(arm) for fix in d.fixes])
    return np.array([DATUM.to_enu(fix.latitude, fix.longitude) for fix in d.fixes]) - truth


def route_points():
    """Return points every 0.1 m or so along the route."""
    return np.concatenate([np.linspace(a, b, 1000) for a, b in zip(ROUTE[:-1], ROUTE[1:], strict=True)])


class TestMotion:
    def test_drives_along_the_route_and_looks_where_it_goes(self):
        motion = follow(ROUTE, duration=75.0, cruise=9.0)
        assert motion.stamps[0] == EPOCH and motion.stamps[-1] == EPOCH + 75 * SECOND
        moved = np.diff(motion.poses, axis=0)
        moving = np.hypot(moved[:, 0], moved[:, 1])
        direction = np.arctan2(moved[:, 1], moved[:, 0])
        assert np.abs(wrap_angle(direction - motion.poses[:-1, 2])).max() < np.radians(5)
        assert np.abs(motion.poses[::100, None, :2] - route_points()).sum(-1).min(axis=1).max() < 1.5
        np.testing.assert_allclose(moving * 100, motion.twists[:-1, 0], atol=0.15)

    def test_slows_down_for_turns_and_speeds_up_gently(self):
        circle = np.stack([15 * np.sin(np.linspace(0, 6, 400)), 15 - 15 * np.cos(np.linspace(0, 6, 400))], -1)
        route = np.concatenate([np.column_stack([np.linspace(-200, -0.5, 400), np.zeros(400)]), circle])
        motion = follow(route, duration=30.0, cruise=9.0)
        speed, yaw_rate = motion.twists[:, 0], motion.twists[:, 2]
        assert 8.9 < speed.max() <= 9.0
        turning = np.abs(yaw_rate) > 0.2
        assert turning.any() and speed[turning].min() < 6.0
        assert np.abs(speed * yaw_rate).max() < 2.3
        assert np.abs(np.diff(speed) * 100).max() < 2.0

    def test_asks_for_a_longer_route(self):
        with pytest.raises(ValueError, match="longer route"):
            follow(ROUTE[:4], duration=75.0, cruise=9.0)

    def test_truth_is_interpolated(self):
        motion = follow(ROUTE, duration=20.0, cruise=9.0)
        middle = int(motion.stamps[500] + motion.stamps[501]) // 2
        expected = (motion.poses[500] + motion.poses[501]) / 2
        np.testing.assert_allclose(motion.at(middle).T_map_base.vector(), expected, atol=1e-9)
        assert motion.at(int(motion.stamps[777])).T_map_base.x == pytest.approx(motion.poses[777, 0], abs=1e-12)


class TestGnss:
    def test_is_biased_wanders_and_goes_out(self):
        d = drive()
        errors = gnss_errors(d)
        assert 4.5 < np.linalg.norm(errors, axis=1).mean() < 9
        seconds = (np.array([fix.stamp for fix in d.fixes]) - EPOCH) / SECOND
        gaps = np.diff(seconds)
        assert gaps.max() >= 20 and seconds[gaps.argmax()] == pytest.approx(29.8)
        assert np.median(gaps) == pytest.approx(0.2)
        assert np.allclose(d.fixes[0].covariance, 25 * np.eye(2)) and d.fixes[0].frame_id == "gnss"

    def test_the_bias_is_as_asked_and_its_direction_is_the_seeds(self):
        model = GnssModel(bias=8.0, multipath=0.0, noise=0.0)
        first, second = (gnss_errors(drive(seed, gnss=model)) for seed in (1, 2))
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 8.0, atol=1e-6)
        assert np.ptp(first, axis=0).max() < 1e-6
        assert np.linalg.norm(first[0] - second[0]) > 0.5

    def test_multipath_is_as_large_and_as_slow_as_asked(self):
        motion = follow(np.array([[0, 0], [20_000, 0]]), duration=1500.0, cruise=9.0)
        model = GnssModel(bias=0.0, noise=0.0, lever_arm=(0, 0, 0), outage=(0, 0))
        fixes = simulate_gnss(motion, DATUM, np.random.default_rng(0), model=model)
        truth = motion.poses_at(np.array([fix.stamp for fix in fixes]))[:, :2]
        errors = np.array([DATUM.to_enu(fix.latitude, fix.longitude) for fix in fixes]) - truth
        assert 1.1 < errors.std() < 1.9
        lag = 75  # 15 s at 5 Hz
        assert 0.2 < (errors[lag:] * errors[:-lag]).mean() / errors.var() < 0.55  # exp(-1) = 0.37


class TestOdometry:
    def test_drifts(self):
        d = drive()
        start, end = d.trajectory.at(d.odometry[0].stamp).T_map_base, d.trajectory.at(d.odometry[-1].stamp).T_map_base
        assert d.odometry[0].T_odom_base == SE2()
        error = (start @ d.odometry[-1].T_odom_base).vector() - end.vector()
        assert 4 < np.hypot(*error[:2]) < 60
        assert 2 < abs(np.degrees(error[2])) < 9

    def test_without_errors_it_is_the_truth(self):
        motion = follow(ROUTE, duration=60.0, cruise=9.0)
        exact = OdometryModel(scale=0.0, yaw_bias=0.0, speed_noise=1e-9, yaw_noise=1e-9)
        events = simulate_odometry(motion, np.random.default_rng(0), model=exact)
        start = motion.at(events[0].stamp).T_map_base
        for event in events[::100]:
            truth = motion.at(event.stamp)
            np.testing.assert_allclose((start @ event.T_odom_base).vector(), truth.T_map_base.vector(), atol=0.01)
            np.testing.assert_allclose(event.twist[0], truth.twist[0], atol=0.3)

    def test_says_how_wrong_it_is(self):
        motion = follow(ROUTE, duration=60.0, cruise=9.0)
        start = motion.at(int(motion.stamps[0])).T_map_base
        nees = []
        for seed in range(40):
            last = simulate_odometry(motion, np.random.default_rng(seed), model=OdometryModel())[-1]
            truth = start.inverse() @ motion.at(last.stamp).T_map_base
            error = last.T_odom_base.vector() - truth.vector()
            nees.append(error @ np.linalg.solve(last.covariance, error))
        assert 1.5 < np.mean(nees) < 4.5  # 3 degrees of freedom


class TestImages:
    def test_workers_render_what_one_process_renders_in_order(self):
        d = drive(duration=2.0)
        done = []
        rendered = [list(d.images(workers=n, progress=lambda i, of: done.append((i, of)))) for n in (1, 2)]
        assert len(rendered[0]) == 21 and done[-1] == (21, 21) and len(done) == 42
        for one, two in zip(*rendered, strict=True):
            assert one.stamp == two.stamp
            np.testing.assert_array_equal(one.data, two.data)
            seconds = (one.stamp - EPOCH) / SECOND
            expected = Beacon().render(d.trajectory.at(one.stamp).T_map_base, seconds)
            assert cv2.PSNR(one.image(), expected) > 30

    def test_same_seed_same_drive(self):
        one, two, other = drive(5), drive(5), drive(6)
        assert [f.latitude for f in one.fixes] == [f.latitude for f in two.fixes]
        assert [o.T_odom_base for o in one.odometry] == [o.T_odom_base for o in two.odometry]
        assert one.fixes[0].latitude != other.fixes[0].latitude


@pytest.fixture(scope="module")
def town():
    return Town.generate(77, size=300.0)


class TestTownDrive:
    def test_same_seed_same_drive(self, town):
        one, two = (simulate_drive(town, 4, duration=20.0) for _ in range(2))
        np.testing.assert_array_equal(one.trajectory.poses, two.trajectory.poses)
        assert [fix.longitude for fix in one.fixes] == [fix.longitude for fix in two.fixes]
        stamp = int(one.image_stamps[50])
        views = [d.renderer.render(d.trajectory.at(stamp).T_map_base, 5.0) for d in (one, two)]
        np.testing.assert_array_equal(*views)
        assert views[0].shape == (DEMO_CAMERA.height, DEMO_CAMERA.width, 3) and views[0].std() > 10

    def test_stays_on_the_road_in_town_and_turns(self, town):
        motion = simulate_drive(town, 4, duration=60.0).trajectory
        assert np.abs(motion.poses[:, :2]).max() < town.size / 2 - 30
        assert np.ptp(motion.poses[:, 2]) > np.radians(60)
        assert motion.distance > 60 * 4
        centre_lines = np.concatenate([edge.line for edge in town.roads.edges])
        gaps = np.hypot(*(motion.poses[::50, None, :2] - centre_lines).transpose(2, 0, 1)).min(axis=1)
        assert np.median(gaps) < 6

    def test_nobody_stands_in_the_way(self, town):
        d = simulate_drive(town, 4, duration=60.0)
        cars = np.stack([d.renderer.cars.x, d.renderer.cars.y], -1)
        gaps = np.hypot(*(cars[:, None] - d.trajectory.poses[::10, :2]).transpose(2, 0, 1))
        assert len(cars) > 3 and gaps.min() > 2.3


class TestWriting:
    def test_a_failure_leaves_no_half_bag(self, tmp_path):
        with pytest.raises(RuntimeError, match="the renderer failed"):
            write_drive_bag(tmp_path / "bag", drive(renderer=Broken(), duration=2.0), workers=1)
        assert list(tmp_path.iterdir()) == []

    def test_does_not_overwrite(self, tmp_path):
        (tmp_path / "bag").mkdir()
        with pytest.raises(FileExistsError, match="remove it"):
            write_drive_bag(tmp_path / "bag", drive(duration=1.0), workers=1)
