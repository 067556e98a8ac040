"""What the node says about itself: which problems, when, and how often."""

import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from cvloc_ros.localization.session import SessionStatus
from cvloc_ros.localization.tracker import TrackerState
from cvloc_ros.ros.health import ERROR, OK, RECENT, WARN, Health, InputHealth


@pytest.fixture
def log():
    return []


@pytest.fixture
def health(log):
    graph = {"/odom": (0, ["/wheel/odom"]), "/image": (2, [])}
    return Health(lambda level, line: log.append((level, line)), lambda topic, _: graph[topic])


def judge(health, *, silence=5.0, tracker=None):
    array = health.diagnostics(name="cvloc", silence=silence, tracker=tracker)
    return {status.name.removeprefix("cvloc: "): status for status in array.status}


def watched(what, topic, *, ago, **options):
    return InputHealth(what, topic, "x/msg/Image", ERROR, since=time.monotonic() - ago, **options)


def test_silence_is_reported_once_with_its_likely_cause(health, log):
    health.watch({"odometry": watched("odometry", "/odom", ago=7.0), "image": watched("image", "/image", ago=7.0)})
    statuses = judge(health)
    assert "no odometry on /odom for 7 s: nobody publishes it" in statuses["odometry"].message
    assert "published on /wheel/odom" in statuses["odometry"].message
    assert "2 publishers there, but nothing arrives" in statuses["image"].message
    for _ in range(3):
        judge(health)
    assert [level for level, _ in log] == [ERROR, ERROR]
    health.note("odometry")
    assert judge(health)["odometry"].level == OK
    assert log[-1] == (OK, "odometry: fine again")


def test_input_of_which_one_message_is_enough(health):
    health.watch({"image": watched("CameraInfo", "/image", ago=7.0, once=True)})
    assert judge(health)["image"].level == ERROR
    health.note("image")
    time.sleep(0.02)
    assert judge(health, silence=0.01)["image"].level == OK


def test_problem_with_changing_numbers_is_logged_once(health, log):
    for size in (10, 20, 30):
        health.problem("image", f"images are unusable: {size} bytes")
    health.problem("image", "images of 640 x 480 do not fit: 5")
    health.problem("image", "images of 641 x 480 do not fit: 5")
    assert len(log) == 2
    assert judge(health)["image"].message == "images of 641 x 480 do not fit: 5"
    health.fine("image")
    health.fine("image")
    assert [level for level, _ in log] == [ERROR, ERROR, OK]


def test_tracker_that_waits_is_logged_when_it_lasts(health, log):
    status = SessionStatus(TrackerState.WAITING, "motion: 3 m so far", None)
    found = judge(health, silence=0.05, tracker=status)["tracker"]
    assert found.level == WARN and "waiting for motion" in found.message and not log
    time.sleep(0.06)
    judge(health, silence=0.05, tracker=status)
    assert len(log) == 1
    judge(health, tracker=SessionStatus(TrackerState.TRACKING, "", None))
    assert log[-1] == (OK, "tracker: fine again")
    lost = judge(health, tracker=SessionStatus(TrackerState.LOST, "localizations: none", None))["tracker"]
    assert lost.level == ERROR


def test_rejections_are_counted_by_reason_and_reported_when_they_are_all_there_is(health):
    for _ in range(RECENT - 1):
        health.frame("waiting", 0.0)
    assert judge(health)["localization"].level == OK
    health.frame("low_quality", 20.0, message="the matcher itself doubts it")
    found = judge(health)["localization"]
    assert found.level == WARN
    assert f"{RECENT - 1} for 'waiting', the last one: the matcher itself doubts it" in found.message
    values = {entry.key: entry.value for entry in found.values}
    assert values["rejected.waiting"] == str(RECENT - 1) and values["median_ms"] == "20.0"
    health.frame("", 30.0)
    assert judge(health)["localization"].level == OK
    health.reset_statistics()
    assert judge(health)["localization"].values[0].value == "0"
