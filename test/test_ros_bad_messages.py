"""Bad messages over DDS: each kind gets one line that says what and on which topic, and the node goes on."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the node needs ROS 2: make setup, or a sourced ROS installation")

from ros_world import DATUM, NodeProcess, Vehicle, free_domain, write_confident_weights, write_imagery

from cvloc_ros.geometry import SE2
from cvloc_ros.ros.conversions import to_nanoseconds, to_pose_with_covariance, to_stamp

OK = b"\x00"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One node for all messages."""
    folder = tmp_path_factory.mktemp("node")
    write_imagery(folder / "imagery.tif")
    write_confident_weights(folder / "weights.safetensors")
    domain = free_domain()
    parameters = {
        "imagery": folder / "imagery.tif",
        "datum": f"[{DATUM.latitude}, {DATUM.longitude}]",
        "weights": folder / "weights.safetensors",
        "imu.absolute": "true",
    }
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    process, vehicle = NodeProcess(domain, folder, "--ros-args", *arguments), Vehicle(domain)
    vehicle.compressed = False
    vehicle.imu = True
    vehicle.until(lambda: "node" in vehicle.statuses, drive=False)
    vehicle.publish_transforms("camera_optical", "gnss", "imu")
    vehicle.until(lambda: vehicle.frames)
    yield vehicle, process
    vehicle.close()
    process.stop()
    assert "Traceback" not in process.text()


def change(path, value):
    """Return a function that sets a field of a message, e.g. "pose.pose.position.x"."""
    *parents, field = path.split(".")

    def apply(message):
        for parent in parents:
            message = message[int(parent)] if parent.isdigit() else getattr(message, parent)
        setattr(message, field, value)

    return apply


def cut_off(message):
    message.data = message.data[:1000]


def empty(message):
    message.height, message.width, message.data = 0, 0, b""


def late(message):
    message.header.stamp = to_stamp(to_nanoseconds(message.header.stamp) - 500_000_000)


def no_stamp(message):
    message.header.stamp.sec = message.header.stamp.nanosec = 0


def another_clock(message):
    message.header.stamp.sec += 100


def without_focal_length(message):
    message.k = [math.nan, 0.0, 103.5, 0.0, 120.0, 31.5, 0.0, 0.0, 1.0]


def of_another_camera(message):
    message.width = 640


def unknown_status(message):
    message.status.status, message.position_covariance_type = -2, 0


def longer_quaternion(message):
    message.pose.pose.orientation.w = 2.0


def no_orientation(message):
    message.orientation_covariance[0] = -1.0


