"""Localize a vehicle, live or from a bag: `ros2 launch cvloc_ros localize.launch.py --show-args` is the manual.

Every argument that is given wins over the parameter file; what is not given is left to it.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackagePrefix, FindPackageShare

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2 and 3


def in_share(*path):
    return PathJoinSubstitution([FindPackageShare("cvloc_ros"), *path])


ARGUMENTS = [
    DeclareLaunchArgument(
        "imagery", default_value="", description="Satellite image: anything rasterio opens (GeoTIFF, COG, VRT, ...)."
    ),
    DeclareLaunchArgument(
        "datum", default_value="", description="Origin of the map as 'latitude, longitude'; else the imagery's centre."
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="Where the network runs: auto, cpu, cuda, cuda:1, ..."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=in_share("config", "localizer.yaml"),
        description="Parameters of the localizer; arguments given here win over it.",
    ),
    DeclareLaunchArgument(
        "image", default_value="image", description="Topic of the camera images, without /compressed."
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="raw, or compressed to subscribe to <image>/compressed.",
    ),
    DeclareLaunchArgument("camera_info", default_value="camera_info", description="Topic of the camera's CameraInfo."),
    DeclareLaunchArgument("fix", default_value="fix", description="Topic of the GNSS receiver's NavSatFix."),
    DeclareLaunchArgument("odom", default_value="odom", description="Topic of the vehicle's Odometry."),
    DeclareLaunchArgument("bag", default_value="", description="A rosbag2 to play; empty for live sensors."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Seconds of the bag in a second of real time."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Play the bag again and again."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="Follow /clock; by default exactly when a bag is played.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=["true", "false"], description="Open RViz on the vehicle."
    ),
    DeclareLaunchArgument(
        "ekf",
        default_value="false",
        choices=["true", "false"],
        description="Fuse poses and odometry in robot_localization, which then owns map -> odom.",
    ),
    DeclareLaunchArgument(
        "ekf_params_file", default_value=in_share("config", "ekf.yaml"), description="Parameters of the EKF."
    ),
]


def localizer(context):
    """Return the localizer with the parameters that were given here, and the EKF if it is wanted."""

    def given(name):
        return LaunchConfiguration(name).perform(context).strip()

    simulated = given("use_sim_time") == "true" or (not given("use_sim_time") and bool(given("bag")))
    parameters = {"use_sim_time": simulated}
    for argument, parameter in (("imagery", "imagery"), ("device", "device"), ("image_transport", "camera.transport")):
        if given(argument):
            parameters[parameter] = given(argument)
    if given("datum"):
        parameters["datum"] = [float(number) for number in given("datum").strip("[]").split(",")]
    if given("ekf") == "true":
        parameters["tf.publish"] = "none"

    inputs = [(topic, LaunchConfiguration(topic)) for topic in ("image", "camera_info", "fix", "odom")]
    namespace, log_level = LaunchConfiguration("namespace"), LaunchConfiguration("log_level")
    return [
        Node(
            package="cvloc_ros",
            executable="localizer",
            name="cvloc",
            namespace=namespace,
            parameters=[LaunchConfiguration("params_file"), parameters],
            remappings=inputs,
            arguments=["--ros-args", "--log-level", log_level],
            additional_env={"OMP_WAIT_POLICY": "PASSIVE"},  # the network's idle threads leave the cores to others
            output="screen",
        ),
        Node(
            condition=IfCondition(LaunchConfiguration("ekf")),
            package="robot_localization",
            executable="ekf_node",
            name="ekf_map",
            namespace=namespace,
            parameters=[LaunchConfiguration("ekf_params_file"), {"use_sim_time": simulated}],
            remappings=[("odom", LaunchConfiguration("odom"))],
            arguments=["--ros-args", "--log-level", log_level],
            output="screen",
        ),
        Node(
            condition=IfCondition(LaunchConfiguration("rviz")),
            package="rviz2",
            executable="rviz2",
            namespace=namespace,
            arguments=["-d", in_share("rviz", "cvloc.rviz")],
            parameters=[{"use_sim_time": simulated}],
            output="log",
        ),
    ]


def player(context):
    """Return the bag player, which begins when the localizer listens to the odometry."""

    def given(name):
        return LaunchConfiguration(name).perform(context).strip()

    if not given("bag"):
        return []
    namespace = "/" + given("namespace").strip("/")
    odom = given("odom") if given("odom").startswith("/") else f"{namespace.rstrip('/')}/{given('odom')}"
    executable = PathJoinSubstitution([FindPackagePrefix("cvloc_ros"), "lib", "cvloc_ros", "cvloc"])
    command = [executable, "play", given("bag"), "--rate", given("rate"), "--wait-for", odom, "--timeout", "60"]
    if given("loop") == "true":
        command.append("--loop")
    return [ExecuteProcess(cmd=command, name="bag_player", output="screen", additional_env={"PYTHONUNBUFFERED": "1"})]


def shared_memory(context):
    """Make images fit into shared memory, unless the user has a profile of their own."""
    if any(name in os.environ for name in PROFILE_VARIABLES):
        return []
    profile = in_share("config", "fastdds_shared_memory.xml")
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES]


def generate_launch_description():
    steps = [OpaqueFunction(function=function) for function in (shared_memory, localizer, player)]
    return LaunchDescription([*ARGUMENTS, *steps])
