"""From image message to published pose: what runs while the node is active.

The executor's thread runs the short callbacks of `Inputs`; one worker thread runs the network on the newest image.
Both talk to the `LocalizationSession`.
"""

from __future__ import annotations

import time
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node

from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery import ImageryError
from cvloc_ros.localization.gate import REASONS
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.health import Health, blame
from cvloc_ros.ros.inputs import Inputs, NotReady
from cvloc_ros.ros.outputs import Outputs
from cvloc_ros.ros.tf import Transforms
from cvloc_ros.ros.worker import NewestWorker


class Pipeline:
    """Inputs, worker and outputs, tied together."""

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        *,
        datum: LocalFrame,
        session: LocalizationSession,
        outputs: Outputs,
        transforms: Transforms,
        health: Health,
    ) -> None:
        """Subscribe and start the worker; what was known when the node was last active is forgotten."""
        self._node, self._session, self._outputs = node, session, outputs
        self._transforms, self._health = transforms, health
        self._began = time.monotonic()
        self.enabled = True
        """Whether images are localized; odometry and fixes are followed in any case."""
        self._worker: NewestWorker[Any] = NewestWorker(self._localize, on_drop=self._dropped, on_error=self._failed)
        self._inputs = Inputs(
            node,
            config,
            datum=datum,
            session=session,
            transforms=transforms,
            health=health,
            on_image=self._image_came,
            on_odometry=self._odometry_came,
            on_fix=outputs.fix,
            on_jump=self.time_jumped,
        )
        self.reset()

    @property
    def without_clock_for(self) -> float:
        """Seconds of real time for which use_sim_time has been set and /clock has not come; 0 if all is well."""
        simulated = self._node.get_parameter("use_sim_time").value
        missing = simulated and self._node.get_clock().now().nanoseconds == 0
        return time.monotonic() - self._began if missing else 0.0

    def close(self) -> None:
        """Unsubscribe, and wait for the image under way."""
        self._inputs.close()
        self._worker.stop()

    def reset(self) -> None:
        """Forget everything that the drive has brought so far."""
        self._worker.clear()
        self._inputs.reset()
        self._session.reset()
        self._outputs.reset()
        self._transforms.clear()
        self._health.reset_statistics()

    def time_jumped(self, seconds: float) -> None:
        """Start anew after a jump back in time."""
        self._node.get_logger().info(f"time jumped back by {-seconds:.1f} s (a bag that starts again): starting anew")
        self.reset()

    # The executor's thread

    def _image_came(self, message: Any) -> None:
        if self.enabled:
            self._worker.put(message)

    def _odometry_came(self, message: Odometry, stamp: int) -> None:
        self._outputs.odometry(message, stamp)

    def _dropped(self) -> None:
        self._health.drop()

    # The worker's thread

    def _localize(self, message: Any) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self._inputs.wait_for_odometry(stamp, self._node.get_parameter("odometry_wait").value)
        started = time.perf_counter()
        try:
            frame = self._inputs.frame(message)
        except NotReady as missing:
            record = FrameRecord(stamp, False, missing.reason, state=self._session.status().state.value)
            self._finish(record, message=REASONS[missing.reason])
            return
        decoded = time.perf_counter()
        result = self._session.on_image(frame)
        localization = result.localization
        if localization is not None:
            self._outputs.localization(localization)
        finished = time.perf_counter()
        spent = {"decode": 1e3 * (decoded - started), "total": 1e3 * (finished - started)}
        self._finish(FrameRecord.of(stamp, result, self._session, **spent), message=result.message)
        self._health.fine("localization")
        self._health.fine("imagery")
        if localization is not None:
            self._outputs.picture(frame, localization)

    def _finish(self, record: FrameRecord, *, message: str) -> None:
        self._health.frame(record.reason, record.milliseconds.get("total", 0.0), message=message)
        self._outputs.frame_status(record)

    def _failed(self, error: Exception) -> None:
        if not self._node.context.ok():  # ROS has been shut down under the last image
            return
        if isinstance(error, ImageryError):
            self._health.problem("imagery", str(error))
            return
        self._health.problem("localization", f"the localizer failed: {blame(error)}")
