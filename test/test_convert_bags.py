"""`cvloc convert` on ROS 1 bags: every message comes out under ROS 2's definitions, at its time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from typer.testing import CliRunner

from cvloc_ros.cli.main import app
from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.bag_topics import BagError
from cvloc_ros.datasets.bag_writing import write_bag
from cvloc_ros.datasets.convert import open_recording
from cvloc_ros.datasets.events import FixEvent, ImageEvent, OdometryEvent, TruthEvent
from cvloc_ros.datasets.files import DatasetError
from cvloc_ros.geometry import camera_extrinsics

ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS1.register(get_types_from_msg("float32 level\n", "acme_msgs/msg/Battery"))
ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms\n", "tf2_msgs/msg/TFMessage"))
MOUNT = camera_extrinsics(height=1.65, x=1.2, pitch=0.05)
START = 1_400_000_000_000_000_000


def make(kind: str, **values):
    return ROS1.types[kind](**values)


def header(stamp: int, frame: str):
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", seq=7, stamp=time, frame_id=frame)


def vector(kind: str, *xyz: float):
    return make(f"geometry_msgs/msg/{kind}", **dict(zip("xyz", map(float, xyz), strict=True)))


def quaternion(*xyzw: float):
    return make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", map(float, xyzw), strict=True)))


def odometry(stamp: int, x: float, frame: str):
    pose = make("geometry_msgs/msg/Pose", position=vector("Point", x, 2, 0), orientation=quaternion(0, 0, 0.6, 0.8))
    twist = make("geometry_msgs/msg/Twist", linear=vector("Vector3", 3, 0, 0), angular=vector("Vector3", 0, 0, 0.1))
    return make(
        "nav_msgs/msg/Odometry",
        header=header(stamp, frame),
        child_frame_id="/base_link",
        pose=make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.eye(6).ravel()),
        twist=make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.eye(6).ravel()),
    )


def fix(stamp: int):
    return make(
        "sensor_msgs/msg/NavSatFix",
        header=header(stamp, "/gps"),
        status=make("sensor_msgs/msg/NavSatStatus", status=0, service=1),
        latitude=49.0,
        longitude=8.4,
        altitude=110.0,
        position_covariance=np.diag([4.0, 9.0, 16.0]).ravel(),
        position_covariance_type=2,
    )


def camera_info(stamp: int):
    K = np.array([[90.0, 0, 80], [0, 91, 23], [0, 0, 1]])
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp, "/camera"),
        height=48,
        width=160,
        distortion_model="plumb_bob",
        D=np.array([-0.1, 0.02, 0.001, 0.0, 0.0]),
        K=K.ravel(),
        R=np.eye(3).ravel(),
        P=np.column_stack([2 * K, np.zeros(3)]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def image(stamp: int):
    data = np.arange(48 * 160 * 3, dtype=np.uint32).astype(np.uint8)
    return make(
        "sensor_msgs/msg/Image",
        header=header(stamp, "/camera"),
        height=48,
        width=160,
        encoding="rgb8",
        is_bigendian=0,
        step=480,
        data=data,
    )


def static(stamp: int):
    # a camera that looks ahead and 0.05 rad down: axes x right, y down, z forward
    from cvloc_ros.datasets.message_building import transform

    today = transform(stamp, MOUNT, parent="/base_link", child="/camera").transform
    q, t = today.rotation, today.translation
    return make(
        "tf2_msgs/msg/TFMessage",
        transforms=[
            make(
                "geometry_msgs/msg/TransformStamped",
                header=header(stamp, "/base_link"),
                child_frame_id="/camera",
                transform=make(
                    "geometry_msgs/msg/Transform",
                    translation=vector("Vector3", t.x, t.y, t.z),
                    rotation=quaternion(q.x, q.y, q.z, q.w),
                ),
            )
        ],
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ros1") / "drive.bag"
    with Writer(path) as writer:

        def write(topic, messages, **connection):
            messages = list(messages)
            kind = messages[0].__msgtype__
            c = writer.add_connection(topic, kind, typestore=ROS1, **connection)
            for k, message in enumerate(messages):
                writer.write(c, START + k * 100_000_000, ROS1.serialize_ros1(message, kind))

        stamps = [START + k * 100_000_000 for k in range(5)]
        write("/tf_static", [static(START)], latching=1)
        write("/datum", [fix(START)], latching=1)
        write("/odom", [odometry(t, 0.3 * k, "/odom") for k, t in enumerate(stamps)])
        write("/ground_truth", [odometry(t, 0.4 * k, "/map") for k, t in enumerate(stamps)])
        write("/fix", [fix(t) for t in stamps])
        write("/camera/camera_info", [camera_info(t) for t in stamps])
        write("/camera/image_raw", [image(t) for t in stamps])
        write("/battery", [make("acme_msgs/msg/Battery", level=0.5)])
    return path


def test_the_drive_comes_back(source, tmp_path):
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "bag")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "/battery is left out: ROS 2 has no acme_msgs/msg/Battery" in result.output
    bag, before = Bag.open(tmp_path / "bag"), Bag.open(source)
    assert bag.camera.distortion == (-0.1, 0.02, 0.001, 0.0, 0.0)
    np.testing.assert_allclose(bag.camera.K, [[90, 0, 80], [0, 91, 23], [0, 0, 1]])
    np.testing.assert_allclose(bag.T_base_camera, MOUNT, atol=1e-9)
    assert (bag.datum.latitude, bag.base_frame, bag.start) == (49.0, "base_link", START)
    events, originals = list(bag), list(before)
    assert Counter(map(type, events)) == dict.fromkeys((ImageEvent, FixEvent, OdometryEvent, TruthEvent), 5)
    for event, original in zip(events, originals, strict=True):
        assert type(event) is type(original) and event.stamp == original.stamp
        if isinstance(event, ImageEvent):
            np.testing.assert_array_equal(event.image(), original.image())
        elif isinstance(event, OdometryEvent):
            assert event.T_odom_base == original.T_odom_base
            np.testing.assert_array_equal(event.covariance, original.covariance)
        elif isinstance(event, FixEvent):
            np.testing.assert_array_equal(event.covariance, np.diag([4.0, 9.0]))


def test_frames_lose_the_slash_and_latched_topics_stay_latched(source, tmp_path):
    recording = open_recording(source)
    write_bag(tmp_path / "bag", recording.messages(), latched=recording.latched)
    with AnyReader([tmp_path / "bag"]) as reader:
        frames = set()
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            for stamped in (message, *getattr(message, "transforms", [])):
                frames.add(getattr(stamped, "child_frame_id", ""))
                if hasattr(stamped, "header"):
                    frames.add(stamped.header.frame_id)
        assert frames == {"", "base_link", "odom", "map", "gps", "camera"}
        latched = {
            c.topic
            for c in reader.connections
            if c.ext.offered_qos_profiles[0].durability == QosDurability.TRANSIENT_LOCAL
        }
    assert latched == {"/tf_static", "/datum"}


def test_a_damaged_bag_is_refused(source, tmp_path):
    (tmp_path / "cut.bag").write_bytes(source.read_bytes()[:5000])
    with pytest.raises(BagError, match="damaged or no bag"):
        open_recording(tmp_path / "cut.bag")


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["rl_test1.bag", "rl_test2.bag", "rviz_satellite_sample.bag"])
def test_real_bags_keep_every_message(shared_data, tmp_path, name):
    source = shared_data / "bags" / name
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    recording = open_recording(source)
    counts = write_bag(tmp_path / "bag", recording.messages(), latched=recording.latched)
    assert not recording.notes
    with AnyReader([source]) as before, AnyReader([tmp_path / "bag"]) as after:
        assert counts == {c.topic: c.msgcount for c in before.connections}
        assert (before.start_time, before.end_time) == (after.start_time, after.end_time)
        for (old, t_old, old_data), (new, t_new, new_data) in zip(before.messages(), after.messages(), strict=True):
            assert (old.topic, old.msgtype, t_old) == (new.topic, new.msgtype, t_new)
            if old.msgtype == "sensor_msgs/msg/NavSatFix":
                was, is_now = before.deserialize(old_data, old.msgtype), after.deserialize(new_data, new.msgtype)
                assert (was.latitude, was.longitude) == (is_now.latitude, is_now.longitude)
                assert (was.header.stamp.sec, was.header.stamp.nanosec) == (
                    is_now.header.stamp.sec,
                    is_now.header.stamp.nanosec,
                )


@pytest.mark.parametrize(
    ("options", "expected", "named"),
    [
        (["--gnss-error", "5"], "KITTI raw drive", "--gnss-error"),
        (["--seed", "0"], "KITTI raw drive", "--seed"),
        (["--odometry", "vo.txt", "--seed", "3"], "KITTI raw drive", "--odometry and --seed"),
        (["--sdk", "robotcar-dataset-sdk"], "Oxford RobotCar traversal", "--sdk"),
    ],
)
def test_options_that_mean_nothing_are_refused(source, tmp_path, options, expected, named):
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "bag"), *options])
    assert isinstance(result.exception, DatasetError)
    assert f"for which {named} can be chosen ({expected}) at {source}, got another" in str(result.exception)
    assert str(result.exception).endswith(f"leave {named} out") and not (tmp_path / "bag").exists()
