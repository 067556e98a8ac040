"""The node's subscriptions: messages are checked, converted, and handed to the session; images become frames.

Nothing is synchronized by message filters (they starve after a bag has looped). Odometry and fixes go to the session,
which knows the pose at any stamp; the newest CameraInfo counts; an image waits, for a bounded time, until odometry of
its own stamp is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix
from std_msgs.msg import Header

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import camera_of, fix_event, planar_covariance, pose_matrix
from cvloc_ros.datasets.transform_tree import MissingTransform
from cvloc_ros.geometry import SE2, LocalFrame, PinholeCamera
from cvloc_ros.localization.session import LocalizationSession
from cvloc_ros.localization.types import Frame
from cvloc_ros.ros import images, qos
from cvloc_ros.ros.config import NodeConfig
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.health import ERROR, WARN, Health, InputHealth, blame
from cvloc_ros.ros.tf import Transforms

_SECOND = 1_000_000_000
_SIGMA_OF_A_CLICK = np.diag([2.0, 2.0, np.radians(10)])  # of an initial pose that comes without covariance


class NotReady(Exception):
    """An image cannot become a frame; ``reason`` (a key of `REASONS`) is counted, and health already knows why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Inputs:
    """All subscriptions of the active node.

    Callbacks: ``on_image(message)`` for every image; ``on_odometry(message, stamp)`` after the session has it;
    ``on_fix(position, stamp)`` likewise, metres in the map; ``on_jump(seconds)`` when odometry shows that time has
    jumped back (a bag that started again).
    """

    def __init__(
        self,
        node: Node,
        config: NodeConfig,
        *,
        datum: LocalFrame,
        session: LocalizationSession,
        transforms: Transforms,
        health: Health,
        on_image: Callable[[Any], None],
        on_odometry: Callable[[Odometry, int], None],
        on_fix: Callable[[np.ndarray, int], None],
        on_jump: Callable[[float], None],
    ) -> None:
        """Subscribe to everything."""
        self._node, self._config, self._datum = node, config, datum
        self._session, self._transforms, self._health = session, transforms, health
        self._on_image, self._on_odometry, self._on_fix, self._on_jump = on_image, on_odometry, on_fix, on_jump
        self._camera: PinholeCamera | None = None
        self._calibration: CameraInfo | None = None  # that the camera was made of, without its header
        self._unplaced: dict[str, str] = {}  # sensor -> why its place on the vehicle is unknown
        self._newest_odometry: int | None = None
        self._odometry_came = threading.Condition()
        self._subscriptions: list[Any] = []
        self._watched: dict[str, InputHealth] = {}

        # What remaps and namespaces make of image holds for its compressed sibling too, as with image_transport.
        image, image_topic = Image, node.resolve_topic_name("image")
        said = config.camera.rectified
        self._rectified = said == "yes" or (said == "auto" and "rect" in image_topic.rsplit("/", 1)[-1])
        if config.camera.transport == "compressed":
            image, image_topic = CompressedImage, f"{image_topic}/compressed"
        subscribe = self._subscribe
        subscribe("image", image, image_topic, self._image, qos.IMAGE)
        subscribe("camera_info", CameraInfo, "camera_info", self._camera_info, qos.SENSOR, what="CameraInfo", once=True)
        subscribe("odometry", Odometry, "odom", self._odometry, qos.SENSOR)
        subscribe("gnss", NavSatFix, "fix", self._fix, qos.SENSOR, what="GNSS fix", level=WARN)
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
        """Forget the odometry's time."""
        with self._odometry_came:
            self._newest_odometry = None

    def wait_for_odometry(self, stamp: int, timeout: float) -> None:
        """Block until odometry at or after a stamp is there, for at most ``timeout`` seconds of real time."""
        with self._odometry_came:
            self._odometry_came.wait_for(
                lambda: self._newest_odometry is None or self._newest_odometry >= stamp, timeout
            )

    def frame(self, message: Image | CompressedImage) -> Frame:
        """Make a frame of an image message.

        Raises:
            NotReady: something that belongs to it is missing or unusable.

        """
        camera = self._camera  # the executor's thread may replace it
        if camera is None:
            raise NotReady("no_camera_info")
        T_base_camera = self._sensor("camera", self._config.frames.camera or message.header.frame_id)
        if T_base_camera is None:
            raise NotReady("no_transform")
        try:
            compressed = isinstance(message, CompressedImage)
            image = images.from_compressed_image(message) if compressed else images.from_image(message)
            frame = Frame(to_nanoseconds(message.header.stamp), image, camera, T_base_camera)
        except ValueError as error:
            self._health.problem("image", f"images on {self._watched['image'].topic} are unusable: {error}")
            raise NotReady("bad_image") from error
        self._health.fine("image")
        return frame

    # Callbacks

    def _image(self, message: Image | CompressedImage) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        if self._is_of_this_pass(stamp):
            self._on_image(message)

    def _camera_info(self, message: CameraInfo) -> None:
        message.header = Header()
        if message == self._calibration:  # as ever; a camera made anew would have its ground projected anew
            return
        self._calibration, self._camera = message, None
        try:
            self._camera = camera_of(message, rectified=self._rectified)
            self._health.fine("camera_info")
        except ConversionError as error:
            topic = self._watched["camera_info"].topic
            self._health.problem("camera_info", f"the CameraInfo on {topic} is unusable: {error}")

    def _odometry(self, message: Odometry) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        if not self._is_of_this_pass(stamp):
            return
        if self._newest_odometry is not None and stamp < self._newest_odometry - _SECOND:
            self._on_jump((stamp - self._newest_odometry) / _SECOND)
        try:
            T_odom_child = pose_matrix(message.pose.pose)
        except ConversionError as error:
            self._health.problem("odometry", f"odometry on {self._watched['odometry'].topic} is unusable: {error}")
            return
        T_base_child = self._sensor("odometry", message.child_frame_id or self._config.frames.base)
        if T_base_child is None:
            return
        self._health.fine("odometry")
        T_odom_base = SE2.from_matrix(T_odom_child @ np.linalg.inv(T_base_child))
        self._session.on_odometry(stamp, T_odom_base)
        with self._odometry_came:
            self._newest_odometry = stamp
            self._odometry_came.notify_all()
        self._on_odometry(message, stamp)

    def _fix(self, message: NavSatFix) -> None:
        try:
            fix = fix_event(message)
        except ConversionError as error:
            topic = self._watched["gnss"].topic
            self._health.problem("gnss", f"fixes on {topic} are not used: {error}", level=WARN)
            return
        self._health.fine("gnss")
        antenna = self._sensor("gnss", self._config.frames.gnss or fix.frame_id)
        if antenna is None or not self._is_of_this_pass(fix.stamp):
            return
        position = self._datum.to_enu(fix.latitude, fix.longitude)
        self._session.on_fix(fix.stamp, position, fix.covariance, antenna[:2, 3])
        self._on_fix(position, fix.stamp)

    def _initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        map_frame, log = self._config.frames.map, self._node.get_logger()
        if message.header.frame_id.lstrip("/") != map_frame:
            log.warning(
                f"initialpose ignored: expected it in '{map_frame}', got '{message.header.frame_id}'; "
                f"set RViz's fixed frame to '{map_frame}'"
            )
            return
        try:
            pose = SE2.from_matrix(pose_matrix(message.pose.pose))
        except ConversionError as error:
            log.warning(f"initialpose ignored: {error}")
            return
        covariance = planar_covariance(message.pose.covariance)
        covariance = _SIGMA_OF_A_CLICK**2 if covariance is None else covariance
        self._session.set_pose(to_nanoseconds(message.header.stamp), pose, covariance)
        log.info(f"starting from the given pose {pose.x:.1f}, {pose.y:.1f}")

    # Inner workings

    def _subscribe(
        self,
        status: str,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile,
        *,
        what: str = "",
        level: bytes = ERROR,
        once: bool = False,
    ) -> None:
        resolved = self._node.resolve_topic_name(topic)
        package, name = message_type.__module__.split(".")[0], message_type.__name__
        watched = InputHealth(what or status, resolved, f"{package}/msg/{name}", level, once)
        self._watched[status] = watched

        def received(message: Any) -> None:
            self._health.note(status)
            try:
                callback(message)
            except Exception as error:  # must neither end the node nor stay hidden
                if self._node.context.ok():
                    self._health.problem(status, f"a message on {resolved} was not taken in: {blame(error)}")

        self._subscriptions.append(self._node.create_subscription(message_type, topic, received, profile))

    def _sensor(self, sensor: str, frame_id: str) -> np.ndarray | None:
        """Return ``T_base_sensor`` (4x4), or None and a problem if it is unknown."""
        base = self._config.frames.base
        T: np.ndarray | None
        try:
            if not frame_id:
                raise MissingTransform(f"its messages carry no frame_id; set the parameter frames.{sensor}")
            T = self._transforms.lookup(base, frame_id)
            if sensor == "camera" and T[2, 3] <= 0:
                raise MissingTransform(
                    f"expected it above the ground, got z = {T[2, 3]:.2f} m from '{base}' to '{frame_id}'; "
                    f"'{base}' must lie on the ground, and the camera's height over it must be published"
                )
            self._unplaced.pop(sensor, None)
        except MissingTransform as error:
            self._unplaced[sensor] = f"the {sensor}'s place on the vehicle is unknown: {error}"
            T = None
        if self._unplaced:
            self._health.problem("transforms", next(iter(self._unplaced.values())))
        else:
            self._health.fine("transforms")
        return T

    def _is_of_this_pass(self, stamp: int) -> bool:
        """Whether a message belongs to the time that /clock shows, not to the end of a bag that has just looped."""
        now = self._node.get_clock().now().nanoseconds
        simulated = self._node.get_parameter("use_sim_time").value
        return not simulated or now == 0 or stamp < now + _SECOND
