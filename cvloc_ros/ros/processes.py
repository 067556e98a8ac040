"""The node and the player as processes of their own, started as a user starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.geometry import LocalFrame

Process = subprocess.Popen[bytes]


def node_command(bag: Bag, imagery: str, datum: LocalFrame, parameters: Mapping[str, Any]) -> list[str]:
    """Return the command that starts the node on a bag's topics; ``parameters`` go before what the bag says."""
    topics = bag.topics
    settings = {
        "imagery": imagery,
        "datum": f"[{datum.latitude!r}, {datum.longitude!r}, {datum.altitude!r}]",
        "use_sim_time": "true",
        "camera.transport": "compressed" if topics["image"].endswith("/compressed") else "raw",
        "frames.base": bag.base_frame,
        "visuals.period": 1.0,
        **parameters,
    }
    remaps = {
        "image": topics["image"].removesuffix("/compressed"),
        "camera_info": topics["camera_info"],
        "odom": topics["odom"],
        "fix": topics.get("fix", "fix"),
    }
    command = [sys.executable, "-m", "cvloc_ros.ros.node", "--ros-args"]
    for name, value in settings.items():
        command += ["-p", f"{name}:={value}"]
    for name, topic in remaps.items():
        command += ["-r", f"{name}:={topic}"]
    return command


def player_command(bag: Bag, *, rate: float = 1.0, loop: bool = False) -> list[str]:
    """Return the command that plays a bag as soon as somebody listens to its images and odometry."""
    command = [sys.executable, "-m", "cvloc_ros.cli.main", "play", bag.source, "--rate", str(rate)]
    command += ["--loop"] if loop else []
    return [*command, "--wait-for", bag.topics["image"], "--wait-for", bag.topics["odom"]]


def start(command: list[str], environment: Mapping[str, str], output: Any) -> Process:
    """Start a process whose words go to a file."""
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def stop(process: Process | None) -> None:
    """End a process, by force if it takes more than ten seconds."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
