"""The bag player over real DDS, as a process of its own."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from ros_world import environment, free_domain
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from tf2_msgs.msg import TFMessage

from cvloc_ros.datasets import message_building as build
from cvloc_ros.geometry import SE2
from cvloc_ros.ros.conversions import to_nanoseconds, to_transform

START = 1_750_000_000 * 1_000_000_000
COUNT, RATE = 40, 20  # messages of odometry, Hz: two seconds


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """Two seconds of odometry, and two latched transforms from two publishers."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    with Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {"/odom": "nav_msgs/msg/Odometry", "/tf_static": "tf2_msgs/msg/TFMessage"}
        connections = {
            topic: writer.add_connection(
                topic, kind, typestore=build.STORE, offered_qos_profiles=[build.qos(latched=topic == "/tf_static")]
            )
            for topic, kind in kinds.items()
        }
        for name in ("camera", "gnss"):
            message = TFMessage(transforms=[to_transform(SE2(), stamp=0, parent="base_link", child=name)])
            writer.write(connections["/tf_static"], START, serialize_message(message))
        for i in range(COUNT):
            message = Odometry(child_frame_id="base_link")
            stamp = START + i * 1_000_000_000 // RATE
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
            message.pose.pose.position.x = float(i)
            writer.write(connections["/odom"], stamp, serialize_message(message))
    return path


class Listener:
    """Keeps what arrives, with the time of its arrival."""

    def __init__(self, domain):
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def listen(self, message_type, topic, *, latched=False):
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        profile = QoSProfile(depth=1000, durability=durability)  # deep: a busy machine may keep this process waiting
        came = []
        self.node.create_subscription(message_type, topic, lambda m: came.append((time.monotonic(), m)), profile)
        return came

    def spin_until(self, happened, timeout=20.0):
        deadline = time.monotonic() + timeout
        while not happened():
            assert time.monotonic() < deadline, "did not happen in time"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listener():
    domain = free_domain()
    listener = Listener(domain)
    listener.domain = domain
    yield listener
    listener.close()


def play(bag, domain, folder, *options):
    command = [sys.executable, "-m", "cvloc_ros.cli.main", "play", str(bag), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(domain, folder), **pipes)


def test_messages_come_as_recorded_and_in_time(bag, listener, tmp_path):
    odometry = listener.listen(Odometry, "/odom")
    clock = listener.listen(Clock, "/clock")
    player = play(bag, listener.domain, tmp_path, "--rate", "2", "--wait-for", "/odom")
    listener.spin_until(lambda: len(odometry) > 5)
    transforms = listener.listen(TFMessage, "/tf_static", latched=True)  # late: only latching can bring these
    listener.spin_until(lambda: len(odometry) == COUNT and player.poll() is not None)
    assert player.returncode == 0 and f"played {COUNT} messages" in player.stdout.read()
    assert {m.transforms[0].child_frame_id for _, m in transforms} == {"camera", "gnss"}

    stamps = [to_nanoseconds(m.header.stamp) for _, m in odometry]
    assert stamps == [START + i * 1_000_000_000 // RATE for i in range(COUNT)]
    arrival = np.array([t for t, _ in odometry])
    due = np.array(stamps) * 1e-9 / 2
    assert np.abs((arrival - arrival[0]) - (due - due[0])).max() < 0.3, "not twice as fast as recorded"

    times = [to_nanoseconds(m.clock) for _, m in clock]
    assert len(times) > 40 and times == sorted(times)
    assert times[0] >= START and times[-1] <= stamps[-1] + 100_000_000


def test_loop_begins_again_with_the_clock_and_ends_when_told(bag, listener, tmp_path):
    odometry = listener.listen(Odometry, "/odom")
    transforms = listener.listen(TFMessage, "/tf_static", latched=True)
    clock = listener.listen(Clock, "/clock")
    player = play(bag, listener.domain, tmp_path, "--rate", "4", "--loop", "--wait-for", "/odom")

    def jumps():
        return (np.diff([to_nanoseconds(m.clock) for _, m in clock]) < -1_000_000_000).sum()

    listener.spin_until(lambda: len(odometry) > 2 * COUNT and jumps() == 2)
    player.send_signal(signal.SIGINT)
    assert player.wait(timeout=10) == 0
    assert "Traceback" not in player.stdout.read()
    positions = [m.pose.pose.position.x for _, m in odometry]
    second = positions.index(0.0, 1)  # a busy machine may discover the player late
    assert positions[second : second + COUNT] == [float(i) for i in range(COUNT)]
    assert {m.transforms[0].child_frame_id for _, m in transforms} == {"camera", "gnss"}


def test_start_leaves_out_what_moves_but_not_what_is_latched(bag, listener, tmp_path):
    odometry = listener.listen(Odometry, "/odom")
    transforms = listener.listen(TFMessage, "/tf_static", latched=True)
    player = play(bag, listener.domain, tmp_path, "--start", "1.5", "--wait-for", "/odom")
    listener.spin_until(lambda: player.poll() is not None and transforms)
    assert [m.pose.pose.position.x for _, m in odometry] == [float(i) for i in range(30, COUNT)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--wait-for", "/camera"], "nothing is played on /camera; the bag has /odom, /tf_static"),
        (["--wait-for", "/odom", "--timeout", "0.2"], "nobody subscribed to /odom within 0.2 s"),
        (["--start", "9"], "expected a start within the bag's"),
    ],
)
def test_player_says_what_is_wrong(bag, tmp_path, options, complaint):
    player = play(bag, free_domain(), tmp_path, *options)
    output, _ = player.communicate(timeout=30)
    assert player.returncode == 1
    assert complaint in output and "Traceback" not in output


def test_no_bag(tmp_path):
    player = play(tmp_path / "nothing", free_domain(), tmp_path)
    output, _ = player.communicate(timeout=30)
    assert player.returncode == 1 and "there is no" in output and "Traceback" not in output


def test_loop_of_latched_messages_alone_rests(listener, tmp_path):
    path = tmp_path / "maps"
    with Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            "/tf_static",
            "tf2_msgs/msg/TFMessage",
            typestore=build.STORE,
            offered_qos_profiles=[build.qos(latched=True)],
        )
        message = TFMessage(transforms=[to_transform(SE2(), stamp=0, parent="base_link", child="camera")])
        writer.write(connection, START, serialize_message(message))
    transforms = listener.listen(TFMessage, "/tf_static", latched=True)
    clock = listener.listen(Clock, "/clock")
    player = play(path, listener.domain, tmp_path, "--loop", "--wait-for", "/tf_static")
    listener.spin_until(lambda: len(clock) > 20)
    player.send_signal(signal.SIGINT)
    assert player.wait(timeout=10) == 0
    times = [to_nanoseconds(m.clock) for _, m in clock]
    assert times == sorted(times) and len(transforms) == 1, "it began again"
