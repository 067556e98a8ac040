"""A visual odometry's trajectory of a KITTI drive: it comes back as the vehicle's motion, or is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from evo.core.trajectory import PoseTrajectory3D
from evo.tools import file_interface
from painted_town import write_text
from test_convert_kitti import COUNT, FIRST, SPEED, T_BASE_CAMERA, TURN, imu_pose, of_type, write_drive
from test_kitti_dataset import DATUM
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.events import ImageEvent, OdometryEvent
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.visual_odometry import read_trajectory
from cvloc_ros.geometry import SE2

STAMPS = [FIRST + 4_000_000 + k * 100_000_000 for k in range(COUNT)]
SECONDS = np.array(STAMPS) * 1e-9
RADIUS, ANGLE = SPEED / TURN, 0.1 * TURN  # of the drive's arc, metres; of a step, radians
SCALE, STRAY = 1.03, np.radians(0.1)  # of every step, the latter to the left
STEP = SE2(SCALE * RADIUS * np.sin(ANGLE), SCALE * RADIUS * (1 - np.cos(ANGLE)), ANGLE + STRAY)


def drifted() -> list[SE2]:
    """What the odometry says of base_link at the images' stamps."""
    return list(accumulate([STEP] * (COUNT - 1), SE2.__matmul__, initial=SE2()))


def camera_poses(poses: list[SE2]) -> np.ndarray:
    """Of the left colour camera, in the frame of the first."""
    T = np.array([pose.matrix() @ T_BASE_CAMERA for pose in poses])
    return np.linalg.inv(T[0]) @ T


def kitti(T: np.ndarray) -> str:
    return "".join(" ".join(f"{v:.6e}" for v in row[:3].ravel()) + "\n" for row in T)


def tum(T: np.ndarray, seconds: np.ndarray, digits: int = 6) -> str:
    q = PoseTrajectory3D(poses_se3=list(T), timestamps=seconds).orientations_quat_wxyz[:, [1, 2, 3, 0]]
    rows = zip(seconds, T[:, :3, 3], q, strict=True)
    return "".join(f"{t:.{digits}f} " + " ".join(f"{v:.7f}" for v in [*p, *r]) + "\n" for t, p, r in rows)


T = camera_poses(drifted())
LINES = kitti(T).splitlines(keepends=True)


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """With an image for each record; what is in those between does not matter here."""
    drive = write_drive(tmp_path_factory.mktemp("raw"))
    for k in range(1, COUNT - 1):
        shutil.copy(drive / "image_02/data/0000000000.png", drive / f"image_02/data/{k:010d}.png")
    return drive


@pytest.fixture
def trajectory(tmp_path) -> Path:
    path = tmp_path / "vo.txt"
    write_text(path, kitti(T))
    return path


def odometry_of(drive: Path, trajectory: Path, folder: Path) -> tuple[Bag, list[OdometryEvent]]:
    write_bag(folder / "bag", open_recording(drive, odometry=trajectory).messages())
    bag = Bag.open(folder / "bag")
    return bag, of_type(bag, OdometryEvent)


def assert_moves_as(events: list[OdometryEvent], poses: list[SE2]) -> None:
    assert len(events) == len(poses)
    for event, pose in zip(events, poses, strict=True):
        off = pose.inverse() @ event.T_odom_base
        assert np.hypot(off.x, off.y) < 0.01 and abs(np.degrees(off.yaw)) < 0.05


CENTRE = np.array([[0.0, 0, 1, 5], [0, 1, 0, 2], [-1, 0, 0, 7], [0, 0, 0, 1]])  # any frame will do


@pytest.mark.parametrize(
    "text",
    [
        kitti(T),
        kitti(CENTRE @ T),
        "# time x y z qx qy qz qw\n" + tum(T, SECONDS),
        tum(T, SECONDS - SECONDS[0], digits=4),
        tum(T, SECONDS - 0.011),  # another camera's times
    ],
    ids=["kitti", "any frame", "tum", "since the first image", "not quite the images' times"],
)
def test_the_drifted_motion_comes_back_in_the_vehicles_frame(drive, text, tmp_path):
    write_text(tmp_path / "vo.txt", text)
    bag, events = odometry_of(drive, tmp_path / "vo.txt", tmp_path)
    assert [event.stamp for event in events] == STAMPS
    assert_moves_as(events, drifted())
    np.testing.assert_allclose(events[7].twist, STEP.vector() / 0.1, atol=0.01)
    kinds = [type(event) for event in bag if event.stamp == STAMPS[3]]
    assert kinds == [OdometryEvent, ImageEvent]  # known when the image is


