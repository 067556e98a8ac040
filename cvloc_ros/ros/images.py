"""Image messages to RGB arrays: `cvloc_ros.datasets.image_decoding`, and cv_bridge for what that does not know."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from cvloc_ros.datasets.image_decoding import KNOWN_ENCODINGS, ConversionError, RawLayout, decode_file, decode_raw


def image_decoder() -> str:
    """Say what decodes images, for `cvloc doctor`."""
    return "numpy and OpenCV" + (", cv_bridge for rare encodings" if _has_cv_bridge() else "")


def from_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image of any encoding that is known here or to cv_bridge.

    Returns:
        RGB uint8, (height, width, 3). 16-bit images keep their upper 8 bits.

    Raises:
        ConversionError: the encoding is unknown or the data does not have the size that the header says.

    """
    if message.encoding not in KNOWN_ENCODINGS and _has_cv_bridge():
        return _from_cv_bridge(message)
    return decode_raw(np.frombuffer(message.data, np.uint8), RawLayout.of(message))


def from_compressed_image(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage (JPEG, PNG, anything OpenCV reads) to RGB uint8, (height, width, 3).

    Raises:
        ConversionError: the data is not an image.

    """
    return decode_file(np.frombuffer(message.data, np.uint8))


def _has_cv_bridge() -> bool:
    return importlib.util.find_spec("cv_bridge") is not None


def _from_cv_bridge(message: Any) -> np.ndarray:
    from cv_bridge import CvBridge

    decode: Callable[..., np.ndarray] = CvBridge().imgmsg_to_cv2
    try:
        return np.ascontiguousarray(decode(message, "rgb8"))
    except Exception as error:  # its own error type lives in its compiled part, which may be what fails
        raise ConversionError(
            f"expected one of {', '.join(KNOWN_ENCODINGS)}, or what cv_bridge decodes, got encoding "
            f"'{message.encoding}' ({error}): convert it in the driver"
        ) from error
