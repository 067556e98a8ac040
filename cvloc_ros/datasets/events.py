"""What a drive consists of, one dataclass a kind of message: read from a bag, or simulated, it is the same."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cvloc_ros.geometry import SE2

# Raw encoding: bytes a pixel, and OpenCV's conversion to RGB.
_RAW_ENCODINGS = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
}


@dataclass(frozen=True, eq=False)
class RawLayout:
    """How the bytes of a raw image are to be read: pixels, bytes a row, and the encoding's ROS name."""

    height: int
    width: int
    step: int
    encoding: str


@dataclass(frozen=True, eq=False)
class ImageEvent:
    """A camera image, still encoded.

    Attributes:
        stamp: when it was taken, nanoseconds.
        frame_id: the camera's optical frame.
        data: uint8 bytes: a JPEG or PNG file, or raw pixels.
        raw: how to read raw pixels; None for a file.

    """

    stamp: int
    frame_id: str
    data: np.ndarray
    raw: RawLayout | None = None

    def image(self) -> np.ndarray:
        """Decode to RGB uint8, (H, W, 3).

        Raises:
            ValueError: the bytes are no image of a known kind.

        """
        return _decode_file(self.data) if self.raw is None else _decode_raw(self.data, self.raw)


@dataclass(frozen=True, eq=False)
class FixEvent:
    """A GNSS position: WGS84 degrees and metres of the antenna, covariance (2, 2) east-north m² if it is known."""

    stamp: int
    latitude: float
    longitude: float
    altitude: float
    covariance: np.ndarray | None
    frame_id: str


@dataclass(frozen=True, eq=False)
class OdometryEvent:
    """Dead reckoning.

    Attributes:
        stamp: nanoseconds.
        T_odom_base: the pose since some start.
        covariance: (3, 3) over (x m, y m, yaw rad) of the pose in the odom frame, if it is known.
        twist: (3,) forward and leftward m/s and yaw rate rad/s, in the vehicle's frame.
        twist_covariance: (3, 3) of the twist, if it is known.

    """

    stamp: int
    T_odom_base: SE2
    covariance: np.ndarray | None
    twist: np.ndarray
    twist_covariance: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TruthEvent:
    """The true pose, and the twist (3,) as in `OdometryEvent`."""

    stamp: int
    T_map_base: SE2
    twist: np.ndarray


Event = ImageEvent | FixEvent | OdometryEvent | TruthEvent


def _decode_file(data: np.ndarray) -> np.ndarray:
    # The camera info belongs to the pixels as they are stored: an orientation tag must not turn them.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise ValueError(
            f"expected a JPEG or PNG image, got {data.size} bytes that do not decode: the message is cut off, "
            "or the topic carries no camera images"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_raw(data: np.ndarray, layout: RawLayout) -> np.ndarray:
    if layout.encoding not in _RAW_ENCODINGS:
        raise ValueError(
            f"expected a raw image encoded as {', '.join(_RAW_ENCODINGS)}, got '{layout.encoding}': record the "
            "compressed topic, or convert the images"
        )
    channels, conversion = _RAW_ENCODINGS[layout.encoding]
    height, width, step = layout.height, layout.width, layout.step
    if height * width == 0 or step < width * channels or data.size < height * step:
        raise ValueError(
            f"expected {height} rows of {width} pixels of {channels} bytes, got {data.size} bytes with {step} bytes "
            "a row: the message is cut off"
        )
    pixels = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    pixels = np.ascontiguousarray(pixels)
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)