IMAGES, INFO, ODOMETRY = (
    "images on /image are unusable",
    "the CameraInfo on /camera_info",
    "odometry on /odom is unusable",
)
FIXES = "fixes on /fix are not used"
UNSTAMPED = "are not used: their stamp is zero"
CASES = {
    "image, empty": ("image", empty, f"{IMAGES}: expected pixels, got an empty image"),
    "image, cut off": ("image", cut_off, f"{IMAGES}: expected 64 rows of 208 pixels of bgr8 (step >= 624), got 1000"),
    "image, encoding": ("image", change("encoding", "magic"), f"{IMAGES}: expected a raw image encoded as"),
    "image, no stamp": ("image", no_stamp, f"messages on /image {UNSTAMPED}"),
    "image, frame": ("image", change("header.frame_id", "periscope"), "the camera's place on the vehicle is unknown"),
    "image, no frame": ("image", change("header.frame_id", ""), "its messages carry no frame_id; set the parameter"),
    "image, late": ("image", late, "a message on /image was left out: its stamp does not follow"),
    "info, other size": ("camera_info", of_another_camera, "images and CameraInfo on /image and /camera_info do not"),
    "info, NaN": ("camera_info", without_focal_length, f"{INFO} is unusable: expected a 3x3 intrinsic matrix"),
    "odometry, NaN": ("odometry", change("pose.pose.position.x", math.nan), f"{ODOMETRY}: expected a finite position"),
    "odometry, quaternion": ("odometry", longer_quaternion, f"{ODOMETRY}: expected a unit quaternion"),
    "odometry, no stamp": ("odometry", no_stamp, f"messages on /odom {UNSTAMPED}"),
    "odometry, late": ("odometry", late, "a message on /odom was left out: its stamp does not follow"),
    "odometry, frame": (
        "odometry",
        change("child_frame_id", "sledge"),
        "the odometry's place on the vehicle is unknown",
    ),
    "fix, NaN": ("fix", change("latitude", math.nan), f"{FIXES}: expected finite coordinates"),
    "fix, nowhere": ("fix", change("latitude", 95.0), f"{FIXES}: expected a place in degrees"),
    "fix, status": ("fix", unknown_status, f"{FIXES}: whether there is a fix is unknown (status.status -2)"),
    "fix, covariance": (
        "fix",
        change("position_covariance", [0.0] * 9),
        "fixes on /fix state a covariance that is zero",
    ),
    "fix, no stamp": ("fix", no_stamp, f"messages on /fix {UNSTAMPED}"),
    "fix, clock": ("fix", another_clock, f"{FIXES}: stamped +"),
    "fix, frame": ("fix", change("header.frame_id", "mast"), "the gnss's place on the vehicle is unknown"),
    "imu, none": ("imu", no_orientation, "the heading on /imu is not used: the IMU says that it has no orientation"),
    "imu, quaternion": ("imu", change("orientation.w", 0.0), "the heading on /imu is not used: expected a unit"),
    "transform": (
        "transforms",
        change("transforms.0.transform.rotation.w", 0.0),
        "the transform odom -> base_link on TF is not used: expected a unit quaternion",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_message_gets_one_line(world, case):
    vehicle, process = world
    kind, spoil, line = CASES[case]
    sent = 0

    def spoilt(message):
        nonlocal sent
        sent += 1
        spoil(message)

    before = process.text().count(line)
    vehicle.spoil = {kind: spoilt}
    try:
        vehicle.until(lambda: process.text().count(line) > before and sent >= 5)
    finally:
        vehicle.spoil = {}
    assert process.text().count(line) == before + 1, "once, however many there are"


@pytest.mark.parametrize(
    ("frame_id", "x", "line"),
    [
        ("odom", 0.0, "the pose on /initialpose is not used: expected it in 'map', got 'odom'"),
        ("map", math.nan, "the pose on /initialpose is not used: expected a finite position"),
    ],
)
def test_storm_of_useless_initial_poses_gets_one_line(world, frame_id, x, line):
    vehicle, process = world
    vehicle.until(lambda: vehicle.initial_pose.get_subscription_count())
    message = to_pose_with_covariance(SE2(x, 0, 0), np.eye(3), stamp=vehicle.start, frame_id=frame_id)
    for _ in range(20):
        vehicle.initial_pose.publish(message)
    vehicle.until(lambda: line in process.text())
    frames = len(vehicle.frames)
    vehicle.until(lambda: len(vehicle.frames) > frames + 3)  # the others have been heard by now
    assert process.text().count(line) == 1


def test_storm_of_good_messages_costs_images_and_nothing_else(world):
    vehicle, process = world

    def dropped():
        return int(next(entry.value for entry in vehicle.statuses["localization"].values if entry.key == "dropped"))

    lines, before = process.text().count("\n"), dropped()
    vehicle.storm = 20
    try:
        vehicle.until(lambda: dropped() > before + 50)
    finally:
        vehicle.storm = 1
    vehicle.frames.clear()
    vehicle.until(lambda: sum(frame.prior is not None for frame in vehicle.frames) > 3)
    for status in ("image", "odometry", "gnss", "imu"):
        vehicle.status(status, level=OK)
    said = process.text().splitlines()[lines:]
    assert not [line for line in said if not any(part in line for part in ("tracker: ", "waiting for", "fine again"))]


def test_node_goes_on(world):
    vehicle, _ = world
    for status in ("image", "camera_info", "odometry", "transforms", "node"):
        vehicle.status(status, level=OK)
    vehicle.frames.clear()
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))


def test_heading_of_an_imu_starts_the_track_at_rest(world):
    vehicle, process = world
    jumps = process.text().count("time jumped back")
    vehicle.standing = True
    vehicle.restart()
    vehicle.until(lambda: process.text().count("time jumped back") > jumps)
    vehicle.frames.clear()

    def priors():  # the image that was under way when time jumped is of the drive before
        return [frame.prior for frame in vehicle.frames if frame.prior is not None and frame.reason != "reset"]

    vehicle.until(priors)
    pose = priors()[0].T_map_base
    assert abs(pose.yaw) < 0.3 and abs(pose.x + 50) < 15
