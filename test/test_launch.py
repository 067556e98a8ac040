"""The launch files: what they declare, and what they start for which arguments.

launch and launch_ros come only with a full ROS installation. Where they are missing, a stand-in that records what the
files ask for takes their place; where they are installed, the files are also run by them.
"""

import ast
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from cvloc_ros.datasets import message_building as build
from cvloc_ros.datasets.message_building import STORE
from cvloc_ros.geometry import SE2, PinholeCamera
from cvloc_ros.ros import launching

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PROMISED = """
    bag rate loop imagery datum device ekf rviz foxglove params_file namespace use_sim_time log_level topics
"""


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_declared_and_described(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    declared = {
        call.args[0].value: {keyword.arg: keyword.value for keyword in call.keywords}
        for call in calls
        if getattr(call.func, "id", "") == "DeclareLaunchArgument"
    }
    # given("x") is how the launch files read an argument
    used = {
        call.args[0].value
        for call in calls
        if getattr(call.func, "id", "") in ("LaunchConfiguration", "given") and isinstance(call.args[0], ast.Constant)
    }
    assert used <= declared.keys(), "an argument is used but not declared"
    for name, keywords in declared.items():
        assert len(keywords["description"].value) > 15, f"{name} is not described"
        assert "default_value" in keywords or (path.name, name) in {
            ("replay.launch.py", "bag"),
            ("replay.launch.py", "imagery"),
        }, f"{name} has no default"
    if path.name == "localize.launch.py":
        assert set(PROMISED.split()) <= declared.keys()


# A stand-in for launch and launch_ros


class Recorded:
    """An action or substitution: keeps what it was made of."""

    def __init__(self, *args, **options):
        self.args, self.options = args, options
        self.name = args[0] if args and isinstance(args[0], str) else ""


class LaunchConfiguration(Recorded):
    def perform(self, context):
        return context[self.name]


class FindPackageShare(Recorded):
    def perform(self, context):
        return str(ROOT)


class PathJoinSubstitution(Recorded):
    def perform(self, context):
        return "/".join(part if isinstance(part, str) else part.perform(context) for part in self.args[0])


def perform(value, context):
    return value.perform(context) if hasattr(value, "perform") else value


@pytest.fixture
def start(monkeypatch):
    """Run a launch file's `start` with some arguments; return the recorded actions."""
    special = {c.__name__: c for c in (LaunchConfiguration, FindPackageShare, PathJoinSubstitution)}
    special["FindPackagePrefix"] = type("FindPackagePrefix", (FindPackageShare,), {})
    for name in (
        "launch", "launch.actions", "launch.launch_description_sources", "launch.substitutions", "launch_ros",
        "launch_ros.actions", "launch_ros.substitutions",
    ):  # fmt: skip
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: special.setdefault(attribute, type(attribute, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")

    def run(file="localize", **arguments):
        spec = importlib.util.spec_from_file_location(f"{file}_launch", ROOT / "launch" / f"{file}.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        context = {each.name: perform(each.options.get("default_value", ""), {}) for each in module.ARGUMENTS}
        assert arguments.keys() <= context.keys()
        return module.start({**context, **arguments})

    return run


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend that a package is installed, as ROS's index sees it."""

    def install(*packages):
        index = tmp_path / "share/ament_index/resource_index/packages"
        index.mkdir(parents=True, exist_ok=True)
        for package in packages:
            (index / package).touch()
        monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))

    return install


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """One message a topic, of a vehicle on which the localizer was running already."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    fix = {"latitude": 48.0, "longitude": 16.0, "altitude": 0.0, "covariance": None}
    messages = {
        "/odom": build.odometry(1, SE2(), frame_id="odom"),
        "/ground_truth": build.odometry(1, SE2(), frame_id="map"),
        "/gnss/fix": build.fix(1, **fix, frame_id="gnss"),
        "/datum": build.fix(1, **fix, frame_id="map"),
        "/camera/camera_info": build.camera_info(1, PinholeCamera.from_focal(208, 64, 120.0), frame_id="camera"),
        "/camera/image/compressed": build.jpeg(1, np.zeros(10, np.uint8), frame_id="camera"),
        "/cvloc/pose": build.pose_with_covariance(1, SE2(), np.eye(3), frame_id="map"),
    }
    with Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, message in messages.items():
            kind = message.__msgtype__
            connection = writer.add_connection(topic, kind, typestore=build.STORE)
            writer.write(connection, 1_000_000_000, build.STORE.serialize_cdr(message, kind))
    return path


def node(actions, executable):
    return next((each.options for each in actions if each.options.get("executable") == executable), None)


def lines(actions):
    return [each.options["msg"] for each in actions if type(each).__name__ == "LogInfo"]


def settings_of(actions):
    """Return the parameters that the launch file adds to the parameter file."""
    return node(actions, "localizer")["parameters"][1]


def test_what_is_not_given_is_left_to_the_parameter_file(start):
    localizer = node(start(), "localizer")
    assert localizer["parameters"] == [str(ROOT / "config/localizer.yaml"), {}]
    assert dict(localizer["remappings"]) == {"image": "image"}


def test_what_is_given_comes_after_the_parameter_file(start, bag, installed):
    installed("robot_localization")
    actions = start(
        imagery="map.tif", datum="48.2, 16.37", device="cuda:1", topics="image=/a/image_raw/compressed, fix:=/gps",
        fix="/better", use_sim_time="true", ekf="true", namespace="car",
    )  # fmt: skip
    assert settings_of(actions) == {
        "imagery": "map.tif",
        "datum": [48.2, 16.37],
        "device": "cuda:1",
        "camera.transport": "compressed",
        "use_sim_time": True,
        "tf.publish": "none",
    }
    assert dict(node(actions, "localizer")["remappings"]) == {"image": "/a/image_raw", "fix": "/better"}
    assert node(actions, "localizer")["namespace"] == "car"


@pytest.mark.parametrize("file", ["localizer", "kitti", "oxford"])
def test_parameters_are_declared_and_the_command_line_beats_the_file(start, file, tmp_path):
    rclpy = pytest.importorskip("rclpy")
    from rclpy.node import Node

    from cvloc_ros.ros import parameters
    from cvloc_ros.ros.config import NodeConfig

    actions = start(params_file=file, imagery="map.tif", device="cpu", datum="48, 16", image_transport="compressed")
    path, given = node(actions, "localizer")["parameters"]
    overrides = tmp_path / "launch_params.yaml"  # launch_ros hands a dictionary over as a second file
    overrides.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}))
    context = rclpy.Context()
    rclpy.init(context=context, args=[], domain_id=0)
    try:
        arguments = ["--ros-args", "--params-file", path, "--params-file", str(overrides)]
        cvloc = Node("cvloc", context=context, cli_args=arguments, namespace="car")
        parameters.declare(cvloc, NodeConfig)  # refuses what is unknown or of another type
        config = parameters.read(cvloc, NodeConfig)
        cvloc.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
    assert (config.imagery, config.device, config.datum) == ("map.tif", "cpu", (48.0, 16.0))
    assert config.camera.transport == "compressed"
    assert config.camera.rectified == ("auto" if file == "localizer" else "yes")


def test_data_set_files_remap_the_inputs_and_arguments_win(start):
    topics = dict(node(start(params_file="kitti", odom="/vo"), "localizer")["remappings"])
    assert topics["image"] == "/kitti/camera_color_left/image_raw" and topics["odom"] == "/vo"
    topics = dict(node(start(params_file="oxford", topics="image=/mine"), "localizer")["remappings"])
    assert topics["image"] == "/mine" and topics["fix"] == "/robotcar/ins/gps"


def test_bag_says_which_topics_there_are(start, bag, monkeypatch):
    monkeypatch.setenv("HOME", str(bag.parent))
    actions = start(bag="~/drive", rate="0.5", loop="true")
    assert dict(node(actions, "localizer")["remappings"]) == {
        "image": "/camera/image",
        "camera_info": "/camera/camera_info",
        "odom": "/odom",
        "fix": "/gnss/fix",
    }
    assert settings_of(actions) == {"use_sim_time": True, "camera.transport": "compressed"}
    options = actions[-1].options["cmd"][1:]
    assert options == (f"play {bag} --rate 0.5 --timeout 300 --wait-for /odom --exclude /cvloc/pose --loop".split()), (
        "what an earlier run published would mix with today's"
    )


def test_topic_that_another_node_gives_need_not_be_in_the_bag(start, bag):
    actions = start(bag=str(bag), odom="/vo/odometry")
    assert dict(node(actions, "localizer")["remappings"])["odom"] == "/vo/odometry"
    assert "--wait-for /camera/image/compressed" in " ".join(actions[-1].options["cmd"])


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_player_waits_for_images_of_the_transport(start, tmp_path, transport):
    image = {"raw": "/cam/image", "compressed": "/cam/image/compressed"}
    with Writer(tmp_path / "both", version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        raw = STORE.types["sensor_msgs/msg/Image"](
            build.header(1, "camera"), 1, 1, "mono8", 0, 1, np.zeros(1, np.uint8)
        )
        for kind, message in (("raw", raw), ("compressed", build.jpeg(1, np.zeros(10, np.uint8), frame_id="camera"))):
            connection = writer.add_connection(image[kind], message.__msgtype__, typestore=STORE)
            writer.write(connection, 1_000_000_000, STORE.serialize_cdr(message, message.__msgtype__))
    topics = {"odom": "/vo", "image": "/cam/image", "camera_info": "/cam/camera_info", "fix": "/fix"}
    actions = start(bag=str(tmp_path / "both"), image_transport=transport, **topics)
    command = actions[-1].options["cmd"]
    assert command[command.index("--wait-for") + 1] == image[transport]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"params_file": "kiti"}, "expected a file, or one of ekf, kitti, localizer, oxford; there is no 'kiti'"),
        ({"topics": "image"}, "expected name=topic pairs such as 'image=/front/image_raw', got 'image'"),
        ({"topics": "camera=/x"}, "inputs are image, camera_info, odom, fix, imu, initialpose; there is no camera"),
        ({"datum": "48.2"}, "expected 'latitude, longitude' in degrees"),
        ({"bag": "/nowhere"}, "expected a rosbag2"),
    ],
)
def test_argument_that_cannot_be_used_is_named(start, arguments, complaint):
    with pytest.raises(launching.LaunchError, match=complaint):
        start(**arguments)


def test_missing_packages_are_named_and_everything_else_starts(start):
    wanted = {"ekf": "robot_localization", "rviz": "rviz2", "foxglove": "foxglove_bridge"}
    actions = start(**dict.fromkeys(wanted, "true"))
    assert lines(actions) == [
        f"{argument}:=true needs {package}, which is not installed: sudo apt install ros-jazzy-"
        f"{package.replace('_', '-')}. All else is started."
        for argument, package in wanted.items()
    ]
    assert node(actions, "localizer") and not node(actions, "rviz2") and not node(actions, "foxglove_bridge")
    assert "tf.publish" not in settings_of(actions), "nobody else owns map -> odom"


def test_viewers_start_where_they_are_installed(start, installed):
    installed("rviz2", "foxglove_bridge")
    actions = start(rviz="true", foxglove="true", namespace="car", use_sim_time="true")
    assert node(actions, "rviz2")["arguments"] == ["-d", str(ROOT / "rviz/cvloc.rviz")]
    remaps = {("/cvloc/pose", "/car/cvloc/pose"), ("/initialpose", "/car/initialpose")}
    assert remaps <= set(node(actions, "rviz2")["remappings"]), (
        "RViz would have nothing to do with a node in a namespace"
    )
    assert node(actions, "foxglove_bridge")["parameters"] == [{"use_sim_time": True}]
    assert any("ws://localhost:8765" in line and "foxglove_layout.json" in line for line in lines(actions))


def test_ekfs_share_no_name_and_are_restarted(start, installed):
    assert len(lines(start("ekf"))) == 1
    installed("robot_localization")
    actions = start("ekf", local="true", odom="/wheel", use_sim_time="true")
    filters = {each.options["name"]: dict(each.options["remappings"]) for each in actions[:2]}
    assert {name: remaps["odometry/filtered"] for name, remaps in filters.items()} == {
        "ekf_map": "odometry/filtered",
        "ekf_odom": "odometry/local",
    }
    assert all(remaps["odom"] == "/wheel" and remaps["reset"] == f"{n}/reset" for n, remaps in filters.items())
    assert node(actions, "ekf_restarter")["arguments"][:2] == ["ekf_map/reset", "ekf_odom/reset"]
    assert [each.options["name"] for each in start("ekf")[:-1]] == ["ekf_map"]


def test_launch_itself_reads_the_files():
    pytest.importorskip("launch_ros", reason="launch is only in a ROS installation")
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    for path in LAUNCH_FILES:
        description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
        arguments = {each.name: each.description for each in description.get_launch_arguments()}
        assert arguments and all(arguments.values())
