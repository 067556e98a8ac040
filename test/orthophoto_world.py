"""Orthophotos drawn for a test, and a route over the real one of Vienna."""

from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer

from cvloc_ros.geometry import LocalFrame, PinholeCamera, camera_extrinsics

DATUM = LocalFrame(48.2, 16.3)
ROUTE = Path(__file__).parent / "data" / "vienna_route.csv"
CAMERA = PinholeCamera.from_focal(624, 192, 372.0)
MOUNT = camera_extrinsics(height=1.65, x=1.2, y=0.1, yaw=0.03, pitch=0.05, roll=0.01)


def write_raster(path, pixels, *, cell):
    """Write pixels as a GeoTIFF in UTM around the datum; return how map coordinates become its (column, row)."""
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    east, north = to_utm.transform(DATUM.longitude, DATUM.latitude)
    height, width = pixels.shape[:2]
    corner = east - width * cell / 2, north + height * cell / 2
    transform = rasterio.Affine(cell, 0, corner[0], 0, -cell, corner[1])
    profile = dict(driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs=32633, transform=transform)
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.moveaxis(pixels, -1, 0))

    def column_row(points):
        latitude, longitude = np.moveaxis(DATUM.to_wgs84(points), -1, 0)
        x, y = to_utm.transform(longitude, latitude)
        return np.stack([(x - corner[0]) / cell - 0.5, (corner[1] - y) / cell - 0.5], -1)

    return column_row
