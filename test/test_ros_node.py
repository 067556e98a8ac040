"""The node over real DDS: what it says when something is missing, and what comes out when nothing is."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="the node needs ROS 2: make setup, or a sourced ROS installation")

from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_world import DATUM, NodeProcess, Vehicle, free_domain, write_confident_weights, write_imagery
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from cvloc_ros.geometry import SE2
from cvloc_ros.ros import qos
from cvloc_ros.ros.conversions import to_nanoseconds, to_pose_with_covariance, to_stamp

OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One node for all tests of this module: it takes seconds to start, and milliseconds to activate again."""
    folder = tmp_path_factory.mktemp("node")
    write_imagery(folder / "imagery.tif")
    write_confident_weights(folder / "weights.safetensors")
    domain = free_domain()
    parameters = {
        "imagery": folder / "imagery.tif",
        "datum": f"[{DATUM.latitude}, {DATUM.longitude}]",
        "weights": folder / "weights.safetensors",
        "device": "cuda",  # whether there is one or not
        "camera.transport": "compressed",
        "health.silence": 0.8,
        "gate.max_position_sigma": 50.0,
        "gate.max_heading_sigma": 90.0,
        "gate.max_edge_mass": 1.0,
        "gate.min_coverage": 0.1,
        "visuals.period": 0.0,
    }
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    process, vehicle = NodeProcess(domain, folder, "--ros-args", *arguments), Vehicle(domain)
    vehicle.until(lambda: "node" in vehicle.statuses, timeout=90, drive=False)
    yield vehicle, process
    vehicle.close()
    process.stop()
    assert "Traceback" not in process.text()


@pytest.fixture
def vehicle(world):
    """A vehicle, and a node that has just been activated and knows nothing but static transforms."""
    vehicle, _ = world
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        change(vehicle, transition)
    vehicle.renew()
    return vehicle


def change(vehicle, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    assert vehicle.call(ChangeState, "/cvloc/change_state", request).success


def set_parameter(vehicle, name, value):
    kind = ParameterType.PARAMETER_STRING if isinstance(value, str) else ParameterType.PARAMETER_DOUBLE
    field = "string_value" if isinstance(value, str) else "double_value"
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
    request = SetParameters.Request(parameters=[parameter])
    return vehicle.call(SetParameters, "/cvloc/set_parameters", request).results[0]


def reconfigure(vehicle, **values):
    change(vehicle, Transition.TRANSITION_DEACTIVATE)
    change(vehicle, Transition.TRANSITION_CLEANUP)
    for name, value in values.items():
        if name.startswith("camera."):  # one of a few
            assert not set_parameter(vehicle, name, "telepathy").successful
        assert set_parameter(vehicle, name, value).successful
    change(vehicle, Transition.TRANSITION_CONFIGURE)
    change(vehicle, Transition.TRANSITION_ACTIVATE)


def test_silent_inputs_are_named_with_their_topics(vehicle):
    vehicle.odometry = vehicle.camera_info = vehicle.images = vehicle.fixes = False
    assert "no image on /image/compressed for" in vehicle.status("image", level=ERROR)
    assert "no CameraInfo on /camera_info for" in vehicle.status("camera_info", level=ERROR)
    assert "no odometry on /odom for" in vehicle.status("odometry", level=ERROR)
    assert "no GNSS fix on /fix for" in vehicle.status("gnss", level=WARN)
    assert "odometry" in vehicle.status("tracker", level=WARN)


def test_without_the_gpu_that_was_asked_for_the_cpu_takes_its_place_and_one_line_says_so(world):
    """Before the node says that it is configured: the network has run by then."""
    if torch.cuda.is_available() or Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is a GPU")
    fallback, configured = "the network runs on the CPU: ", "vote_flow on "
    before, _, after = world[1].text().partition(configured)
    assert after and before.count(fallback) == 1
    line = next(line for line in before.splitlines() if fallback in line)
    assert "[WARN]" in line and "cuda" in line and "use cpu or auto" in line


def test_missing_camera_info_is_the_reason_that_is_given(vehicle, world):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.camera_info = False
    assert "/camera_info" in vehicle.status("camera_info", level=ERROR)
    vehicle.until(lambda: any(frame.reason == "no_camera_info" for frame in vehicle.frames))
    assert "no CameraInfo on /camera_info" in world[1].text()
    vehicle.camera_info = True
    vehicle.status("camera_info", level=OK)


def test_uncalibrated_camera_is_refused(vehicle):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.until(lambda: vehicle.frames)
    vehicle.calibrated = False  # whatever came before
    assert "calibrate" in vehicle.status("camera_info", level=ERROR, containing="K = 0")


def test_odometry_that_ends_is_reported_and_forgiven(vehicle, world):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.status("odometry", level=OK)
    vehicle.odometry = False
    vehicle.status("odometry", level=ERROR, containing="no odometry on /odom for")
    assert "no odometry on /odom" in world[1].text()
    vehicle.odometry = True
    vehicle.status("odometry", level=OK)


def test_no_pose_is_localized_without_odometry(vehicle):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.odometry = False
    vehicle.until(lambda: len(vehicle.frames) > 3)
    assert {frame.reason for frame in vehicle.frames} == {"waiting"}


def test_transform_is_stamped_ahead_of_the_odometry(vehicle):
    vehicle.publish_transforms("camera_optical", "gnss")
    transforms, odometry = vehicle.listen(TFMessage, "/tf"), vehicle.listen(Odometry, "/cvloc/odometry")
    vehicle.until(lambda: len(transforms) > 3 and len(odometry) > 3)
    stamps = {to_nanoseconds(message.header.stamp) for message in odometry}
    ahead = {to_nanoseconds(message.transforms[0].header.stamp) - 100_000_000 for message in transforms}
    assert stamps & ahead


def test_initial_pose_starts_the_track_without_gnss(vehicle):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.fixes = False
    vehicle.status("tracker", level=WARN, containing="no GNSS fix and no initial pose")
    pose = to_pose_with_covariance(SE2(-50, 0, 0), np.diag([4.0, 4.0, 0.1]), stamp=vehicle.start, frame_id="map")
    vehicle.initial_pose.publish(pose)
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    prior = next(frame.prior for frame in vehicle.frames if frame.prior is not None)
    assert abs(prior.T_map_base.yaw) < 0.1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 10],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"hello",
    ],
    ids=["a tenth", "half", "empty", "text"],
)
def test_compressed_image_that_does_not_decode_gets_one_line(vehicle, world, spoil):
    def spoilt(message):
        message.data = spoil(bytes(message.data))

    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    vehicle.spoil = {"image": spoilt}
    line = "images on /image/compressed are unusable: "
    before = world[1].text().count(line)
    vehicle.frames.clear()
    vehicle.until(lambda: sum(frame.reason == "bad_image" for frame in vehicle.frames) > 4)
    assert world[1].text().count(line) == before + 1
    assert "bytes that do not decode" in world[1].text().rpartition(line)[2].partition("\n")[0]
    vehicle.spoil = {}
    vehicle.status("image", level=OK)


