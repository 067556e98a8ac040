"""`cvloc convert` on Oxford RobotCar: positions, headings, odometry and images keep their places and directions."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_town import assert_same_pose, write_text
from rosbags.highlevel import AnyReader
from test_oxford import mount, sdk_rotation, write_calibration
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.message_reading import rotation_matrix
from cvloc_ros.geometry import SE2, LocalFrame

DATUM = LocalFrame(51.76, -1.26, 100.0)
START, COUNT, PERIOD = 1_418_381_798_086_398, 12, 62_500  # microseconds
W, H = 1280, 960


def pose(k: int) -> SE2:
    """Of the inertial sensor: 8 m/s north-west, turning left."""
    angle = 0.02 * k
    return SE2(0.0, 0.0, np.radians(130)) @ SE2(25 * np.sin(angle), 25 * (1 - np.cos(angle)), angle)


def write_table(path: Path, columns: str, rows: list[list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(), *rows])


def picture() -> np.ndarray:
    """Smooth colours, so that what Bayer's pattern leaves out can be restored."""
    u, v = np.meshgrid(np.linspace(0, 3, W), np.linspace(0, 2, H))
    return np.uint8(127 + 100 * np.stack([np.sin(u), np.cos(v), np.sin(u - v)], -1))


@pytest.fixture(scope="module")
def traversal(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("robotcar")
    write_calibration(root)
    columns, rows = np.meshgrid(np.arange(W, dtype=float), np.arange(H, dtype=float))
    (root / "models/stereo_narrow_left_distortion_lut.bin").write_bytes(np.stack([columns + 3, rows]).tobytes())
    path = root / "2014-12-12-10-45-15"
    rgb = picture()
    raw = rgb[..., 1].copy()  # G B / R G
    raw[0::2, 1::2], raw[1::2, 0::2] = rgb[0::2, 1::2, 2], rgb[1::2, 0::2, 0]
    (path / "stereo/centre").mkdir(parents=True)
    (path / f"stereo/centre/._{START}.png").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on foreign disks
    times = [START + k * PERIOD for k in range(COUNT)]
    for time in (times[0], times[-1]):
        assert cv2.imwrite(str(path / f"stereo/centre/{time}.png"), raw)
    places = [DATUM.to_wgs84(np.array([pose(k).x, pose(k).y])) for k in range(COUNT)]
    yaws = [np.pi / 2 - pose(k).yaw for k in range(COUNT)]
    write_table(
        path / "rtk.csv",
        "timestamp latitude longitude altitude northing easting down utm_zone roll pitch yaw",
        [[t, *map(float, p), 100.0, 0, 0, 0, "30U", 0, 0, y] for t, p, y in zip(times, places, yaws, strict=True)],
    )
    write_table(
        path / "gps/gps.csv",
        "timestamp num_satellites latitude longitude altitude latitude_sigma longitude_sigma",
        [[t, 9, *map(float, p), 102.0, 3.0, 2.0] for t, p in zip(times[::3], places[::3], strict=True)],
    )
    write_table(
        path / "gps/ins.csv",
        "timestamp ins_status latitude longitude altitude roll pitch yaw",
        [[t, "INS_SOLUTION_GOOD", 0, 0, 0, 0.02, 0.03, y] for t, y in zip(times, yaws, strict=True)],
    )
    # the camera's own motion, x forward, y right, z down, from one image to the next
    T_vehicle_ins, flip = np.eye(4), np.diag([1.0, -1.0, -1.0, 1.0])
    T_vehicle_ins[:3, :3], T_vehicle_ins[:3, 3] = sdk_rotation(), [-1.7132, 0.1181, 1.1948]
    steps = []
    for k in range(1, COUNT):
        moved = flip @ (pose(k - 1).inverse() @ pose(k)).matrix() @ flip
        T = T_vehicle_ins @ moved @ np.linalg.inv(T_vehicle_ins)
        roll, yaw = np.arctan2(T[2, 1], T[2, 2]), np.arctan2(T[1, 0], T[0, 0])
        steps.append([times[k], times[k - 1], *T[:3, 3], roll, np.arcsin(-T[2, 0]), yaw])
    header = "source_timestamp destination_timestamp x y z roll pitch yaw"
    write_table(path / "vo/vo.csv", header, steps)
    return path


@pytest.fixture(scope="module")
def bag(traversal, tmp_path_factory) -> Bag:
    out = tmp_path_factory.mktemp("bags") / "traversal"
    result = CliRunner().invoke(app, ["convert", str(traversal), str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and "visual odometry" in result.output
    return Bag.open(out)


def of_type(bag, kind):
    return [event for event in bag if isinstance(event, kind)]


def test_truth_and_fixes_come_back(bag):
    truths = of_type(bag, TruthEvent)
    assert [event.stamp for event in truths] == [1000 * (START + k * PERIOD) for k in range(COUNT)]
    for k, event in enumerate(truths):
        assert_same_pose(event.T_map_base, pose(k))
    fixes = of_type(bag, FixEvent)
    assert len(fixes) == 4
    np.testing.assert_allclose(DATUM.to_enu(fixes[2].latitude, fixes[2].longitude), [pose(6).x, pose(6).y], atol=1e-4)
    np.testing.assert_array_equal(fixes[0].covariance, np.diag([4.0, 9.0]))  # east, north


def test_odometry_is_the_vehicles_motion(bag):
    """The camera's steps are carried over its lever arm to the inertial sensor."""
    events = of_type(bag, OdometryEvent)
    assert len(events) == COUNT - 1
    for k, event in enumerate(events[1:], start=2):
        assert_same_pose(events[0].T_odom_base.inverse() @ event.T_odom_base, pose(1).inverse() @ pose(k))
    np.testing.assert_allclose(events[4].twist, [8.0, 0.0, 0.02 / 0.0625], atol=0.1)


def test_odometry_is_stated_and_not_to_be_chosen(bag, traversal, tmp_path):
    assert bag.notes[0] == "odometry: the released visual odometry (vo.csv), chained"
    (tmp_path / "vo.txt").write_text("")
    with pytest.raises(DatasetError, match="KITTI raw drive. at .*got another kind .*Oxford.*leave"):
        open_recording(traversal, odometry=tmp_path / "vo.txt")


def test_camera_and_image(bag):
    np.testing.assert_allclose(bag.camera.K, [[964.828979, 0, 643.788025], [0, 964.828979, 484.40799], [0, 0, 1]])
    assert (bag.camera.width, bag.camera.height, bag.camera.distortion) == (W, H, ())
    np.testing.assert_allclose(bag.T_base_camera, mount(), atol=1e-6)
    first, last = of_type(bag, ImageEvent)
    assert (first.stamp, last.stamp) == (1000 * START, 1000 * (START + (COUNT - 1) * PERIOD))
    difference = np.abs(first.image()[8:-8, 8:-8].astype(int) - picture()[8:-8, 11:-5])  # the table moves by 3 columns
    assert difference.mean() < 1.5 and difference.max() < 12


def test_imu_is_the_attitude(bag):
    with AnyReader([Path(bag.source)]) as reader:
        connections = [c for c in reader.connections if c.topic == "/imu"]
        message = next(reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(connections))
    R = rotation_matrix(message.orientation)
    assert np.degrees(np.arctan2(R[1, 0], R[0, 0])) == pytest.approx(130)
    assert np.arcsin(R[2, 0]) == pytest.approx(0.03)  # nose up
    assert np.arctan2(R[2, 1], R[2, 2]) == pytest.approx(0.02)  # right side down
    assert message.angular_velocity_covariance[0] == -1


def test_without_the_rtk_solution_there_is_no_truth(traversal, tmp_path):
    file = traversal / "rtk.csv"
    right = file.read_bytes()
    try:
        file.unlink()
        recording = open_recording(traversal)
        assert "no truth" in " ".join(recording.notes)
        write_bag(tmp_path / "bag", recording.messages())
        assert not of_type(Bag.open(tmp_path / "bag"), TruthEvent)
    finally:
        file.write_bytes(right)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("vo/vo.csv", None, "a table of the traversal at .*vo/vo.csv.*robotcar-dataset"),
        ("vo/vo.csv", "a,b\n1,2\n", "the columns source_timestamp, .* missing"),
        (
            "gps/gps.csv",
            "timestamp,latitude,longitude,altitude,latitude_sigma,longitude_sigma\n",
            "expected rows below",
        ),
        ("../models/stereo_narrow_left_distortion_lut.bin", None, "table of undistortion at .*robotcar-dataset-sdk"),
        ("../models/stereo_narrow_left_distortion_lut.bin", "12345678", "2 x 1280 x 960 numbers"),
        ("../models/stereo_narrow_left_distortion_lut.bin", 2 * W * H * "x" * 8, "columns and rows of an image in"),
        ("gps/gps.csv", f"timestamp,{200_000 * 'x'}", "gps.csv, line 1: field larger than"),
        ("../extrinsics/ins.txt", None, "inertial sensor's place at"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(traversal, path, content, message):
    file = traversal / path
    right = file.read_bytes()
    try:
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(DatasetError, match=message):
            open_recording(traversal)
    finally:
        file.write_bytes(right)


def test_no_images_are_told_where_they_belong(traversal, tmp_path):
    (tmp_path / "stereo").mkdir()
    with pytest.raises(DatasetError, match=f"named by their microseconds.*{tmp_path}/stereo/centre"):
        open_recording(tmp_path, sdk=traversal.parent)


@pytest.mark.parametrize("content", ["no picture", ""])
def test_a_broken_image_stops_the_conversion(traversal, tmp_path, content):
    write_text(traversal / f"stereo/centre/{START + PERIOD}.png", content)
    try:
        with pytest.raises(DatasetError, match="it does not decode"):
            write_bag(tmp_path / "bag", open_recording(traversal).messages())
        assert not list(tmp_path.iterdir())
    finally:
        (traversal / f"stereo/centre/{START + PERIOD}.png").unlink()
