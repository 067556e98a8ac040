"""rviz/cvloc.rviz and config/foxglove_layout.json show what the node publishes, as it publishes it."""

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2: make setup, or a sourced ROS installation")

from rclpy.context import Context
from rclpy.qos import DurabilityPolicy
from ros_world import DATUM, free_domain, write_confident_weights, write_imagery

from cvloc_ros.ros.node import CvlocNode
from cvloc_ros.ros.visuals.scene import TOPICS

ROOT = Path(__file__).resolve().parents[1]
RVIZ = yaml.safe_load((ROOT / "rviz" / "cvloc.rviz").read_text())["Visualization Manager"]
LAYOUT = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
TYPES = {
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/Path": "nav_msgs/msg/Path",
    "rviz_default_plugins/Odometry": "nav_msgs/msg/Odometry",
    "rviz_default_plugins/PoseWithCovariance": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
}
DISPLAYS = [display for display in RVIZ["Displays"] if "Topic" in display]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the configured node advertises: type and durability by topic."""
    folder = tmp_path_factory.mktemp("node")
    write_imagery(folder / "imagery.tif")
    write_confident_weights(folder / "weights.safetensors")
    context = Context()
    context.init(domain_id=free_domain())
    arguments = ["--ros-args", "-p", "autostart:=false", "-p", f"imagery:={folder}/imagery.tif"]
    arguments += ["-p", f"datum:=[{DATUM.latitude}, {DATUM.longitude}]"]
    arguments += ["-p", f"weights:={folder}/weights.safetensors"]
    node = CvlocNode(context=context, cli_args=arguments)
    node.trigger_configure()
    topics = {}
    for name, (kind, *_) in node.get_publisher_names_and_types_by_node("cvloc", "/"):
        durability = node.get_publishers_info_by_topic(name)[0].qos_profile.durability
        topics[name] = (kind, durability == DurabilityPolicy.TRANSIENT_LOCAL)
    node.trigger_cleanup()
    node.destroy_node()
    context.try_shutdown()
    return topics


def test_rviz_subscribes_to_what_is_published_as_it_is_published(published):
    assert RVIZ["Global Options"]["Fixed Frame"] == "map"
    for display in DISPLAYS:
        topic = display["Topic"]
        kind, latched = published[topic["Value"]]
        assert TYPES[display["Class"]] == kind, topic
        assert topic["Durability Policy"] == ("Transient Local" if latched else "Volatile"), topic
        assert topic["Reliability Policy"] == "Reliable" and topic["History Policy"] == "Keep Last"


def test_rviz_shows_everything_there_is_to_see():
    shown = {display["Topic"]["Value"] for display in DISPLAYS}
    assert {f"/cvloc/{topic}" for topic in TOPICS} <= shown
    names = [display["Name"] for display in RVIZ["Displays"]]
    assert len(set(names)) == len(names)


def test_scene_follows_topics_as_they_are_published(published):
    for topic, (message_type, profile) in TOPICS.items():
        kind, latched = published[f"/cvloc/{topic}"]
        assert kind.endswith(f"/{message_type.__name__}")
        assert latched == (profile.durability == DurabilityPolicy.TRANSIENT_LOCAL)


def panels(layout):
    """Return the panels of a layout's tree."""
    return [layout] if isinstance(layout, str) else panels(layout["first"]) + panels(layout["second"])


def test_foxglove_layout_is_whole():
    assert sorted(panels(LAYOUT["layout"])) == sorted(LAYOUT["configById"])
    kinds = {name.partition("!")[0] for name in LAYOUT["configById"]}
    assert {"3D", "Image", "map", "DiagnosticSummary", "Plot"} <= kinds


def test_foxglove_layout_shows_what_is_published(published):
    configs = LAYOUT["configById"]
    topics = set(configs["3D!map"]["topics"])
    assert {f"/cvloc/{topic}" for topic in TOPICS if topic != "debug/overlay"} <= topics
    topics |= {configs["Image!overlay"]["imageMode"]["imageTopic"], configs["DiagnosticSummary!all"]["topicToRender"]}
    topics |= {configs["map!fix"]["followTopic"], *configs["map!fix"]["disabledTopics"]}
    paths = [path["value"] for config in configs.values() for path in config.get("paths", [])]
    topics |= {path.partition(".")[0] for path in paths}
    assert topics <= published.keys(), topics - published.keys()
    assert configs["3D!map"]["topics"]["/cvloc/satellite_points"]["visible"], "there are no textures in Foxglove"


def test_foxglove_plots_fields_that_exist():
    from cvloc_ros.evaluation.records import FrameRecord
    from cvloc_ros.geometry import SE2
    from cvloc_ros.ros import frame_status

    record = FrameRecord(0, True, "", estimate=SE2(), quality=0.5, state="tracking", milliseconds={"total": 1.0})
    keys = {value.key for value in frame_status.encode(record, frame_id="map").status[0].values}
    for name, config in LAYOUT["configById"].items():
        for path in config.get("paths", []):
            assert path.get("enabled", name.startswith("State")), f"{name} draws nothing"
            key = re.search(r'\{key=="(.+)"\}', path["value"])
            covariance = re.search(r"/cvloc/\w+\.pose\.covariance\[(\d+)\]$", path["value"])
            assert (key and key[1] in keys) or (covariance and int(covariance[1]) in (0, 7, 35)), path
