"""The environment variables of a process that uses ROS: isolation, and shared memory that images fit into."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import cvloc_ros

PROFILE = "fastdds_shared_memory.xml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Of Fast DDS 2 (Humble, Jazzy) and Fast DDS 3 (Kilted and later)."""


def share_folder() -> Path | None:
    """Return the folder that holds config/, launch/ and rviz/: the checkout, or share/cvloc_ros of an installation."""
    installed = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    candidates = [
        Path(cvloc_ros.__file__).resolve().parents[1],
        *(prefix / "share" / "cvloc_ros" for prefix in [*installed, Path(sys.prefix)]),
    ]
    return next((folder for folder in candidates if (folder / "config" / PROFILE).exists()), None)


def local_environment(environment: Mapping[str, str], *, domain: int | None = None) -> dict[str, str]:
    """Return an environment in which nodes talk to this machine only, and images get through.

    Args:
        environment: what to start from; what it already says about discovery, profile and log stays.
        domain: ROS_DOMAIN_ID, if it is to be another one.

    """
    result = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **environment}
    folder = share_folder()
    if folder is not None:
        for variable in PROFILE_VARIABLES:
            result.setdefault(variable, str(folder / "config" / PROFILE))
    if domain is not None:
        result["ROS_DOMAIN_ID"] = str(domain)
    return result


def middleware() -> str:
    """Start and stop ROS, and return the name of its middleware."""
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    context = rclpy.Context()
    rclpy.init(context=context)
    rclpy.shutdown(context=context)
    return get_rmw_implementation_identifier()
