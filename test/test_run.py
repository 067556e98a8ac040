"""The offline loop: causal, the same as the node's session, and a command that says what is wrong."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import typer
from recorded_drive import DATUM, EPOCH, LARGEST, OracleLocalizer, RecordedDrive

from cvloc_ros.cli.main import main
from cvloc_ros.cli.run import parse_datum, parse_mount, parse_start, parse_topics
from cvloc_ros.datasets.events import ImageEvent
from cvloc_ros.datasets.town.sensors import SECOND, GnssModel
from cvloc_ros.evaluation.run import run_bag
from cvloc_ros.evaluation.summary import summarize
from cvloc_ros.geometry import SE2, LocalFrame, camera_extrinsics
from cvloc_ros.imagery.uri import LayerUri
from cvloc_ros.localization.search_box import holds, search_box
from cvloc_ros.localization.session import LocalizationSession


def test_drive_is_localized_through_an_outage():
    drive = RecordedDrive(seconds=60, gnss=GnssModel(outage=(20.0, 42.0)))
    shares, painted = [], []

    def painter(frame, localization, truth):
        painted.append(
            (frame.stamp, np.hypot(truth.x - localization.T_map_base.x, truth.y - localization.T_map_base.y))
        )
        return np.zeros((4, 4, 3), np.uint8)

    result = run_bag(drive, OracleLocalizer(drive), datum=DATUM, painter=painter, progress=shares.append)
    summary = summarize(result)
    assert summary["tracker"]["position_error_m"]["rmse"] < 0.4
    assert summary["tracker"]["position_error_m"]["rmse"] < summary["gnss"]["position_error_m"]["rmse"] / 3
    assert summary["localized"] / summary["frames"] > 0.8
    assert summary["rejected"]["inconsistent_with_track"] > 3 and summary["rejected"]["low_quality"] > 10
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert 50 <= len(painted) == len(result.samples) <= 61  # one a second, with the truth of its own stamp
    assert np.median([error for _, error in painted]) < 1.0


def test_accepted_outliers_are_rare_and_rejections_have_reasons():
    drive = RecordedDrive(seconds=40)
    result = run_bag(drive, OracleLocalizer(drive, outliers=0.2), datum=DATUM)
    for frame in result.frames:
        assert frame.accepted == (frame.reason == "")
        if frame.accepted:
            assert np.hypot(frame.estimate.x - frame.truth.x, frame.estimate.y - frame.truth.y) < 5


def test_loop_is_causal():
    """What comes after a frame cannot change what is said about it."""
    whole, half = RecordedDrive(seconds=20), RecordedDrive(seconds=20)
    cut = EPOCH + 10 * SECOND
    half.fixes = [fix for fix in half.fixes if fix.stamp <= cut]
    half.odometry = [odometry for odometry in half.odometry if odometry.stamp <= cut]
    first = run_bag(whole, OracleLocalizer(whole), datum=DATUM).frames
    second = run_bag(half, OracleLocalizer(half), datum=DATUM).frames
    for a, b in zip(first, second, strict=True):
        if a.stamp < cut:
            assert (a.estimate, a.fused, a.reason, a.state) == (b.estimate, b.fused, b.reason, b.state)


def test_truth_follows_another_datum():
    """The map's datum may differ from the bag's: truth, estimate and fixes then move together."""
    north = LocalFrame(DATUM.latitude + 0.01, DATUM.longitude + 0.02)
    drive = RecordedDrive(seconds=5)
    moved = run_bag(drive, OracleLocalizer(drive), datum=north)
    latitude, longitude = DATUM.to_wgs84(drive.trajectory.poses[0, :2])
    np.testing.assert_allclose([moved.truth[0][1].x, moved.truth[0][1].y], north.to_enu(latitude, longitude), atol=1e-6)
    convergence = np.radians(-0.02 * np.sin(np.radians(DATUM.latitude)))  # meridians meet at the pole
    assert moved.truth[0][1].yaw - drive.trajectory.poses[0, 2] == pytest.approx(convergence, rel=0.02)


def test_broken_images_are_counted_not_fatal():
    drive = RecordedDrive(seconds=5)
    broken = replace(next(e for e in drive if isinstance(e, ImageEvent)), data=np.zeros(10, np.uint8))

    class Spoiled(RecordedDrive):
        def __iter__(self):
            yield broken
            yield from super().__iter__()

    drive = Spoiled(seconds=5)
    result = run_bag(drive, OracleLocalizer(drive), datum=DATUM)
    assert result.frames[0].reason == "bad_image" and len(result.frames) == 52


def test_result_of_a_drive_before_a_reset_is_discarded():
    drive = RecordedDrive(seconds=10)
    oracle = OracleLocalizer(drive, outliers=0.0, rejected=0.0)

    class Slow:
        def localize(self, frame, prior):
            answer = oracle.localize(frame, prior)
            session.reset()  # as a looping bag would, while the network is at work
            return answer

    session = LocalizationSession(Slow())
    first = next(event for event in drive if isinstance(event, ImageEvent))
    frames = [session.on_image(drive.frame(first))]
    assert frames[0].localization is None and frames[0].message == "waiting for odometry: no message yet"
    for event in drive:
        if isinstance(event, ImageEvent):
            frames.append(session.on_image(drive.frame(event)))
            if frames[-1].localization is not None:
                break
        elif hasattr(event, "latitude"):
            session.on_fix(event.stamp, DATUM.to_enu(event.latitude, event.longitude), event.covariance)
        elif hasattr(event, "T_odom_base"):
            session.on_odometry(event.stamp, event.T_odom_base)
    assert frames[-1].reason == "reset" and not frames[-1].localization.accepted
    assert session.pose(frames[-1].localization.stamp) is None


def test_session_looks_ahead():
    """It gets ready for the box that comes, the whole one too: a patch that is cut there serves."""
    drive = RecordedDrive(seconds=20)
    served = []

    class Expecting(OracleLocalizer):
        expected = None

        def expect(self, prior):
            self.expected = prior

        def localize(self, frame, prior):
            box, expected, self.expected = search_box(prior, LARGEST), self.expected, None
            if expected is not None:
                served.append((box, holds(LARGEST, expected.T_map_base.inverse() @ prior.T_map_base, box)))
            return super().localize(frame, prior)

    session = LocalizationSession(Expecting(drive))
    session.look_ahead()
    for event in drive:
        if isinstance(event, ImageEvent):
            session.on_image(drive.frame(event))
            session.look_ahead()
        elif hasattr(event, "latitude"):
            session.on_fix(event.stamp, DATUM.to_enu(event.latitude, event.longitude), event.covariance)
        elif hasattr(event, "T_odom_base"):
            session.on_odometry(event.stamp, event.T_odom_base)
    whole = [held for box, held in served if box[0] == LARGEST[0]]
    assert len(served) > 150 and len(whole) > 40
    assert np.mean([held for _, held in served]) > 0.97 and np.mean(whole) > 0.9


def test_after_a_reset_it_looks_ahead_from_the_second_image_on():
    """Only then is it known again how far apart images are."""
    drive = RecordedDrive(seconds=2)
    expected = []

    class Expecting(OracleLocalizer):
        def expect(self, prior):
            expected.append(prior)

    session = LocalizationSession(Expecting(drive))
    for _ in range(2):
        counts = []
        session.set_pose(drive.start, drive.trajectory.at(drive.start).T_map_base, np.diag([0.01, 0.01, 0.001]))
        for event in drive:
            if isinstance(event, ImageEvent):
                session.on_image(drive.frame(event))
                session.look_ahead()
                counts.append(len(expected))
            elif hasattr(event, "T_odom_base"):
                session.on_odometry(event.stamp, event.T_odom_base)
        assert len(counts) > 10 and counts == [*range(len(counts))]
        session.reset()
        expected.clear()


def test_session_starts_anew_when_time_jumps_back():
    session = LocalizationSession(OracleLocalizer(RecordedDrive(seconds=1)))
    session.on_odometry(EPOCH + 60 * SECOND, SE2(1.0, 0.0, 0.0))
    session.set_pose(EPOCH + 60 * SECOND, SE2(), np.eye(3))
    assert session.status().T_map_odom is not None
    session.on_odometry(EPOCH, SE2(1.0, 0.0, 0.0))
    assert session.status().T_map_odom is not None, "one message may have a wrong stamp"
    session.on_odometry(EPOCH + SECOND // 10, SE2(1.0, 0.0, 0.0))
    assert session.status().T_map_odom is None


def test_datum_and_topics_are_read():
    assert parse_datum("49.0,8.4") == LocalFrame(49.0, 8.4) and parse_datum(None) is None
    assert parse_topics(["image=/a/b", "fix:=/c", "ground_truth="]) == {
        "image": "/a/b",
        "fix": "/c",
        "ground_truth": "",
    }
    for text in ("49", "north,8", "120,8", "1,2,3,4"):
        with pytest.raises(typer.BadParameter, match="latitude,longitude"):
            parse_datum(text)
    with pytest.raises(typer.BadParameter, match="ROLE=TOPIC"):
        parse_topics(["/camera/image"])


def test_mount_is_read():
    expected = camera_extrinsics(x=1.2, y=-0.3, height=1.65, roll=0.01, pitch=0.05, yaw=-0.02)
    text = ",".join(f"{v:.6f}" for v in (1.2, -0.3, 1.65, *np.degrees([0.01, 0.05, -0.02])))
    np.testing.assert_allclose(parse_mount(text), expected, atol=1e-6)
    assert parse_mount(None) is None
    for wrong in ("1,2,3", "1,0,0,0,0,0", "1,0,1.6,0,0,nan", "x,0,1.6,0,0,0"):
        with pytest.raises(typer.BadParameter, match="six numbers"):
            parse_mount(wrong)


def test_start_is_read():
    pose, covariance = parse_start("-12.5,40,-90")
    assert (pose.x, pose.y) == (-12.5, 40.0) and pose.yaw == pytest.approx(-np.pi / 2)
    np.testing.assert_allclose(np.sqrt(3 * np.diag(covariance)), [20, 20, np.radians(10)])  # uniform within these
    assert parse_start(None) is None
    for wrong in ("1,2", "1,2,3,4", "here,0,0", "0,0,nan"):
        with pytest.raises(typer.BadParameter, match="east,north,yaw"):
            parse_start(wrong)


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments, options=()):
        monkeypatch.setattr(sys, "argv", ["cvloc", *options, "run", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        return exit_info.value.code, capsys.readouterr().err

    return call


def test_command_says_what_is_missing(command, tmp_path):
    code, error = command(tmp_path / "no.mcap", "--imagery", "sat.tif")
    assert code == 1 and "there is no" in error and "Traceback" not in error
    code, error = command(tmp_path, "--imagery", "sat.tif")
    assert code == 1 and "metadata.yaml" in error
    (tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync").mkdir(parents=True)
    code, error = command(tmp_path / "2011_09_26", "--imagery", "sat.tif", "--out", tmp_path / "out")
    assert code == 1 and "a date of KITTI: name one of its drives, a folder ending in _sync" in error
    code, error = command(tmp_path, "--imagery", "sat.tif", "--datum", "north")
    assert code == 2 and "latitude,longitude" in error


def test_errors_of_a_command_are_shown_without_keys(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MAP_KEY", "s3cr3t-k3y")
    LayerUri.parse("https://a.example/{z}/{x}/{y}.png?key=${MAP_KEY}").expanded()
    for options in ((), ("--traceback",)):
        code, error = command(tmp_path / "s3cr3t-k3y.mcap", "--imagery", "sat.tif", options=options)
        assert code == 1 and "s3cr3t-k3y" not in error and "${MAP_KEY}.mcap" in error
