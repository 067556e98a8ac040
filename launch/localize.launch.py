"""Localize a vehicle, live or from a bag: `ros2 launch cvloc_ros localize.launch.py --show-args` is the manual.

Every argument that is given wins over the parameter file; what is not given is left to it.
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackagePrefix, FindPackageShare

from cvloc_ros.ros import launching

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2 and 3
SHARE = FindPackageShare("cvloc_ros")
SWITCH = ["true", "false"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "imagery",
        default_value="",
        description="Satellite image: a GeoTIFF, COG, VRT, MBTiles, ..., a folder of tiles, or a tile server's "
        "https://.../{z}/{x}/{y}. Several, separated by |, fill one another's gaps.",
    ),
    DeclareLaunchArgument(
        "datum", default_value="", description="Origin of the map as 'latitude, longitude'; else the imagery's centre."
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="Where the network runs: auto, cpu, cuda, cuda:1, ..."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="localizer",
        description="Parameters of the localizer: a file, or the name of one that comes with the package (localizer, "
        "kitti, oxford). Its section /**/topics, if it has one, remaps the inputs. Arguments given here win over it.",
    ),
    DeclareLaunchArgument(
        "topics",
        default_value="",
        description="Topics of the inputs, e.g. 'image=/front/image_raw odom=/odometry'. Inputs: image, camera_info, "
        "odom, fix, imu, initialpose. What is not named is taken from the bag where only one topic fits.",
    ),
    DeclareLaunchArgument(
        "image", default_value="", description="Topic of the camera images; one that ends with /compressed will do."
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="raw, or compressed to subscribe to <image>/compressed.",
    ),
    DeclareLaunchArgument("camera_info", default_value="", description="Topic of the camera's CameraInfo."),
    DeclareLaunchArgument("fix", default_value="", description="Topic of the GNSS receiver's NavSatFix."),
    DeclareLaunchArgument("odom", default_value="", description="Topic of the vehicle's Odometry."),
    DeclareLaunchArgument("bag", default_value="", description="A rosbag2 to play; empty for live sensors."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Seconds of the bag in a second of real time."),
    DeclareLaunchArgument("loop", default_value="false", choices=SWITCH, description="Play the bag again and again."),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", *SWITCH],
        description="Follow /clock; by default exactly when a bag is played.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
    DeclareLaunchArgument("rviz", default_value="false", choices=SWITCH, description="Open RViz on the vehicle."),
    DeclareLaunchArgument(
        "foxglove",
        default_value="false",
        choices=SWITCH,
        description="Serve all topics at ws://localhost:8765 for Foxglove and Lichtblick (foxglove_bridge).",
    ),
    DeclareLaunchArgument(
        "ekf",
        default_value="false",
        choices=["false", "true", "both"],
        description="Fuse poses and odometry in robot_localization, which then owns map -> odom; 'both' adds a second "
        "EKF that owns odom -> base_link, for vehicles on which nothing else publishes it.",
    ),
    DeclareLaunchArgument(
        "ekf_params_file",
        default_value=PathJoinSubstitution([SHARE, "config", "ekf.yaml"]),
        description="Parameters of the EKFs.",
    ),
]


def start(context):
    """Return everything that the arguments ask for."""

    def given(name):
        return LaunchConfiguration(name).perform(context).strip()

    # The shell leaves the ~ of bag:=~/drive to us.
    bag, imagery = os.path.expanduser(given("bag")), os.path.expanduser(given("imagery"))
    share = Path(SHARE.perform(context))
    params_file = launching.parameter_file(given("params_file"), share / "config")
    topics = launching.topics_of_file(params_file) | launching.topics_of_text(given("topics"))
    topics |= {name: given(name) for name in ("image", "camera_info", "fix", "odom") if given(name)}
    if bag:
        topics = launching.complete_from_bag(bag, topics)
    topics["image"], transport = launching.split_transport(topics.get("image", "image"))
    transport = given("image_transport") or transport

    parameters = {}
    if given("use_sim_time") or bag:
        parameters["use_sim_time"] = given("use_sim_time") != "false"
    clock = dict(parameters)  # what every node gets
    for parameter, value in (
        ("imagery", imagery),
        ("device", given("device")),
        ("camera.transport", transport),
    ):
        if value:
            parameters[parameter] = value
    if given("datum"):
        parameters["datum"] = launching.datum(given("datum"))
    no_ekf = launching.missing("robot_localization", argument=f"ekf:={given('ekf')}")
    if given("ekf") != "false" and not no_ekf:
        parameters["tf.publish"] = "none"  # two owners of map -> odom would make it jump

    namespace, log_level = given("namespace"), ["--ros-args", "--log-level", given("log_level")]
    actions = [
        Node(
            package="cvloc_ros",
            executable="localizer",
            name="cvloc",
            namespace=namespace,
            parameters=[str(params_file), parameters],
            remappings=list(topics.items()),
            arguments=log_level,
            output="screen",
        )
    ]
    if given("ekf") != "false":
        actions.append(LogInfo(msg=no_ekf) if no_ekf else ekf(given, topics, clock))
    for viewer, action in (("rviz2", rviz), ("foxglove_bridge", foxglove)):
        argument = viewer.partition("_")[0].rstrip("2")
        if given(argument) == "true":
            line = launching.missing(viewer, argument=f"{argument}:=true")
            actions += [LogInfo(msg=line)] if line else action(share, namespace, clock)
    if bag:
        actions.append(player(bag, given, topics, transport, context))
    return actions


def ekf(given, topics, clock):
    """Return the EKFs, in a group: an included file would share its arguments with what comes after it."""
    arguments = {
        "params_file": given("ekf_params_file"),
        "local": str(given("ekf") == "both").lower(),
        "odom": topics.get("odom", "odom"),
        "use_sim_time": str(clock.get("use_sim_time", "")).lower(),
        "namespace": given("namespace"),
        "log_level": given("log_level"),
    }
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "ekf.launch.py"]))
    return GroupAction([IncludeLaunchDescription(source, launch_arguments=arguments.items())])


def rviz(share, namespace, clock):
    """Return RViz with the package's configuration."""
    config = share / "rviz" / "cvloc.rviz"
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=namespace,
            arguments=["-d", str(config)],
            parameters=[clock],
            remappings=launching.viewer_remaps(config, namespace),
            output="log",
        )
    ]


