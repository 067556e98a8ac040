"""What can be set on the node: every field is a ROS parameter, nested groups are joined by dots (`tf.publish`).

What a field knows of itself (see `setting`) becomes the parameter's descriptor, the table in
config/localizer.yaml and the checks. The tracker's and the gate's own settings are the groups `tracker` and `gate`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cvloc_ros.localization.gate import GateConfig
from cvloc_ros.localization.setting import setting
from cvloc_ros.localization.tracker_config import TrackerConfig


@dataclass(frozen=True)
class FrameNames:
    """Names of the coordinate frames (REP-105)."""

    map: str = setting("map", "ENU frame of the datum; poses are published in it")
    odom: str = setting("", "frame of the odometry; empty takes it from the odometry's header")
    base: str = setting("base_link", "the vehicle: x forward, y left, z up, on the ground")
    camera: str = setting("", "the camera's optical frame; empty takes it from the image's header")
    gnss: str = setting("", "the GNSS antenna's frame; empty takes it from the fix's header")
    imu: str = setting("", "the IMU's frame; empty takes it from the IMU's header")


@dataclass(frozen=True)
class CameraInput:
    """How images come in."""

    transport: str = setting("raw", "'raw' subscribes to image, 'compressed' to image/compressed",
                              choices=("raw", "compressed"))  # fmt: skip
    rectified: str = setting(
        "auto",
        "whether images are rectified, so that P counts and no distortion; auto goes by 'rect' in the topic's name",
        choices=("auto", "yes", "no"),
    )


@dataclass(frozen=True)
class ImuInput:
    """Whether and how an IMU's heading is used."""

    absolute: bool = setting(
        False, "the topic imu carries an absolute orientation (REP-145: ENU, yaw 0 is east); false leaves it unread"
    )
    yaw_offset: float = setting(
        0.0,
        "added to the IMU's yaw: minus the magnetic declination (positive to the east); 90 for yaw 0 at north",
        unit="deg",
        limits=(-360.0, 360.0),
    )
    sigma: float = setting(
        5.0, "standard deviation of a heading that reports no covariance", unit="deg", limits=(0.1, 180.0)
    )


@dataclass(frozen=True)
class TfOutput:
    """Which transform the node publishes."""

    publish: str = setting(
        "map_odom",
        "map_odom, or map_base where no odom frame exists, or none where another node (an EKF) owns the tree",
        choices=("none", "map_odom", "map_base"),
    )
    tolerance: float = setting(
        0.1,
        "transforms are stamped this far ahead, so that they are there in time",
        unit="s",
        limits=(0.0, 2.0),
        live=True,
    )


@dataclass(frozen=True)
class VisualsOutput:
    """What is published for people to look at, while somebody subscribes."""

    satellite: str = setting(
        "both",
        "the satellite image as textured tiles (for RViz), as coloured points (for Foxglove and Lichtblick), or both",
        choices=("both", "tiles", "points", "none"),
    )
    period: float = setting(
        0.25, "least time between two images that are drawn", unit="s", limits=(0.0, 60.0), live=True
    )


@dataclass(frozen=True)
class Health:
    """When an input counts as missing."""

    silence: float = setting(
        5.0, "an input that is silent for this long is reported", unit="s", limits=(0.2, 600.0), live=True
    )


@dataclass(frozen=True)
class NodeConfig:
    """All settings of the node."""

    imagery: str = setting("", "satellite image: a raster, a folder of tiles, a server's template; see doc/imagery.md")
    datum: tuple[float, ...] = setting(
        (),
        "origin of the map as [latitude, longitude] or with altitude; empty takes the centre of the imagery",
        unit="deg, m",
    )
    method: str = setting("vote_flow", "the matcher: vote_flow or dense_flow")
    weights: str = setting("", "safetensors file of the matcher; empty takes the one that comes with the package")
    device: str = setting(
        "auto",
        "where the network runs: auto, cpu, cuda, cuda:1, ...; a GPU that is not there or fails gives way to the CPU",
    )
    threads: int = setting(
        1,
        "CPU threads that one image may take, and a new patch beside it; two save a sixth of the time, but the second "
        "spins, and so takes its core from other nodes",
        limits=(1, 64),
    )
    autostart: bool = setting(True, "configure and activate at start, without a lifecycle manager")
    odometry_wait: float = setting(
        0.15, "how long an image waits for odometry of its own stamp", unit="s", limits=(0.0, 5.0), live=True
    )
    frames: FrameNames = FrameNames()
    camera: CameraInput = CameraInput()
    imu: ImuInput = ImuInput()
    tf: TfOutput = TfOutput()
    visuals: VisualsOutput = VisualsOutput()
    health: Health = Health()
    gate: GateConfig = GateConfig()
    tracker: TrackerConfig = TrackerConfig()

    def __post_init__(self) -> None:
        """Refuse a datum that is no place."""
        if len(self.datum) not in (0, 2, 3):
            raise ValueError(f"datum: expected [latitude, longitude] or with altitude, got {list(self.datum)}")
