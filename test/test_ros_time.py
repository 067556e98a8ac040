"""Which time a drive is in: loops and seeks are told from jitter, and are told once, whoever shows them first."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time import Time
from ros_world import free_domain

from cvloc_ros.ros.drive_time import DriveTime

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def node():
    context = Context()
    context.init(domain_id=free_domain())
    simulated = Parameter("use_sim_time", Parameter.Type.BOOL, True)
    node = Node("time", context=context, parameter_overrides=[simulated])
    yield node
    node.destroy_node()
    context.try_shutdown()


class Drive:
    """Times of a drive, as the node gets them."""

    def __init__(self, node):
        self._clock = node.get_clock()
        self.jumps = []
        self.clock(0)
        self.time = DriveTime(node, on_jump=self.jumps.append)

    def clock(self, seconds):
        self._clock.set_ros_time_override(Time(nanoseconds=round(seconds * SECOND), clock_type=self._clock.clock_type))

    def odometry(self, seconds):
        return self.time.odometry(round(seconds * SECOND))


@pytest.fixture
def drive(node):
    drive = Drive(node)
    yield drive
    drive.time.close()


def test_forward_and_jitter_are_no_jumps(drive):
    for seconds in (100, 100.2, 100.0, 99.9, 160, 159.3):
        drive.clock(seconds)
    assert drive.odometry(160) and drive.odometry(160.1)
    assert not drive.odometry(160.1) and not drive.odometry(159.5), "late or twice: left out"
    assert drive.odometry(160.2) and drive.jumps == []


def test_bag_that_loops_is_one_jump_whoever_shows_it_first(drive):
    drive.clock(160)
    drive.odometry(160)
    drive.clock(100)
    assert not drive.time.is_of_this_pass(round(159.9 * SECOND)), "the last messages of the pass before"
    assert drive.odometry(100.1) and drive.jumps == pytest.approx([-60.0])
    drive.clock(160)
    drive.odometry(160)
    assert not drive.odometry(100.1) and len(drive.jumps) == 1, "one stamp may be wrong"
    assert drive.odometry(100.14) and len(drive.jumps) == 2
    drive.clock(100)
    assert drive.odometry(100.2) and len(drive.jumps) == 2


def test_clock_alone_tells_of_a_jump(drive):
    """There may be fixes without odometry, whose track viewers show."""
    drive.clock(160)
    drive.clock(100)
    assert drive.jumps == pytest.approx([-60.0])


def test_clock_tells_of_a_jump_after_odometry_has_ended(drive):
    drive.clock(50)
    drive.odometry(50)
    drive.clock(160)
    drive.clock(100)
    assert drive.jumps == pytest.approx([-60.0])


def test_one_stray_stamp_is_no_jump(drive):
    drive.clock(0)
    for seconds in (160, 160.04, 170, 160.08, 160.12, 158, 160.16):
        assert drive.odometry(seconds) == (159 < seconds < 161)
    assert drive.jumps == []


def test_odometry_that_comes_again_after_a_while_is_taken_at_once(drive):
    for seconds in (160, 160.1, 190):
        drive.clock(seconds)
        assert drive.odometry(seconds)


def test_clock_that_stands_still(drive):
    drive.clock(100)
    assert drive.time.stands_still_for() < 0.001
    first = drive.time.stands_still_for()
    assert drive.time.stands_still_for() > first
    drive.clock(101)
    assert drive.time.stands_still_for() < first + 0.001
