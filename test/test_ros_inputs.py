"""The node's subscriptions over DDS, without a network: what becomes of messages, and what is said of them."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from ros_world import DATUM, free_domain
from sensor_msgs.msg import CompressedImage, NavSatFix
from tf2_msgs.msg import TFMessage

from cvloc_ros.geometry import SE2
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.ros import health as health_module
from cvloc_ros.ros import qos
from cvloc_ros.ros.config import CameraInput, NodeConfig
from cvloc_ros.ros.conversions import to_stamp, to_transform
from cvloc_ros.ros.drive_time import DriveTime
from cvloc_ros.ros.environment import local_environment
from cvloc_ros.ros.health import ERROR, OK, WARN, Health
from cvloc_ros.ros.input_health import Publishers
from cvloc_ros.ros.inputs import Inputs
from cvloc_ros.ros.mounts import Mounts
from cvloc_ros.ros.tf import Transforms

SECOND = 1_000_000_000
START = 1_000 * SECOND


class World:
    """A node with nothing but inputs, and another one that talks to them."""

    def __init__(self, *overrides):
        self.context = Context()
        self.context.init(domain_id=free_domain())
        self.node = Node("cvloc", context=self.context, parameter_overrides=list(overrides))
        self.peer = Node("vehicle", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.peer)
        self.log = []
        self.health = Health(lambda level, line: self.log.append(line), lambda *_: Publishers(1, [], []))
        config = NodeConfig(camera=CameraInput(transport="compressed"))
        self.transforms = Transforms(self.node, self.health)
        self.time = DriveTime(self.node, on_jump=lambda _: None)
        self.session = LocalizationSession(None)
        self.heard = []
        self.inputs = Inputs(
            self.node,
            config,
            datum=DATUM,
            session=self.session,
            mounts=Mounts(config.frames, self.transforms, self.health),
            health=self.health,
            time=self.time,
            on_image=lambda _: None,
            on_odometry=lambda message, _: self.heard.append(message),
            on_fix=lambda *_: None,
        )
        self._publishers = {}

    def publisher(self, kind, topic, profile=10):
        if topic not in self._publishers:
            self._publishers[topic] = self.peer.create_publisher(kind, topic, profile)
            self.until(self._publishers[topic].get_subscription_count)
        return self._publishers[topic]

    def until(self, happened, timeout=30.0):
        deadline = time.monotonic() + timeout
        while not happened():
            assert time.monotonic() < deadline, f"did not happen; the log says {self.log}"
            self.executor.spin_once(timeout_sec=0.02)

    def odometry(self, seconds, *, x=0.0, yaw=0.0, child="base_link", spoil=lambda message: None):
        message = Odometry(child_frame_id=child)
        message.header.frame_id, message.header.stamp = "odom", to_stamp(START + round(seconds * SECOND))
        message.pose.pose.position.x = x
        message.pose.pose.orientation.z, message.pose.pose.orientation.w = np.sin(yaw / 2), np.cos(yaw / 2)
        spoil(message)
        self._send("odometry", self.publisher(Odometry, "odom"), message)

    def fix(self, seconds, *, covariance=4.0):
        message = NavSatFix(latitude=DATUM.latitude, longitude=DATUM.longitude)
        message.header.frame_id, message.header.stamp = "base_link", to_stamp(START + round(seconds * SECOND))
        message.status.status, message.position_covariance_type = 0, 2
        message.position_covariance = (covariance * np.eye(3)).ravel()
        self._send("gnss", self.publisher(NavSatFix, "fix"), message)

    def clock(self, seconds):
        now = Time(nanoseconds=START + round(seconds * SECOND), clock_type=self.node.get_clock().clock_type)
        self.node.get_clock().set_ros_time_override(now)

    def image(self, seconds):
        message = CompressedImage()
        message.header.stamp = to_stamp(START + round(seconds * SECOND))
        self._send("image", self.publisher(CompressedImage, "image/compressed"), message)

    def statuses(self):
        array = self.health.diagnostics("cvloc", silence=100.0)
        return {status.name.removeprefix("cvloc: "): status for status in array.status}

    def close(self):
        self.time.close()
        self.inputs.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.peer.destroy_node()
        self.context.try_shutdown()

    def _send(self, status, publisher, message):
        watched = self.health.inputs[status]
        before = watched.count
        publisher.publish(message)
        self.until(lambda: watched.count > before)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Return a function (*parameter overrides) that starts a world; problems calm down sooner in it."""
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    for name, value in local_environment(os.environ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(health_module, "CALM", 0.05)
    running = []

    def begin(*overrides):
        running.append(World(*overrides))
        return running[-1]

    yield begin
    for world in running:
        world.close()


def test_odometry_that_stops_is_no_difference_of_clocks(start):
    world = start(Parameter("use_sim_time", Parameter.Type.BOOL, True))
    world.clock(0.0)
    world.odometry(0.0)
    world.clock(6.0)
    world.fix(6.0)
    assert world.statuses()["gnss"].level == OK
    world.odometry(6.0)
    world.fix(-1.0)
    assert "stamped -7.0 s from odometry; their clocks differ" in world.statuses()["gnss"].message


def test_callback_that_raised_once_is_forgiven(start, monkeypatch):
    world = start()
    with monkeypatch.context() as patch:
        patch.setattr(world.inputs, "_on_image", lambda _: 1 / 0)
        world.image(0.0)
    assert "ZeroDivisionError" in world.statuses()["image"].message
    world.image(0.1)
    time.sleep(0.06)
    assert world.statuses()["image"].level == OK


def test_publisher_whose_qos_does_not_fit_is_named_until_it_leaves(start):
    reliable = Parameter("qos_overrides./fix.subscription.reliability", Parameter.Type.STRING, "reliable")
    world = start(reliable)
    deaf = world.peer.create_publisher(NavSatFix, "fix", qos_profile_sensor_data)
    world.until(lambda: world.statuses()["gnss"].level == ERROR)
    assert "a publisher of /fix is not heard: it offers less RELIABILITY" in world.statuses()["gnss"].message
    good = world.peer.create_publisher(NavSatFix, "fix", 10)
    world.until(good.get_subscription_count)
    message = NavSatFix(latitude=DATUM.latitude, longitude=DATUM.longitude)
    message.header.stamp, message.header.frame_id = to_stamp(START), "base_link"
    message.position_covariance[0] = message.position_covariance[4] = message.position_covariance[8] = 1.0
    message.position_covariance_type = 2
    world._send("gnss", good, message)
    world.statuses()
    time.sleep(0.06)
    assert world.statuses()["gnss"].level == ERROR, "what another one sends does not make it heard"
    world.peer.destroy_publisher(deaf)
    world.until(lambda: world.statuses()["gnss"].level == OK)


def test_reliability_of_one_topic_can_be_overridden(start):
    """With best-effort odometry: the default hears it, an override of its own topic does not, of another one does."""
    for topic, hears in (("/fix", 1), ("/odom", 0)):
        world = start(Parameter(f"qos_overrides.{topic}.subscription.reliability", Parameter.Type.STRING, "reliable"))
        publisher = world.peer.create_publisher(Odometry, "odom", qos_profile_sensor_data)
        world.until(lambda publisher=publisher, world=world, hears=hears: (
            publisher.get_subscription_count() if hears else world.statuses()["odometry"].level == ERROR
        ))  # fmt: skip
        assert publisher.get_subscription_count() == hears


def test_twist_of_another_frame_becomes_that_of_base_link(start):
    """An IMU 2 m ahead, turned left by 90 degrees: forward is its right, and in a left turn it swings to the left."""
    world = start()
    mount = to_transform(SE2(2.0, 0.0, np.pi / 2), stamp=0, parent="base_link", child="imu_link")
    static = world.peer.create_publisher(TFMessage, "/tf_static", qos.STATIC_TF)
    static.publish(TFMessage(transforms=[mount]))
    world.until(lambda: world.transforms.parent("imu_link"))

    def moving(message):
        twist = message.twist.twist
        twist.linear.x, twist.linear.y, twist.angular.z = 1.0, -8.0, 0.5  # 2 m * 0.5 rad/s to the left
        covariance = np.diag([0.04, 0.25, 1.0, 1.0, 1.0, 0.01])
        message.twist.covariance = covariance.ravel()

    world.odometry(0.0, child="imu_link", yaw=np.pi / 2, x=2.0, spoil=moving)
    twist = world.heard[0].twist.twist
    assert (twist.linear.x, twist.angular.z) == pytest.approx((8.0, 0.5)) and abs(twist.linear.y) < 1e-9
    covariance = np.reshape(world.heard[0].twist.covariance, (6, 6))
    assert np.diag(covariance)[[0, 1, 5]] == pytest.approx([0.25, 0.04 + 2.0**2 * 0.01, 0.01])
    world.odometry(0.1, spoil=moving)
    assert world.heard[1].twist.twist.linear.y == -8.0, "it is base_link's already"


def test_missing_covariance_of_a_slow_receiver_is_said_once(start):
    world = start()
    for second in range(4):
        world.fix(second, covariance=0.0)
        assert world.statuses()["gnss"].level == WARN
        time.sleep(0.06)  # longer than problems need to calm down
        world.statuses()
    assert len(world.log) == 1 and "state a covariance that is zero" in world.log[0]
