"""The local map frame: metres east and north of a datum.

The plane is PROJ's azimuthal equidistant projection on the WGS84 ellipsoid. It differs from the tangent plane by
s^3 / 6 R^2 (4 mm at 10 km, 0.5 m at 50 km), and unlike UTM its axes are true east and north at the datum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pyproj import CRS, Transformer

from cvloc_ros.geometry.se2 import SE2

EQUATOR_METERS_PER_PIXEL = 156543.03392804097  # 2 pi 6378137 / 256: Web Mercator at zoom 0


def meters_per_pixel(latitude_deg: float, zoom: float, scale: int = 1) -> float:
    """Return the ground size in metres of a Web Mercator pixel at a latitude, for tiles of 256 * ``scale`` pixels."""
    return EQUATOR_METERS_PER_PIXEL * math.cos(math.radians(latitude_deg)) / 2**zoom / scale


@dataclass(frozen=True)
class LocalFrame:
    """The ``map`` frame of a datum (WGS84 degrees, ellipsoidal height in metres)."""

    latitude: float
    longitude: float
    altitude: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a datum that is not on Earth."""
        for name in ("latitude", "longitude", "altitude"):  # PROJ reads "49.0", not NumPy's "np.float64(49.0)"
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (abs(self.latitude) <= 90 and abs(self.longitude) <= 180):  # also catches NaN
            raise ValueError(
                "expected a datum as WGS84 latitude in [-90, 90] and longitude in [-180, 180] degrees, "
                f"got latitude {self.latitude}, longitude {self.longitude}"
            )

    @cached_property
    def crs(self) -> CRS:
        """The map frame as a PROJ coordinate system, for warping rasters into it."""
        return CRS.from_proj4(
            f"+proj=aeqd +lat_0={self.latitude!r} +lon_0={self.longitude!r} +datum=WGS84 +units=m +no_defs"
        )

    @cached_property
    def _from_wgs84(self) -> Transformer:
        return Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    def to_enu(self, latitude, longitude) -> np.ndarray:
        """Map WGS84 degrees (scalars or arrays) to (..., 2) metres east and north."""
        east, north = self._from_wgs84.transform(longitude, latitude)
        return np.stack([np.asarray(east, dtype=float), np.asarray(north, dtype=float)], axis=-1)

    def to_wgs84(self, points: np.ndarray) -> np.ndarray:
        """Map (..., 2) metres east and north to (..., 2) latitude and longitude in degrees."""
        points = np.asarray(points, dtype=float)
        longitude, latitude = self._from_wgs84.transform(points[..., 0], points[..., 1], direction="INVERSE")
        return np.stack([np.asarray(latitude), np.asarray(longitude)], axis=-1)

    def pose_in(self, other: LocalFrame, pose: SE2) -> SE2:
        """Return a pose of this map in the map of another datum."""
        if self == other:
            return pose
        ahead = pose.apply(np.array([[0.0, 0.0], [1.0, 0.0]]))  # north differs between the two: carry the heading too
        degrees = self.to_wgs84(ahead)
        (x, y), tip = other.to_enu(degrees[:, 0], degrees[:, 1])
        return SE2(float(x), float(y), float(np.arctan2(tip[1] - y, tip[0] - x)))