def test_neither_the_truth_nor_the_velocities_nor_the_cameras_own_path_come_back(drive, trajectory, tmp_path):
    """What would pass for it: the test above can tell them apart."""
    _, events = odometry_of(drive, trajectory, tmp_path)
    write_bag(tmp_path / "oxts", open_recording(drive).messages())
    velocities = of_type(Bag.open(tmp_path / "oxts"), OdometryEvent)
    turned = T_BASE_CAMERA.copy()
    turned[:3, 3] = 0.0  # as if the camera sat on base_link
    camera = [SE2.from_matrix(turned @ T @ turned.T) for T in T]
    for other in ([imu_pose(0).inverse() @ imu_pose(k) for k in range(COUNT)], camera):
        with pytest.raises(AssertionError):
            assert_moves_as(events, other)
    with pytest.raises(AssertionError):
        assert_moves_as(velocities, drifted())


def test_images_without_a_pose(drive, tmp_path):
    """The visual odometry has begun late and lost a few: there is odometry for the others."""
    kept = [k for k in range(3, COUNT) if k not in (9, 10, 17)]
    write_text(tmp_path / "vo.txt", tum(T[kept], SECONDS[kept]))
    _, events = odometry_of(drive, tmp_path / "vo.txt", tmp_path)
    assert [event.stamp for event in events] == [STAMPS[k] for k in kept]
    poses = drifted()
    assert_moves_as(events, [poses[3].inverse() @ poses[k] for k in kept])


