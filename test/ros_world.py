"""A real node in a process of its own, and a vehicle that talks to it over DDS: for the tests of ros/."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix
from tf2_msgs.msg import TFMessage

from cvloc_ros.geometry import SE2, LocalFrame, camera_extrinsics
from cvloc_ros.ros import frame_status, qos
from cvloc_ros.ros.conversions import to_nanoseconds, to_stamp, to_transform
from cvloc_ros.ros.environment import local_environment

DATUM = LocalFrame(48.2082, 16.3738)
WIDTH, HEIGHT = 208, 64
SPEED = 8.0  # m/s, due east


def free_domain() -> int:
    """Return a ROS domain that nobody on this machine uses: discovery of each domain has ports of its own.

    Tests that run side by side (`make test`) choose among different ones.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    own = np.arange(1 + int(worker.removeprefix("gw")), 100, int(workers))
    for domain in np.random.default_rng().permutation(own):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7400 + 250 * int(domain) + 10))
                return int(domain)
            except OSError:
                continue
    raise RuntimeError("all ROS domains are taken")


def environment(domain: int, log: Path) -> dict[str, str]:
    """Return the environment of a test's process."""
    return {**local_environment(os.environ, domain=domain), "ROS_LOG_DIR": str(log), "OMP_NUM_THREADS": "1"}


