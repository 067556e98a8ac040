"""robot_localization's EKFs around the localizer, as `localize.launch.py ekf:=true` starts them; or on their own.

`ekf_map` fuses the localizer's poses with odometry and owns map -> odom. `ekf_odom` (local:=true) fuses odometry alone
and owns odom -> base_link; start it only where nothing else publishes that transform.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from cvloc_ros.ros import launching

ARGUMENTS = [
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("cvloc_ros"), "config", "ekf.yaml"]),
        description="Parameters of the nodes ekf_map and ekf_odom.",
    ),
    DeclareLaunchArgument(
        "local",
        default_value="false",
        choices=["true", "false"],
        description="Also start ekf_odom, which owns odom -> base_link; nothing else may publish it then.",
    ),
    DeclareLaunchArgument("odom", default_value="odom", description="Topic of the vehicle's Odometry (its twist)."),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="Follow /clock; empty leaves it to the parameter file.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
]

# robot_localization's topics and services have relative names, which two EKFs in one namespace would share.
OWN_NAMES = ("reset", "enable", "toggle")


def start(context):
    """Return the EKFs, and the node that restarts them when time jumps back."""

    def given(name):
        return LaunchConfiguration(name).perform(context).strip()

    line = launching.missing("robot_localization", argument="ekf.launch.py")
    if line:
        return [LogInfo(msg=line)]
    clock = {"use_sim_time": given("use_sim_time") == "true"} if given("use_sim_time") else {}
    # The topic that RViz's 2D Pose Estimate publishes on moves ekf_map along with the localizer.
    outputs = {"ekf_map": ("odometry/filtered", "initialpose"), "ekf_odom": ("odometry/local", "ekf_odom/set_pose")}
    names = ["ekf_map", "ekf_odom"] if given("local") == "true" else ["ekf_map"]
    log_level = ["--ros-args", "--log-level", given("log_level")]
    filters = [
        Node(
            package="robot_localization",
            executable="ekf_node",
            name=name,
            namespace=given("namespace"),
            parameters=[given("params_file"), clock],
            remappings=[
                ("odom", given("odom")),
                ("odometry/filtered", outputs[name][0]),
                ("set_pose", outputs[name][1]),
                *((own, f"{name}/{own}") for own in OWN_NAMES),
            ],
            arguments=log_level,
            output="screen",
        )
        for name in names
    ]
    restarter = Node(
        package="cvloc_ros",
        executable="ekf_restarter",
        namespace=given("namespace"),
        parameters=[clock],
        arguments=[*(f"{name}/reset" for name in names), *log_level],
        output="screen",
    )
    return [*filters, restarter]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
