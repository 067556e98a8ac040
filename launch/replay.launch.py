"""A recorded drive through the localizer, with a viewer: bag and imagery are all that it needs.

Topics are taken from the bag where only one fits. All arguments of localize.launch.py can be given, too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="The rosbag2 to play: its folder, or an .mcap or .db3 file."),
    DeclareLaunchArgument("imagery", description="Satellite image: a GeoTIFF, ..., a folder of tiles, a tile server."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Seconds of the bag in a second of real time."),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Play the bag again and again."
    ),
    DeclareLaunchArgument(
        "rviz", default_value="true", choices=["true", "false"], description="Open RViz on the vehicle."
    ),
]


def generate_launch_description():
    source = PythonLaunchDescriptionSource(
        PathJoinSubstitution([FindPackageShare("cvloc_ros"), "launch", "localize.launch.py"])
    )
    arguments = {argument.name: LaunchConfiguration(argument.name) for argument in ARGUMENTS}
    return LaunchDescription(
        [*ARGUMENTS, IncludeLaunchDescription(source, launch_arguments={**arguments, "use_sim_time": "true"}.items())]
    )