def write_imagery(path: Path) -> None:
    """Write 400 m x 400 m of structured ground around the datum, in the map's own projection."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 220, (40, 40, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (800, 800), interpolation=cv2.INTER_CUBIC)
    transform = rasterio.transform.from_origin(-200, 200, 0.5, 0.5)
    with rasterio.open(
        path, "w", driver="GTiff", width=800, height=800, count=3, dtype="uint8", crs=DATUM.crs.to_wkt(),
        transform=transform,
    ) as raster:  # fmt: skip
        raster.write(np.moveaxis(image, -1, 0))


def write_confident_weights(path: Path) -> None:
    """Write an untrained network whose calibration claims that it is sure: enough to see poses come out."""
    import torch

    from cvloc_ros.localization.covariance import EVIDENCE, Calibration
    from cvloc_ros.models.vote_flow import VoteFlow
    from cvloc_ros.models.vote_flow_config import VoteFlowConfig
    from cvloc_ros.models.weights import save_weights

    torch.manual_seed(0)
    nothing = (0.0,) * len(EVIDENCE)
    calibration = Calibration(
        mean=nothing,
        deviation=(1.0,) * len(EVIDENCE),
        log_sigma=((1.5, *nothing), (1.5, *nothing), (-2.5, *nothing)),
        quality=(3.0, *nothing),
        scale=1.0,
    )
    save_weights(VoteFlow(VoteFlowConfig()), path, {"calibration": calibration.to_card()})


class NodeProcess:
    """The localizer as `ros2 run` would start it; its log is in ``log``."""

    def __init__(self, domain: int, folder: Path, *arguments: str) -> None:
        self.log = folder / "node.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cvloc_ros.ros.node", *arguments],
                env=environment(domain, folder),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it as Ctrl-C would."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)


class Vehicle:
    """Publishes a drive due east, in real time, and keeps what the node answers.

    What it leaves out can be chosen, and changed while it drives: the flags odometry, odometry_transforms,
    camera_info, fixes, images, imu, standing. What it sends can be spoilt: ``spoil[name](message)`` may change any
    message of odometry, transforms, fix, imu, camera_info or image before it is sent. In a storm, everything with a
    header is sent ``storm`` times, a millisecond apart by its stamps.
    """

    def __init__(self, domain: int) -> None:
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("vehicle", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        create = self.node.create_publisher
        self._image = create(Image, "image", qos_profile_sensor_data)
        self._compressed = create(CompressedImage, "image/compressed", qos_profile_sensor_data)
        self._camera_info = create(CameraInfo, "camera_info", qos_profile_sensor_data)
        self._odometry = create(Odometry, "odom", 10)
        self._fix = create(NavSatFix, "fix", 10)
        self._imu = create(Imu, "imu", 10)
        self._static = create(TFMessage, "/tf_static", qos.STATIC_TF)
        self._moving = create(TFMessage, "/tf", qos.MOVING_TF)
        self.initial_pose = create(PoseWithCovarianceStamped, "initialpose", 10)
        self.start = 1_000 * 1_000_000_000
        self._heard: list = []  # subscriptions of one test
        self.renew()
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, 10)
        self.node.create_subscription(DiagnosticArray, "/cvloc/frame_status", self._frame_status, 10)

    def renew(self) -> None:
        """Begin a new test: drive from the start with everything on, and forget what was heard."""
        self.odometry = self.camera_info = self.fixes = self.images = True
        self.odometry_transforms = self.calibrated = self.compressed = True
        self.image_every = 1  # of how many images one is sent
        self.imu = self.standing = False
        self.spoil: dict[str, Callable[[Any], None]] = {}
        self.storm = 1
        self.image_stamps: set[int] = set()
        self.statuses: dict[str, object] = {}
        self.frames: list = []
        for subscription in self._heard:
            self.node.destroy_subscription(subscription)
        self._heard = []
        self.restart()

    def listen(self, message_type: type, topic: str, profile=10) -> list:
        """Subscribe; return the list into which messages go."""
        messages: list = []
        self._heard.append(self.node.create_subscription(message_type, topic, messages.append, profile))
        return messages

    def publish_transforms(self, *children: str) -> None:
        """Say where the sensors sit on the vehicle."""
        edges = []
        for child in children:
            edge = to_transform(SE2(1.0, 0.0, 0.0), stamp=0, parent="base_link", child=child)
            if child == "camera_optical":
                edge = _transform(camera_extrinsics(height=1.6, x=1.0), "base_link", child)
            edges.append(edge)
        self._static.publish(TFMessage(transforms=edges))

    def restart(self) -> None:
        """Begin the drive again, as a bag does that loops."""
        self.began = time.monotonic()
        self.sent = {"odometry": -1, "fix": -1, "image": -1}

    def until(self, happened, *, timeout: float = 60.0, drive: bool = True):
        """Drive until ``happened()`` is true, and return what it returned; fail after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (result := happened()):
            if time.monotonic() > deadline:
                said = {name: (status.level, status.message) for name, status in self.statuses.items()}
                raise AssertionError(f"did not happen within {timeout} s; the node says {said}")
            if drive:
                self._publish_due()
            self.executor.spin_once(timeout_sec=0.005)
        return result

    def status(self, name: str, *, level: bytes, containing: str = "", timeout: float = 60.0) -> str:
        """Drive until a status has a level and a text; return the text."""

        def found():
            status = self.statuses.get(name)
            return status is not None and status.level == level and containing in status.message and status

        return self.until(found, timeout=timeout).message

    def call(self, service_type, name: str, request):
        """Call a service and return its answer."""
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(10.0), f"no service {name}"
        future = client.call_async(request)
        self.until(future.done, drive=False)
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        """Leave ROS."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _publish_due(self) -> None:
        t = time.monotonic() - self.began
        for name, rate, publish in (
            ("odometry", 25, self._publish_odometry),
            ("fix", 5, self._publish_fix),
            ("image", 10, self._publish_image),
        ):
            while self.sent[name] < int(t * rate):
                self.sent[name] += 1
                seconds = self.sent[name] / rate
                if name == "image" and self.sent[name] % self.image_every:
                    continue
                publish(self.start + round(seconds * 1e9), 0.0 if self.standing else SPEED * seconds)

    def _send(self, publisher: Publisher, name: str, message: Any) -> None:
        self.spoil.get(name, lambda message: None)(message)
        publisher.publish(message)
        for _ in range(self.storm - 1 if hasattr(message, "header") else 0):
            message.header.stamp = to_stamp(to_nanoseconds(message.header.stamp) + 1_000_000)
            publisher.publish(message)

    def _publish_odometry(self, stamp: int, travelled: float) -> None:
        if self.imu:
            message = Imu(orientation_covariance=[1e-3, 0.0, 0.0, 0.0, 1e-3, 0.0, 0.0, 0.0, 1e-3])
            message.header.frame_id, message.header.stamp, message.orientation.w = "imu", to_stamp(stamp), 1.0
            self._send(self._imu, "imu", message)
        if not self.odometry:
            return
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id, message.header.stamp = "odom", to_stamp(stamp)
        message.pose.pose.position.x = travelled
        message.pose.pose.orientation.w = 1.0
        message.twist.twist.linear.x = SPEED
        self._send(self._odometry, "odometry", message)
        if self.odometry_transforms:
            edge = to_transform(SE2(travelled, 0.0, 0.0), stamp=stamp, parent="odom", child="base_link")
            self._send(self._moving, "transforms", TFMessage(transforms=[edge]))

    def _publish_fix(self, stamp: int, travelled: float) -> None:
        if not self.fixes:
            return
        latitude, longitude = DATUM.to_wgs84(np.array([travelled - 50.0, 0.0]))
        message = NavSatFix(latitude=float(latitude), longitude=float(longitude))
        message.header.frame_id, message.header.stamp = "gnss", to_stamp(stamp)
        message.status.status = 0
        message.position_covariance = np.diag([4.0, 4.0, 9.0]).ravel()
        message.position_covariance_type = 2
        self._send(self._fix, "fix", message)

    def _publish_image(self, stamp: int, travelled: float) -> None:
        pixels = np.random.default_rng(int(10 * travelled)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        if self.camera_info:
            info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
            info.header.frame_id, info.header.stamp = "camera_optical", to_stamp(stamp)
            if self.calibrated:
                info.k = [120.0, 0.0, 103.5, 0.0, 120.0, 31.5, 0.0, 0.0, 1.0]
            self._send(self._camera_info, "camera_info", info)
        if not self.images:
            return
        self.image_stamps.add(stamp)
        message = CompressedImage(format="jpeg") if self.compressed else Image(encoding="bgr8", step=3 * WIDTH)
        message.header.frame_id, message.header.stamp = "camera_optical", to_stamp(stamp)
        if self.compressed:
            message.data = cv2.imencode(".jpg", pixels)[1].tobytes()
            self._send(self._compressed, "image", message)
        else:
            message.height, message.width, message.data = HEIGHT, WIDTH, pixels.tobytes()
            self._send(self._image, "image", message)

    def _diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name.removeprefix("cvloc: "): status for status in message.status})

    def _frame_status(self, message: DiagnosticArray) -> None:
        self.frames.append(frame_status.decode(message))


def _transform(T: np.ndarray, parent: str, child: str) -> TransformStamped:
    """Return a message of a 4x4 transform."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    position, rotation = message.transform.translation, message.transform.rotation
    position.x, position.y, position.z = (float(value) for value in T[:3, 3])
    rotation.w = float(np.sqrt(max(0.0, 1 + np.trace(T[:3, :3]))) / 2)
    R = T[:3, :3]
    rotation.x = float((R[2, 1] - R[1, 2]) / (4 * rotation.w))
    rotation.y = float((R[0, 2] - R[2, 0]) / (4 * rotation.w))
    rotation.z = float((R[1, 0] - R[0, 1]) / (4 * rotation.w))
    return message