def test_time_that_jumps_back_resets_once_and_localization_resumes(vehicle, world):
    vehicle.publish_transforms("camera_optical", "gnss")
    before = world[1].text().count("time jumped back")

    def is_tried():
        return any(frame.prior is not None for frame in vehicle.frames)

    def time_jumps():
        values = vehicle.statuses["node"].values if "node" in vehicle.statuses else []
        return next((entry.value for entry in values if entry.key == "time_jumps"), "")

    vehicle.until(lambda: is_tried() and vehicle.sent["odometry"] > 100)  # four seconds
    vehicle.restart()
    vehicle.until(lambda: time_jumps() == "1")
    vehicle.frames.clear()
    vehicle.until(is_tried)
    assert world[1].text().count("time jumped back") == before + 1


def test_services(vehicle):
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    assert vehicle.call(SetBool, "/cvloc/enable", SetBool.Request(data=False)).success
    vehicle.status("node", level=WARN, containing="disabled")
    assert vehicle.call(Trigger, "/cvloc/relocalize", Trigger.Request()).success
    vehicle.fixes = False
    assert vehicle.call(Trigger, "/cvloc/reset", Trigger.Request()).success
    vehicle.frames.clear()
    assert vehicle.call(SetBool, "/cvloc/enable", SetBool.Request(data=True)).success
    vehicle.until(lambda: any(frame.reason != "reset" for frame in vehicle.frames))
    assert next(frame for frame in vehicle.frames if frame.reason != "reset").reason == "waiting"
    vehicle.status("node", level=OK)


def test_raw_images_after_a_change_of_parameters(vehicle):
    refused = set_parameter(vehicle, "camera.transport", "raw")
    assert not refused.successful and "clean it up first" in refused.reason
    assert set_parameter(vehicle, "odometry_wait", 0.1).successful
    assert not set_parameter(vehicle, "odometry_wait", 99.0).successful
    assert set_parameter(vehicle, "gate.min_quality", 0.2).successful
    try:
        reconfigure(vehicle, **{"camera.transport": "raw"})
        vehicle.compressed = False
        vehicle.publish_transforms("camera_optical", "gnss")
        vehicle.restart()
        vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
        vehicle.status("image", level=OK)
    finally:
        reconfigure(vehicle, **{"camera.transport": "compressed"})


def test_dense_flow_takes_over_after_a_change_of_parameters(vehicle, world):
    _, process = world
    try:
        reconfigure(vehicle, method="dense_flow", weights="")
        assert "dense_flow on " in process.text()
        vehicle.publish_transforms("camera_optical", "gnss")
        vehicle.restart()
        vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
        vehicle.status("node", level=OK)
    finally:
        reconfigure(vehicle, method="vote_flow", weights=str(process.log.parent / "weights.safetensors"))


