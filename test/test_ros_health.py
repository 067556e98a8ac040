"""What the node says about itself: which problems, when, and how often."""

import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from cvloc_ros.localization.session import SessionStatus
from cvloc_ros.localization.tracker import TrackerState
from cvloc_ros.ros import health as health_module
from cvloc_ros.ros.diagnostics_table import TABLE, markdown
from cvloc_ros.ros.frame_statistics import RECENT
from cvloc_ros.ros.health import ERROR, MOST_KINDS, OK, WARN, Health, blame
from cvloc_ros.ros.input_health import InputHealth, Publishers


@pytest.fixture
def log():
    return []


@pytest.fixture
def health(log, monkeypatch):
    monkeypatch.setattr(health_module, "CALM", 0.05)
    graph = {
        "/odom": Publishers(0, [], ["/wheel/odom"]),
        "/image": Publishers(2, [], []),
        "/camera_info": Publishers(0, ["sensor_msgs/msg/Image"], []),
    }
    return Health(lambda level, line: log.append((level, line)), lambda topic, _: graph[topic])


def judge(health, *, silence=5.0, paused=False):
    array = health.diagnostics("cvloc", silence=silence, paused=paused)
    return {status.name.removeprefix("cvloc: "): status for status in array.status}


def watched(what, topic, *, ago, **options):
    return InputHealth(what, topic, "x/msg/Image", since=time.monotonic() - ago, **options)


def values(status):
    return {entry.key: entry.value for entry in status.values}


def test_silence_is_reported_once_with_its_likely_cause(health, log):
    inputs = {"odometry": "/odom", "image": "/image", "camera_info": "/camera_info"}
    health.watch({status: watched(status, topic, ago=7.0) for status, topic in inputs.items()})
    assert all(status.level == OK for status in judge(health, paused=True).values())
    statuses = judge(health)
    assert "no odometry on /odom for 7 s: nobody publishes it" in statuses["odometry"].message
    assert "published on /wheel/odom" in statuses["odometry"].message
    assert "2 publishers there, but nothing arrives" in statuses["image"].message
    assert "published as sensor_msgs/msg/Image, expected x/msg/Image" in statuses["camera_info"].message
    for _ in range(3):
        judge(health)
    assert [level for level, _ in log] == [ERROR, ERROR, ERROR]
    health.inputs["odometry"].note()
    assert judge(health)["odometry"].level == OK
    assert log[-1] == (OK, "odometry: fine again")


def test_input_of_which_one_message_is_enough(health):
    health.watch({"camera_info": watched("CameraInfo", "/image", ago=7.0, once=True)})
    assert judge(health)["camera_info"].level == ERROR
    health.inputs["camera_info"].note()
    time.sleep(0.02)
    assert judge(health, silence=0.01)["camera_info"].level == OK


def test_storm_of_good_and_bad_messages_is_two_lines(health, log):
    health.watch({"image": watched("image", "/image", ago=0.0)})
    for size in range(50):
        health.report("image", "unusable", f"images are unusable: {size} bytes")
        health.fine("image")
    found = judge(health)["image"]
    assert found.level == ERROR and found.message == "images are unusable: 49 bytes"
    assert values(found)["unused.unusable"] == "50"
    assert [level for level, _ in log] == [ERROR]
    time.sleep(0.06)
    assert judge(health)["image"].level == OK
    assert log[1:] == [(OK, "image: fine again")]


def test_every_kind_of_problem_has_its_line_up_to_a_number(health, log):
    for _ in range(3):
        health.report("image", "unusable", "images are unusable: encoding 'magic'")
        health.report("image", "unusable", "images are unusable: 7 bytes")
        health.report("image", "contradiction", "images of 640 x 480 do not fit")
    assert len(log) == 3
    for i in range(100):
        health.report("image", "unusable", f"images are unusable: encoding 'x{i}'")
    assert len(log) == MOST_KINDS + 1
    assert " | " in judge(health)["image"].message


