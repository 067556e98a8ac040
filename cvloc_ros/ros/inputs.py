"""The node's subscriptions: messages are checked, converted, and handed to the session; images go to the worker.

Nothing is synchronized by message filters (they starve after a bag has looped). Odometry and fixes go to the session,
which knows the pose at any stamp; an image waits, for a bounded time, until odometry of its own stamp is there.

A message that cannot be used is counted and reported (`Health.report`); what it says is never guessed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped, TwistWithCovariance
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import (
    fix_event,
    imu_orientation,
    odometry_twist,
    planar_covariance,
    pose_matrix,
)
from cvloc_ros.geometry import SE2, LocalFrame
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.stamp_order import JUMP
from cvloc_ros.ros import qos
from cvloc_ros.ros.camera_input import CameraInput
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.conversions import to_nanoseconds, twist_of_base
from cvloc_ros.ros.drive_time import DriveTime
from cvloc_ros.ros.health import Health, blame
from cvloc_ros.ros.input_health import InputHealth
from cvloc_ros.ros.mounts import Mounts

_SECOND = 1_000_000_000
_SIGMA_OF_A_CLICK = np.diag([2.0, 2.0, np.radians(10)])  # of an initial pose that comes without covariance
_CLOCK_SLACK = 5 * _SECOND  # between the stamps of GNSS and odometry
_HEADING_PERIOD = _SECOND // 10  # an IMU sends more often than its heading has news
_AHEAD = 20  # messages in a row from the future: they are no remains of a bag's end


class Inputs:
    """All subscriptions of the active node.

    Callbacks: ``on_image(message)`` for every image; ``on_odometry(message, stamp)`` after the session has it, with
    the twist of base_link;
    ``on_fix(position, stamp)`` likewise, metres in the map.
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        *,
        datum: LocalFrame,
        session: LocalizationSession,
        mounts: Mounts,
        health: Health,
        time: DriveTime,
        on_image: Callable[[Any], None],
        on_odometry: Callable[[Odometry, int], None],
        on_fix: Callable[[np.ndarray, int], None],
    ) -> None:
        """Subscribe to everything."""
        self._node, self._config, self._datum, self._time = node, config, datum, time
        self._session, self._mounts, self._health = session, mounts, health
        self._on_image, self._on_odometry, self._on_fix = on_image, on_odometry, on_fix
        self._odometry_came = threading.Condition()
        self._ahead: Counter[str] = Counter()  # messages in a row, by status
        self._subscriptions: list[Any] = []
        self._watched: dict[str, InputHealth] = {}
        self.reset()

        # What remaps and namespaces make of image holds for its compressed sibling too, as with image_transport.
        image, image_topic = Image, node.resolve_topic_name("image")
        said = config.camera.rectified
        rectified = said == "yes" or (said == "auto" and "rect" in image_topic.rsplit("/", 1)[-1])
        self.camera = CameraInput(rectified=rectified, mounts=mounts, health=health)
        """Makes frames of image messages."""
        if config.camera.transport == "compressed":
            image, image_topic = CompressedImage, f"{image_topic}/compressed"
        subscribe = self._subscribe
        subscribe("image", image, image_topic, self._image, qos.IMAGE)
        subscribe("camera_info", CameraInfo, "camera_info", self.camera.camera_info, what="CameraInfo", once=True)
        subscribe("odometry", Odometry, "odom", self._odometry)
        subscribe("gnss", NavSatFix, "fix", self._fix, what="GNSS fix")
        if config.imu.absolute:
            subscribe("imu", Imu, "imu", self._imu, what="IMU")
        self._subscriptions.append(
            node.create_subscription(PoseWithCovarianceStamped, "initialpose", self._initial_pose, qos.SENSOR)
        )
        health.watch(self._watched)

    def close(self) -> None:
        """End all subscriptions."""
        self._health.watch({})
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def reset(self) -> None:
        """Forget all stamps."""
        self._newest_image = self._newest_heading = -JUMP
        self._odometry_delay: int | None = None  # from its stamp until it came, by the node's time
        with self._odometry_came:
            self.newest_odometry: int | None = None
            self._odometry_came.notify_all()

    def wait_for_odometry(self, stamp: int, timeout: float) -> bool:
        """Block until odometry at or after a stamp is there, for at most ``timeout`` seconds of real time.

        Returns:
            Whether it is.

        """
        with self._odometry_came:
            self._odometry_came.wait_for(lambda: self.newest_odometry is None or self.newest_odometry >= stamp, timeout)
            return self.newest_odometry is not None and self.newest_odometry >= stamp

    # Callbacks

    def _image(self, message: Image | CompressedImage) -> None:
        stamp = self._stamp("image", message)
        if stamp is None:
            return
        # A step back by more is a bag that loops, or a camera of another clock: the session will see.
        if self._newest_image - JUMP < stamp <= self._newest_image:
            self._out_of_order("image")
            return
        self._health.fine("image", "out_of_order")
        self._newest_image = stamp
        self._on_image(message)

    def _odometry(self, message: Odometry) -> None:
        stamp = self._stamp("odometry", message)
        if stamp is None:
            return
        if not self._time.odometry(stamp):
            self._out_of_order("odometry")
            return
        try:
            T_odom_child = pose_matrix(message.pose.pose)
        except ConversionError as error:
            self._health.report("odometry", "unusable", f"odometry on {self._topic('odometry')} is unusable: {error}")
            return
        T_base_child = self._mounts.place("odometry", message.child_frame_id or self._config.frames.base)
        if T_base_child is None:
            return
        self._health.fine("odometry")
        if not np.isfinite(odometry_twist(message)).all():
            message.twist = TwistWithCovariance()  # it is only passed on, and NaN would poison who listens
        elif not np.array_equal(T_base_child, np.eye(4)):
            message.twist = twist_of_base(message.twist, T_base_child)
        now = self._time.now
        self._odometry_delay = now - stamp if now else None  # 0: /clock is not there yet
        self._session.on_odometry(stamp, SE2.from_matrix(T_odom_child @ np.linalg.inv(T_base_child)))
        with self._odometry_came:
            self.newest_odometry = stamp
            self._odometry_came.notify_all()
        self._on_odometry(message, stamp)

    def _fix(self, message: NavSatFix) -> None:
        topic, health = self._topic("gnss"), self._health
        if self._stamp("gnss", message) is None:
            return
        try:
            fix = fix_event(message)
        except ConversionError as error:
            health.report("gnss", "unusable", f"fixes on {topic} are not used: {error}")
            return
        health.fine("gnss", "unusable")
        if message.position_covariance_type != NavSatFix.COVARIANCE_TYPE_UNKNOWN and fix.covariance is None:
            text = f"fixes on {topic} state a covariance that is zero or none: tracker.gnss_default_sigma is used"
            health.report("gnss", "covariance", text)
        else:
            health.fine("gnss", "covariance")
        # Each against the node's time when it came, not one against the other: odometry may have fallen silent.
        delay = self._odometry_delay
        apart = 0 if delay is None else delay - (self._time.now - fix.stamp)
        if abs(apart) > _CLOCK_SLACK:
            text = f"fixes on {topic} are not used: stamped {apart / _SECOND:+.1f} s from odometry; their clocks differ"
            health.report("gnss", "clock", text)
            return
        health.fine("gnss", "clock")
        antenna = self._mounts.place("gnss", fix.frame_id)
        if antenna is None:
            return
        position = self._datum.to_enu(fix.latitude, fix.longitude)
        self._session.on_fix(fix.stamp, position, fix.covariance, antenna[:2, 3])
        self._on_fix(position, fix.stamp)

    def _imu(self, message: Imu) -> None:
        stamp = self._stamp("imu", message)
        if stamp is None or self._newest_heading - JUMP < stamp < self._newest_heading + _HEADING_PERIOD:
            return
        self._newest_heading = stamp
        try:
            R_map_imu, sigma = imu_orientation(message)
        except ConversionError as error:
            self._health.report("imu", "unusable", f"the heading on {self._topic('imu')} is not used: {error}")
            return
        self._health.fine("imu")
        T_base_imu = self._mounts.place("imu", message.header.frame_id)
        if T_base_imu is None:
            return
        forward = R_map_imu @ T_base_imu[0, :3]  # base_link's x axis, seen from the IMU, in the map
        yaw = np.arctan2(forward[1], forward[0]) + np.radians(self._config.imu.yaw_offset)
        self._session.on_heading(stamp, float(yaw), sigma or np.radians(self._config.imu.sigma))

    def _initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        # A click deserves an answer each time; what comes by the hundred does not.
        map_frame, log, throttle = self._config.frames.map, self._node.get_logger(), {"throttle_duration_sec": 2.0}
        topic = self._node.resolve_topic_name("initialpose")
        if message.header.frame_id.lstrip("/") != map_frame:
            came = message.header.frame_id
            text = (
                f"the pose on {topic} is not used: expected it in '{map_frame}', got '{came}'; set RViz's fixed frame"
            )
            log.warning(text, **throttle)
            return
        try:
            pose = SE2.from_matrix(pose_matrix(message.pose.pose))
        except ConversionError as error:
            log.warning(f"the pose on {topic} is not used: {error}", **throttle)
            return
        covariance = planar_covariance(message.pose.covariance)
        covariance = _SIGMA_OF_A_CLICK**2 if covariance is None else covariance
        self._session.set_pose(to_nanoseconds(message.header.stamp), pose, covariance)
        log.info(f"starting from the given pose {pose.x:.1f}, {pose.y:.1f}", **throttle)

    # Inner workings

    def _subscribe(
        self,
        status: str,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile = qos.SENSOR,
        *,
        what: str = "",
        once: bool = False,
    ) -> None:
        resolved = self._node.resolve_topic_name(topic)
        package, name = message_type.__module__.split(".")[0], message_type.__name__
        self._watched[status] = watched = InputHealth(what or status, resolved, f"{package}/msg/{name}", once)

        def received(message: Any) -> None:
            stamp = to_nanoseconds(message.header.stamp)
            watched.note((self._time.now - stamp) / _SECOND if stamp else None)
            try:
                callback(message)
            except Exception as error:  # must neither end the node nor stay hidden
                if self._node.context.ok():
                    self._health.report(status, "refused", f"a message on {resolved} was not taken in: {blame(error)}")
            else:
                self._health.fine(status, "refused")

        def incompatible(complaint: str, lasts: Callable[[], bool]) -> None:
            self._health.report(status, "qos", complaint, lasts=lasts)

        self._subscriptions.append(
            qos.subscribe(self._node, message_type, topic, received, profile, on_incompatible=incompatible)
        )

    def _topic(self, status: str) -> str:
        return self._watched[status].topic

    def _stamp(self, status: str, message: Any) -> int | None:
        """Return a message's stamp, nanoseconds; None if the message is not of the drive."""
        stamp = to_nanoseconds(message.header.stamp)
        if stamp == 0:
            text = f"messages on {self._topic(status)} are not used: their stamp is zero; let their driver set it"
            self._health.report(status, "unstamped", text)
            return None
        self._health.fine(status, "unstamped")
        if self._time.is_of_this_pass(stamp):
            self._ahead[status] = 0
            self._health.fine(status, "ahead")
            return stamp
        self._ahead[status] += 1
        if self._ahead[status] > _AHEAD:
            ahead = (stamp - self._time.now) / _SECOND
            text = f"messages on {self._topic(status)} are not used: stamped {ahead:.1f} s ahead of /clock"
            self._health.report(status, "ahead", text)
        return None

    def _out_of_order(self, status: str) -> None:
        text = f"a message on {self._topic(status)} was left out: its stamp does not follow that of the one before"
        self._health.report(status, "out_of_order", text)
