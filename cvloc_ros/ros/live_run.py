"""Play a bag over DDS into the real node, and collect what it says: the live counterpart of `cvloc run`.

The node and the player run as processes of their own, exactly as a user starts them; this process listens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from cvloc_ros.datasets.bag import Bag
from cvloc_ros.datasets.events import FixEvent, OdometryEvent, TruthEvent
from cvloc_ros.evaluation.records import FixRecord, FrameRecord, RunResult, Sample
from cvloc_ros.evaluation.run import encode_jpeg
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.imagery import SatelliteMap
from cvloc_ros.ros import frame_status, qos
from cvloc_ros.ros.conversions import to_pose_with_covariance
from cvloc_ros.ros.environment import local_environment
from cvloc_ros.ros.processes import Process, node_command, player_command, start, stop
from cvloc_ros.ros.visuals.scene import Scene

_START_TIMEOUT = 180.0  # seconds for the node to load everything, on a machine that is busy with other things
_DISCOVERY = 0.5  # seconds after which a subscriber that we know knows us
_QUIET = 1.5  # seconds without a frame after which the node has finished


class LiveRunError(RuntimeError):
    """The node or the player did not do what it should; the text carries what they said."""


@dataclass
class Heard:
    """What the node has published so far.

    Attributes:
        frames: one record an image.
        samples: match pictures.
        diagnostics: level and message by status name.
        scene: what a viewer would show just now.
        dropped: images that came while the node was busy.
        last_frame: when the last record came, time.monotonic().

    """

    frames: list[FrameRecord] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    diagnostics: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    scene: Scene = field(default_factory=Scene)
    dropped: int = 0
    last_frame: float = field(default_factory=time.monotonic)


class Listener(Node):
    """Subscribes to what the node `cvloc` publishes."""

    def __init__(self, *, context: Context) -> None:
        """Start to listen."""
        super().__init__("cvloc_listener", context=context)
        self.heard = Heard()
        self._initial_pose = self.create_publisher(PoseWithCovarianceStamped, "initialpose", qos.OUTPUT)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, qos.OUTPUT)
        self.create_subscription(DiagnosticArray, "/cvloc/frame_status", self._frame, qos.OUTPUT)
        self.create_subscription(Image, "/cvloc/debug/overlay", self._picture, qos.OUTPUT)
        self.heard.scene.subscribe(self, topics=("satellite_tiles", "bev", "matches", "markers", "path"))

    def say_where_it_is(self, message: PoseWithCovarianceStamped) -> None:
        """Publish an initial pose, as soon as the node listens."""
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._initial_pose.get_subscription_count():
            if time.monotonic() > deadline:
                raise LiveRunError("the node does not listen to initialpose")
            time.sleep(0.05)
        time.sleep(_DISCOVERY)
        self._initial_pose.publish(message)

    def _diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.heard.diagnostics[status.name.removeprefix("cvloc: ")] = (status.level, status.message)
            self.heard.dropped = int(next((v.value for v in status.values if v.key == "dropped"), self.heard.dropped))

    def _frame(self, message: Any) -> None:
        self.heard.frames.append(frame_status.decode(message))
        self.heard.last_frame = time.monotonic()

    def _picture(self, message: Any) -> None:
        scene = self.heard.scene
        scene.take("debug/overlay", message)
        assert scene.overlay is not None
        self.heard.samples.append(Sample(scene.overlay_stamp, encode_jpeg(scene.overlay)))


def run_live(
    source: str | Path,
    imagery: str,
    *,
    datum: LocalFrame | None = None,
    parameters: Mapping[str, Any] | None = None,
    initial_pose: tuple[SE2, np.ndarray] | None = None,
    rate: float = 1.0,
    log: Path | None = None,
    progress: Callable[[float, Heard], None] = lambda share, heard: None,
) -> RunResult:
    """Play a bag into the node and return its run, judged as an offline run is.

    Args:
        source: a rosbag2.
        imagery: see `cvloc_ros.imagery`.
        datum: of the map; None for the bag's own. The bag's truth must be in its map.
        parameters: more parameters of the node, e.g. {"device": "cpu"}.
        initial_pose: ``T_map_base`` at the start and its 3x3 covariance, to be published as ``initialpose``.
        rate: of the player.
        log: file for what node and player print; it is also in the error if something fails.
        progress: is called several times a second with the share that is done, and what has been heard.

    Raises:
        LiveRunError: the node did not start, or ended early.
        BagError: the bag cannot be read.

    """
    bag = Bag.open(source)
    map_frame = datum or bag.datum
    if map_frame is None:
        raise LiveRunError(f"expected a datum: '{source}' has no fix, and none was given")
    environment = local_environment(os.environ)
    os.environ.update(environment)  # this process's own participant must match
    log_path = log or Path(os.devnull)
    with log_path.open("wb") as output:
        context = Context()
        rclpy.init(context=context)
        listener = Listener(context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(listener)
        node = player = None
        try:
            node = start(node_command(bag, imagery, map_frame, parameters or {}), environment, output)
            _spin(executor, lambda: _is_ready(listener.heard), alive=[node], timeout=_START_TIMEOUT, log=log_path)
            if initial_pose is not None:
                listener.say_where_it_is(to_pose_with_covariance(*initial_pose, stamp=bag.start, frame_id="map"))
            player = start(player_command(bag, rate=rate), environment, output)

            def done() -> bool:
                frames = listener.heard.frames
                share = (frames[-1].stamp - bag.start) / max(1, bag.end - bag.start) if frames else 0.0
                progress(min(1.0, share), listener.heard)
                return player.poll() is not None and time.monotonic() - listener.heard.last_frame > _QUIET

            _spin(executor, done, alive=[node], timeout=None, log=log_path)
            if player.returncode:
                raise LiveRunError(f"the player failed:\n{_tail(log_path)}")
            heard = listener.heard
        finally:
            for process in (player, node):
                stop(process)
            executor.shutdown()
            listener.destroy_node()
            rclpy.try_shutdown(context=context)
    result = _result(bag, heard, datum=map_frame, imagery=imagery, parameters=parameters or {})
    return replace(result, initial_pose=None if initial_pose is None else initial_pose[0])


def _result(bag: Bag, heard: Heard, *, datum: LocalFrame, imagery: str, parameters: Mapping[str, Any]) -> RunResult:
    """Put the node's frames next to the bag's own fixes, odometry and truth."""
    method = parameters.get("method", "vote_flow")
    result = RunResult(
        source=bag.source,
        imagery=imagery,
        method=method,
        weights=parameters.get("weights", f"{method}.safetensors"),
        device=parameters.get("device", "auto"),
        datum=datum,
        frames=heard.frames,
        fixes=[],
        odometry=[],
        truth=[],
        lever_arm=np.asarray(bag.gnss_lever_arm, dtype=float),
        dropped=heard.dropped,
        samples=heard.samples,
        settings={"topics": bag.topics, "parameters": dict(parameters)},
        attribution=SatelliteMap.open(imagery, datum).attribution,
        notes=[],
    )
    for event in bag:
        if isinstance(event, OdometryEvent):
            result.odometry.append((event.stamp, event.T_odom_base))
        elif isinstance(event, FixEvent):
            position = datum.to_enu(event.latitude, event.longitude)
            result.fixes.append(FixRecord(event.stamp, position, event.covariance))
        elif isinstance(event, TruthEvent):
            result.truth.append((event.stamp, event.T_map_base))
    result.notes.extend(bag.notes)
    return result.with_truth()


def _is_ready(heard: Heard) -> bool:
    """Whether the node is active; a node that cannot be configured raises what it says."""
    level, text = heard.diagnostics.get("node", (b"", ""))
    if text.startswith("not configured"):
        why = heard.diagnostics.get("imagery", (b"", ""))[1]
        raise LiveRunError(f"the node is {text}" + (f" ({why})" if why not in ("", "OK") else ""))
    return text == "OK" and level == b"\x00"


def _spin(
    executor: SingleThreadedExecutor,
    until: Callable[[], bool],
    *,
    alive: list[Process],
    timeout: float | None,
    log: Path,
) -> None:
    deadline = time.monotonic() + timeout if timeout is not None else None
    while not until():
        executor.spin_once(timeout_sec=0.2)
        if any(process.poll() is not None for process in alive):
            raise LiveRunError(f"the node ended early:\n{_tail(log)}")
        if deadline is not None and time.monotonic() > deadline:
            raise LiveRunError(f"the node was not ready within {timeout:g} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(lines[-15:])
