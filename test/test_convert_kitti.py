"""`cvloc convert` on KITTI raw: the town's truth comes back through `Bag`; interrupted work leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from painted_town import FINE, assert_pictures_agree, assert_same_pose, in_frame, painted_town, write_image, write_text
from rosbags.highlevel import AnyReader
from test_kitti_dataset import CAMERA, DATUM, LEVER, MOUNT, write_calibration
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.events import ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.item import Item, box_prior
from cvloc_ros.geometry import SE2, LocalFrame, camera_extrinsics
from cvloc_ros.imagery import Patch

DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0039_sync"
COUNT, SPEED, TURN = 26, 9.0, 0.25  # records at 10 Hz, m/s, rad/s
FIRST = 1_317_042_145_594_360_375  # 2011-09-26 13:02:25.594360375
T_BASE_CAMERA = camera_extrinsics(height=1.65, x=LEVER[0], y=LEVER[1], **MOUNT)


def imu_pose(k: int) -> SE2:
    """In the town's frame; the arc ends at the pose that sees most paint."""
    angle = TURN * 0.1 * (k - COUNT + 1)
    moved = SE2(SPEED / TURN * np.sin(angle), SPEED / TURN * (1 - np.cos(angle)), angle)
    return painted_town().pose @ moved


def stamps(first: int) -> str:
    times = [np.datetime64(first + k * 100_000_000, "ns") for k in range(COUNT)]
    return "".join(f"{str(t).replace('T', ' ')}\n" for t in times)


