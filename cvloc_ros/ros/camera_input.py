"""The camera's two topics: the newest CameraInfo counts, and images become frames."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from cvloc_ros.datasets.image_decoding import ConversionError
from cvloc_ros.datasets.message_reading import camera_of
from cvloc_ros.geometry import Camera
from cvloc_ros.localization.types import Frame
from cvloc_ros.ros import images
from cvloc_ros.ros.conversions import to_nanoseconds
from cvloc_ros.ros.health import Health
from cvloc_ros.ros.mounts import Mounts


class NotReady(Exception):
    """An image cannot become a frame; ``reason`` (a key of `REASONS`) is counted, and health already knows why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CameraInput:
    """Keeps the calibration, and makes frames; CameraInfo comes in another thread than images are asked for."""

    def __init__(self, *, rectified: bool, mounts: Mounts, health: Health) -> None:
        """Begin without a calibration.

        Args:
            rectified: the images are rectified: P counts, and there is no distortion.
            mounts: knows where the camera sits.
            health: is told what is wrong.

        """
        self._rectified, self._mounts, self._health = rectified, mounts, health
        self._camera: Camera | None = None
        self._calibration: CameraInfo | None = None  # that the camera was made of, without its header

    def camera_info(self, message: CameraInfo) -> None:
        """Take in a calibration."""
        message.header = Header()
        if message == self._calibration:  # as ever; a camera made anew would have its ground projected anew
            if self._camera is not None:
                self._health.fine("camera_info", "unusable")
            return
        self._calibration, self._camera = message, None
        try:
            self._camera = camera_of(message, rectified=self._rectified)
        except ConversionError as error:
            topic = self._health.inputs["camera_info"].topic
            self._health.report("camera_info", "unusable", f"the CameraInfo on {topic} is unusable: {error}")
        else:
            self._health.fine("camera_info", "unusable")

    def frame(self, message: Image | CompressedImage) -> Frame:
        """Make a frame of an image message.

        Raises:
            NotReady: something that belongs to it is missing or unusable.

        """
        camera = self._camera  # the other thread may replace it
        if camera is None:
            raise NotReady("no_camera_info")
        T_base_camera = self._mounts.place("camera", message.header.frame_id)
        if T_base_camera is None:
            raise NotReady("no_transform")
        inputs, health = self._health.inputs, self._health
        try:
            compressed = isinstance(message, CompressedImage)
            image = images.from_compressed_image(message) if compressed else images.from_image(message)
        except ConversionError as error:
            health.report("image", "unusable", f"images on {inputs['image'].topic} are unusable: {error}")
            raise NotReady("bad_image") from error
        health.fine("image", "unusable")
        try:
            frame = Frame(to_nanoseconds(message.header.stamp), image, camera, T_base_camera)
        except ValueError as error:
            topics = f"{inputs['image'].topic} and {inputs['camera_info'].topic}"
            health.report("image", "contradiction", f"images and CameraInfo on {topics} do not fit: {error}")
            raise NotReady("bad_image") from error
        health.fine("image", "contradiction")
        return frame
