"""What a drive consists of, one dataclass a kind of message: read from a bag, or simulated, it is the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvloc_ros.datasets.image_decoding import RawLayout, decode_file, decode_raw, is_whole_file
from cvloc_ros.geometry import SE2


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

    @property
    def is_whole(self) -> bool:
        """Whether none of its bytes is missing, as far as can be told without decoding it."""
        return is_whole_file(self.data) if self.raw is None else self.raw.fits(self.data)

    def image(self) -> np.ndarray:
        """Decode to RGB uint8, (H, W, 3).

        Raises:
            ConversionError: the bytes are no image of a known kind.

        """
        return decode_file(self.data) if self.raw is None else decode_raw(self.data, self.raw)


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
