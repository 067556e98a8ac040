"""Ford's reader: a fixture in the exact layout gives back the town's truth, whose shifts have the other sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painted_town import FINE, assert_pictures_agree, assert_same_pose, in_frame, painted_town, write_image, write_text

from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.datasets.ford import Ford, prior_to_vehicle, yaw_of
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera, camera_extrinsics, meters_per_pixel

DATUM = LocalFrame(42.294, -83.21)
CAMERA = PinholeCamera(1656, 860, np.array([[945.391406, 0, 855.502825], [0, 945.668274, 566.372868], [0, 0, 1]]))
YAW, PITCH = np.radians(0.8), np.radians(2.0)  # of the camera: to the left and down
PLACE = (1.6, -0.3, -1.2)  # of the camera on the body: forward, right, down
AXLE = 0.33
OFFSET = (31.0, -22.0)  # metres east and north, from the satellite picture's middle to the vehicle
SHIFTS = [(0.5, -0.25, 0.0), (0.2, 0.7, -0.6)]
TEST = "2017-08-04/V2/Log1"
NAMES = ["150182215346", "150182215446"]


def product(a, b) -> np.ndarray:
    """Hamilton's product of two quaternions, real part first."""
    (w, x, y, z), (s, i, j, k) = a, b
    return np.array(
        [
            w * s - x * i - y * j - z * k,
            w * i + x * s + y * k - z * j,
            w * j - x * k + y * s + z * i,
            w * k + x * j - y * i + z * s,
        ]
    )


