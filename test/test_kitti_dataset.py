"""KITTI's reader: a fixture in the exact layout gives back the town's truth; the real files read as they should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from painted_town import FINE, assert_pictures_agree, assert_same_pose, in_frame, painted_town, write_image, write_text

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.kitti import Kitti, prior_to_vehicle, read_calibration, read_oxts
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics, meters_per_pixel

DATUM = LocalFrame(49.015, 8.43)
DRIVE = "2011_09_26/2011_09_26_drive_0039_sync"
CAMERA = PinholeCamera(1242, 375, np.array([[721.5377, 0, 609.5593], [0, 721.5377, 172.854], [0, 0, 1.0]]))
OTHER_DRIVE = "2011_10_03/2011_10_03_drive_0027_sync"  # a date with a size, intrinsics and a mount of its own
OTHER_CAMERA = PinholeCamera(1241, 376, np.array([[650.0, 0, 580.0], [0, 650.0, 200.0], [0, 0, 1.0]]))
OTHER_MOUNT = dict(yaw=np.radians(-2.0), pitch=np.radians(2.5))
LEVER = (1.08, -0.26)  # metres: the camera ahead and left of the GPS/IMU
MOUNT = dict(yaw=np.radians(0.5), pitch=np.radians(1.0))  # of the camera, on the axes of the GPS/IMU
SHIFTS = [(0.5, -0.25, 0.3), (-0.4, 0.3, -0.7)]


def line(name: str, values: np.ndarray) -> str:
    return f"{name}: " + " ".join(f"{v:.12e}" for v in np.ravel(values)) + "\n"


def rigid(x: float, y: float, z: float, **angles: float) -> np.ndarray:
    return camera_extrinsics(height=z, x=x, y=y, **angles) @ np.linalg.inv(camera_extrinsics(height=0.0))


def write_calibration(
    folder: Path, camera: PinholeCamera = CAMERA, mount: Mapping[str, float] = MappingProxyType(MOUNT)
) -> None:
    """The GPS/IMU to the camera over the lidar and the rectifying rotation, none of them trivial."""
    T_imu_camera = camera_extrinsics(height=0.72, x=LEVER[0], y=LEVER[1], **mount)
    T_velo_imu = rigid(-0.81, 0.32, -0.8, yaw=0.002, roll=0.015)
    rectify = rigid(0, 0, 0, yaw=0.01, pitch=0.007, roll=-0.004)
    baseline = np.array([0.06, -0.0003, 0.0027])
    T_camera_imu = np.linalg.inv(T_imu_camera)
    T_camera_imu[:3, 3] -= baseline
    T_camera_velo = np.linalg.inv(rectify) @ T_camera_imu @ np.linalg.inv(T_velo_imu)
    P = np.column_stack([camera.K, camera.K @ baseline])
    write_text(
        folder / "calib_cam_to_cam.txt",
        "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\n"
        + line("S_rect_02", np.array([camera.width, camera.height]))
        + line("R_rect_00", rectify[:3, :3])
        + line("P_rect_02", P),
    )
    for name, T in (("imu_to_velo", T_velo_imu), ("velo_to_cam", T_camera_velo)):
        write_text(folder / f"calib_{name}.txt", "calib_time: x\n" + line("R", T[:3, :3]) + line("T", T[:3, 3]))


@pytest.fixture(scope="module")
def imu_poses() -> list[SE2]:
    """Of the GPS/IMU in the town's frame."""
    pose = painted_town().pose
    return [pose, pose @ SE2(-3.0, 1.0, 0.2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, imu_poses) -> Path:
    root, world = tmp_path_factory.mktemp("KITTI"), painted_town()
    write_calibration(root / "raw_data" / DRIVE[:10])
    write_calibration(root / "raw_data" / OTHER_DRIVE[:10], OTHER_CAMERA, OTHER_MOUNT)
    frames = [(DRIVE, k, CAMERA, MOUNT) for k in range(len(imu_poses))] + [(OTHER_DRIVE, 0, OTHER_CAMERA, OTHER_MOUNT)]
    names = [f"{drive}/{k:010d}.png" for drive, k, _, _ in frames]
    for name, (drive, k, camera, mount) in zip(names, frames, strict=True):
        pose = imu_poses[k]
        T_base_camera = camera_extrinsics(height=1.65, x=LEVER[0], y=LEVER[1], **mount)
        where = np.array([pose.x, pose.y])
        latitude, longitude = DATUM.to_wgs84(where)
        oxts = [latitude, longitude, 116.4, 0.0, 0.0, pose.yaw, *[0.0] * 19, 4, 11, 6, 6, 6]
        write_text(root / f"raw_data/{drive}/oxts/data/{k:010d}.txt", " ".join(map(repr, map(float, oxts))) + "\n")
        write_image(
            root / "raw_data" / drive / f"image_02/data/{k:010d}.png", world.ground(pose, camera, T_base_camera)
        )
        write_image(root / "satmap" / name, world.static_map(DATUM, where, zoom=18, scale=2, size=1280))
    tests = [f"{name} {' '.join(map(str, shift))}" for name, shift in zip(names, [*SHIFTS, SHIFTS[0]], strict=True)]
    write_text(root / "dataLoader/test1_files.txt", "\n".join(tests[:2]) + "\n")
    write_text(root / "dataLoader/test2_files.txt", "\n".join(tests[1:]) + "\n")
    write_text(root / "dataLoader/train_files.txt", names[0] + "\n")
    return root


def expected(imu: SE2) -> SE2:
    """The camera's place on the ground, in the frame around the GPS/IMU."""
    return in_frame(imu @ SE2(*LEVER), DATUM, np.array([imu.x, imu.y]))


def test_the_truth_comes_back(root, imu_poses):
    same = Kitti(root, "same")
    assert len(same) == 2 and same.names[0] == f"{DRIVE}/0000000000.png"
    for item, imu in zip(same, imu_poses, strict=True):
        assert_same_pose(item.truth, expected(imu))
        assert item.frame.camera.K[0, 0] == pytest.approx(721.5377)
        expected_mount = camera_extrinsics(height=1.65, **MOUNT)
        np.testing.assert_allclose(item.frame.T_base_camera, expected_mount, atol=1e-6)
    assert_same_pose(Kitti(root, "cross")[0].truth, expected(imu_poses[1]))


def test_every_date_has_its_own_size_intrinsics_and_mount(root, imu_poses):
    first, second = Kitti(root, "cross")
    for item, camera, mount in ((first, CAMERA, MOUNT), (second, OTHER_CAMERA, OTHER_MOUNT)):
        assert item.frame.image.shape[:2] == (camera.height, camera.width)
        np.testing.assert_allclose(item.frame.camera.K, camera.K)
        np.testing.assert_allclose(item.frame.T_base_camera, camera_extrinsics(height=1.65, **mount), atol=1e-6)
    assert_same_pose(second.truth, expected(imu_poses[0]))


@pytest.mark.parametrize(("split", "index"), [("same", 0), ("cross", 0), ("cross", 1), ("train", 0)])
def test_pictures_agree_at_the_truth(root, split, index):
    assert_pictures_agree(Kitti(root, split, grid=FINE)[index])


def test_shifts_are_the_literatures():
    """The numbers that its own chain of image operations gives: right and up of a prior that heads right."""
    found = prior_to_vehicle(*SHIFTS[0])
    np.testing.assert_allclose([found.x, found.y, np.degrees(found.yaw)], [10.25, -4.47, 3.0], atol=0.005)
    found = prior_to_vehicle(*SHIFTS[1])
    np.testing.assert_allclose([found.x, found.y, np.degrees(found.yaw)], [-7.21, 6.93, -7.0], atol=0.005)


@pytest.mark.parametrize("shift", SHIFTS)
def test_shifts_are_the_dense_flow_papers_ground_truth(shift):
    """The flow of the picture's middle, in pixels right and down: [[cos, sin], [-sin, cos]] (20 sx, -20 sy) / mpp."""
    sx, sy, th = shift
    c, s = np.cos(np.radians(10 * th)), np.sin(np.radians(10 * th))
    flow = np.array([[c, s], [-s, c]]) @ np.array([20 * sx, -20 * sy]) / 0.195822
    found = prior_to_vehicle(*shift)
    np.testing.assert_allclose(np.array([found.x, -found.y]) / 0.195822, flow)


def test_the_prior_is_off_as_the_list_says(root):
    for item, shift in zip(Kitti(root, "same"), SHIFTS, strict=True):
        T_prior_vehicle = item.prior.T_map_base.inverse() @ item.truth
        np.testing.assert_allclose(T_prior_vehicle.vector(), prior_to_vehicle(*shift).vector(), atol=1e-9)
        assert item.patch.T_map_patch == item.prior.T_map_base
        assert item.patch.covered > 0.99
        np.testing.assert_allclose(np.sqrt(np.diag(item.prior.covariance) * 3), [20, 20, np.radians(10)])


def test_training_priors_are_drawn_the_same_each_time(root):
    first, again, other = Kitti(root, "train")[0], Kitti(root, "train")[0], Kitti(root, "train", seed=1)[0]
    assert first.prior.T_map_base == again.prior.T_map_base != other.prior.T_map_base
    error = first.prior.T_map_base.inverse() @ first.truth
    assert np.hypot(error.x, error.y) < 28.3 and abs(np.degrees(error.yaw)) < 10


def test_places_are_oxts(root, imu_poses):
    np.testing.assert_allclose(
        DATUM.to_enu(*Kitti(root, "same").places().T), [[pose.x, pose.y] for pose in imu_poses], atol=1e-6
    )


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("satmap/{drive}/0000000000.png", None, "satellite picture of a frame at .*satmap.*HighlyAccurate"),
        ("raw_data/{drive}/image_02/data/0000000000.png", None, "left colour camera at .*cvlibs"),
        (
            "raw_data/{drive}/image_02/data/0000000000.png",
            "",
            "left colour camera at .*its 0 bytes do not decode.*cvlibs",
        ),
        ("raw_data/{drive}/oxts/data/0000000000.txt", "49.0 8.4", "30 numbers of oxts .*got 2"),
        (
            "raw_data/{drive}/oxts/data/0000000000.txt",
            "4901.5" + 29 * " 0",
            "a place on Earth in .*oxts/data/0000000000",
        ),
        ("raw_data/{date}/calib_cam_to_cam.txt", "S_rect_02: 1242 375\n", "a line 'R_rect_00:' with 9 numbers"),
        ("raw_data/{date}/calib_velo_to_cam.txt", None, "a calibration file at .*calib_velo_to_cam.txt"),
        (
            "raw_data/{date}/calib_velo_to_cam.txt",
            "R: 0 0 0 0 0 0 0 0 0\nT: 0 0 0\n",
            "a rotation, row by row, in the line 'R:' of .*calib_velo_to_cam.txt, got 0 0",
        ),
        ("dataLoader/test1_files.txt", None, "test1_files.txt, but there is no such file: get it from .*dataLoader"),
        ("dataLoader/test1_files.txt", "a/b/0.png 0.1 0.2\n", "4 fields a line, but line 1 of"),
        ("dataLoader/test1_files.txt", "a/b/0.png 0.1 0.2 much\n", "expected numbers in"),
        ("dataLoader/test1_files.txt", "\n", "is empty"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(root, path, content, message):
    path = root / path.format(drive=DRIVE, date=DRIVE[:10])
    right = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            Kitti(root, "same")[0]
    finally:
        path.write_bytes(right)


def test_a_satellite_picture_that_is_cut_off_is_refused(root):
    path = root / "satmap" / DRIVE / "0000000000.png"
    right = path.read_bytes()
    try:
        path.write_bytes(right[: len(right) // 2])
        with pytest.raises(DatasetError, match="satellite picture of a frame at .*cut off"):
            Kitti(root, "same")[0]
    finally:
        path.write_bytes(right)


def test_an_image_of_another_dates_size_is_refused(root):
    path = root / "raw_data" / DRIVE / "image_02/data/0000000000.png"
    right = path.read_bytes()
    try:
        write_image(path, np.zeros((370, 1226, 3), np.uint8))
        with pytest.raises(DatasetError, match="expected 1242 x 375 pixels .* has 1226 x 370"):
            Kitti(root, "same")[0]
    finally:
        path.write_bytes(right)


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match="train, same, cross"):
        Kitti(root, "test")


@pytest.mark.shared_data
class TestRealFiles:
    @pytest.fixture
    def kitti(self, shared_data) -> Path:
        if not (shared_data / "kitti/splits").is_dir():
            pytest.skip(f"{shared_data / 'kitti/splits'} is absent")
        return shared_data / "kitti"

    def test_calibration(self, kitti):
        """The literature's constants for the camera are 1.08 m ahead and 0.26 m right of the GPS/IMU."""
        camera, T_imu_camera = read_calibration(kitti / "raw_2011_09_26")
        assert (camera.width, camera.height) == (1242, 375)
        np.testing.assert_allclose(camera.K, CAMERA.K, atol=1e-3)
        np.testing.assert_allclose(T_imu_camera[:2, 3], [1.08, -0.26], atol=0.02)
        np.testing.assert_allclose(T_imu_camera[:3, 2], [1, 0, 0], atol=0.01)  # it looks ahead
        np.testing.assert_allclose(T_imu_camera[:3, 1], [0, 0, -1], atol=0.01)  # and stands upright
        # the setup's drawing has the GPS/IMU 0.93 m and the camera 1.65 m over the ground
        assert T_imu_camera[2, 3] == pytest.approx(1.65 - 0.93, abs=0.02)

    def test_oxts(self, kitti):
        record = read_oxts(kitti / "raw_2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt")
        latitude, longitude, yaw, north, east = record[[0, 1, 5, 6, 7]]
        assert (latitude, longitude) == pytest.approx((49.015, 8.4343), abs=1e-4)
        # it drives ahead: the velocity's direction is the heading, counter-clockwise from east
        assert np.degrees(np.arctan2(north, east) - yaw) == pytest.approx(0, abs=1.0)
        assert meters_per_pixel(latitude, 18, 2) == pytest.approx(0.195822, rel=1e-4)

    @pytest.mark.parametrize(("split", "count"), [("train", 19655), ("same", 3773), ("cross", 7542)])
    def test_splits(self, kitti, split, count):
        frames = Kitti("nowhere", split, splits=kitti / "splits")
        assert len(frames) == count
        with pytest.raises(DatasetError, match="oxts/data"):
            frames[0]

    @pytest.mark.parametrize("split", ["same", "cross"])
    def test_the_middle_of_the_search_box_is_off_as_chance_is(self, kitti, split):
        """15.3 m and 5 degrees in the mean; 5 % of the frames within a metre along either axis."""
        shifts = Kitti("nowhere", split, splits=kitti / "splits").shifts
        errors = np.array([prior_to_vehicle(*shift).vector() for shift in shifts])
        assert np.hypot(errors[:, 0], errors[:, 1]).mean() == pytest.approx(15.3, abs=0.2)
        assert np.degrees(np.abs(errors[:, 2])).mean() == pytest.approx(5.0, abs=0.15)
        np.testing.assert_allclose((np.abs(errors[:, :2]) < 1).mean(axis=0), 0.05, atol=0.01)

    def test_frames_of_same_are_no_training_frames_and_some_come_again(self, kitti):
        train, same = (Kitti("nowhere", split, splits=kitti / "splits").names for split in ("train", "same"))
        assert len(set(same)) == 3378 and not set(train) & set(same)

    def test_no_training_drive_is_in_cross(self, kitti):
        drives = [
            {name.rsplit("/", 1)[0] for name in Kitti("nowhere", split, splits=kitti / "splits").names}
            for split in ("train", "cross")
        ]
        assert len(drives[1]) == 8 and not drives[0] & drives[1]