def test_condition_that_is_not_in_the_table_is_refused(health):
    with pytest.raises(KeyError):
        health.report("image", "blue", "it is blue")


def test_every_change_of_the_trackers_state_is_logged_once(health, log):
    def tell(state, waiting_for=""):
        for _ in range(3):
            health.tracker(SessionStatus(state, waiting_for, None), silence=0.05)
        return judge(health)["tracker"]

    found = tell(TrackerState.WAITING, "motion: 3 m so far")
    assert found.level == WARN and "waiting for motion" in found.message and not log
    time.sleep(0.06)  # what it waits for is worth a line only when it lasts
    tell(TrackerState.WAITING, "motion: 4 m so far")
    assert [line for _, line in log] == ["waiting: waiting for motion: 4 m so far"]
    log.clear()
    tell(TrackerState.INITIALIZING, "localizations: 4 have to agree")
    assert tell(TrackerState.TRACKING).level == OK
    assert tell(TrackerState.LOST, "localizations: none").level == ERROR
    tell(TrackerState.TRACKING)
    assert [line.partition(": ")[2].partition(":")[0] for _, line in log if "->" in line] == [
        "waiting -> initializing", "initializing -> tracking", "tracking -> lost", "lost -> tracking",
    ]  # fmt: skip
    assert [level for level, line in log if "->" in line] == [WARN, OK, ERROR, OK]


def test_what_the_tracker_says_of_fixes_and_headings_is_a_state(health, log):
    health.watch({"gnss": watched("GNSS fix", "/fix", ago=0.0), "imu": watched("IMU", "/imu", ago=0.0)})

    def tell(gnss="", imu=""):
        status = SessionStatus(TrackerState.TRACKING, "", None, gnss_complaint=gnss, imu_complaint=imu)
        health.tracker(status, silence=5.0)
        return judge(health)

    for metres in range(3):
        found = tell(f"moved {metres} m in 1 s", "some are not used")
        health.fine("gnss", "clock")
    assert (found["gnss"].level, found["gnss"].message) == (WARN, "moved 2 m in 1 s")
    assert (found["imu"].level, found["imu"].message) == (WARN, "some are not used")
    assert [line for _, line in log] == ["moved 0 m in 1 s", "some are not used"]
    found = tell()
    assert found["gnss"].level == found["imu"].level == OK and len(log) == 4


def test_rejections_are_counted_by_reason_and_reported_when_they_are_all_there_is(health):
    for _ in range(RECENT - 1):
        health.frames.note("waiting", {})
    assert judge(health)["localization"].level == OK
    health.frames.note("low_quality", {}, message="the matcher itself doubts it")
    found = judge(health)["localization"]
    assert found.level == WARN
    assert f"{RECENT - 1} for 'waiting', the last one: the matcher itself doubts it" in found.message
    assert values(found)["rejected.waiting"] == str(RECENT - 1)
    health.frames.note("", {"total": 30.0})
    assert judge(health)["localization"].level == OK
    health.frames.reset()
    assert values(judge(health)["localization"])["frames"] == "0"


def blamed(error):
    try:
        raise error
    except type(error) as raised:
        return blame(raised)


def test_errors_of_a_gpu_are_one_line():
    torch = pytest.importorskip("torch")
    line = blamed(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nand so on"))
    assert line.startswith("CUDA out of memory. Tried to allocate 20.00 MiB.") and "device to cpu" in line
    assert "\n" not in line and "report" not in line
    line = blamed(RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"))
    assert line.startswith("RuntimeError: CUDA error: an illegal memory access was encountered (") and "\n" not in line
    assert blamed(ValueError()).startswith("ValueError:  (")


def test_unforeseen_errors_are_shown_without_keys():
    assert blamed(OSError("no https://me:s3cr3t@a.example/t")).startswith("OSError: no https://…@a.example/t (")


def test_documentation_names_everything():
    page = markdown()
    for status, row in TABLE.items():
        assert f"| `{status}` |" in page
        for condition in row.conditions.values():
            assert condition.when in page
        for key in row.values:
            assert f"| `{key}` |" in page
