"""What people look at, over DDS: everything for who subscribes, each tile once, and nothing for nobody."""

import os
import threading
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_world import DATUM, free_domain, write_imagery
from visual_world import TRUE, area, frame_of, perfect_localization

from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.ros.environment import local_environment
from cvloc_ros.ros.health import Health
from cvloc_ros.ros.publishers import Publishers
from cvloc_ros.ros.visuals import Visuals
from cvloc_ros.ros.visuals.render import draw_scene
from cvloc_ros.ros.visuals.scene import Scene


@pytest.fixture(scope="module")
def imagery(tmp_path_factory):
    path = tmp_path_factory.mktemp("imagery") / "map.tif"
    write_imagery(path)
    return path


@pytest.fixture(scope="module")
def satellite_map(imagery):
    return SatelliteMap.open(imagery, DATUM)


@pytest.fixture(scope="module")
def frame(imagery):
    return frame_of(imagery)


@pytest.fixture(scope="module")
def localization():
    return perfect_localization()


class Untouchable:
    """A satellite map that nobody may look at."""

    cell, attribution = 0.4, ""

    def patch(self, *_):
        raise AssertionError("work was done for nobody")


@pytest.fixture
def ros(monkeypatch, tmp_path):
    """A node that shows, another that looks, and a function that lets both run until something happens."""
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    for name, value in local_environment(os.environ).items():
        monkeypatch.setenv(name, value)
    context = Context()
    context.init(domain_id=free_domain())
    nodes = Node("cvloc", context=context), Node("viewer", context=context)
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    nodes[0].declare_parameter("visuals.period", 0.0)

    def until(happened, timeout=60.0):
        deadline = time.monotonic() + timeout
        while not happened():
            assert time.monotonic() < deadline, "did not happen"
            executor.spin_once(timeout_sec=0.02)

    yield *nodes, until
    executor.shutdown()
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def show(ros):
    """Return a function (satellite map, **options) that starts the visuals; nothing may fail in their threads."""
    running, errors = [], []

    def start(satellite_map, satellite="both", *, on_error=errors.append, on_fine=lambda: None):
        publishers = Publishers(ros[0], Health(lambda *_: None, lambda *_: (0, [])))
        visuals = Visuals(
            ros[0],
            publishers,
            satellite_map=satellite_map,
            open_map=lambda: satellite_map,
            frame_id="map",
            satellite=satellite,
            state=lambda: "tracking",
            on_error=on_error,
            on_fine=on_fine,
        )
        running.append((visuals, publishers))
        return visuals

    yield start
    for visuals, publishers in running:
        visuals.close()
        publishers.close()
    assert not errors


def drive(visuals, frame, localization, seconds):
    """Hand over a drive of some seconds of real time, as the node does."""
    ends = time.monotonic() + seconds

    def over():
        visuals.pose(localization.T_map_base, localization.covariance, stamp=localization.stamp)
        visuals.fix(np.array([10.0, -5.0]), localization.stamp)
        visuals.frame(frame, localization)
        return time.monotonic() > ends

    return over


def test_nothing_is_made_for_nobody(ros, show, frame, localization):
    visuals = show(Untouchable())
    ros[2](drive(visuals, frame, localization, 2.5))
    assert not visuals.built


def test_only_what_is_looked_at_is_made(ros, show, frame, localization):
    visuals, scene = show(Untouchable()), Scene()
    scene.subscribe(ros[1], topics=("matches", "path"))
    ros[2](lambda: drive(visuals, frame, localization, 0.0)() and "matches" in scene.markers and scene.path)
    assert set(visuals.built) == {"matches", "path"}


def test_viewers_see_everything_over_dds(ros, show, frame, localization, satellite_map, monkeypatch):
    cut, threads = satellite_map.patch, set()
    monkeypatch.setattr(satellite_map, "patch", lambda *args: threads.add(threading.current_thread()) or cut(*args))
    visuals, scene, until = show(satellite_map), Scene(), ros[2]
    scene.subscribe(ros[1])
    over = drive(visuals, frame, localization, 0.0)

    def complete():
        over()
        kinds = {marker.ns for marker in scene.all_markers()}
        wanted = {"satellite", "lines", "found", "prior", "estimate", "gnss", "state"}
        return wanted <= kinds and set(scene.clouds) == {"bev", "satellite_points"} and scene.path and (
            scene.overlay is not None
        )  # fmt: skip

    until(complete)
    assert not scene.problems
    assert scene.overlay.shape == (680, 1302, 3) and scene.overlay.std() > 20
    assert len(threads) == 2 and threading.current_thread() not in threads, "nobody but the viewers waits for pictures"
    picture = draw_scene(scene, x=TRUE.x, y=TRUE.y, radius=40.0)
    wanted = cv2.resize(area(satellite_map, TRUE.x - 40, TRUE.y + 40, 200, 200, 0.4), picture.shape[1::-1])
    quiet = np.s_[700:, 500:]  # south-east of the vehicle, which looks north-east: nothing but tiles
    assert np.abs(picture[quiet].astype(int) - wanted[quiet].astype(int)).mean() < 6
    assert np.abs(picture.astype(int) - wanted.astype(int)).mean() > 6, "markers are drawn, too"

    sent = visuals.built["satellite_tiles"]
    late = Scene()
    late.subscribe(ros[1], topics=("satellite_tiles",))
    until(lambda: over() and late.markers.get("satellite_tiles"))
    shown = {name: set(each.markers["satellite_tiles"]) for name, each in (("late", late), ("first", scene))}
    assert shown["late"] == shown["first"] and not late.problems and not scene.problems
    ends = time.monotonic() + 2.2
    until(lambda: over() and time.monotonic() > ends)
    assert visuals.built["satellite_tiles"] == sent + 1, "tiles are sent once for each who comes"
    visuals.reset()
    until(lambda: over() and visuals.built["satellite_tiles"] == sent + 2)
    assert not scene.problems


def test_picture_that_failed_is_forgiven_once_others_are_drawn_or_nobody_looks(ros, show, frame, localization):
    said = []
    visuals = show(Untouchable(), on_error=lambda error: said.append("failed"), on_fine=lambda: said.append("fine"))
    scene, until = Scene(), ros[2]
    scene.subscribe(ros[1], topics=("debug/overlay",))
    until(lambda: drive(visuals, frame, localization, 0.0)() and "failed" in said)
    for subscription in list(ros[1].subscriptions):
        if "overlay" in subscription.topic:
            ros[1].destroy_subscription(subscription)
    said.clear()
    until(lambda: "fine" in said)
    scene.subscribe(ros[1], topics=("matches",))
    until(lambda: drive(visuals, frame, localization, 0.0)() and "matches" in scene.markers)
    until(lambda: said[-1:] == ["fine"])


@pytest.mark.parametrize(("satellite", "topics"), [("none", 0), ("tiles", 1), ("points", 1), ("both", 2)])
def test_satellite_topics_can_be_chosen(ros, show, satellite, topics):
    show(Untouchable(), satellite)
    advertised = [name for name, _ in ros[0].get_publisher_names_and_types_by_node("cvloc", "/")]
    assert sum(name.startswith("/cvloc/satellite") for name in advertised) == topics