def about(axis: int, angle: float) -> np.ndarray:
    q = np.zeros(4)
    q[0], q[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return q


def write_calibration(folder: Path) -> None:
    # the optical axes seen from the body's (x forward, y right, z down), then turned by the mounting: there, to the
    # left and down are negative
    w, x, y, z = product(product(about(2, -YAW), about(1, -PITCH)), [0.5, 0.5, 0.5, 0.5])
    write_text(
        folder / "cameraFrontLeft_body.yaml",
        f"header:\n  frame_id: body\ntransform:\n  translation: {{x: {PLACE[0]}, y: {PLACE[1]}, z: {PLACE[2]}}}\n"
        f"  rotation: {{x: {x!r}, y: {y!r}, z: {z!r}, w: {w!r}}}\n".replace("np.float64(", "").replace(")", ""),
    )
    K = ", ".join(str(float(v)) for v in CAMERA.K.ravel())
    write_text(folder / "cameraFrontLeftIntrinsics.yaml", f"header:\n  frame_id: cameraFrontLeft\nK: [{K}]\n")


@pytest.fixture(scope="module")
def poses() -> list[SE2]:
    """Of the rear axle's middle in the town's frame."""
    return [painted_town().pose, painted_town().pose @ SE2(-2.0, 1.5, -0.3)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, poses) -> Path:
    root, world = tmp_path_factory.mktemp("Ford"), painted_town()
    write_calibration(root / "Calibration-V2/V2")
    mount = camera_extrinsics(height=AXLE - PLACE[2], x=PLACE[0], y=-PLACE[1], yaw=YAW, pitch=PITCH)
    lines = []
    for name, pose in zip(NAMES, poses, strict=True):
        middle = np.array([pose.x, pose.y]) - OFFSET
        places = DATUM.to_wgs84(np.array([[pose.x, pose.y], middle]))
        g_lat, g_lon, s_lat, s_lon = (f"{v:.9f}" for v in places.ravel())
        # a heading clockwise from north, and the slope of a road
        q = product(product(about(2, np.pi / 2 - pose.yaw), about(1, 0.02)), about(0, -0.01))
        lines.append(" ".join([f"{name}.txt", *map(str, q), g_lat, g_lon, s_lat, s_lon]))
        write_image(root / TEST / "2017-08-04-V2-Log1-FL" / f"{name}.png", world.ground(pose, CAMERA, mount))
        satellite = world.static_map(DATUM, middle, zoom=18, scale=2, size=1280)
        write_image(root / TEST / "SatelliteMaps_18" / f"{s_lat}_{s_lon}.png", satellite)
    tests = [f"{line} {' '.join(map(str, shift))}" for line, shift in zip(lines, SHIFTS, strict=True)]
    write_text(root / TEST / "grd_sat_quaternion_latlon_test.txt", "\n".join(tests) + "\n")
    write_text(root / "2017-08-04/V2/Log3/grd_sat_quaternion_latlon.txt", "\n".join([lines[0]] * 1600) + "\n")
    return root


def test_the_truth_comes_back(root, poses):
    frames = Ford(root, 1)
    assert len(frames) == 2 and frames.names == [f"{name}.png" for name in NAMES]
    assert frames.digest == Ford(root, 1).digest
    for item, pose in zip(frames, poses, strict=True):
        assert_same_pose(item.truth, in_frame(pose, DATUM, np.array([pose.x, pose.y]) - OFFSET))
        np.testing.assert_allclose(
            item.frame.T_base_camera,
            camera_extrinsics(height=AXLE + 1.2, x=1.6, y=0.3, yaw=YAW, pitch=PITCH),
            atol=1e-9,
        )


@pytest.mark.parametrize("index", [0, 1])
def test_pictures_agree_at_the_truth(root, index):
    assert_pictures_agree(Ford(root, 1, grid=FINE)[index])


def test_shifts_are_the_literatures():
    """With the prior's heading up, (0.5, -0.25, 0) is 10 m to the left and 5 m back."""
    found = prior_to_vehicle(0.5, -0.25, 0.0)
    right, up, heading = -found.y, found.x, 90 + np.degrees(found.yaw)
    np.testing.assert_allclose([right, up, heading], [-10.0, -5.0, 90.0])
    # R(10 deg theta) (-20 u, 20 v), to the right and up
    found = prior_to_vehicle(0.2, 0.7, -0.6)
    turn = SE2(0, 0, np.radians(-6.0)).apply(np.array([-4.0, 14.0]))
    np.testing.assert_allclose([-found.y, found.x, np.degrees(found.yaw)], [*turn, -6.0])


def test_the_prior_is_off_as_the_list_says(root):
    for item, shift in zip(Ford(root, 1), SHIFTS, strict=True):
        T_prior_vehicle = item.prior.T_map_base.inverse() @ item.truth
        np.testing.assert_allclose(T_prior_vehicle.vector(), prior_to_vehicle(*shift).vector(), atol=1e-9)
        assert item.patch.covered > 0.99


def test_the_training_part_is_the_literatures_lines(root):
    frames = Ford(root, 3, "train")
    assert len(frames) == 1500
    with pytest.raises(DatasetError, match="a frame of the front left camera at .*2017-08-04-V2-Log3-FL.*avdata"):
        frames[1499]


def test_yaw_is_clockwise_from_north():
    assert yaw_of(about(2, 0.3)) == pytest.approx(0.3)
    assert yaw_of(product(product(about(2, -2.5), about(1, 0.1)), about(0, 0.2))) == pytest.approx(-2.5)


def test_pixels_are_sized_by_latitude():
    """The literature takes 0.22 m on all logs."""
    assert meters_per_pixel(42.29, 18, 2) == pytest.approx(0.22086, rel=1e-4)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("Calibration-V2/V2/cameraFrontLeft_body.yaml", None, "the camera's place on the body at .*avdata"),
        ("Calibration-V2/V2/cameraFrontLeft_body.yaml", "transform: {rotation: {x: 1}}", "'w' is missing"),
        (
            "Calibration-V2/V2/cameraFrontLeft_body.yaml",
            "transform: {translation: {x: 1, y: 0, z: -1}, rotation: {x: 0, y: 0, z: 0, w: 0}}",
            "a rotation in .*cameraFrontLeft_body.yaml, got the quaternion 0 0 0 0",
        ),
        ("Calibration-V2/V2/cameraFrontLeftIntrinsics.yaml", "K: [1, 2]", "9 numbers of a camera's K in"),
        ("Calibration-V2/V2/cameraFrontLeftIntrinsics.yaml", "K: [", "does not parse"),
        (f"{TEST}/grd_sat_quaternion_latlon_test.txt", None, "the list of Ford's log 1 at"),
        (f"{TEST}/grd_sat_quaternion_latlon_test.txt", "a 1 0 0 0 42 -83 42 -83\n", "12 fields a line"),
        (
            f"{TEST}/grd_sat_quaternion_latlon_test.txt",
            "150182215346.png 1 0 0 0 42 -83 4200 -83 0 0 0\n",
            "a place on Earth in .*grd_sat",
        ),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(root, path, content, message):
    path = root / path
    right = path.read_bytes()
    try:
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(DatasetError, match=message):
            Ford(root, 1)[0]
    finally:
        path.write_bytes(right)


def test_too_short_a_list_and_unknown_logs_are_refused(root):
    path = root / "2017-10-26/V2/Log1/grd_sat_quaternion_latlon.txt"
    write_text(path, "a 1 0 0 0 42 -83 42 -83\n")
    with pytest.raises(DatasetError, match="expected 8500 lines or more"):
        Ford(root, 1, "train")
    with pytest.raises(ValueError, match="a log of 1 to 6"):
        Ford(root, 7)
