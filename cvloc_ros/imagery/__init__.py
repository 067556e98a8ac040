"""Satellite and aerial imagery: from rasters and tile servers to metric, vehicle-forward patches with coverage."""

from cvloc_ros.imagery.layers import raster_datum
from cvloc_ros.imagery.patch import Patch
from cvloc_ros.imagery.satellite_map import SatelliteMap
from cvloc_ros.imagery.uri import ImageryError, redacted

__all__ = ["ImageryError", "Patch", "SatelliteMap", "raster_datum", "redacted"]