def test_rectified_images_need_the_projection_matrix(vehicle):
    try:
        reconfigure(vehicle, **{"camera.rectified": "yes"})
        vehicle.status("camera_info", level=ERROR, containing="got P = 0")
    finally:
        reconfigure(vehicle, **{"camera.rectified": "auto"})


def test_subscriber_that_asks_for_too_much_is_named(vehicle):
    vehicle.listen(PoseWithCovarianceStamped, "/cvloc/pose", qos.LATCHED)
    assert "DURABILITY" in vehicle.status("outputs", level=WARN, containing="/cvloc/pose")
    vehicle.renew()
    vehicle.status("outputs", level=OK)


@pytest.fixture
def started(tmp_path):
    """Start nodes of one test; returns a function (arguments) -> (process, vehicle)."""
    running = []

    def start(*arguments):
        domain = free_domain()
        process, vehicle = NodeProcess(domain, tmp_path, "--ros-args", *arguments), Vehicle(domain)
        running.append((process, vehicle))
        return process, vehicle

    yield start
    for process, vehicle in running:
        vehicle.close()
        process.stop()


def test_missing_transform_is_named(started, tmp_path):
    write_imagery(tmp_path / "imagery.tif")
    write_confident_weights(tmp_path / "weights.safetensors")
    files = ("-p", f"imagery:={tmp_path}/imagery.tif", "-p", f"weights:={tmp_path}/weights.safetensors")
    process, vehicle = started(*files, "-p", "camera.transport:=compressed")
    vehicle.publish_transforms("gnss")
    text = vehicle.status("transforms", level=ERROR, containing="camera_optical", timeout=90)
    assert "static_transform_publisher" in text and "--frame-id base_link" in text
    assert {frame.reason for frame in vehicle.frames} <= {"no_camera_info", "no_transform", "waiting"}
    vehicle.publish_transforms("gnss", "camera_optical")
    vehicle.status("transforms", level=OK)
    assert "Traceback" not in process.text()


def test_clock_that_is_missing_or_stands_still_is_the_only_thing_said(started, tmp_path):
    write_imagery(tmp_path / "imagery.tif")
    write_confident_weights(tmp_path / "weights.safetensors")
    files = ("-p", f"imagery:={tmp_path}/imagery.tif", "-p", f"weights:={tmp_path}/weights.safetensors")
    process, vehicle = started(*files, "-p", "use_sim_time:=true", "-p", "health.silence:=1.0")
    assert "nobody publishes /clock" in vehicle.status("node", level=ERROR, timeout=90)
    clock = vehicle.node.create_publisher(Clock, "/clock", qos.CLOCK)
    vehicle.compressed = False
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.restart()

    def ticks_and_is_fine():
        clock.publish(Clock(clock=to_stamp(vehicle.start + round((time.monotonic() - vehicle.began) * 1e9))))
        levels = {name: status.level for name, status in vehicle.statuses.items()}
        return all(levels.get(name) == OK for name in ("node", "image", "camera_info", "odometry", "gnss"))

    vehicle.until(ticks_and_is_fine)
    said = len(process.text())
    vehicle.until(lambda: vehicle.statuses["node"].level == WARN, drive=False)
    assert "paused: /clock stands still" in vehicle.statuses["node"].message
    ends = time.monotonic() + 3.0
    vehicle.until(lambda: time.monotonic() > ends, drive=False)
    assert "paused" in process.text()[said:] and "for 1 s: " not in process.text()[said:]
    assert {vehicle.statuses[name].level for name in ("image", "odometry", "gnss")} == {OK}


def test_missing_imagery_file_is_named(started, tmp_path):
    process, vehicle = started("-p", f"imagery:={tmp_path}/nowhere.tif")
    assert f"there is no file '{tmp_path}/nowhere.tif'" in vehicle.status("imagery", level=ERROR, timeout=90)
    assert "not configured" in vehicle.status("node", level=ERROR)
    assert "nowhere.tif" in process.text() and "Traceback" not in process.text()


def test_what_is_no_device_is_named(started, tmp_path):
    write_imagery(tmp_path / "imagery.tif")
    process, vehicle = started("-p", f"imagery:={tmp_path}/imagery.tif", "-p", "device:=gpu")
    text = vehicle.status("node", level=ERROR, containing="not configured", timeout=90)
    assert "expected device auto, cpu, cuda or" in text and "got 'gpu'" in text
    assert "got 'gpu'" in process.text() and "Traceback" not in process.text()


@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [
        ("imagry:=x.tif", "did you mean imagery?"),
        ("gate.min_quality:=3.0", "expects 0.0 to 1.0, got 3.0"),
        ("gate.min_quality:=high", "expects a double, e.g. 1.0, got 'high'"),
        ("tf.publish:=everything", "expects one of none, map_odom, map_base"),
    ],
)
def test_wrong_parameters_end_the_node_with_one_line(started, parameter, complaint):
    process, _ = started("-p", parameter)
    assert process.process.wait(timeout=90) == 2
    assert complaint in process.text() and "Traceback" not in process.text()