def foxglove(share, namespace, clock):
    """Return the bridge to Foxglove, and say where the layout is."""
    layout = share / "config" / "foxglove_layout.json"
    return [
        LogInfo(msg=f"Foxglove or Lichtblick: open ws://localhost:8765 and import the layout {layout}"),
        Node(
            package="foxglove_bridge",
            executable="foxglove_bridge",
            namespace=namespace,
            parameters=[clock],
            output="log",
        ),
    ]


def player(bag, given, topics, transport, context):
    """Return the bag player, which begins when the localizer listens."""
    namespace = f"/{given('namespace').strip('/')}".rstrip("/")
    executable = Path(FindPackagePrefix("cvloc_ros").perform(context)) / "lib" / "cvloc_ros" / "cvloc"
    command = [str(executable), "play", bag, "--rate", given("rate"), "--timeout", "300"]
    command += launching.player_options(bag, topics, namespace=namespace, transport=transport)
    if given("loop") == "true":
        command.append("--loop")
    return ExecuteProcess(cmd=command, name="bag_player", output="screen", additional_env={"PYTHONUNBUFFERED": "1"})


def shared_memory(context):
    """Make images fit into shared memory, unless the user has a profile of their own."""
    if any(name in os.environ for name in PROFILE_VARIABLES):
        return []
    profile = PathJoinSubstitution([SHARE, "config", "fastdds_shared_memory.xml"])
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES]


def generate_launch_description():
    steps = [OpaqueFunction(function=function) for function in (shared_memory, start)]
    return LaunchDescription([*ARGUMENTS, *steps])
