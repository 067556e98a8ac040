"""Satellite and aerial imagery: from a georeferenced raster to metric, vehicle-forward patches with coverage."""

from cvloc_ros.imagery.patch import Patch
from cvloc_ros.imagery.raster import ImageryError, raster_datum
from cvloc_ros.imagery.satellite_map import SatelliteMap

__all__ = ["ImageryError", "Patch", "SatelliteMap", "raster_datum"]
