"""From image message to published pose: what runs while the node is active.

The executor's thread runs the short callbacks of `Inputs`; one worker thread runs the network on the newest image.
Both talk to the `LocalizationSession`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

from nav_msgs.msg import Odometry
from rclpy.node import Node

from cvloc_ros.evaluation.records import FrameRecord
from cvloc_ros.geometry import LocalFrame
from cvloc_ros.imagery import ImageryError
from cvloc_ros.localization.gate import REASONS
from cvloc_ros.localization.session import ImageResult, LocalizationSession
from cvloc_ros.localization.types import Frame, Localization
from cvloc_ros.ros.camera_input import NotReady
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.drive_time import DriveTime
from cvloc_ros.ros.frame_statistics import sigmas
from cvloc_ros.ros.health import Health, blame
from cvloc_ros.ros.inputs import Inputs
from cvloc_ros.ros.mounts import Mounts
from cvloc_ros.ros.outputs import Outputs
from cvloc_ros.ros.tf import Transforms
from cvloc_ros.ros.worker import NewestWorker


class _Image(NamedTuple):
    """An image message, and when it came (time.perf_counter)."""

    message: Any
    came: float


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
        self.enabled = True
        """Whether images are localized; odometry and fixes are followed in any case."""
        self.time_jumps = 0
        """How often time has jumped back."""
        self.time = DriveTime(node, on_jump=self._time_jumped)
        """Which time the drive is in."""
        self._worker: NewestWorker[_Image] = NewestWorker(
            self._localize, on_drop=health.frames.drop, on_error=self._failed
        )
        self._inputs = Inputs(
            node,
            config,
            datum=datum,
            session=session,
            mounts=Mounts(config.frames, transforms, health),
            health=health,
            time=self.time,
            on_image=self._image_came,
            on_odometry=self._odometry_came,
            on_fix=outputs.fix,
        )
        health.provide("tracker", self._track)
        self.reset()

    def close(self) -> None:
        """Unsubscribe, and wait for the image under way."""
        self.time.close()
        self._worker.stop()  # before health forgets the inputs, of which the image under way may have to tell
        self._inputs.close()
        self._health.withdraw("tracker")

    def reset(self) -> None:
        """Forget everything that the drive has brought so far."""
        self._worker.clear()
        self.time.reset()
        self._inputs.reset()
        self._session.reset()
        self._outputs.reset()
        self._transforms.clear()
        self._health.frames.reset()

    def _track(self) -> dict[str, str]:
        """Return the tracker's values for /diagnostics."""
        status = self._session.status()
        values = {"waiting_for": status.waiting_for, "hypotheses": str(status.hypotheses)}
        known = self._session.pose(self._inputs.newest_odometry or 0)
        if known is None:
            return values
        along, across, heading = sigmas(*known)
        return values | {
            "sigma_along_m": f"{along:.2f}",
            "sigma_across_m": f"{across:.2f}",
            "sigma_heading_deg": f"{heading:.2f}",
        }

    # The executor's thread

    def _time_jumped(self, seconds: float) -> None:
        self.time_jumps += 1
        self._node.get_logger().info(f"time jumped back by {-seconds:.1f} s (a bag that starts again): starting anew")
        self.reset()

    def _image_came(self, message: Any) -> None:
        if self.enabled:
            self._worker.put(_Image(message, time.perf_counter()))

    def _odometry_came(self, message: Odometry, stamp: int) -> None:
        self._outputs.odometry(message, stamp)

    # The worker's thread

    def _localize(self, image: _Image) -> None:
        taken = time.perf_counter()
        stamp = to_nanoseconds(image.message.header.stamp)
        if not self._inputs.wait_for_odometry(stamp, self._node.get_parameter("odometry_wait").value):
            self._health.frames.late_odometry()
        waited = time.perf_counter()
        try:
            frame = self._inputs.camera.frame(image.message)
            decoded = time.perf_counter()
            result = self._try(frame)
        except NotReady as missing:
            self._finish(self._untried(stamp, missing.reason), message=REASONS[missing.reason])
            return
        if result.localization is not None:
            self._outputs.localization(result.localization)
        total = 1e3 * (time.perf_counter() - image.came)
        record = FrameRecord.of(stamp, result, self._session, decode=1e3 * (decoded - waited), total=total)
        before = {"queue": 1e3 * (taken - image.came), "wait": 1e3 * (waited - taken)}
        record = replace(record, milliseconds={**before, **record.milliseconds} if result.localization else {})
        self._finish(record, result.localization, message=result.message)
        if result.localization is not None:
            self._outputs.picture(frame, result.localization)
        if self._worker.has_time:
            self._session.look_ahead()

    def _try(self, frame: Frame) -> ImageResult:
        """Localize; what the localizer raises becomes a reason."""
        try:
            result = self._session.on_image(frame)
        except ImageryError as error:
            self._health.report("imagery", "unreadable", str(error))
            raise NotReady("no_imagery") from error
        except Exception as error:  # one bad image must not end the drive, nor go unseen
            if self._node.context.ok():  # else ROS has been shut down under the last image
                self._health.report("localization", "failed", f"the localizer failed: {blame(error)}")
            raise NotReady("failed") from error
        if result.localization is not None:
            self._health.fine("localization", "failed")
            self._health.fine("imagery", "unreadable")
        return result

    def _untried(self, stamp: int, reason: str) -> FrameRecord:
        return FrameRecord(stamp, False, reason, state=self._session.status().state.value)

    def _finish(self, record: FrameRecord, localization: Localization | None = None, *, message: str) -> None:
        self._health.frames.note(record.reason, record.milliseconds, localization, message=message)
        self._health.tracker(self._session.status(), silence=self._node.get_parameter("health.silence").value)
        self._outputs.frame_status(record)

    def _failed(self, error: Exception) -> None:
        if self._node.context.ok():
            self._health.report("localization", "failed", f"an image was not looked at: {blame(error)}")
