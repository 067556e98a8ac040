"""Image bytes to RGB arrays, whoever recorded or sent them: the fields of the messages, not the messages themselves.

cv_bridge is not used: its compiled part breaks wherever NumPy 2 meets an older ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_AS_IS = -1  # not one of OpenCV's conversion codes

# encoding -> (values a pixel, OpenCV's conversion to RGB). OpenCV names a Bayer pattern by its second row's second
# and third pixel, ROS by its first two rows.
ENCODINGS: dict[str, tuple[int, int]] = {
    "rgb8": (3, _AS_IS),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
}
# Encodings of two bytes a value -> what they are once only the upper byte is kept.
_SIXTEEN_BITS = {name.replace("8", "16", 1): name for name in ENCODINGS if name.endswith(("8", "8UC1", "8UC3", "8UC4"))}
_FILE_MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # of JPEG and PNG
KNOWN_ENCODINGS = (*ENCODINGS, *_SIXTEEN_BITS)


class ConversionError(ValueError):
    """A message that cannot be used."""


@dataclass(frozen=True, eq=False)
class RawLayout:
    """How the bytes of a raw image are to be read: pixels, bytes a row, the encoding's ROS name, and byte order."""

    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: bool = False

    @classmethod
    def of(cls, message) -> RawLayout:
        """Read the fields of a sensor_msgs/Image."""
        return cls(message.height, message.width, message.step, message.encoding, bool(message.is_bigendian))

    def fits(self, data: np.ndarray) -> bool:
        """Whether the bytes (uint8) have all rows."""
        return 0 < self.height * self.step <= data.size


def decode_raw(data: np.ndarray, layout: RawLayout) -> np.ndarray:
    """Decode the bytes (uint8) of a raw image.

    Returns:
        RGB uint8, (height, width, 3). 16-bit images keep their upper 8 bits.

    Raises:
        ConversionError: the encoding is unknown or the data does not have the size that the layout says.

    """
    if layout.encoding not in KNOWN_ENCODINGS:
        raise ConversionError(
            f"expected a raw image encoded as {', '.join(KNOWN_ENCODINGS)}, got encoding '{layout.encoding}': "
            "convert it in the camera's driver, or use the compressed topic"
        )
    wide = layout.encoding in _SIXTEEN_BITS
    values, conversion = ENCODINGS[_SIXTEEN_BITS.get(layout.encoding, layout.encoding)]
    row_bytes = layout.width * values * (2 if wide else 1)
    height, width, step = layout.height, layout.width, layout.step
    if height * width == 0 or data.size == 0:
        raise ConversionError(
            f"expected pixels, got an empty image ({width} x {height}, {data.size} bytes): see the driver"
        )
    if step < row_bytes or not layout.fits(data):
        raise ConversionError(
            f"expected {height} rows of {width} pixels of {layout.encoding} (step >= {row_bytes}), got {data.size} "
            f"bytes with step {step}: the image is cut off, see its driver"
        )
    rows = data[: height * step].reshape(height, step)[:, :row_bytes]  # the rest of a row is padding
    if wide:
        rows = rows[:, (0 if layout.is_bigendian else 1) :: 2]
    pixels = rows.reshape(height, width, values) if values > 1 else rows
    pixels = np.ascontiguousarray(pixels)
    try:
        return pixels if conversion == _AS_IS else cv2.cvtColor(pixels, conversion)
    except cv2.error as error:  # colour patterns need an even number of pixels
        raise ConversionError(
            f"{width} x {height} pixels of {layout.encoding} are no such image ({error.err}): see its driver"
        ) from None


def decode_file(data: np.ndarray) -> np.ndarray:
    """Decode the bytes (uint8) of a JPEG, a PNG or anything else that OpenCV reads.

    Returns:
        RGB uint8, (height, width, 3).

    Raises:
        ConversionError: the data is not an image.

    """
    # The camera info belongs to the pixels as they are stored: an orientation tag must not turn them.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if is_whole_file(data) else None
    except cv2.error as error:  # a header that claims more pixels than OpenCV takes
        raise ConversionError(
            f"expected an image, got {data.size} bytes that OpenCV refuses ({error.err}): too large, or damaged"
        ) from None
    if image is None:
        raise ConversionError(
            f"expected a JPEG or PNG image, got {data.size} bytes that do not decode: the message is cut off, or the "
            "topic carries no colour images (compressedDepth?)"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_whole_file(data: np.ndarray) -> bool:
    """Whether a file has its end: decoders paint what is missing grey or black and say nothing."""
    start = data[:8].tobytes()
    for beginning, end in _FILE_MARKS:
        if start.startswith(beginning):
            return data.tobytes().rfind(end) > 0  # drivers may pad behind it
    return data.size > 0