def test_the_choice_is_stated(trajectory, tmp_path):
    """By the conversion, in the bag's metadata, and beside the results of `cvloc run` on the bag."""
    drive, imagery, bag, out = write_drive(tmp_path), tmp_path / "map.tif", tmp_path / "bag", tmp_path / "out"
    write_text(trajectory, kitti(T[[0, -1]]))  # it has two images
    with rasterio.open(
        imagery, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", photometric="RGB",
        crs=rasterio.crs.CRS.from_wkt(DATUM.crs.to_wkt()), transform=rasterio.Affine(4, 0, -128, 0, -4, 128),
    ) as raster:  # fmt: skip
        raster.write(np.full((3, 64, 64), 90, np.uint8))
    stated = f"odometry: visual odometry ({trajectory})"
    command = ["convert", str(drive), str(bag), "--odometry", str(trajectory)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0 and stated in result.output and "velocities" not in result.output
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert stated in metadata["custom_data"]["notes"]
    assert Bag.open(bag).notes[0].startswith(stated) and "5 m (1 sigma per axis" in Bag.open(bag).notes[1]
    result = CliRunner().invoke(
        app, ["run", str(bag), "--imagery", str(imagery), "--out", str(out), "--device", "cpu"], catch_exceptions=False
    )
    assert result.output.count(stated) == 1
    # the truth is known, though no frame was localized: what there is stands beside the aim
    assert "GNSS" in result.output and "fused, the aim" in result.output and "No ground truth" not in result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["localized"] == 0 and summary["notes"][0].startswith(stated)
    report = (out / "report.html").read_text()
    assert stated in report and "fused, the aim" in report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(LINES[:-1]), r"a line for each of the drive's 26 images in .*vo.txt, got 25 lines.*TUM's"),
        ("".join([*LINES, LINES[-1]]), "26 images in .*, got 27 lines"),
        ("".join([*LINES[:4], "nan " * 12 + "\n", *LINES[5:]]), r"but pose 5 has \[nan.*leave such a pose out"),
        ("".join([*LINES[:4], LINES[4][:-14] + "\n", *LINES[5:]]), "12 numbers .* does not read: .*12 to 11"),
        ("time,x,y,z\n", "a line of 12 numbers for each image .KITTI. or of 8, .* does not read"),
        ("1 2 3\n4 5 6\n", "or of 8, the time first.*got 2 lines of 3 numbers"),
        ("", "two or more, in .*, got 0 lines$"),
        (kitti(np.diag([2.0, 2, 2, 1]) @ T), "a rotation and a place.* in pose 1 of .*rotation is 2 "),
        (kitti(T @ np.diag([1.0, 1, -1, 1])), "a rotation and a place.* in pose 1"),
        (
            kitti(T[:, :3].transpose(0, 2, 1).reshape(-1, 3, 4)),
            "place.* in pose 1 of .*: write .* row by row",
        ),
        (tum(T, SECONDS + 7200), r"times of the drive's images .*but pose 1 is of 13\d+\.\d+, 719\d\.\d+ s from"),
        (tum(T, SECONDS - SECONDS[0] + 0.05), "pose 1 is of 0.050, 0.050 s from"),
        (tum(T[[0, 2, 1]], SECONDS[[0, 2, 1]]), r"one pose an image, .* pose 3 of 1317042145\.\d+ s is of no later"),
        (
            re.sub(r" -?0\.", " 2.", tum(T, SECONDS)),
            r"pose 1 of .*: expected a unit quaternion .*: time x y z qx qy qz qw",
        ),
        (kitti(np.linalg.inv(T)), r"this drive's camera in metres, x right, .*goes -\d+ m forward .* say 22 m"),
        (kitti(T @ np.diag([1.0, -1, -1, 1])), "this drive's camera in metres, x right"),  # y up, z backward
        (kitti(np.array([pose.matrix() for pose in drifted()])), "this drive's camera"),  # the vehicle's already
        (kitti(T * [1, 1, 1, 0.2]), "goes 5 m forward in all, .*without scale"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_is_written(drive, text, message, tmp_path):
    path, out = tmp_path / "vo.txt", tmp_path / "out/bag"
    write_text(path, text)
    result = CliRunner().invoke(app, ["convert", str(drive), str(out), "--odometry", str(path)])
    assert isinstance(result.exception, DatasetError) and re.search(message, str(result.exception))
    assert not out.parent.exists()


def test_a_missing_file_is_named(drive, tmp_path):
    with pytest.raises(DatasetError, match="trajectory at .*none.txt, but there is no such file"):
        open_recording(drive, odometry=tmp_path / "none.txt")


def test_another_drives_trajectory_is_refused(drive, tmp_path):
    """As far in all, but not at the same times: half of the way it stands."""
    poses = [SE2()] * (COUNT // 2) + [SE2(0.2 * SPEED * k) for k in range(COUNT - COUNT // 2)]
    write_text(tmp_path / "vo.txt", kitti(camera_poses(poses)))
    with pytest.raises(DatasetError, match="or not at the same times. Is it of this drive"):
        open_recording(drive, odometry=tmp_path / "vo.txt")


@pytest.mark.shared_data
@pytest.mark.parametrize("sequence", ["00", "06"])
def test_real_poses_read_in_both_formats(shared_data, sequence, tmp_path):
    """As KITTI has published them, and as evo writes them in the other format."""
    path = shared_data / f"kitti/odometry_poses/{sequence}.txt"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    poses = file_interface.read_kitti_poses_file(path)
    times = path.with_name(f"{sequence}_times.txt")
    seconds = np.loadtxt(times) if times.is_file() else 0.1 * np.arange(poses.num_poses)
    stamps = [FIRST + round(1e9 * t) for t in seconds]
    found, T = read_trajectory(path, stamps)
    assert found == stamps and len(T) == poses.num_poses
    np.testing.assert_allclose(T, poses.poses_se3, atol=1e-5)
    steps = np.linalg.inv(T[:-1]) @ T[1:]
    assert np.median(steps[:, 2, 3]) > 0.5 and np.abs(np.median(steps[:, :2, 3], axis=0)).max() < 0.05  # z is forward
    trajectory = PoseTrajectory3D(poses_se3=poses.poses_se3, timestamps=seconds)
    file_interface.write_tum_trajectory_file(tmp_path / "tum.txt", trajectory)
    again, same = read_trajectory(tmp_path / "tum.txt", stamps)
    assert again == stamps
    np.testing.assert_allclose(same, T, atol=1e-5)
