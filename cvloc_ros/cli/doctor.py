"""`cvloc doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

GOOD, NOTE, BAD = "good", "note", "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and what to do if it is not good."""

    subject: str
    verdict: str
    found: str
    advice: str = ""


def doctor() -> None:
    """Look at Python, torch, ROS, transport, imagery and weights, and say what to do where something is missing.

    Ends with an error if localizing a recorded drive (`cvloc run`) would not work; what only the ROS node needs is
    a note.
    """
    from rich.console import Console
    from rich.markup import escape

    findings = [finding for check in CHECKS for finding in _guarded(check)]
    console = Console(highlight=False, soft_wrap=True)  # whole lines, so that what they say can be copied
    marks = {GOOD: "[green]ok  [/]", NOTE: "[yellow]note[/]", BAD: "[red]bad [/]"}
    for finding in findings:
        console.print(f"{marks[finding.verdict]}  {finding.subject:18} {escape(finding.found)}")
        if finding.advice:
            console.print(f"{'':25}[dim]-> {escape(finding.advice)}[/]")
    if any(finding.verdict == BAD for finding in findings):
        raise typer.Exit(1)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a check; a package that is there but broken is a finding too."""
    try:
        yield from check()
    except Exception as error:  # broken installations fail in every way
        name = check.__name__.strip("_")
        yield Finding(name, BAD, f"{type(error).__name__}: {error}", "reinstall it; see the README's installation")


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 10)
    yield Finding(
        "Python",
        GOOD if good else BAD,
        f"{sys.version.split()[0]} at {sys.executable}",
        "" if good else "use Python 3.10 or newer",
    )
    for package in ("evo", "numpy", "opencv-python-headless", "rosbags", "safetensors"):
        module = {"opencv-python-headless": "cv2"}.get(package, package)
        if find_spec(module) is None:
            yield Finding(package, BAD, "missing", f"pip install {package}")


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding("torch", BAD, "missing", "pip install torch, or apt install python3-torch")
        return
    import torch

    if torch.cuda.is_available():
        yield Finding("torch", GOOD, f"{torch.__version__}, {torch.cuda.get_device_name(0)}")
    else:
        yield Finding("torch", GOOD, f"{torch.__version__}, {os.cpu_count()} CPU cores")


def _rasterio() -> Iterator[Finding]:
    import pyproj
    import rasterio

    yield Finding("imagery", GOOD, f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}")
    from cvloc_ros.geometry import LocalFrame

    east, north = LocalFrame(48.0, 16.0).to_enu(48.0, 16.001)
    found = f"pyproj {pyproj.__version__}, PROJ {pyproj.proj_version_str}"
    right = abs(east - 74.6) < 0.1 and abs(north) < 0.01  # a thousandth of a degree at 48 N
    yield Finding(
        "projection",
        GOOD if right else BAD,
        found,
        "" if right else f"it puts a known point at {east:.2f}, {north:.2f}: unset PROJ_LIB and PROJ_DATA",
    )


def _weights() -> Iterator[Finding]:
    from cvloc_ros.models.weights import METHODS, load_matcher

    for method in METHODS:
        try:
            _, card = load_matcher(method, device="cpu")
            yield Finding(f"weights {method}", GOOD, f"load; {card.get('date', 'no date')} in their card")
        except ValueError as error:
            yield Finding(f"weights {method}", BAD, str(error), "reinstall the package, or `cvloc train`")


def _ros() -> Iterator[Finding]:
    if find_spec("rclpy") is None:
        yield Finding(
            "ROS 2",
            NOTE,
            "no rclpy: `cvloc run` works, the node does not",
            "source /opt/ros/<distro>/setup.bash, or pip install 'cvloc_ros[ros]' (Python 3.11, 3.12)",
        )
        return
    from cvloc_ros.ros.environment import middleware

    distro = os.environ.get("ROS_DISTRO", "wheels")
    try:
        yield Finding("ROS 2", GOOD, f"rclpy {_version('rclpy')} ({distro}), {middleware()}")
    except Exception as error:  # rcl's own errors are of several types
        yield Finding("ROS 2", BAD, f"cannot start: {error}", "set HOME or ROS_LOG_DIR to a folder that can be written")
    if find_spec("tf2_msgs") is None:
        yield Finding("TF", BAD, "no tf2_msgs", "python tools/build_tf2_msgs.py, or apt install ros-<distro>-tf2-ros")
    else:
        from cvloc_ros.ros.tf import has_tf2_ros

        yield Finding("TF", GOOD, "through tf2_ros" if has_tf2_ros() else "through tf2_msgs directly (no tf2_ros)")
    from cvloc_ros.ros.images import image_decoder

    yield Finding("images", GOOD, f"decoded by {image_decoder()}")


def _transport() -> Iterator[Finding]:
    if find_spec("rclpy") is None:
        return
    from cvloc_ros.ros.environment import PROFILE, PROFILE_VARIABLES, share_folder

    folder = share_folder()
    ours = folder / "config" / PROFILE if folder else Path(PROFILE)
    chosen = next((os.environ[name] for name in PROFILE_VARIABLES if name in os.environ), None)
    if chosen is None:
        yield Finding(
            "DDS profile",
            NOTE,
            "none: raw images may be lost between processes",
            f"export {PROFILE_VARIABLES[0]}={ours}, for the camera driver too",
        )
    elif not Path(chosen).exists():
        yield Finding("DDS profile", BAD, f"{chosen} does not exist", f"export {PROFILE_VARIABLES[0]}={ours}")
    else:
        yield Finding("DDS profile", GOOD, chosen)
    wide = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    if os.environ.get("ROS_LOCALHOST_ONLY") == "1":
        wide = "LOCALHOST"
    yield Finding(
        "discovery",
        GOOD,
        f"{wide}, domain {domain}",
        "" if wide != "SUBNET" else "on one machine: export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


CHECKS = (_python, _torch, _rasterio, _weights, _ros, _transport)
