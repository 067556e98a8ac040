"""Who owns a transform (REP-105): what the node publishes, and what it withholds and why."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_world import free_domain
from tf2_msgs.msg import TFMessage

from cvloc_ros.geometry import SE2
from cvloc_ros.ros import qos
from cvloc_ros.ros.config import FrameNames, NodeConfig
from cvloc_ros.ros.config import TfOutput as TfSettings
from cvloc_ros.ros.conversions import to_transform
from cvloc_ros.ros.health import Health
from cvloc_ros.ros.input_health import Publishers
from cvloc_ros.ros.tf import Transforms
from cvloc_ros.ros.tf_output import TfOutput

SECOND = 1_000_000_000


class World:
    """The node's side of TF, and another node that publishes and listens."""

    def __init__(self):
        self.context = Context()
        self.context.init(domain_id=free_domain())
        self.node, self.other = (Node(name, context=self.context) for name in ("cvloc", "other"))
        self.node.declare_parameter("tf.tolerance", 0.1)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.heard = []
        for node in (self.node, self.other):
            self.executor.add_node(node)
        self.health = Health(lambda level, line: None, lambda topic, kind: Publishers(0, [], []))
        self.transforms = Transforms(self.node, self.health)
        self._publisher = self.other.create_publisher(TFMessage, "/tf", qos.MOVING_TF)
        self.other.create_subscription(TFMessage, "/tf", self.heard.append, qos.MOVING_TF)
        self._stamp = 100 * SECOND
        self.spin(lambda: self._publisher.get_subscription_count() == 2)

    def spin(self, until):
        for _ in range(1000):
            if until():
                return
            self.executor.spin_once(timeout_sec=0.02)
        raise AssertionError("did not happen")

    def others_publish(self, parent, child):
        self._stamp += SECOND
        before = len(self.heard)
        transform = to_transform(SE2(1, 2, 0), stamp=self._stamp, parent=parent, child=child)
        self._publisher.publish(TFMessage(transforms=[transform]))
        self.spin(lambda: len(self.heard) > before)
        for _ in range(5):
            self.executor.spin_once(timeout_sec=0.02)

    def output(self, publish, **frames):
        config = NodeConfig(tf=TfSettings(publish=publish), frames=FrameNames(**frames))
        return TfOutput(self.node, config, transforms=self.transforms, health=self.health)

    def published(self, output, *, odom_frame="odom"):
        """Publish a pose and return the edge that came out, if one did, and what is said."""
        self._stamp += SECOND
        stamp = self._stamp + SECOND // 10
        output.publish(SE2(5, 6, 0.1), SE2(1, 1, 0.1), stamp=self._stamp, odom_frame=odom_frame)
        for _ in range(5):
            self.executor.spin_once(timeout_sec=0.02)
        edges = [m.transforms[0] for m in self.heard if m.transforms[0].header.stamp.sec == stamp // SECOND]
        status = next(s for s in self.health.diagnostics("cvloc", silence=5.0).status if s.name == "cvloc: tf")
        return [(edge.header.frame_id, edge.child_frame_id) for edge in edges], status.message

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.other.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_map_odom_waits_for_the_edge_below_it(world):
    output = world.output("map_odom")
    edges, said = world.published(output)
    assert not edges and "map -> odom is not published: nobody publishes odom -> base_link on TF" in said
    world.others_publish("odom", "base_footprint")
    world.others_publish("base_footprint", "base_link")
    assert world.published(output) == ([("map", "odom")], "OK")
    assert world.published(output) == ([("map", "odom")], "OK"), "our own transform is no rival"
    edges, said = world.published(output, odom_frame="")
    assert not edges and "set the parameter frames.odom" in said


def test_map_base_respects_a_parent(world):
    output = world.output("map_base")
    assert world.published(output) == ([("map", "base_link")], "OK")
    world.others_publish("odom", "base_link")
    edges, said = world.published(output)
    assert not edges and "base_link hangs from odom already" in said and "set tf.publish to map_odom" in said


@pytest.mark.parametrize("first", ["us", "them"])
def test_edge_has_one_owner(world, first):
    world.others_publish("odom", "base_link")
    output = world.output("map_odom")
    if first == "us":
        assert world.published(output) == ([("map", "odom")], "OK")
    world.others_publish("map", "odom")
    edges, said = world.published(output)
    assert not edges and "another node publishes it too" in said and "set tf.publish to none" in said


def test_static_transforms_that_are_not_latched_are_not_heard_and_that_is_said(world):
    world.other.create_publisher(TFMessage, "/tf_static", qos.MOVING_TF)

    def said():
        statuses = {s.name: s.message for s in world.health.diagnostics("cvloc", silence=5.0).status}
        return "DURABILITY" in statuses["cvloc: transforms"] and "/tf_static" in statuses["cvloc: transforms"]

    world.spin(said)


def test_none_is_silent(world):
    assert world.published(world.output("none")) == ([], "OK")