def write_drive(root: Path) -> Path:
    drive, world = root / DATE / DRIVE, painted_town()
    write_calibration(root / DATE)
    write_text(drive / "oxts/timestamps.txt", stamps(FIRST))
    write_text(drive / "image_02/timestamps.txt", stamps(FIRST + 4_000_000))
    for k in range(COUNT):
        pose = imu_pose(k)
        latitude, longitude = DATUM.to_wgs84(np.array([pose.x, pose.y]))
        record = np.zeros(30)
        record[[0, 1, 2, 5]] = latitude, longitude, 116.4, pose.yaw
        record[[8, 9, 22]] = SPEED, 0.0, TURN
        record[[11, 12, 13, 17, 18, 19]] = 0.1, 0.2, 9.8, 0.01, 0.02, TURN
        write_text(drive / f"oxts/data/{k:010d}.txt", " ".join(map(repr, map(float, record))) + "\n")
    for k in (0, COUNT - 1):
        write_image(drive / f"image_02/data/{k:010d}.png", world.ground(imu_pose(k), CAMERA, T_BASE_CAMERA))
    return drive


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    return write_drive(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def bag(drive, tmp_path_factory) -> Bag:
    out = tmp_path_factory.mktemp("bags") / "drive"
    result = CliRunner().invoke(app, ["convert", str(drive), str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "KITTI raw drive, 2.5 s" in result.output
    return Bag.open(out)


def of_type(bag, kind):
    return [event for event in bag if isinstance(event, kind)]


def expected(k: int) -> SE2:
    """Of base_link, under the GPS/IMU, in the map around its first place."""
    first = imu_pose(0)
    return in_frame(imu_pose(k), DATUM, np.array([first.x, first.y]))


def test_the_truth_comes_back(bag):
    truths = of_type(bag, TruthEvent)
    assert [event.stamp for event in truths] == [FIRST + k * 100_000_000 for k in range(COUNT)]
    for k, event in enumerate(truths):
        assert_same_pose(event.T_map_base, expected(k))
    np.testing.assert_allclose(truths[3].twist, [SPEED, 0, TURN])


def test_camera_frames_and_datum(bag):
    np.testing.assert_allclose(bag.camera.K, CAMERA.K)
    np.testing.assert_allclose(bag.T_base_camera, T_BASE_CAMERA, atol=1e-6)
    first = imu_pose(0)
    assert (bag.datum.latitude, bag.datum.longitude) == pytest.approx(DATUM.to_wgs84(np.array([first.x, first.y])))
    assert bag.base_frame == "base_link" and not bag.gnss_lever_arm.any()
    assert [note.split(":")[0] for note in bag.notes] == ["odometry", "fixes", "imu"]  # nothing had to be assumed


def test_images_are_as_published_and_lie_where_the_truth_says(bag, drive):
    """The picture's ground lies on the map at the truth: pose and mount are right together."""
    images, truths = of_type(bag, ImageEvent), of_type(bag, TruthEvent)
    assert [event.stamp for event in images] == [FIRST + 4_000_000 + k * 100_000_000 for k in (0, COUNT - 1)]
    assert images[1].data.tobytes() == (drive / f"image_02/data/{COUNT - 1:010d}.png").read_bytes()
    truth, town = truths[-1].T_map_base, imu_pose(COUNT - 1)
    # of the map frame, the painted town is its own: the patch is cut around the vehicle, turned as it is
    cells = (town @ SE2()).apply(FINE.centres())
    picture = painted_town().paint(cells[..., 0], cells[..., 1])
    patch = Patch(picture, np.ones(picture.shape[:2], bool), FINE, truth)
    item = Item("last", bag.frame(images[1]), box_prior(truth, radius=20, yaw=0.1), truth, patch)
    assert_pictures_agree(item)
    with pytest.raises(AssertionError):
        assert_pictures_agree(replace(item, truth=truth @ SE2(0.3, 0.0)))


def test_odometry_is_the_velocities_not_the_poses(bag, drive, tmp_path):
    """It agrees with the truth where the velocities do, and does not where they are wrong."""
    odometry = of_type(bag, OdometryEvent)
    assert odometry[0].T_odom_base == SE2()
    assert_same_pose(odometry[-1].T_odom_base, expected(0).inverse() @ expected(COUNT - 1))
    other = tmp_path / DATE / DRIVE
    shutil.copytree(drive.parent, other.parent)
    for path in (other / "oxts/data").iterdir():
        record = path.read_text().split()
        record[8] = str(0.5 * SPEED)
        path.write_text(" ".join(record))
    write_bag(tmp_path / "slow", open_recording(other).messages())
    slow = of_type(Bag.open(tmp_path / "slow", topics={"fix": ""}), OdometryEvent)
    assert slow[-1].T_odom_base.x == pytest.approx(0.5 * odometry[-1].T_odom_base.x)


def test_fixes_are_wrong_as_they_say(drive):
    """Without the added error they are the truth; with it their errors have the standard deviation that they state."""
    exact = open_recording(drive, gnss_error=0.0)
    assert "the truth itself" in " ".join(exact.notes)
    datum = LocalFrame(exact.datum.latitude, exact.datum.longitude)

    def errors(recording) -> np.ndarray:
        fixes = [(stamp, message) for stamp, topic, message in recording.messages() if topic == "/gnss/fix"]
        assert [stamp - FIRST for stamp, _ in fixes] == [0, 1_000_000_000, 2_000_000_000]
        positions = [datum.to_enu(fix.latitude, fix.longitude) for _, fix in fixes]
        return np.array([p - [expected(k).x, expected(k).y] for k, p in zip((0, 10, 20), positions, strict=True)])

    assert np.abs(errors(exact)).max() < 0.01
    drawn = np.array([errors(open_recording(drive, gnss_error=8.0, seed=seed)) for seed in range(12)])
    assert 5 < drawn.std() < 12
    assert np.abs(np.diff(drawn, axis=1)).mean() < 0.4 * drawn.std()  # it wanders
    np.testing.assert_array_equal(drawn[3], errors(open_recording(drive, gnss_error=8.0, seed=3)))


def test_the_imu_has_rates_but_not_the_truths_heading(bag):
    with AnyReader([Path(bag.source)]) as reader:
        connections = [c for c in reader.connections if c.topic == "/imu"]
        message = next(reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(connections))
    assert message.orientation_covariance[0] == -1
    assert message.angular_velocity.z == TURN and message.linear_acceleration.z == 9.8


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("image_02/timestamps.txt", None, "the times of a sensor at .*image_02/timestamps.txt"),
        ("oxts/timestamps.txt", "2011-09-26 13:02:25.5\n", "a time for .*0000000025.txt in line 26"),
        ("oxts/timestamps.txt", "yesterday\n", "times like 2011-09-26"),
        ("../calib_cam_to_cam.txt", None, "a calibration file at .*calib_cam_to_cam.txt"),
        ("oxts/data/0000000003.txt", "1 2 3", "30 numbers of oxts .*0000000003"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(drive, path, content, message):
    file = drive / path
    right = file.read_bytes()
    try:
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(DatasetError, match=message):
            open_recording(drive)
    finally:
        file.write_bytes(right)


def test_files_that_macos_leaves_are_none_of_the_data(drive):
    before = open_recording(drive)
    left = [drive / "image_02/data/._0000000000.png", drive / "oxts/data/._0000000003.txt"]
    try:
        for path in left:
            path.write_bytes(b"\0\5\x16\7")
        again = open_recording(drive)
        assert (again.start, again.end) == (before.start, before.end)
        topics = [[topic for _, topic, _ in recording.messages()] for recording in (before, again)]
        assert topics[0] == topics[1] and topics[0].count("/camera/image/compressed") == 2
    finally:
        for path in left:
            path.unlink()


def test_a_drive_without_images_says_where_they_are_expected(drive, tmp_path):
    shutil.copytree(drive / "oxts", tmp_path / DRIVE / "oxts")
    for path in drive.parent.glob("calib*"):
        shutil.copy(path, tmp_path)
    with pytest.raises(DatasetError, match=f"{DRIVE}/image_02/data/0000000000.png and on: get them from .*cvlibs"):
        open_recording(tmp_path / DRIVE)


def test_what_cannot_be_converted_is_told_what_can(drive, bag, tmp_path):
    for path, held in (
        (tmp_path / "none", "nothing is there"),
        (tmp_path, "none of them"),
        (drive.parent, "name one of its drives"),
        (Path(bag.source), "a rosbag2 already"),
    ):
        with pytest.raises(DatasetError, match=f"KITTI raw drive .* ROS 1 bag .*{held}"):
            open_recording(path)
    with pytest.raises(FileExistsError, match="remove it or choose another"):
        write_bag(bag.source, open_recording(drive).messages())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_conversion_that_was_ended_leaves_nothing(drive, tmp_path, number):
    """The last image is a pipe that nobody fills: the work waits there until it is interrupted.

    Killed, it leaves its scratch folder until the next run; one at work, or what looks alike, stays.
    """
    source, out = tmp_path / DATE, tmp_path / "out" / "bag"
    shutil.copytree(drive.parent, source)
    last = source / DRIVE / f"image_02/data/{COUNT - 1:010d}.png"
    last.unlink()
    os.mkfifo(last)
    command = [sys.executable, "-m", "cvloc_ros.cli.main", "convert", str(source / DRIVE), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pipe = None
    while pipe is None and process.poll() is None:
        with contextlib.suppress(OSError):  # until the other side has come to read it
            pipe = os.open(last, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.02)
    assert list(out.parent.glob(".bag-*/bag/*.mcap")) and not out.exists()
    (scratch,) = out.parent.iterdir()
    write_bag(out, open_recording(drive).messages())  # another run for the same place
    assert scratch.is_dir()
    shutil.rmtree(out)
    process.send_signal(number)
    output, _ = process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "no bag was written" in output
        assert not list(out.parent.iterdir())
        return
    alike = [out.parent / name for name in (".bag-notes", ".bag-abcdefgh/mine", ".bags-abcdefgh")]
    for folder in alike:
        folder.mkdir(parents=True)
    write_bag(out, open_recording(drive).messages())
    assert not scratch.exists() and all(folder.is_dir() for folder in alike)


@pytest.mark.shared_data
def test_the_real_fragment_converts(shared_data, tmp_path):
    """Real calibration, times and record of a drive, and real images of its date."""
    raw, frames = shared_data / "kitti/raw_2011_09_26", shared_data / "kitti/raw_rgb_frames"
    if not raw.is_dir() or not frames.is_dir():
        pytest.skip(f"{raw} or {frames} is absent")
    drive = tmp_path / "2011_09_26_drive_0001_sync"
    for path in raw.glob("calib*"):
        shutil.copy(path, tmp_path)
    shutil.copytree(raw / drive.name, drive)
    shutil.copytree(frames, drive / "image_02/data")
    shutil.copy(drive / "oxts/timestamps.txt", drive / "image_02/timestamps.txt")
    write_bag(tmp_path / "bag", open_recording(drive).messages())
    bag = Bag.open(tmp_path / "bag")
    assert bag.camera.K[0, 0] == pytest.approx(721.54, abs=0.01)
    images = of_type(bag, ImageEvent)
    assert [bag.frame(event).image.shape for event in images] == [(375, 1242, 3)] * 4
    assert (np.diff([event.stamp for event in images]) * 1e-9).tolist() == pytest.approx([0.1] * 3, abs=0.02)
    (truth,) = of_type(bag, TruthEvent)
    assert truth.T_map_base.vector()[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert truth.twist[0] == pytest.approx(13.17, abs=0.3)  # metres per second


def test_a_drive_is_run_as_it_is(drive, tmp_path):
    """`cvloc run DRIVE`: odometry that is not the truth, and notes that say from what everything is."""
    imagery = tmp_path / "map.tif"
    with rasterio.open(
        imagery, "w", driver="GTiff", width=400, height=400, count=3, dtype="uint8", photometric="RGB",
        crs=rasterio.crs.CRS.from_wkt(DATUM.crs.to_wkt()), transform=rasterio.Affine(0.6, 0, -120, 0, -0.6, 120),
    ) as raster:  # fmt: skip
        rows, cols = np.mgrid[:400, :400] + 0.5
        raster.write(np.moveaxis(painted_town().paint(0.6 * cols - 120, 120 - 0.6 * rows), -1, 0))
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app,
        ["run", str(drive), "--imagery", f"{imagery}#attribution=City of X", "--out", str(out), "--device", "cpu"],
    )
    assert result.exit_code in (0, 1), result.output  # two images in 2.5 s start no track
    text = " ".join(result.output.split())
    assert text.count("odometry: the GPS/IMU's velocities and yaw rate, integrated") == 1 and "2 (0 %)" in text
    assert "imagery: City of X" in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["source"] == str(drive) and summary["frames"] == 2
    assert (out / "truth.tum").read_text().count("\n") == 1  # the last image is younger than the last truth
    assert not list(out.glob(".recording-*"))
