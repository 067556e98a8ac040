"""Image messages to RGB arrays, without cv_bridge: its compiled part breaks wherever NumPy 2 meets an older ROS.

cv_bridge is still asked, where it is installed, about encodings that are not listed here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from cvloc_ros.ros.conversions import ConversionError

_AS_IS = -1  # not one of OpenCV's conversion codes

# encoding -> (bytes a pixel, OpenCV's conversion to RGB). OpenCV names a Bayer pattern by its second row's second
# and third pixel, ROS by its first two rows.
_ENCODINGS: dict[str, tuple[int, int]] = {
    "rgb8": (3, _AS_IS),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "mono16": (2, cv2.COLOR_GRAY2RGB),
    "16UC1": (2, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
}
_SIXTEEN_BITS = ("mono16", "16UC1")


def image_decoder() -> str:
    """Say what decodes images, for `cvloc doctor`."""
    return "numpy and OpenCV" + (", cv_bridge for rare encodings" if _has_cv_bridge() else "")


def from_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image of any common encoding.

    Returns:
        RGB uint8, (height, width, 3). 16-bit grey keeps its upper 8 bits.

    Raises:
        ConversionError: the encoding is unknown or the data does not have the size that the header says.

    """
    if message.encoding not in _ENCODINGS:
        return _from_cv_bridge(message)
    bytes_per_pixel, conversion = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if height * width == 0 or step < width * bytes_per_pixel or data.size < height * step:
        raise ConversionError(
            f"expected {height} rows of {width} pixels of {message.encoding} (step >= {width * bytes_per_pixel}), got "
            f"{data.size} bytes with step {step}: the image is empty or cut off, see its driver"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * bytes_per_pixel]  # the rest of a row is padding
    if message.encoding in _SIXTEEN_BITS:
        pixels = rows.reshape(height, width, 2)[..., 0 if message.is_bigendian else 1]
    else:
        pixels = rows.reshape(height, width, bytes_per_pixel) if bytes_per_pixel > 1 else rows
    pixels = np.ascontiguousarray(pixels)
    return pixels if conversion == _AS_IS else cv2.cvtColor(pixels, conversion)


def from_compressed_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, anything OpenCV reads).

    Returns:
        RGB uint8, (height, width, 3).

    Raises:
        ConversionError: the data is not an image.

    """
    data = np.frombuffer(message.data, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # camera info describes the pixels as stored
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise ConversionError(
            f"expected a JPEG or PNG image, got {data.size} bytes of format '{message.format}' that do not decode: "
            "the image is cut off, or the topic is no colour image (compressedDepth?)"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _has_cv_bridge() -> bool:
    return importlib.util.find_spec("cv_bridge") is not None


def _from_cv_bridge(message: Any) -> np.ndarray:
    advice = f"expected one of {', '.join(_ENCODINGS)}, got encoding '{message.encoding}': convert it in the driver"
    if not _has_cv_bridge():
        raise ConversionError(f"{advice}, or install cv_bridge")
    from cv_bridge import CvBridge

    decode: Callable[..., np.ndarray] = CvBridge().imgmsg_to_cv2
    try:
        return np.ascontiguousarray(decode(message, "rgb8"))
    except Exception as error:  # its own error type lives in its compiled part, which may be what fails
        raise ConversionError(f"{advice} (cv_bridge: {error})") from error
