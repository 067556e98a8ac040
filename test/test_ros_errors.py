"""What goes wrong while the node works: a localizer that raises, odometry that lags. Each image has its record."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the node needs ROS 2: make setup, or a sourced ROS installation")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_world import DATUM, Vehicle, free_domain, write_confident_weights, write_imagery

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.imagery import ImageryError
from cvloc_ros.localization.localizer import Localizer
from cvloc_ros.ros import images
from cvloc_ros.ros.mounts import Mounts
from cvloc_ros.ros.node import CvlocNode

OK, ERROR = b"\x00", b"\x02"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A node in this process, whose localizer a test can reach, and a vehicle that has a track."""
    folder = tmp_path_factory.mktemp("node")
    write_imagery(folder / "imagery.tif")
    write_confident_weights(folder / "weights.safetensors")
    domain = free_domain()
    context = Context()
    context.init(domain_id=domain)
    parameters = {
        "imagery": str(folder / "imagery.tif"),
        "datum": [DATUM.latitude, DATUM.longitude],
        "weights": str(folder / "weights.safetensors"),
        "camera.transport": "compressed",
    }
    node = CvlocNode(context=context, parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()])
    node.start()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    vehicle = Vehicle(domain)
    vehicle.until(lambda: "node" in vehicle.statuses, drive=False)
    vehicle.publish_transforms("camera_optical", "gnss")
    vehicle.restart()
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    yield vehicle, node
    vehicle.close()
    executor.shutdown()
    thread.join(timeout=10)
    node.on_shutdown(None)
    node.destroy_node()
    context.try_shutdown()


class Broken:
    """A satellite map that cannot be read."""

    problem = ""

    def __init__(self, error):
        self._error = error

    def patch(self, pose, grid):
        raise type(self._error)(*self._error.args)  # one whose traceback ends with it


@pytest.mark.parametrize(
    ("error", "reason", "status", "line"),
    [
        (ZeroDivisionError("of all things"), "failed", "localization", "the localizer failed: ZeroDivisionError"),
        (ImageryError("the disk is gone"), "no_imagery", "imagery", "the disk is gone"),
    ],
)
def test_localizer_that_raises_leaves_a_record_and_goes_on(world, error, reason, status, line):
    vehicle, node = world
    satellite_map, node._localizer.satellite_map = node._localizer.satellite_map, Broken(error)
    try:
        vehicle.until(lambda: any(frame.reason == reason for frame in vehicle.frames))
        assert line in vehicle.status(status, level=ERROR)
    finally:
        node._localizer.satellite_map = satellite_map
    vehicle.frames.clear()
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    if status == "imagery":
        vehicle.status("imagery", level=OK)


def test_what_fails_before_an_image_comes_is_no_image(world, monkeypatch):
    """The node gets ready for the next image; where that fails, the image tells."""
    vehicle, node = world
    monkeypatch.setattr(vehicle, "image_every", 3)  # there is time between them
    expected, errors = [], []
    monkeypatch.setattr(node._localizer.matcher, "expect", lambda *patch: expected.append(patch) or 1 / 0)
    monkeypatch.setattr(node._health, "report", lambda *given: errors.append(given))
    vehicle.until(lambda: len(expected) > 2)
    vehicle.frames.clear()
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))
    assert not [error for error in errors if error[:2] == ("localization", "failed")]


def test_the_node_gets_ready_for_where_the_next_image_is(world, monkeypatch):
    vehicle, node = world
    monkeypatch.setattr(vehicle, "image_every", 3)
    expected, searched, localize, expect = [], [], Localizer.localize, Localizer.expect
    monkeypatch.setattr(Localizer, "expect", lambda *given: expected.append(given[1]) or expect(*given))
    monkeypatch.setattr(Localizer, "localize", lambda *given: searched.append(given[2]) or localize(*given))
    vehicle.until(lambda: len(expected) > 10)
    count = len(searched)
    vehicle.until(lambda: len(searched) > count + 2)
    apart = [
        min(np.hypot(*(there.T_map_base.inverse() @ prior.T_map_base).vector()[:2]) for there in searched)
        for prior in expected[8:]  # by when it has forgotten how fast images came before
    ]
    assert np.median(apart) < 0.4


def test_why_it_could_not_start_is_said_without_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("MAP_KEY", "s3cr3t-k3y")
    parameters = {
        "imagery": "https://a.example/{z}/{x}/{y}.png?key=${MAP_KEY}",
        "datum": [DATUM.latitude, DATUM.longitude],
        "weights": str(tmp_path / "s3cr3t-k3y.safetensors"),
    }
    context = Context()
    context.init(domain_id=free_domain())
    node = CvlocNode(context=context, parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()])
    node.start()
    assert "${MAP_KEY}.safetensors" in node._failure and "s3cr3t-k3y" not in node._failure
    node.destroy_node()
    context.try_shutdown()


def test_odometry_that_lags_is_waited_for_no_longer_than_allowed(world):
    vehicle, _ = world

    def late():
        values = vehicle.statuses["localization"].values
        return int(next(entry.value for entry in values if entry.key == "without_odometry"))

    before = late()
    vehicle.odometry = False
    vehicle.frames.clear()
    vehicle.until(lambda: late() > before + 2 and any(frame.reason == "waiting" for frame in vehicle.frames))
    vehicle.odometry = True
    vehicle.frames.clear()
    vehicle.until(lambda: any(frame.prior is not None for frame in vehicle.frames))


def change(vehicle, *transitions):
    for transition in transitions:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert vehicle.call(ChangeState, "/cvloc/change_state", request).success


def test_image_that_fails_while_the_node_is_deactivated_is_an_image_that_fails(world, monkeypatch):
    vehicle, node = world
    entered, said, place = threading.Event(), [], Mounts.place

    def slow(mounts, sensor, frame_id):
        if sensor == "camera":
            entered.set()
            time.sleep(1.0)  # the node is told to stop meanwhile
        return place(mounts, sensor, frame_id)

    def torn(message):
        raise ConversionError("torn")

    report = node._health.report
    monkeypatch.setattr(node._health, "report", lambda *args, **kw: (said.append(args), report(*args, **kw)))
    with monkeypatch.context() as patch:
        patch.setattr(Mounts, "place", slow)
        patch.setattr(images, "from_compressed_image", torn)
        vehicle.until(entered.is_set)
        change(vehicle, Transition.TRANSITION_DEACTIVATE)
    assert [args[:2] for args in said if args[0] in ("image", "localization")] == [("image", "unusable")]
    change(vehicle, Transition.TRANSITION_ACTIVATE)


def test_cleanup_lets_go_of_the_network(world):
    vehicle, node = world
    network = weakref.ref(node._localizer)
    assert network() is not None
    change(vehicle, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    gc.collect()
    assert network() is None
    change(vehicle, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    vehicle.status("node", level=OK)
