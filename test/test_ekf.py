"""What robot_localization is told, and whether what the localizer publishes is what it takes: its rules, in Python."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cvloc_ros.geometry import SE2

ROOT = Path(__file__).resolve().parents[1]
EKF = {
    name.removeprefix("/**/"): content["ros__parameters"]
    for name, content in yaml.safe_load((ROOT / "config" / "ekf.yaml").read_text()).items()
}
STATE = ["x", "y", "z", "roll", "pitch", "yaw", "vx", "vy", "vz", "vroll", "vpitch", "vyaw", "ax", "ay", "az"]

# Its documented parameters, as far as they are used here, by the type that ROS insists on.
TYPES = {
    float: {"frequency", "history_length", "pose0_rejection_threshold"},
    bool: {"two_d_mode", "publish_tf", "print_diagnostics", "smooth_lagged_data"},
    int: {"pose0_queue_size", "odom0_queue_size"},
    str: {"map_frame", "odom_frame", "base_link_frame", "world_frame", "pose0", "odom0"},
    list: {"pose0_config", "odom0_config", "initial_estimate_covariance"},
}


def fused(parameters, sensor):
    """Return the names of what a sensor may change."""
    config = parameters[f"{sensor}_config"]
    assert len(config) == len(STATE) and all(type(entry) is bool for entry in config)
    return [name for name, used in zip(STATE, config, strict=True) if used]


@pytest.mark.parametrize("name", EKF)
def test_parameters_exist_and_have_their_types(name):
    for key, value in EKF[name].items():
        assert key in TYPES[type(value)], f"{key}: {value!r}"


def test_each_transform_has_one_owner():
    assert {name: EKF[name]["world_frame"] for name in EKF} == {"ekf_map": "map", "ekf_odom": "odom"}
    assert all(parameters["publish_tf"] and parameters["two_d_mode"] for parameters in EKF.values())


def test_sources_do_not_contradict_one_another():
    """One absolute source an axis, in the map only; odometry gives velocities only."""
    assert fused(EKF["ekf_map"], "pose0") == ["x", "y", "yaw"]
    for parameters in EKF.values():
        assert fused(parameters, "odom0") == ["vx", "vy", "vyaw"]
    assert not any(key.startswith("pose") for key in EKF["ekf_odom"]), "odom -> base_link must never jump"


def test_late_poses_are_applied_at_their_stamp():
    assert EKF["ekf_map"]["smooth_lagged_data"] and EKF["ekf_map"]["history_length"] >= 2.0


def test_first_pose_is_taken_however_far_from_the_origin():
    """Until then the state is (0, 0); a gate against a small covariance would reject every pose for ever."""
    P = np.array(EKF["ekf_map"]["initial_estimate_covariance"]).reshape(15, 15)
    assert (np.linalg.eigvalsh(P) > 0).all()
    far = np.array([20_000.0, 20_000.0, np.pi])  # no map is larger
    used = [STATE.index(name) for name in ("x", "y", "yaw")]
    distance = np.sqrt(far @ np.linalg.inv(P[np.ix_(used, used)]) @ far)
    assert distance < EKF["ekf_map"]["pose0_rejection_threshold"]


def test_pose_is_what_the_filter_fuses():
    pytest.importorskip("rclpy")
    from cvloc_ros.ros import conversions

    covariance = np.array([[0.3, 0.05, 0.002], [0.05, 0.2, 0.001], [0.002, 0.001, 0.0004]])
    message = conversions.to_pose_with_covariance(SE2(3.0, -2.0, 0.7), covariance, stamp=7, frame_id="map")
    parameters = EKF["ekf_map"]
    assert message.header.frame_id == parameters["world_frame"], "any other frame needs TF, or is dropped silently"
    full = np.array(message.pose.covariance).reshape(6, 6)
    used = [STATE.index(name) for name in fused(parameters, "pose0")]
    assert np.allclose(full[np.ix_(used, used)], covariance)
    variances = full.diagonal()[used]
    assert ((variances > 1e-9) & (variances < 1e3)).all(), "it would warn, or replace them by its own"
    assert np.isfinite(full).all() and np.allclose(full, full.T)
    # z, roll and pitch are not fused; zeros there keep RViz's ellipse flat
    unused = [i for i in range(6) if i not in used]
    assert not full[unused].any()
    position, q = message.pose.pose.position, message.pose.pose.orientation
    assert (position.x, position.y, position.z) == (3.0, -2.0, 0.0)
    assert np.isclose(2 * np.arctan2(q.z, q.w), 0.7) and q.x == q.y == 0.0


@pytest.mark.parametrize("bad", [np.full((3, 3), np.nan), np.diag([1.0, np.inf, 1.0]), np.diag([1.0, -1.0, 1.0])])
def test_covariance_that_would_poison_the_filter_is_never_published(bad):
    pytest.importorskip("rclpy")
    from cvloc_ros.datasets.image_decoding import ConversionError
    from cvloc_ros.ros import conversions

    with pytest.raises(ConversionError, match="finite covariance"):
        conversions.to_pose_with_covariance(SE2(), bad, stamp=0, frame_id="map")


def test_filter_is_reset_when_time_jumps_back(tmp_path):
    """Twice: messages of the pass that ended may come after the first time."""
    pytest.importorskip("rclpy")
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from ros_world import environment, free_domain
    from rosgraph_msgs.msg import Clock
    from std_srvs.srv import Empty

    from cvloc_ros.ros import qos
    from cvloc_ros.ros.conversions import to_stamp

    domain, context = free_domain(), Context()
    context.init(domain_id=domain)
    executor = SingleThreadedExecutor(context=context)
    ekf = Node("ekf_map", context=context)
    executor.add_node(ekf)
    calls = []
    ekf.create_service(Empty, "~/reset", lambda request, response: calls.append(1) or response)
    clock = ekf.create_publisher(Clock, "/clock", qos.CLOCK)
    restarter = subprocess.Popen(
        f"{sys.executable} -m cvloc_ros.ros.ekf_restarter ekf_map/reset --ros-args -p use_sim_time:=true".split(),
        env=environment(domain, tmp_path),
    )

    def drive(start, until):
        """Play /clock from a time, in seconds, for a while or until something has happened."""
        for i in range(200):
            clock.publish(Clock(clock=to_stamp(start * 1_000_000_000 + i * 10_000_000)))
            executor.spin_once(timeout_sec=0.02)
            if until():
                return True
        return False

    try:
        assert any(drive(50 + 2 * n, clock.get_subscription_count) for n in range(30)), "it does not listen to /clock"
        drive(120, lambda: False)
        assert not calls, "time has not jumped back"
        # On a busy machine the first jumps come before the service has been found.
        for _ in range(30):
            calls.clear()
            if drive(10, lambda: len(calls) == 2):
                break
            drive(120, lambda: False)
        assert len(calls) == 2
    finally:
        restarter.terminate()
        restarter.wait(timeout=20)
        executor.shutdown()
        ekf.destroy_node()
        context.try_shutdown()
