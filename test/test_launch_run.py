"""The launch files run by launch itself: only in a ROS installation, with this package built and sourced."""

import signal
import subprocess
import sys

import pytest

pytest.importorskip("launch_ros", reason="launch is only in a ROS installation")
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from ros_world import environment, free_domain

PROGRAM = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *arguments = sys.argv[1:]
source = PythonLaunchDescriptionSource(path)
include = IncludeLaunchDescription(source, launch_arguments=[each.split(":=") for each in arguments])
service = LaunchService()
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


@pytest.fixture
def launched(tmp_path):
    """Start a launch file as `ros2 launch` does, and read on until it has said some words."""
    try:
        share = get_package_share_directory("cvloc_ros")
    except (PackageNotFoundError, OSError):
        pytest.skip("cvloc_ros is not sourced: colcon build, source install/setup.bash")
    processes = []

    def launch(file, *arguments, until):
        command = [sys.executable, "-u", "-c", PROGRAM, f"{share}/launch/{file}", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment(free_domain(), tmp_path), **pipes))
        said = ""
        for line in processes[-1].stdout:
            said += line
            if all(word in said for word in until):
                return
        raise AssertionError(f"it ended, and has not said {until}:\n{said}")

    yield launch
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.parametrize("namespace", ["", "car"])
def test_localizer_gets_its_parameters_and_names(launched, namespace):
    given = ["imagery:=/nowhere.tif", "device:=cpu", f"namespace:={namespace}", "image:=/front/image_raw"]
    name = f"[{namespace}.cvloc]" if namespace else "[cvloc]"
    launched("localize.launch.py", *given, until=[name, "there is no file '/nowhere.tif'"])
